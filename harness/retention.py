"""Which trained weights stay: 84 cells of a model of 8 billion parameters are 1.3 TB."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from harness import record
from harness.config import KeepWeights
from harness.keys import digest
from harness.plan import Node, Plan, Point
from harness.store import Artifact, Store, read_manifest

WEIGHTS = "weights"
"""Folder of an artifact that retention may give up."""


class Retention:
    """Gives up weights as soon as no recorded sweep needs them any more.

    `none` keeps no trained weights, `best` those of the cell with the highest mean win rate for each policy and
    evaluation of the command, `all` everything.
    """

    def __init__(self, keep: KeepWeights, plan: Plan, store: Store) -> None:
        self._keep, self._plan, self._store = keep, plan, store
        self._others: dict[str, tuple[float, record.Sweep]] = {}
        self._folders: dict[str, Path] = {}

    def after(self, node: Node) -> Iterator[str]:
        """What to do once a node has ended; yields one line for every artifact whose weights were given up."""
        if self._keep == "none" and node.stage == "respond":
            for answering in node.inputs.get("model", ()):  # imported answers have none
                yield from self._release(answering)

    def at_the_end(self) -> Iterator[str]:
        """What to do once a command's work is over."""
        if self._keep == "all":
            return
        # By folder: cells of equal content have one, and the best of them keeps it for all.
        kept = {self._folder(node) for node in self._best()} if self._keep == "best" else set()
        for point in self._plan.points:
            trained = point.nodes.get("train")
            if trained is not None and self._folder(trained) not in kept:
                yield from self._release(trained)

    def _folder(self, trained: Node) -> Path | None:
        found = self._store.find(trained.stage, trained.key)
        return found.folder if found is not None else None

    def _best(self) -> list[Node]:
        """The trained nodes to keep; where no cell is judged yet, nothing is known to be best."""
        groups: dict[str, list[Point]] = {}
        for point in self._plan.points:
            settings = {k: v for k, v in point.settings.items() if k.split(".")[0] in ("policy", "evaluate", "judge")}
            groups.setdefault(digest(settings), []).append(point)
        kept: list[Node] = []
        for points in groups.values():
            trained = [point for point in points if "train" in point.nodes]
            judged = [(rate, p) for p in trained if (rate := self._win_rate(p)) is not None]
            best = [max(judged, key=lambda entry: entry[0])[1]] if judged else trained
            kept += [point.nodes["train"] for point in best]
        return kept

    def _win_rate(self, point: Point) -> float | None:
        verdicts = self._store.find("judge", point.nodes["judge"].key)
        return verdicts.manifest.measures["win_rate"] if verdicts is not None else None

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
        elif any(name.startswith(f"{WEIGHTS}/") for name in manifest.files) and not self._needed(artifact):
            try:
                size = self._store.release(Artifact(artifact.folder, manifest), WEIGHTS)
            except OSError as error:  # space is wanted, but no reason to end the command
                yield f"kept the weights of {artifact.folder.name}: {error.strerror}"
                return
            yield f"released the weights of {artifact.folder.name}: {size / 1e6:.0f} MB"

    def _needed(self, artifact: Artifact) -> bool:
        """Whether an answer that any recorded sweep wants is still to be given by these weights."""
        return any(
            self._folder_of(sweep.nodes[model]["stage"], model) == artifact.folder
            and self._store.find("respond", key) is None
            for sweep in self._sweeps()
            for key, node in sweep.nodes.items()
            if node["stage"] == "respond"
            for model in node["inputs"].get("model", ())
        )

    def _folder_of(self, stage: str, key: str) -> Path | None:
        """Where a model's weights stand, looked up once: this is asked of every model at every release."""
        if key not in self._folders:
            found = self._store.find(stage, key)
            if found is None:
                return None
            self._folders[key] = found.folder
        return self._folders[key]

    def _sweeps(self) -> Iterator[record.Sweep]:
        """All recorded sweeps, read again only where another command has written them."""
        for name in record.names(self._store):
            written = (self._store.root / "sweeps" / f"{name}.json").stat().st_mtime
            if name not in self._others or self._others[name][0] != written:
                self._others[name] = written, record.read(self._store, name)
            yield self._others[name][1]
