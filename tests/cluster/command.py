"""A sweep of synthetic stages as a command on SLURM, and its jobs: `python -m tests.cluster.command STORE CONFIG`.

CONFIG is JSON: `cells`, `seconds` of each of a node's shards, `bad`, the slug of one that fails, `overrides` of the
configuration, `wait`, `python`, the interpreter of the jobs, and `grace` and `patience` in place of what the program
waits for.

Beside what the stages note themselves, jobs write to the journal what is over: shards that are `written`, nodes that
are `published`.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import execute as execution
from harness import record, tables
from harness.errors import PrefsweepError
from harness.manifest import Manifest
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.slurm import job, jobs, submit
from harness.slurm.job import Element
from harness.store import Artifact, Store
from tests.fakes import install, plan_of, sweep
from tests.slurm.conftest import cluster

SMALL = (
    "cluster.probe=false",
    "cluster.default.cpus=1",
    "cluster.default.mem_gb=0.2",
    "cluster.default.time_minutes=15",
)


@dataclass(frozen=True)
class FakeElement(Element):
    """A job with these stages."""

    patience: float = job.PATIENCE

    def __call__(self) -> None:
        install()
        vars(job).update(prepare_process=lambda *_: None, PATIENCE=self.patience, LATE=min(job.LATE, self.patience))
        _note_ends(Path(self.store).parent / "journal")
        super().__call__()


def _note_ends(journal: Path) -> None:
    """Note what is over, each in one line that is written at once."""
    write, publish = tables.write, Store.publish

    def note(text: str) -> None:
        with journal.open("a") as file:
            file.write(f"{text}\n")

    def noted_write(table: Any, path: Path) -> None:
        write(table, path)
        note(f"written {path.parents[2].name} {path.name}")

    def noted_publish(self: Store, work: Path, manifest: Manifest, slug: str) -> Artifact:
        artifact = publish(self, work, manifest, slug)
        note(f"published {slug}")
        return artifact

    vars(tables)["write"] = noted_write
    Store.publish = noted_publish  # type: ignore[method-assign]


def nodes_of(config: dict[str, Any]) -> list[Node]:
    """The nodes of the sweep; the bad one has its own parameters, which are in no key."""
    return [
        Node(
            stage=n.stage,
            slug=n.slug,
            spec=n.spec,
            inputs=n.inputs,
            params={**n.params, "do": "memory"} if n.slug == config.get("bad") else n.params,
        )
        for n in sweep(config["cells"], config.get("seconds", 0.0))
    ]


def plan(config: dict[str, Any]) -> Plan:
    """The plan of the sweep."""
    return plan_of(*nodes_of(config))


def main(root: Path, config: dict[str, Any]) -> int:
    """Do as a command does; returns its exit code."""
    vars(submit)["Element"] = partial(FakeElement, patience=config.get("patience", job.PATIENCE))
    vars(jobs)["GRACE"] = config.get("grace", jobs.GRACE)
    sys.executable = config.get("python", sys.executable)
    reporter, store, made = Reporter(Console(stderr=True, width=400)), Store(root).prepare(), plan(config)
    record.write(made, "fake", "the same again", store)
    asked = cluster(*SMALL, *config.get("overrides", ()))
    retention = Retention("all", made, store)
    summary = execution.execute(made, store, reporter, asked, retention, wait=config.get("wait", False))
    for line in execution.failure_report(summary, made):
        reporter.line(line)
    return 0 if summary.ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
    except PrefsweepError as error:
        sys.exit(f"error: {error}")
