"""Which trained weights stay: 84 cells of a model of 8 billion parameters are 1.3 TB."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import choice, record
from harness.config import KeepWeights
from harness.keys import digest
from harness.manifest import read_manifest
from harness.plan import Node, Plan
from harness.stages.pairs import why_empty
from harness.store import Artifact, Store, StoreError

WEIGHTS = "weights"
"""Folder of an artifact that retention may give up."""

_APART = ("policy", "sft", "evaluate", "judge")
"""Groups of settings whose cells are not compared with each other."""


class Retention:
    """Gives up weights as soon as no recorded sweep needs or keeps them.

    `none` keeps no trained weights, `best` those of the cell with the highest mean win rate for each policy and
    evaluation of the sweep, `all` everything. Each sweep says so for its own cells, by the last command that ran it;
    cells that sweeps share stay while any of them keeps them.
    """

    def __init__(self, keep: KeepWeights, plan: Plan, store: Store) -> None:
        self.keep, self._plan, self._store = keep, plan, store
        self._read: dict[str, tuple[float, record.Sweep]] = {}
        self._folders: dict[str, Path] = {}

    def after(self, node: Node) -> Iterator[str]:
        """What to do once a node has ended; yields one line for every artifact whose weights were given up."""
        if self.keep == "none":
            for trained in {parent.key: parent for parent in node.parents if parent.stage == "train"}.values():
                yield from self._release(trained)

    def at_the_end(self) -> Iterator[str]:
        """What to do once a command's work is over."""
        if self.keep == "all":
            return
        try:
            keepers = self._keepers()
        except StoreError as error:
            yield f"kept all weights, since it cannot be known who needs them: {error}"
            return
        # Of all trainings, also those that another cell's scores rest on.
        nodes = {key: node for key, node in self._plan.nodes.items() if node.stage == "train"}
        for node in nodes.values():
            yield from self._release(node)
        elsewhere = [name for node in nodes.values() if (name := keepers.get(self._folder(node))) is not None]
        if self.keep == "none" and elsewhere:
            names = ", ".join(sorted(set(elsewhere)))
            yield f"kept the weights of {len(elsewhere)} cells, which other sweeps keep: {names}"
        if self.keep == "best":
            yield from self._lost_best()

    def _release(self, trained: Node) -> Iterator[str]:
        artifact = self._store.find(trained.stage, trained.key)
        if trained.stage != "train" or artifact is None:
            return
        manifest = read_manifest(artifact.folder)
        if manifest is None:
            return
        if any(name.startswith(f"{WEIGHTS}/") for name in manifest.released):
            # Of a command that was killed between the manifest and the files.
            shutil.rmtree(artifact.folder / WEIGHTS, ignore_errors=True)
        elif any(name.startswith(f"{WEIGHTS}/") for name in manifest.files):
            try:
                if self._needed(artifact) or artifact.folder in self._keepers():
                    return
                size = self._store.release(Artifact(artifact.folder, manifest), WEIGHTS)
            except StoreError:  # a record that cannot be read: who needs what is not known
                return
            except OSError as error:  # space is wanted, but no reason to end the command
                yield f"kept the weights of {artifact.folder.name}: {error.strerror}"
                return
            yield f"released the weights of {artifact.folder.name}: {size / 1e6:.0f} MB"

    def _keepers(self) -> dict[Path | None, str]:
        """Folders whose weights a recorded sweep keeps, with its name. Cells of equal content have one folder."""
        kept: dict[Path | None, str] = {}
        for sweep in self._sweeps():
            if sweep.keep_weights == "all":
                cells = [point["nodes"]["train"] for point in sweep.points.values() if "train" in point["nodes"]]
            else:
                cells = [key for key, _ in self._best(sweep)] if sweep.keep_weights == "best" else []
            kept |= {folder: sweep.name for key in cells if (folder := self._folder_of("train", key)) is not None}
        return kept

    def _best(self, sweep: record.Sweep) -> list[tuple[str, bool]]:
        """Cells whose weights `best` keeps, and whether they really are the best: that one's may be gone already.

        Of equal cells the same is taken whatever the order of the command. Where no cell is judged yet, nothing is
        known to be best, and all are kept.
        """
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for point in sweep.points.values():
            if "train" in point["nodes"]:
                settings = {k: v for k, v in point["config"].items() if k.split(".")[0] in _APART}
                groups.setdefault(digest(settings), []).append(point["nodes"])
        kept: list[tuple[str, bool]] = []
        for cells in groups.values():
            rates = [(self._rate(cell), cell["train"]) for cell in cells]
            judged = [(rate, self._has_weights(key), key) for rate, key in rates if rate is not None]
            there = [cell for cell in judged if cell[1]]
            if there:
                rate, _, key = max(there)
                kept.append((key, rate == max(judged)[0]))
            elif not judged:
                kept += [(cell["train"], True) for cell in cells]
        return kept

    def _lost_best(self) -> Iterator[str]:
        """Say so where the weights of the best cell were released before it was known to be best."""
        own = {point.nodes["train"].key for point in self._plan.points if "train" in point.nodes}
        for sweep in self._sweeps():
            for key, is_best in self._best(sweep) if sweep.keep_weights == "best" else []:
                if not is_best and key in own:
                    yield (
                        f"the weights of the best cell of {sweep.name} were released earlier; kept those of "
                        f"{sweep.nodes[key]['slug']}, the best that has any"
                    )

    def _rate(self, nodes: Mapping[str, str]) -> float | None:
        verdicts = self._store.find("judge", nodes["judge"])
        return verdicts.manifest.measures["win_rate"] if verdicts is not None else None

    def _has_weights(self, key: str) -> bool:
        found = self._store.find("train", key)
        return found is not None and not found.manifest.released

    def _folder(self, trained: Node) -> Path | None:
        return self._folder_of(trained.stage, trained.key)

    def _needed(self, artifact: Artifact) -> bool:
        """Whether anything that a recorded sweep wants is still to be made with these weights.

        Answers and scores are, and a later round's responses, log-probabilities and training.
        """
        return any(
            sweep.nodes[above]["stage"] == "train"
            and self._folder_of("train", above) == artifact.folder
            and self._store.find(node["stage"], key) is None
            and not self._never(sweep, key)
            for sweep in self._sweeps()
            for key, node in sweep.nodes.items()
            for above in sweep.parents(key)
        )

    def _never(self, sweep: record.Sweep, key: str) -> bool:
        """Whether a node will never be made: a training without rows, or a branch that is not taken."""
        node = sweep.nodes[key]
        if node["stage"] == "train" and "pairs" in node["inputs"]:
            rows = self._store.find("pairs", node["inputs"]["pairs"][0])
            if rows is not None and why_empty(rows):
                return True
        literals = sweep.conditions.get(key)
        return literals is not None and choice.is_needed(literals, sweep.known(self._store)) is False

    def _folder_of(self, stage: str, key: str) -> Path | None:
        """Where a model's weights stand, looked up once: this is asked of every model at every release."""
        if key not in self._folders:
            found = self._store.find(stage, key)
            if found is None:
                return None
            self._folders[key] = found.folder
        return self._folders[key]

    def _sweeps(self) -> Iterator[record.Sweep]:
        """All recorded sweeps, read again only where another command has written them.

        Raises:
            StoreError: a record cannot be read.
        """
        for name in record.names(self._store):
            try:
                written = (self._store.root / "sweeps" / f"{name}.json").stat().st_mtime
                if name not in self._read or self._read[name][0] != written:
                    self._read[name] = written, record.read(self._store, name)
            except FileNotFoundError:  # forgotten at this moment
                continue
            yield self._read[name][1]
