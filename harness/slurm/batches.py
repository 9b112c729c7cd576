"""Batches: which nodes a job does, written to the store before the job is submitted, and never changed.

batches/<name>.json    the keys of each element; the job is called after the batch
batches/<name>/        private to its user: pickled nodes, submitit's files, output of the jobs, how nodes ended
"""

import json
import pickle
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from harness import choice, claims
from harness.cluster import PythonConfig, SlurmConfig, VllmConfig
from harness.config import KeepWeights
from harness.files import write_json
from harness.keys import node_key
from harness.plan import STAGES, Node
from harness.stages.pairs import why_empty
from harness.store import Store, StoreError

T = TypeVar("T")

_TYPE_AGAIN = "the command that submitted it, typed again, submits what is left"

PREFIX = "prefsweep-"
"""Begins the name of every job."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Nodes of one stage that one job does, or the elements of one array.

    Batches outlive the version of the code that wrote them: a field that comes to it needs a default.
    """

    name: str
    stage: str
    submitted: float
    """Seconds since the epoch."""
    elements: Sequence[Sequence[str]]
    """Keys that each element does, one after the other."""
    threads: int
    gpus: int
    max_requeue: int
    keep_weights: KeepWeights
    python: PythonConfig = field(default_factory=PythonConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By key, the preference rows without which a node will never exist."""
    conditions: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    """By key, of a node that may not be needed: stage and key of boundaries, and what one of them must say for it."""
    world: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the `World` that a training of it has; empty where a node is done by one process."""

    @property
    def job(self) -> str:
        """Name of its job."""
        return PREFIX + self.name

    @property
    def keys(self) -> Iterator[str]:
        """Everything that it does."""
        for element in self.elements:
            yield from element


def folder(store: Store, name: str) -> Path:
    """Where the files of a batch's jobs lie."""
    return store.root / "batches" / name


def write(batch: Batch, nodes: Sequence[Node], store: Store) -> None:
    """Keep a batch, and the nodes themselves for its jobs; pickles, hence for their user only."""
    private = folder(store, batch.name)
    private.parent.mkdir(exist_ok=True)
    private.mkdir(mode=0o700)
    with (private / "nodes.pickle").open("wb") as file:
        pickle.dump({node.key: node for node in nodes}, file)
    write_json(private.with_suffix(".json"), asdict(batch))


def age(store: Store, batch: Batch) -> float:
    """Seconds since a batch was written, by the clock of the file system: those of two login nodes may differ."""
    path = folder(store, batch.name).with_suffix(".json")
    return claims.now(path.parent) - path.stat().st_mtime


def withdraw(batch: Batch, store: Store) -> None:
    """Take back a batch that sbatch has refused; its private files stay, to look at."""
    folder(store, batch.name).with_suffix(".json").unlink(missing_ok=True)


def read(store: Store, name: str) -> Batch:
    """A batch of a store.

    Raises:
        StoreError: it is not there, or cannot be read.
    """
    path = folder(store, name).with_suffix(".json")
    try:
        read = json.loads(path.read_text())
        given = {field.name: read[field.name] for field in fields(Batch) if field.name in read}
        python, vllm = PythonConfig(**given.pop("python", {})), VllmConfig(**given.pop("vllm", {}))
        return Batch(**given, python=python, vllm=vllm)
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"store: {path} cannot be read: {error}") from None


def read_nodes(store: Store, batch: Batch, element: int) -> list[Node]:
    """The nodes of one element; the folder's owner alone can have written them.

    Raises:
        StoreError: they cannot be read, or have other keys by now than when they were planned.
    """
    path = folder(store, batch.name) / "nodes.pickle"
    try:
        with path.open("rb") as file:
            nodes = pickle.load(file)  # noqa: S301 - written by this user, in a folder that only this user can write to
        found = [nodes[key] for key in batch.elements[element]]
        same = all(
            node_key(node.stage, node.version, node.spec, node.input_keys) == node.key
            for node in (*found, *(parent for node in found for parent in node.parents))
        )
    except Exception as error:  # whatever the classes of another version make of it
        raise StoreError(f"store: {path} cannot be read: {error!r}; {_TYPE_AGAIN}") from None
    if not same:
        raise StoreError(f"store: {path} was planned by another version of prefsweep; {_TYPE_AGAIN}")
    return found


def unfinished(store: Store, done: Collection[str] = ()) -> list[Batch]:
    """Batches of which something is to do, the oldest first.

    Args:
        done: keys that are known to be done, which spares looking them up.
    """
    return sorted((b for b in _every(store) if not is_over(b, store, done)), key=lambda batch: batch.submitted)


def is_needed(batch: Batch, store: Store, key: str) -> bool | None:
    """Whether a node of a batch is needed; None where boundaries that are not known yet will say so."""
    if key not in batch.conditions:
        return True
    stages = {boundary: stage for stage, boundary, _ in batch.conditions[key]}
    known = choice.decisions(stages, lambda boundary: store.find(stages[boundary], boundary))
    return choice.is_needed(tuple((boundary, branch) for _, boundary, branch in batch.conditions[key]), known)


