"""A sweep of synthetic stages as a command on SLURM, and its jobs: `python -m tests.cluster.command STORE CONFIG`.

CONFIG is JSON: `cells`, `seconds` of each of a node's shards, `bad`, the slug of one that fails, `overrides` of the
configuration, `wait`, and `python`, the interpreter of the jobs.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import execute as execution
from harness import record
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.slurm import job, submit
from harness.slurm.job import Element
from harness.store import Store
from tests.fakes import install, plan_of, sweep
from tests.slurm.conftest import cluster

SMALL = (
    "cluster.probe=false",
    "cluster.default.cpus=1",
    "cluster.default.mem_gb=0.2",
    "cluster.default.time_minutes=15",
)


class FakeElement(Element):
    """A job with these stages."""

    def __call__(self) -> None:
        install()
        vars(job)["prepare_process"] = lambda *_: None
        super().__call__()


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
    vars(submit)["Element"] = FakeElement
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
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
