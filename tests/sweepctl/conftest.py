"""A store of two cells made by the real executor with stages that write tiny tables, and the command to look at it."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from harness import execute as execution
from harness import perform, record
from harness.plan import Node, Plan, Point
from harness.schedule import Summary
from harness.store import Store
from harness.sweepctl import main
from tests.test_execute import CELL, FakeStages, Spec, node
from tests.test_store import HOLDER

COMMAND = "python -m harness -m +sweeps=both"


@dataclass(frozen=True)
class Result:
    """What one command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass
class Desk:
    """A store, the plan it was made by, and the command line."""

    fake: FakeStages
    nodes: dict[str, Node]
    capsys: pytest.CaptureFixture[str]

    @property
    def store(self) -> Store:
        return self.fake.store

    def key(self, name: str) -> str:
        return self.nodes[name].key

    def keys(self, *names: str) -> list[str]:
        return [self.key(name) for name in names]

    def folder(self, name: str) -> Path:
        """Where a node's own artifact stands, whole or not."""
        planned = self.nodes[name]
        return self.store.folder(planned.stage, planned.slug, planned.key)

    def plan(self, cells: str = "ab") -> Plan:
        chosen = {n.key: n for name, n in self.nodes.items() if name[-2:-1] != "_" or name[-1] in cells}
        points = [
            SimpleNamespace(
                id=f"point_{c}", settings={"cell": c}, nodes={s: self.nodes[f"{s}_{c}"] for s in CELL}, beside={}
            )
            for c in cells
        ]
        return Plan(points=tuple(cast(Point, point) for point in points), nodes=chosen, naive={})

    def record(self, name: str = "both", cells: str = "ab", command: str = COMMAND) -> None:
        record.write(self.plan(cells), name, command, self.store)

    def run(self, name: str = "both", cells: str = "ab") -> Summary:
        """Record a sweep and run it, as a command would."""
        self.record(name, cells)
        return self.fake.execute(self.plan(cells))

    def ctl(self, *arguments: str) -> Result:
        self.capsys.readouterr()
        code = main([*arguments, "--store", str(self.store.root)])
        printed = self.capsys.readouterr()
        return Result(code, printed.out, printed.err)

    @contextmanager
    def held(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """Another process has claimed a node and one file in hand."""
        command = [sys.executable, "-c", HOLDER, str(self.store.root), self.key(name)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                yield holder
            finally:
                holder.kill()


def make_nodes(pool: str = "sample", cells: Sequence[str] = "ab") -> dict[str, Node]:
    """Two cells of one pool; the slugs of the nodes are their names."""
    nodes = {"model": node("model", "model"), "prompts": node("prompts", "prompts")}
    nodes["sample"] = Node(
        stage="sample",
        slug="sample",
        spec=Spec(name=pool),
        inputs={"policy": (nodes["model"],)},
        uses={"prompts": (nodes["prompts"],)},
    )
    nodes["base"] = node("respond", "base", model=nodes["model"])
    for cell in cells:
        rows = node("pairs", f"pairs_{cell}", sample=nodes["sample"])
        trained = Node(stage="train", slug=f"train_{cell}", spec=Spec(name="train"), inputs={"pairs": (rows,)})
        answers = Node(stage="respond", slug=f"respond_{cell}", spec=Spec(name="respond"), inputs={"model": (trained,)})
        inputs = {"answers": (answers,), "references": (nodes["base"],)}
        verdicts = Node(stage="judge", slug=f"judge_{cell}", spec=Spec(name="judge"), inputs=inputs)
        nodes |= {f"{stage}_{cell}": n for stage, n in zip(CELL, (rows, trained, answers, verdicts), strict=True)}
    return nodes


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    fake = FakeStages(Store(tmp_path / "store").prepare())
    monkeypatch.setattr(perform, "_stage", lambda name: fake)
    monkeypatch.setattr(execution, "prepare_process", lambda threads: None)  # would import torch
    monkeypatch.setattr(perform, "provenance", lambda: {"commit": "c0ffee", "versions": {"trl": "1.16.0"}})
    return Desk(fake, make_nodes(), capsys)
