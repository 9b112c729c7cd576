"""`sweepctl status` and `cancel` with jobs: what squeue says, what it has forgotten, and when it does not answer."""

import json
import os
import time
from typing import Any

import pytest

from harness import record
from harness.plan import Plan
from harness.slurm import batches, commands, jobs
from harness.sweepctl import main
from tests.fakes import node, plan_of, sweep
from tests.slurm.conftest import Desk


@pytest.fixture
def plan(desk: Desk) -> Plan:
    """A sweep that was submitted; its first job has done its work."""
    plan = plan_of(*sweep(3))
    record.write(plan, "fake", "the command", desk.store)
    desk.type(plan)
    desk.work("model")
    return plan


def queue(desk: Desk, **states: tuple[str, str]) -> None:
    """squeue knows the jobs of stages in a state, with a reason."""
    lines = []
    for number, batch in enumerate(desk.batches(), 1):
        for element in range(len(batch.elements)):
            ident = f"{number}_{element}" if len(batch.elements) > 1 else f"{number}"
            if batch.stage in states:
                state, reason = states[batch.stage]
                lines.append(f"{ident}|{batch.job}|{state}|1:05|{reason}")
    desk.slurm.answer("squeue", *lines)


def ctl(desk: Desk, *arguments: str) -> int:
    return main([*arguments, "--store", str(desk.store.root)])


WAITING = dict.fromkeys(("pairs", "train", "respond", "judge"), ("PENDING", "Dependency"))


def test_status_shows_jobs_with_one_call(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    queue(desk, sample=("RUNNING", "None"), **WAITING)
    calls = len(desk.slurm.calls("squeue"))
    assert ctl(desk, "status", "fake") == 0
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"2 {desk.batch('sample').job} RUNNING 1:05 4 of 4 nodes to do" in said
    assert f"4_0 and 2 more {desk.batch('train').job} PENDING 1:05 3 of 3 nodes to do Dependency" in said
    assert len(desk.slurm.calls("squeue")) == calls + 1
    assert desk.slurm.calls("sacct") == []
    assert ctl(desk, "status") == 0
    assert "4_0 and 2 more" in capsys.readouterr().out


def facts(desk: Desk, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    ctl(desk, "status", "fake", "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_what_squeue_has_forgotten_sacct_may_know(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    desk.age(2 * jobs.GRACE)
    queue(desk)
    name = desk.batch("sample").job
    desk.slurm.answer("sacct", f"2|{name}|OUT_OF_MEMORY|00:10:00|0:125", "9_[0-3]|other|PENDING|00:00:00|0:0")
    rows = {row["stage"]: row for row in facts(desk, capsys)["jobs"]}
    assert (rows["sample"]["state"], rows["sample"]["reason"]) == ("OUT_OF_MEMORY", "exit code 0:125")
    assert rows["judge"]["state"] == "ENDED"
    assert len(desk.slurm.calls("sacct")) == 1
    desk.slurm.refuse("sacct", "Slurm accounting storage is disabled")
    assert {row["state"] for row in facts(desk, capsys)["jobs"]} == {"ENDED"}


def test_an_array_that_never_began_has_one_record(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    train, judge = desk.batch("train").job, desk.batch("judge").job
    desk.slurm.answer("squeue", f"4|{train}|CANCELLED|0:00|Dependency", f"6_[0-2]|{judge}|PENDING|0:00|Resources")
    rows = facts(desk, capsys)["jobs"]
    assert [row["state"] for row in rows if row["stage"] == "train"] == ["CANCELLED"] * 3
    assert [row["alive"] for row in rows if row["stage"] == "judge"] == [True]


def test_status_works_where_squeue_does_not(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    desk.slurm.refuse("squeue", "Unable to contact slurm controller")
    assert ctl(desk, "status", "fake") == 0
    said = capsys.readouterr().out
    assert "the queue is not known: squeue: Unable to contact slurm controller" in said
    assert "  train         3     0 " in said


def test_status_works_where_a_batch_is_damaged(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    path = batches.folder(desk.store, desk.batch("train").name).with_suffix(".json")
    path.write_text(path.read_text()[:50])
    assert ctl(desk, "status", "fake") == 0
    said = capsys.readouterr().out
    assert f"the queue is not known: store: {path} cannot be read" in said
    assert "  train         3     0 " in said


def test_only_the_last_job_of_a_node_is_shown(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    desk.age(2 * jobs.GRACE)
    queue(desk, sample=("FAILED", "NonZeroExitCode"))
    time.sleep(0.01)
    desk.type(plan)
    rows = facts(desk, capsys)["jobs"]
    assert [row["state"] for row in rows if row["stage"] == "sample"] == ["UNKNOWN"]


def test_cancel_ends_all_jobs_or_those_of_a_node(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    queue(desk, sample=("RUNNING", "None"), **WAITING)
    key = next(one.key for one in plan.nodes.values() if one.slug == "train-1")
    assert ctl(desk, "cancel", key) == 0
    assert desk.slurm.calls("scancel") == ["4_1"]
    assert "cancelled 1 job with 1 node" in capsys.readouterr().out
    assert ctl(desk, "cancel") == 0
    assert desk.slurm.calls("scancel")[1].split() == ["2", "3", "4", "5", "6"]
    assert "cancelled 7 jobs with 16 nodes" in capsys.readouterr().out


def test_cancel_where_there_is_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    only = plan_of(node("model", "only"))
    record.write(only, "one", "the command", desk.store)
    assert ctl(desk, "cancel") == 0
    assert capsys.readouterr().out == "no job is alive\n"
    assert ctl(desk, "cancel", next(iter(only.nodes))) == 2
    assert "is in no job that is alive" in capsys.readouterr().err
    assert desk.slurm.calls("scancel") == []


def test_cancel_of_what_slurm_does_not_show_yet(desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl(desk, "cancel") == 1
    assert "the same command again cancels them" in capsys.readouterr().out


def forbidden(path: object) -> None:
    raise PermissionError(f"{path}: not yours")


def test_gc_clears_away_the_files_of_jobs_whose_nodes_are_done(
    desk: Desk, plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.slurm.refuse("sbatch", "sbatch: error: no")
    with pytest.raises(commands.SlurmError):
        desk.type(plan_of(node("imported", "refused")))
    assert ctl(desk, "gc") == 0
    assert "jobs" not in capsys.readouterr().out  # all of this is young
    root, model = desk.store.root / "batches", desk.batch("model").name
    for path in (root, *root.rglob("*")):
        os.utime(path, (0, 0), follow_symlinks=False)
    before = {path.name for path in root.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("harness.sweepctl.gc.shutil.rmtree", forbidden)
        assert ctl(desk, "gc", "--yes") == 0
    assert f"batches/{model}: stays, since it is another user's" in capsys.readouterr().out
    assert ctl(desk, "gc", "--yes") == 0
    gone = before - {path.name for path in root.iterdir()}
    assert {model, f"{model}.json"} < gone
    assert len(gone) == 3
