"""The first small job: what it asks, what waits for it, and what its answers mean."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.files import write_json
from harness.slurm import jobs, probe
from harness.slurm.commands import SlurmError
from harness.sweepctl import main
from tests.fakes import node, plan_of, sweep
from tests.slurm.conftest import Desk, cluster

PLAN = plan_of(node("model", "a"), node("prompts", "b"))


@pytest.fixture
def probed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose machines are not known."""
    desk.cluster = cluster("cluster.probe=true", "cluster.default.partition=main")
    monkeypatch.setattr(probe, "WAIT", 0.0)
    return desk


def the_probe(desk: Desk) -> probe.Probe:
    (path,) = (desk.store.root / "probes").glob("*.json")
    found = probe.read(desk.store, path.stem)
    assert found is not None
    return found


def answer(desk: Desk, number: int = 1, **environment: str) -> int:
    """Do the job here; returns its exit code."""
    path = desk.slurm.folder / f"{number}.sh"
    given = {**os.environ, "SLURMD_NODENAME": "n7", "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return subprocess.run(["bash", str(path)], check=False, env=given, cwd=desk.store.root.parent).returncode


def ended(desk: Desk, state: str, code: int) -> None:
    """SLURM knows the job as one that has ended."""
    one = the_probe(desk)
    desk.slurm.answer("squeue", f"{one.number}|{one.job}|{state}|0:01|NonZeroExitCode")
    desk.slurm.answer("scontrol", f"JobId={one.number} JobName={one.job} ExitCode={code}:0 NodeList=n7 Other=x")


def test_every_job_waits_for_the_first_small_one_and_is_cancelled_without_its_success(probed: Desk) -> None:
    probed.type(plan_of(*sweep(2)))
    assert "job 1 looks first whether the machines can do the work" in probed.said()
    assert "--job-name=prefsweep-probe-" in probed.slurm.calls("sbatch")[0]
    assert [probed.slurm.option(n, "dependency") for n in (2, 3, 4)] == [
        "afterok:1",
        "afterok:1,afterany:2",
        "afterok:1,afterany:3",
    ]
    assert {probed.slurm.option(n, "kill-on-invalid-dep") for n in range(2, 8)} == {"yes"}


def test_machines_that_are_known_are_not_asked_again_for_a_week(probed: Desk) -> None:
    probed.type(PLAN)
    assert answer(probed) == 0
    probed.type(plan_of(node("model", "c")))
    assert probed.slurm.option(4, "dependency") is None
    assert len(probed.slurm.calls("sbatch")) == 4
    one = the_probe(probed)
    write_json(probed.store.root / "probes" / f"{one.signature}.json", {**vars(one), "asked": one.asked - probe.VALID})
    probed.type(plan_of(node("model", "d")))
    assert probed.slurm.option(6, "dependency") == "afterok:5"


def test_other_machines_are_asked_anew(probed: Desk) -> None:
    probed.cluster = cluster("cluster.probe=true", "cluster.stages.prompts.partition=other")
    probed.type(PLAN)
    assert [call.partition(" ")[0][:26] for call in probed.slurm.calls("sbatch")][:2] == [
        "--job-name=prefsweep-probe"
    ] * 2
    assert [probed.slurm.option(n, "dependency") for n in (3, 4)] == ["afterok:1", "afterok:2"]


def test_a_first_job_that_is_still_waiting_is_waited_for_and_not_asked_twice(probed: Desk) -> None:
    probed.type(PLAN)
    one = the_probe(probed)
    probed.slurm.answer("squeue", f"1|{one.job}|PENDING|0:00|Resources")
    probed.type(plan_of(node("model", "c")))
    assert probed.slurm.option(4, "dependency") == "afterok:1"


def test_without_it_nothing_is_asked(probed: Desk) -> None:
    probed.cluster = cluster("cluster.probe=false")
    probed.type(PLAN)
    assert len(probed.slurm.calls("sbatch")) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            81,
            "n7 of partition main does not see the store {store}: it must be on a file system that all machines share",
        ),
        (82, "n7 of partition main sees another folder than this machine at {store}"),
        (83, "n7 of partition main cannot write to the store {store}: it is read-only there, full, or forbidden"),
        (9, "n7 of partition main gave no answer (job 1 ended as FAILED, exit code 9)"),
    ],
)
def test_an_exit_code_says_what_the_store_cannot(
    probed: Desk, code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    probed.type(PLAN)
    ended(probed, "FAILED", code)
    assert main(["status", "--store", str(probed.store.root)]) == 1
    one = the_probe(probed)
    assert probe.trouble(probed.store, one, None) == ""
    said = probe.trouble(probed.store, one, next(iter(jobs.squeue([one.job]))))
    assert expected.format(store=probed.store.root) in said


def test_what_the_job_itself_finds(probed: Desk, tmp_path: Path) -> None:
    probed.type(PLAN)
    root = probed.store.root
    (root / "probes").rename(tmp_path / "aside")
    script = probed.slurm.folder / "1.sh"
    script.write_text(script.read_text().replace("{1..30}", "1").replace("{1..5}", "1"))
    assert answer(probed) == 82  # a folder of this name, but another one
    root.rename(tmp_path / "elsewhere")
    assert answer(probed) == 81
    (tmp_path / "elsewhere").rename(root)
    (tmp_path / "aside").rename(root / "probes")
    (root / "probes").chmod(0o500)
    try:
        assert answer(probed) == 83 or os.getuid() == 0  # root may write everywhere
    finally:
        (root / "probes").chmod(0o700)


def test_a_missing_interpreter_ends_the_command_with_its_name(probed: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(probe, "WAIT", 60.0)
    monkeypatch.setattr("harness.slurm.probe.time.sleep", lambda _: answer(probed))
    with pytest.raises(
        SlurmError, match=r"^cluster: n7 of partition main cannot run the Python of this command \(/now"
    ) as said:
        probed.type(PLAN)
    assert "No such file" in str(said.value)
    assert probed.batches() == []


def test_the_interpreters_of_engines_are_looked_at_too(probed: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    probed.cluster = cluster("cluster.probe=true", f"cluster.python.lm_eval={sys.executable}")
    monkeypatch.setattr(probe, "WAIT", 60.0)
    monkeypatch.setattr("harness.slurm.probe.time.sleep", lambda _: answer(probed))
    with pytest.raises(SlurmError, match=rf"cannot run cluster\.python\.lm_eval \({sys.executable}\)"):
        probed.type(PLAN)
    assert probed.batches() == []


def test_what_was_wrong_is_forgotten_once_other_machines_are_asked(probed: Desk) -> None:
    probed.type(PLAN)
    ended(probed, "FAILED", 81)
    probed.cluster = cluster("cluster.probe=true", "cluster.default.partition=other")
    probed.type(plan_of(node("model", "c")))
    assert "partition other" in the_probe(probed).place
    assert [one.place for one in probe.every(probed.store)] == ["partition other"]


def test_a_refusal_of_the_first_job_names_our_field(probed: Desk) -> None:
    probed.slurm.refuse("sbatch", "sbatch: error: Invalid account or account/partition combination specified")
    with pytest.raises(ConfigError, match=r"^cluster\.default\.account: None is refused; sbatch says: Invalid account"):
        probed.type(PLAN)


def test_a_command_that_follows_ends_when_the_first_job_has_failed(probed: Desk) -> None:
    probed.type(PLAN)
    one = the_probe(probed)
    names = {n: probed.slurm.name(n) for n in (2, 3)}
    lines = [f"{n}|{name}|PENDING|0:00|Dependency" for n, name in names.items()]
    probed.slurm.answer("squeue", f"1|{one.job}|PENDING|0:00|Resources", *lines)

    def fail(_: float) -> None:
        ended(probed, "FAILED", 81)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.slurm.run.sleep", fail)
        patch.setattr(probe, "WAIT", 0.0)
        probed.type(plan_of(*PLAN.nodes.values(), node("model", "c")), wait=False)
        with pytest.raises(SlurmError, match="does not see the store"):
            probed.type(plan_of(*PLAN.nodes.values(), node("model", "e")), wait=True)
