"""The record of a sweep: its points, and every node they need, so that a store explains itself without the command."""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness import choice
from harness.choice import Choice, Literals
from harness.config import KeepWeights
from harness.files import write_json
from harness.keys import canonical, digest
from harness.plan import Plan, Point
from harness.store import Store, StoreError

SINGLE = "single"
"""Name under which runs without a sweep gather."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a store knows of a sweep."""

    name: str
    written: float
    """Seconds since the epoch."""
    command: str
    """The command that asked for it last."""
    keep_weights: KeepWeights
    """What that command keeps of the trained weights."""
    points: Mapping[str, Mapping[str, Any]]
    """By the hash of their settings: `config`, every setting that the point uses under its dotted name, and `nodes`,
    the keys of its own nodes by stage; `beside`, those of what stands beside its win rate, by name (records of
    earlier versions have none); `command`, which asked for it last; and where earlier commands wanted what that one
    does not, `earlier`: by key its `name` and the `command` that did."""
    nodes: Mapping[str, Mapping[str, Any]]
    """By key: `stage`, `slug`, `version`, `spec`, and `inputs` and `uses`, lists of keys by name."""

    def parents(self, key: str) -> Iterator[str]:
        """Keys of all nodes that must be done before one."""
        node = self.nodes[key]
        for group in (*node["inputs"].values(), *node["uses"].values()):
            yield from group

    def ancestors(self, key: str) -> list[str]:
        """Keys of everything that a node stands on, the nearest first, each once."""
        seen: dict[str, None] = {}
        queue = list(self.parents(key))
        for parent in queue:
            if parent not in seen:
                seen[parent] = None
                queue.extend(self.parents(parent))
        return list(seen)

    @cached_property
    def conditions(self) -> Mapping[str, Literals]:
        """What must be said by boundaries for a node to be needed, of those that may not be; see `harness.choice`."""
        choosing = {key: node for key, node in self.nodes.items() if choice.between(node["spec"])}
        choices = {key: Choice(node["spec"], node["inputs"]) for key, node in choosing.items()}
        return choice.conditions({key: list(self.parents(key)) for key in self.nodes} if choices else {}, choices)

    def known(self, store: Store) -> dict[str, str]:
        """What the boundaries say that a store holds."""
        keys = {boundary for literals in self.conditions.values() for boundary, _ in literals}
        return choice.decisions(keys, lambda key: store.find(self.nodes[key]["stage"], key))

    def commands(self, keys: Collection[str]) -> list[str]:
        """The commands that make any of these nodes, each once."""
        wanted, needed = set(keys), dict[str, None]()
        for point in self.points.values():
            for command, own in _asked(point):
                if command not in needed and not wanted.isdisjoint(own.union(*map(self.ancestors, own))):
                    needed[command] = None
        return list(needed)


def beside(point: Mapping[str, Any], name: str | None = None) -> list[str]:
    """Keys of all that any command wanted beside a recorded point, or of what it wanted under a name, the last first.

    Another boundary, or another number of responses, is another node under the same name.
    """
    now: Mapping[str, str] = point.get("beside", {})
    before: Mapping[str, Mapping[str, str]] = point.get("earlier", {})
    found = [(own, key) for own, key in now.items()] + [(said["name"], key) for key, said in before.items()]
    return list(dict.fromkeys(key for own, key in found if name in (None, own)))


def _asked(point: Mapping[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """The commands that asked for a recorded point, each with the keys of the point's nodes that it makes."""
    earlier: Mapping[str, Mapping[str, str]] = point.get("earlier", {})
    yield point["command"], {*point["nodes"].values(), *point.get("beside", {}).values()} - earlier.keys()
    for key, said in earlier.items():
        yield said["command"], {key}


def write(plan: Plan, name: str, command: str, store: Store, keep_weights: KeepWeights = "all") -> int:
    """Add a plan's points to what is kept under a sweep's name; returns how many points are there then.

    A sweep is extended by further commands, and narrowed by none: what a command leaves out was still asked for, until
    the sweep is forgotten.
    """
    points: dict[str, Any] = {point.id: {**_point(point), "command": command} for point in plan.points}
    nodes: dict[str, Any] = {
        key: {
            "stage": node.stage,
            "slug": node.slug,
            "version": node.version,
            "spec": canonical(node.spec),
            "inputs": node.input_keys,
            "uses": {group: [p.key for p in parents] for group, parents in node.uses.items()},
        }
        for key, node in plan.nodes.items()
    }
    with store.lock(f"sweep-{name}"):
        if name in names(store):
            earlier = read(store, name)
            points = {**_left(earlier.points, points), **points}
            nodes = {**dict(earlier.nodes), **nodes}
        written = {"written": time.time(), "command": command, "keep_weights": keep_weights}
        write_json(store.root / "sweeps" / f"{name}.json", {**written, "points": points, "nodes": nodes})
    return len(points)


def _left(earlier: Mapping[str, Any], points: Mapping[str, Any]) -> dict[str, Any]:
    """Earlier points that are not asked for again; those that are hand on what was wanted beside them.

    A point of the same work is the same if its settings are among the later one's, which may not all have been there.
    """
    again: dict[str, list[dict[str, Any]]] = {}
    for point in points.values():
        again.setdefault(digest(point["nodes"]), []).append(point)
    own = {id(point): set(point["beside"].values()) for point in points.values()}
    left = {}
    for key, before in earlier.items():
        alike = (p for p in again.get(digest(before["nodes"]), ()) if before["config"].items() <= p["config"].items())
        if (now := points.get(key) or next(alike, None)) is None:
            left[key] = before
            continue
        names = before.get("beside", {}).items()
        wanted = {key: {"name": name, "command": before["command"]} for name, key in names} | before.get("earlier", {})
        now["beside"] = {**before.get("beside", {}), **now["beside"]}
        if wanted := {key: said for key, said in wanted.items() if key not in own[id(now)]}:
            now["earlier"] = {**now.get("earlier", {}), **wanted}
    return left


def _point(point: Point) -> dict[str, Any]:
    groups = {"nodes": point.nodes, "beside": point.beside}
    keys = {group: {name: node.key for name, node in nodes.items()} for group, nodes in groups.items()}
    return {"config": point.settings, **keys}


def names(store: Store) -> list[str]:
    """Sweeps that a store knows, the one written last at the end."""
    paths = sorted((store.root / "sweeps").glob("*.json"), key=lambda p: (p.stat().st_mtime, p.name))
    return [path.stem for path in paths]


def read(store: Store, name: str) -> Sweep:
    """What a store knows of a sweep.

    Raises:
        StoreError: no such sweep, which lists those there are, or a record that cannot be read.
    """
    known = names(store)
    if name not in known:
        raise StoreError(f"store: {store.root} has no sweep {name!r}; it has {', '.join(sorted(known)) or 'none'}")
    path = store.root / "sweeps" / f"{name}.json"
    try:
        return Sweep(name=name, **json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise StoreError(f"store: {path} cannot be read: {error}") from None


def forget(store: Store, name: str) -> None:
    """Remove what a store knows of a sweep; its artifacts stay until they are cleared away.

    Raises:
        StoreError: no such sweep.
    """
    read(store, name)
    with store.lock(f"sweep-{name}"):
        (store.root / "sweeps" / f"{name}.json").unlink(missing_ok=True)
