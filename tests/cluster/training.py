"""A training and what it needs, without what follows: `python -m tests.cluster.training STORE POLICY OVERRIDES`.

OVERRIDES is a JSON list for the command line, the cluster among them.
"""

import json
import sys
from pathlib import Path

from rich.console import Console

from harness import app
from harness import execute as execution
from harness.plan import Node, Plan, make_plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.store import Store
from tests.configs import composed

TINY = (
    "policy=local",
    "pair=max_min",
    "n=4",
    "prompts.limit=10",
    "sampler.sample_block=4",
    "sampler.max_new_tokens=8",
    "train.epochs=2",
    "train.max_length=1024",
    "train.global_batch=4",
    "train.micro_batch=1",
    "train.save_steps=1",
    "reward=longer",
    "judge=shorter",
)


def plan(policy: str, *overrides: str) -> Plan:
    """The nodes of one cell up to its training."""
    config, _ = app.split(composed(*TINY, f"policy.id={policy}", *overrides))
    nodes: dict[str, Node] = {}

    def visit(node: Node) -> None:
        for parent in node.parents:
            visit(parent)
        nodes[node.key] = node

    visit(make_plan([config]).points[0].nodes["train"])
    return Plan(points=(), nodes=nodes, naive={})


def main(root: Path, policy: str, overrides: list[str]) -> int:
    """Do as a command does; returns its exit code."""
    config, options = app.split(composed(*TINY, f"policy.id={policy}", *overrides))
    app.check_batches([config], options.cluster)
    made, reporter, store = plan(policy, *overrides), Reporter(Console(stderr=True, width=400)), Store(root).prepare()
    summary = execution.execute(
        made, store, reporter, options.cluster, Retention("all", made, store), wait=options.follow
    )
    for line in execution.failure_report(summary, made):
        reporter.line(line)
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
