"""A command that follows its jobs: it shows how nodes end, and ends with them."""

from collections.abc import Callable

import pytest

from harness.slurm import run
from harness.slurm.commands import SlurmError
from harness.slurm.jobs import Queue
from tests.fakes import node, plan_of, sweep
from tests.slurm.conftest import Desk, cluster


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what happens, one after the other, while a command waits."""

    def set_events(*events: Callable[[], object]) -> None:
        left = list(events)
        monkeypatch.setattr(run, "sleep", lambda _: left.pop(0)())

    return set_events


def ended(desk: Desk, **states: str) -> None:
    """squeue knows the jobs of stages in these states."""
    lines = []
    for batch in desk.batches():
        for number in range(len(batch.elements)):
            lines.append(f"7_{number}|{batch.job}|{states.get(batch.stage, 'PENDING')}|0:01|None")
    desk.slurm.answer("squeue", *lines)


STAGES = ("model", "sample", "pairs", "train", "respond", "judge")


def test_it_ends_when_all_is_done(desk: Desk, then: Callable[..., None]) -> None:
    plan = plan_of(*sweep(2))
    then(lambda: ended(desk), lambda: desk.work("model", "sample"), lambda: desk.work(*STAGES[2:]))
    summary = desk.type(plan, wait=True)
    assert summary.ok
    assert sorted(summary.computed) == sorted(plan.nodes)
    said = desk.said()
    assert "[17/17]" not in said
    assert "[13/13] " in said


def test_failures_are_those_that_the_jobs_tell_and_the_rest_goes_on(desk: Desk, then: Callable[..., None]) -> None:
    bad = node("sample", "bad", {"do": "memory"})
    plan = plan_of(bad, node("score", "behind", responses=bad), node("sample", "free"))

    def happens() -> None:
        desk.work("sample", "score")
        ended(desk, sample="FAILED", score="FAILED")

    then(happens)
    summary = desk.type(plan, wait=True)
    assert list(summary.failed) == [bad.key]
    assert summary.failed[bad.key].failure == "memory"
    assert len(summary.blocked) == 1
    assert len(summary.computed) == 1
    assert "FAILED: CUDA out of memory" in desk.said()


@pytest.mark.parametrize("state", ["CANCELLED", "OUT_OF_MEMORY", "NODE_FAIL", "TIMEOUT"])
def test_a_job_that_said_nothing_failed_as_slurm_says(desk: Desk, then: Callable[..., None], state: str) -> None:
    only = node("sample", "only")
    then(lambda: ended(desk, sample=state))
    summary = desk.type(plan_of(only), wait=True)
    assert summary.failed[only.key].text.startswith(f"job 7_0 ended as {state}")
    assert summary.failed[only.key].failure == ("memory" if state == "OUT_OF_MEMORY" else "died")


def test_what_was_in_other_hands_is_submitted_once_more_and_then_left(desk: Desk, then: Callable[..., None]) -> None:
    only = node("sample", "only")

    def happens() -> None:
        with desk.store.claim(only.key):
            desk.work("sample")
        ended(desk, sample="COMPLETED")

    then(happens, happens)
    summary = desk.type(plan_of(only), wait=True)
    assert summary.alive == [only.key]
    assert not summary.ok
    assert len(desk.slurm.calls("sbatch")) == 2
    desk.age(1000.0)
    then(happens, lambda: desk.work("sample"))
    assert desk.type(plan_of(only), wait=True).ok


def test_a_slurm_that_falls_silent_is_asked_again(desk: Desk, then: Callable[..., None]) -> None:
    def come_back() -> None:
        desk.slurm.refuse("squeue", "")
        desk.work("sample")

    then(lambda: desk.slurm.refuse("squeue", "Unable to contact slurm controller"), lambda: None, come_back)
    assert desk.type(plan_of(node("sample", "only")), wait=True).ok
    assert desk.said().count("Unable to contact slurm controller") == 1


def test_one_that_is_silent_just_when_something_is_submitted_once_more_is_asked_again(
    desk: Desk, then: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only, again = node("sample", "only"), run._Run._again
    silence = ["Unable to contact slurm controller"]

    def silent_once(self: run._Run, queue: Queue) -> bool:
        if silence:
            desk.slurm.refuse("squeue", silence.pop())
        return again(self, queue)

    def leave() -> None:
        with desk.store.claim(only.key):
            desk.work("sample")
        ended(desk, sample="COMPLETED")

    monkeypatch.setattr(run._Run, "_again", silent_once)
    then(leave, lambda: desk.slurm.refuse("squeue", ""), lambda: desk.work("sample"))
    assert desk.type(plan_of(only), wait=True).ok
    assert len(desk.slurm.calls("sbatch")) == 2


def test_a_slurm_that_stays_silent_ends_the_command(
    desk: Desk, then: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_SILENCE", -1.0)
    then(lambda: desk.slurm.refuse("squeue", "Unable to contact slurm controller"))
    with pytest.raises(SlurmError, match="Unable to contact"):
        desk.type(plan_of(node("sample", "only")), wait=True)


def test_what_there_was_no_room_for_is_submitted_as_soon_as_there_is(desk: Desk, then: Callable[..., None]) -> None:
    desk.cluster = cluster("cluster.max_submit=1", "cluster.stages.sample.nodes_per_job=1")
    plan = plan_of(node("sample", "a"), node("sample", "b"))

    def finish() -> None:
        desk.work("sample")
        ended(desk, sample="COMPLETED")

    then(finish, finish)
    summary = desk.type(plan, wait=True)
    assert summary.ok
    assert len(desk.slurm.calls("sbatch")) == 2
