"""A store as one picture: what its sweeps want, what stands in it, who is at work; each file read once."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import record
from harness.claims import Owner
from harness.keys import KEY_DIGITS
from harness.manifest import Manifest, read_manifest, usable_manifest
from harness.record import Sweep
from harness.store import Artifact, Store, StoreError

IMPORTED = "imported"
"""Stage of what a user brought into the store, which nothing can make anew."""

_KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")

_LISTED = 10
"""Candidates that an error names one by one."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What is known of a node, from a sweep's record or, where no sweep knows it, from its manifest."""

    key: str
    stage: str
    slug: str
    version: int
    spec: Mapping[str, Any]
    inputs: Mapping[str, list[str]]
    uses: Mapping[str, list[str]]

    @property
    def name(self) -> str:
        """Stage, slug and key."""
        return f"{self.stage} {self.slug}-{self.key}"


@dataclass(frozen=True, kw_only=True)
class Held:
    """An artifact that is there and has all of its files."""

    folder: Path
    manifest: Manifest
    home: Path
    """The folder that holds the files: another's for an alias."""
    original: Manifest
    """The manifest of that folder."""

    @property
    def artifact(self) -> Artifact:
        """As the store would give it."""
        return Artifact(self.home, self.manifest)


class Catalogue:
    """What a store holds and what its recorded sweeps want."""

    def __init__(self, store: Store) -> None:
        """Read the records; the rest is read as it is asked for.

        Raises:
            StoreError: a sweep's record cannot be read.
        """
        self.store = store
        self.sweeps: dict[str, Sweep] = {name: record.read(store, name) for name in record.names(store)}
        self.folders: defaultdict[str, list[Path]] = defaultdict(list)
        for stage in store.stages():
            for folder in store.folders(stage):
                if is_key(key := key_of(folder)):
                    self.folders[key].append(folder)
        logs = [path for path in _listed(store.root / "logs") if path.suffix == ".log"]
        self.logs = {key: path for path in logs if is_key(key := key_of(path.with_suffix("")))}
        self.in_hand = {path.name for path in _listed(store.root / "work") if path.suffix != ".partial"}
        self._usable: dict[Path, Manifest | None] = {}

    @cached_property
    def wanted(self) -> Mapping[str, Node]:
        """Every node of every recorded sweep, by key; the latest record counts."""
        return {
            key: Node(key=key, **{name: fields[name] for name in _NODE})
            for sweep in self.sweeps.values()
            for key, fields in sweep.nodes.items()
        }

    def find(self, key: str) -> Held | None:
        """The whole artifact of a node, following an alias; None where there is none."""
        for folder in self.folders.get(key, ()):
            manifest = self._manifest(folder)
            if manifest is None:
                continue
            home = folder if manifest.alias_of is None else self.store.root / manifest.alias_of
            if (original := self._manifest(home)) is not None:
                return Held(folder=folder, manifest=manifest, home=home, original=original)
        return None

    def owner(self, key: str) -> Owner | None:
        """Who is at work on a node; None where nobody is."""
        return self.store.owner(key) if key in self.in_hand else None

    def node(self, key: str) -> Node | None:
        """What is known of a node; None where neither a sweep nor an artifact knows it."""
        if key in self.wanted:
            return self.wanted[key]
        for folder in self.folders.get(key, ()):
            if (manifest := read_manifest(folder)) is not None:
                return _from_manifest(folder, manifest)
        return None

    def name(self, key: str) -> str:
        """A node's name for people, as far as it is known."""
        node = self.node(key)
        return node.name if node is not None else key

    def resolve(self, text: str) -> str:
        """The key that a text begins, or that stands at the end of a folder's name.

        Raises:
            StoreError: no such key, or several, which are listed.
        """
        start = text.rstrip("/").rpartition("-")[2].lower()
        known = {*self.wanted, *self.folders, *self.logs}
        matches = sorted(key for key in known if start and key.startswith(start))
        if not matches:
            raise StoreError(
                f"key: nothing in {self.store.root} has a key that begins with {text!r}{self._point(start)}"
            )
        if len(matches) > 1:
            more = f", and {len(matches) - _LISTED} more" if len(matches) > _LISTED else ""
            listed = ", ".join(self.name(key) for key in matches[:_LISTED])
            raise StoreError(f"key: {text!r} begins {len(matches)} keys: {listed}{more}")
        return matches[0]

    def sweeps_of(self, keys: Iterable[str]) -> list[Sweep]:
        """Recorded sweeps that need any of the nodes."""
        asked = set(keys)
        return [sweep for sweep in self.sweeps.values() if asked & set(sweep.nodes)]

    def descendants(self, keys: Iterable[str]) -> list[str]:
        """Keys of all that is made of any of the nodes, by the records or by what is there; without the nodes."""
        given = set(keys)
        found: dict[str, None] = dict.fromkeys(given)
        queue = list(found)
        for key in queue:
            for child in self._children[key]:
                if child not in found:
                    found[child] = None
                    queue.append(child)
        return [key for key in found if key not in given]

    def homes(self, key: str) -> list[Path]:
        """The folders that hold, or should hold, the content of a node: another's for an alias."""
        own = [(folder, read_manifest(folder)) for folder in self.folders.get(key, ())]
        return [self.store.root / m.alias_of if m is not None and m.alias_of else folder for folder, m in own]

    def aliases_of(self, home: Path) -> list[str]:
        """Keys of the aliases whose content a folder holds."""
        return self._aliases[str(home)]

    def manifests(self) -> Iterator[tuple[Path, Manifest]]:
        """Every folder with a manifest that can be read."""
        for key in list(self.folders):
            for folder in self.folders[key]:
                if (manifest := self._manifest(folder) or read_manifest(folder)) is not None:
                    yield folder, manifest

    @cached_property
    def _aliases(self) -> Mapping[str, list[str]]:
        aliases: defaultdict[str, list[str]] = defaultdict(list)
        for _, manifest in self.manifests():
            if manifest.alias_of is not None:
                aliases[str(self.store.root / manifest.alias_of)].append(manifest.key)
        return aliases

    @cached_property
    def _children(self) -> Mapping[str, list[str]]:
        children: defaultdict[str, list[str]] = defaultdict(list)
        for sweep in self.sweeps.values():
            for key in sweep.nodes:
                for parent in sweep.parents(key):
                    children[parent].append(key)
        for _, manifest in self.manifests():
            for parent in (*manifest.made_from, *(key for group in manifest.inputs.values() for key in group)):
                children[parent].append(manifest.key)
        return children

    def _manifest(self, folder: Path) -> Manifest | None:
        if folder not in self._usable:
            self._usable[folder] = usable_manifest(folder)
        return self._usable[folder]

    def _point(self, start: str) -> str:
        """Whether what was asked for as a node is a point of a sweep."""
        for sweep in self.sweeps.values():
            for point, fields in sweep.points.items():
                if start and point.startswith(start):
                    nodes = ", ".join(f"{stage} {key}" for stage, key in fields["nodes"].items())
                    return f"; it is a point of {sweep.name}, whose nodes are {nodes}"
        return ""


_NODE = ("stage", "slug", "version", "spec", "inputs", "uses")


def key_of(path: Path) -> str:
    """The key at the end of a folder's name."""
    return path.name.rpartition("-")[2]


def is_key(text: str) -> bool:
    """Whether a text has the form of a key."""
    return _KEY.fullmatch(text) is not None


def slug_of(folder: Path) -> str:
    """The part of an artifact folder's name that is for people."""
    return folder.name.rpartition("-")[0]


def _from_manifest(folder: Path, manifest: Manifest) -> Node:
    inputs = {name: list(group) for name, group in manifest.inputs.items()}
    named = {key for group in inputs.values() for key in group}
    others = [key for key in manifest.made_from if key not in named]
    return Node(
        key=manifest.key,
        stage=manifest.stage,
        slug=slug_of(folder),
        version=manifest.stage_version,
        spec=manifest.spec,
        inputs=inputs,
        uses={"others": others} if others else {},
    )


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, by name; nothing where there is none."""
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except FileNotFoundError:
        return []