def is_over(batch: Batch, store: Store, done: Collection[str] = ()) -> bool:
    """Whether there is nothing left for a batch's jobs to do.

    Every node is done then, of a cell without rows, or not needed.
    """
    empty: dict[str, bool] = {}

    def has_no_rows(key: str) -> bool:
        if key not in empty:
            found = store.find("pairs", key)
            empty[key] = found is not None and bool(why_empty(found))
        return empty[key]

    return all(
        key in done
        or store.find(batch.stage, key) is not None
        or any(map(has_no_rows, batch.rows.get(key, ())))
        or is_needed(batch, store, key) is False
        for key in batch.keys
    )


def _every(store: Store) -> Iterator[Batch]:
    for path in (store.root / "batches").glob("*.json"):
        try:
            yield read(store, path.stem)
        except StoreError:
            if path.exists():  # else it was withdrawn, or cleared away, at this moment
                raise


def write_endings(store: Store, batch: Batch, element: int, endings: Mapping[str, Mapping[str, Any]]) -> None:
    """Keep how the nodes of an element ended."""
    write_json(folder(store, batch.name) / f"{element}.json", endings)


def read_endings(store: Store, batch: Batch, element: int) -> dict[str, dict[str, Any]]:
    """How the nodes of an element ended, by key; without those whose job was ended from outside."""
    try:
        endings: dict[str, dict[str, Any]] = json.loads((folder(store, batch.name) / f"{element}.json").read_text())
    except (OSError, ValueError):  # not begun, or another user's
        return {}
    return endings


def output(store: Store, batch: Batch, element: int) -> Path | None:
    """What the last job of an element has printed; None where nothing can be read."""
    ending = f"_{element}_0_log.out" if len(batch.elements) > 1 else "_0_log.out"
    found = [path for path in folder(store, batch.name).glob("*_log.out") if path.name.endswith(ending)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def pack(
    nodes: Sequence[Node],
    cluster: SlurmConfig,
    keep_weights: KeepWeights,
    conditions: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> Iterator[tuple[Batch, Sequence[Node]]]:
    """Nodes as batches, in an order in which each needs only what stands before it.

    Args:
        nodes: parents before children.
        conditions: see `Batch.conditions`.
    """
    conditions = conditions or {}
    places = {node.key: place for place, node in enumerate(nodes)}
    rows: dict[str, list[str]] = {}
    groups: dict[tuple[int, int, bool], list[Node]] = {}
    for key, rank in _ranks(nodes, conditions).items():
        node = nodes[places[key]]
        groups.setdefault((rank, STAGES.index(node.stage), node.runs_scorer), []).append(node)
    for _, group in sorted(groups.items()):
        asked = cluster.resources(group[0].stage, scorer=group[0].runs_scorer)
        assert asked.nodes_per_job is not None
        assert asked.cpus is not None
        alike = sorted(group, key=lambda node: (node.loads, places[node.key]))
        for chosen in _split(_split(alike, asked.nodes_per_job), min(cluster.max_array, cluster.max_submit)):
            batch = Batch(
                name=f"{group[0].stage}-{secrets.token_hex(4)}",
                stage=group[0].stage,
                submitted=time.time(),
                elements=[[node.key for node in element] for element in chosen],
                threads=asked.cpus,
                gpus=asked.gpus or 0,
                max_requeue=cluster.max_requeue,
                keep_weights=keep_weights,
                python=cluster.python,
                vllm=cluster.vllm,
                rows={node.key: above for element in chosen for node in element if (above := _rows_above(node, rows))},
                conditions={n.key: conditions[n.key] for element in chosen for n in element if n.key in conditions},
                world=asdict(world) if (world := cluster.world(group[0].stage)).size > 1 else {},
            )
            yield batch, [node for element in chosen for node in element]


def _rows_above(node: Node, known: dict[str, list[str]]) -> list[str]:
    """Keys of the rows that a node's training, or any that it stands on, needs."""
    if node.key not in known:
        own = node.inputs.get("pairs", ()) if node.stage == "train" else ()
        above = [key for parent in node.parents for key in _rows_above(parent, known)]
        known[node.key] = list(dict.fromkeys([*(parent.key for parent in own), *above]))
    return known[node.key]


def _ranks(nodes: Sequence[Node], conditions: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, int]:
    """How often the way to a node steps back in the order of the stages, or stays: those steps part its stage."""
    ranks: dict[str, int] = {}
    for node in nodes:
        above = [(p.stage, p.key) for p in node.parents]
        above += [(stage, boundary) for stage, boundary, _ in conditions.get(node.key, ())]
        steps = [ranks[key] + (STAGES.index(stage) >= STAGES.index(node.stage)) for stage, key in above if key in ranks]
        ranks[node.key] = max(steps, default=0)
    return ranks


def _split(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
