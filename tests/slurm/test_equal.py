"""Cells that turn out empty or equal: jobs end at once, and what is equal to something done needs none."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from harness.plan import Node, Plan
from harness.slurm import batches, job, jobs
from tests.fakes import Spec, find, journal, node, plan_of, sweep
from tests.slurm.conftest import Desk, cluster
from tests.slurm.test_follow import ended, then
from tests.slurm.test_job import NoRows, endings

__all__ = ["then"]  # a fixture


def cells() -> tuple[Plan, dict[str, Node]]:
    """Two cells whose rows turn out equal, each with a training of the same settings, and its answers."""
    nodes: dict[str, Node] = {}
    for cell in "ab":
        nodes[f"pairs {cell}"] = rows = node("pairs", cell, {"content": "equal"})
        trained = Node(stage="train", slug=f"train {cell}", spec=Spec(name="train"), inputs={"pairs": (rows,)})
        answers = Node(stage="respond", slug=f"respond {cell}", spec=Spec(name="respond"), inputs={"model": (trained,)})
        nodes |= {f"train {cell}": trained, f"respond {cell}": answers}
    return plan_of(*nodes.values()), nodes


@pytest.fixture
def apart(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, dict[str, Node]]:
    """The second cell's job is at it while another process trains the first."""
    plan, nodes = cells()
    monkeypatch.setattr(job, "PATIENCE", 3600.0)
    monkeypatch.setattr("harness.slurm.job.sleep", lambda _: pytest.fail("it waits"))
    desk.type(plan)
    assert desk.work("pairs") == [0]
    rows = {key: find(desk.store, nodes[f"pairs {cell}"]) for cell in "ab" for key in [nodes[f"pairs {cell}"].key]}
    content = nodes["train a"].content_key(rows)
    assert content == nodes["train b"].content_key(rows)
    with desk.store.claim(content):
        assert desk.work("train") == [0, 0]
    assert set(endings(desk, "train", 0).values()) == {"deferred"}
    return plan, nodes


def test_a_job_leaves_what_is_equal_to_a_training_in_other_hands_at_once(apart: tuple[Plan, dict[str, Node]]) -> None:
    assert apart[1]["train a"].key != apart[1]["train b"].key


def finish_one(desk: Desk, nodes: dict[str, Node]) -> None:
    """Train the first cell after all."""
    batch = desk.batch("train")
    number = next(i for i, element in enumerate(batch.elements) if nodes["train a"].key in element)
    assert job._Work(desk.store.root, batch.name, number).run() == 0


def test_the_next_job_of_the_cell_finds_that_its_input_is_there(
    desk: Desk, apart: tuple[Plan, dict[str, Node]]
) -> None:
    _, nodes = apart
    finish_one(desk, nodes)
    assert desk.store.find("train", nodes["train b"].key) is None
    assert desk.work("respond") == [0]
    assert find(desk.store, nodes["train b"]).manifest.alias_of is not None
    assert find(desk.store, nodes["respond b"]).manifest.alias_of is not None
    assert journal(desk.store) == {"node a": 1, "shard a 0": 1, "node b": 1, "shard b 0": 1} | {
        f"{what}{name}{number}": 1
        for name in ("train", "respond")
        for what, number in (("node ", ""), ("shard ", " 0"))
    }


def test_the_next_command_names_what_is_equal_without_a_job(desk: Desk, apart: tuple[Plan, dict[str, Node]]) -> None:
    plan, nodes = apart
    desk.age(jobs.GRACE + 1)
    finish_one(desk, nodes)
    submitted = len(desk.slurm.calls("sbatch"))
    summary = desk.type(plan)
    assert summary.aliased == [nodes["train b"].key]
    assert sorted(desk.batch("respond").keys) == sorted([nodes["respond a"].key, nodes["respond b"].key])
    assert len(desk.slurm.calls("sbatch")) == submitted + 1
    assert desk.work("respond") == [0]
    assert len(desk.type(plan).done) == len(plan.nodes)


def test_a_command_that_follows_resolves_it_itself(desk: Desk, then: Callable[..., None]) -> None:
    plan, nodes = cells()
    with ExitStack() as others:

        def defer() -> None:
            desk.work("pairs")
            rows = {nodes[f"pairs {cell}"].key: find(desk.store, nodes[f"pairs {cell}"]) for cell in "ab"}
            others.enter_context(desk.store.claim(nodes["train a"].content_key(rows)))
            desk.work("train", "respond")
            ended(desk, pairs="COMPLETED", train="COMPLETED", respond="FAILED")

        def again() -> None:
            others.close()
            desk.work("train", "respond")
            ended(desk, pairs="COMPLETED", train="COMPLETED", respond="COMPLETED")

        then(defer, again)
        summary = desk.type(plan, wait=True)
    assert summary.ok, desk.said()
    assert len(summary.computed) + len(summary.aliased) == len(plan.nodes)
    assert journal(desk.store)["node train"] == 1


@pytest.mark.parametrize("begun", [True, False])
def test_batches_of_empty_cells_are_over(desk: Desk, monkeypatch: pytest.MonkeyPatch, *, begun: bool) -> None:
    """Whether their own jobs have found it out, or were cancelled before that."""
    stage = NoRows()
    monkeypatch.setattr("harness.perform._stage", lambda name: stage)
    desk.cluster = cluster("cluster.stages.respond.nodes_per_job=1", "cluster.stages.judge.nodes_per_job=1")
    plan = plan_of(*sweep(2))
    desk.type(plan)
    desk.work("model", "sample", "pairs")
    held = [batch for batch in desk.batches() if batch.stage in ("train", "respond", "judge")]
    assert all(len(batch.rows) == 2 for batch in held)
    assert len(batches.unfinished(desk.store)) == 3
    if begun:
        desk.work("train", "respond", "judge")
    else:
        whole = plan_of(*(one for one in plan.nodes.values() if not one.slug.endswith("-1")))
        desk.age(jobs.GRACE + 1)
        desk.type(whole)
        desk.work("train", "respond", "judge")
    assert batches.unfinished(desk.store) == []
