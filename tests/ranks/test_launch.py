"""What starts the processes of a training: commands, where they meet, and what their failures are told as."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.perform import _kind
from harness.ports import PORTS
from harness.progress import Reporter
from harness.ranks import launch
from harness.ranks.launch import RankDiedError, RankError
from harness.stages import Context, train
from harness.store import Store
from harness.world import World
from tests.engines.test_training import SPEC

SCONTROL = """#!/bin/bash
case "$2" in
  hostnames) echo n3; echo n4 ;;
  node) echo "NodeName=$3 Arch=x86_64"; echo "   NodeAddr=10.0.0.3 NodeHostName=box Version=22.05" ;;
esac
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a step of a job on two machines."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    given = {
        "JOB_ID": "41",
        "JOB_NODELIST": "n[3-4]",
        "CPUS_PER_TASK": "12",
        "NTASKS": "1",
        "STEP_ID": "0",
        "PROCID": "0",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_on_several_machines_a_step_of_the_job_starts_torchrun_on_each(job: None) -> None:
    world = World(machines=2, processes=4, threads=3)
    command = launch.command(Path("/store/work"), world)
    assert command[:4] == ["srun", "--jobid=41", "--nodes=2", "--ntasks=2"]
    assert {"--cpus-per-task=12", "--overlap", "--kill-on-bad-exit=1"} <= set(command)
    port = PORTS.start + 7 * 41
    machine = [sys.executable, "-m", "harness.ranks.machine", "/store/work", "2", "4", "10.0.0.3", str(port)]
    assert command[-len(machine) :] == machine


def test_on_one_machine_it_is_started_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    command = launch.command(Path("/work"), World(processes=4))
    assert command == [sys.executable, "-m", "harness.ranks.machine", "/work", "1", "4", "localhost", "0"]


def test_several_machines_are_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(RankError, match="a training on 2 machines is a SLURM job; SLURM_JOB_ID"):
        launch.command(Path("/work"), World(machines=2))


def test_the_step_is_not_bent_by_the_one_it_stands_beside(job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # this process sees one
    several = launch.environment(World(machines=2, processes=2, threads=3))
    assert {"SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_PROCID", "CUDA_VISIBLE_DEVICES"}.isdisjoint(several)
    assert (several["SLURM_JOB_ID"], several["OMP_NUM_THREADS"]) == ("41", "3")
    one = launch.environment(World(processes=2, devices="2,5"))
    assert one["CUDA_VISIBLE_DEVICES"] == "2,5"
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(World(processes=2))
    assert "CUDA_VISIBLE_DEVICES" not in launch.environment(World(machines=2, devices="0,1"))
    assert launch.environment(World(machines=2, devices=""))["CUDA_VISIBLE_DEVICES"] == ""  # it asked for none


def told(
    folder: Path, rank: int, when: float, text: str, *, plain: bool = False, system: tuple[int, str] | None = None
) -> None:
    error = {"time": when, "rank": rank, "host": "n3", "text": text, "system": system}
    error |= {"plain": plain, "story": "Traceback: the story"}
    (folder / f"rank-{rank}.error.json").write_text(json.dumps(error))


def test_a_failure_is_that_of_the_rank_that_failed_first(tmp_path: Path) -> None:
    told(tmp_path, 0, 2.0, "Connection closed by peer")
    told(tmp_path, 1, 1.0, "CUDA out of memory. Tried to allocate 2 GiB")
    (tmp_path / "rank-1.log").write_text("its\nlast words\n")
    store = Store(tmp_path / "store").prepare()
    failure = launch._failure(tmp_path, 1)
    assert str(failure).splitlines()[0] == "rank 1 on n3: CUDA out of memory. Tried to allocate 2 GiB"
    assert "the story" in str(failure)
    assert "last words" in str(failure)
    assert _kind(failure, store) == "memory"


def test_trouble_with_a_disk_is_that_of_the_rank_s_machine(tmp_path: Path) -> None:
    told(tmp_path, 1, 1.0, "[Errno 5] Input/output error", system=(5, "Input/output error"))
    failure = launch._failure(tmp_path, 1)
    assert isinstance(failure, RankError)
    assert failure.machine == "n3"
    assert _kind(failure, Store(tmp_path / "store").prepare()) == "io"


REPORT = """
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : box
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 77)
"""


def test_a_rank_that_was_killed_is_the_cause_and_not_those_that_lost_it(tmp_path: Path) -> None:
    told(tmp_path, 0, 1.0, "[gloo] Connection closed by peer [127.0.0.1]:2001")
    (tmp_path / "launcher.log").write_text(REPORT)
    (tmp_path / "rank-1.log").write_text("its last words\n")
    failure = launch._failure(tmp_path, 1)
    assert isinstance(failure, RankDiedError)
    assert str(failure) == "rank 1 died (SIGKILL)\nlast lines of rank 1:\nits last words"


def test_what_a_user_can_act_on_is_told_without_a_story(tmp_path: Path) -> None:
    told(tmp_path, 0, 1.0, "step 3: the loss is nan", plain=True)
    failure = launch._failure(tmp_path, 1)
    assert str(failure) == "step 3: the loss is nan"
    assert _kind(failure, Store(tmp_path / "store").prepare()) == "error"


def test_a_launcher_that_fails_by_itself_shows_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "launcher.log").write_text("srun: error: Unable to create step\n")
    failure = launch._failure(tmp_path, 1)
    assert isinstance(failure, RankDiedError)
    assert str(failure) == "the ranks ended with exit code 1\nsrun: error: Unable to create step"
    assert _kind(failure, Store(tmp_path / "store").prepare()) == "died"


def test_what_several_processes_have_begun_one_goes_on_with_and_leaves_nothing_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `kill -9` of a job with several GPUs, when the next command has one."""
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "request.json").write_text("{}")
    monkeypatch.setattr("harness.engines.training.train", lambda *_, **__: [])
    policy: Any = SimpleNamespace(model_path=tmp_path)
    context = Context(
        inputs={"policy": (policy,)},
        params={"save_steps": 0},
        store=tmp_path,
        work=tmp_path,
        reporter=Reporter(),
        label="",
    )
    assert train._train(context, [], SPEC) == []
    assert not list(tmp_path.iterdir())
