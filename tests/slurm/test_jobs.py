"""What squeue and sacct say, in all the forms in which they say it."""

import os
from pathlib import Path

import pytest

from harness.slurm import commands, jobs
from harness.slurm.batches import Batch
from harness.slurm.commands import NoAnswerError, SlurmError
from harness.slurm.jobs import Job
from tests.fakes import node, plan_of
from tests.slurm.conftest import Desk, FakeSlurm


@pytest.mark.parametrize(
    ("ident", "elements"),
    [
        ("12", None),
        ("12_3", {3}),
        ("12_[3-5]", {3, 4, 5}),
        ("12_[0,3-4,9%2]", {0, 3, 4, 9}),
        ("12_[1,3,5,...]", None),
        ("12+1", None),
    ],
)
def test_a_record_may_be_of_several_elements(ident: str, elements: set[int] | None) -> None:
    assert Job(id=ident, name="any", state="PENDING").elements == elements


BATCH = Batch(
    name="one",
    stage="train",
    submitted=0.0,
    elements=[["a"], ["b"], ["c"]],
    threads=1,
    gpus=0,
    max_requeue=0,
    keep_weights="all",
)


def test_a_record_of_some_elements_says_nothing_of_the_others() -> None:
    found = jobs.by_element([BATCH], [Job(id="9_[1-2%1]", name=BATCH.job, state="PENDING")])
    assert sorted(found) == [("one", 1), ("one", 2)]


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_jobs_of_one_name_the_living_counts(order: int) -> None:
    two = [Job(id="8_0", name=BATCH.job, state="FAILED"), Job(id="9_0", name=BATCH.job, state="PENDING")]
    assert jobs.by_element([BATCH], two[::order])["one", 0].id == "9_0"


def test_text_in_the_last_field_may_hold_anything(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "7|name|PENDING|0:00|ReqNodeNotAvail, a|b")
    assert [job.reason for job in jobs.squeue(["name"])] == ["ReqNodeNotAvail, a|b"]


def test_the_name_of_a_cluster_above_its_jobs_is_no_job(slurm: FakeSlurm) -> None:
    slurm.answer("squeue", "CLUSTER: far", "7|name|RUNNING|0:01|None")
    assert [job.id for job in jobs.squeue(["name"])] == ["7"]


def test_thousands_of_names_are_asked_for_in_parts(slurm: FakeSlurm) -> None:
    names = [f"prefsweep-train-{number:08x}" for number in range(5000)]
    assert jobs.squeue(names) == []
    asked = [call.rpartition("--name=")[2] for call in slurm.calls("squeue")]
    assert ",".join(asked).split(",") == names
    assert max(map(len, asked)) < 100_000


def test_what_the_user_hides_from_himself_is_seen_all_the_same(
    slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What squeue does not show counts as over, and would be submitted again."""
    command = Path(os.environ["PATH"].partition(os.pathsep)[0]) / "squeue"
    command.write_text("#!/bin/bash\nenv | grep -c ^SQUEUE_\nexit 0\n")
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    assert commands.ask(["squeue"]) == "0\n"


def test_a_command_that_cannot_be_run_is_named(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.environ["PATH"].partition(os.pathsep)[0])
    (folder / "squeue").write_bytes(b"\x00")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(SlurmError, match=r"^squeue: cannot be run: Exec format error"):
        commands.ask(["squeue"])


def test_no_answer_in_time_is_an_error_of_its_own(slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_TIMEOUT", 0.01)
    with pytest.raises(NoAnswerError, match="no answer in"):
        commands.ask(["sleep", "5"])


@pytest.mark.parametrize(("seconds", "alive"), [(-1e6, False), (-60.0, True), (60.0, True), (1e6, False)])
def test_a_batch_of_a_clock_that_is_wrong_is_not_on_its_way_for_ever(desk: Desk, seconds: float, alive: bool) -> None:
    only = node("model", "only")
    desk.type(plan_of(only))
    desk.age(seconds)
    assert (only.key in jobs.look(desk.store).live) == alive
