"""What a command submits: batches, arrays, dependencies, and nothing twice."""

import json
import os
import sys
from collections.abc import Collection
from itertools import chain
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.slurm import jobs, probe
from harness.slurm.commands import SlurmError
from harness.store import Store
from tests.fakes import node, plan_of, sweep
from tests.slurm.conftest import Desk, cluster

GOLDEN = Path(__file__).with_name("golden")


def test_one_array_for_each_stage_which_waits_for_those_with_its_inputs(desk: Desk) -> None:
    plan = plan_of(*sweep(3))
    summary = desk.type(plan)
    assert summary.ok
    assert summary.later == list(plan.nodes)
    names = [desk.slurm.name(number) for number in range(1, 7)]
    assert [name.split("-")[1] for name in names] == ["model", "sample", "pairs", "train", "respond", "judge"]
    assert [desk.slurm.option(number, "dependency") for number in range(1, 7)] == [
        None,
        "afterany:1",
        "afterany:2",
        "afterany:3",
        "afterany:4",
        "afterany:5",
    ]
    assert [desk.slurm.option(number, "array") for number in range(1, 7)] == [None, None, None, "0-2%3", None, None]
    assert sorted(chain.from_iterable(b.keys for b in desk.batches())) == sorted(plan.nodes)
    assert len(desk.slurm.calls("sbatch")) == 6
    assert "sweepctl status" in desk.said()


def test_what_runs_a_reward_model_or_serves_a_judge_asks_for_a_gpu(desk: Desk) -> None:
    model, pool = node("model", "scorer"), node("sample", "pool")
    plain, scored = (
        node("score", "by-length", responses=pool),
        node("score", "by-model", responses=pool, reward_model=model),
    )
    answers = node("respond", "answers", model=model)
    verdicts = [node("judge", "remote", answers=answers), node("judge", "own", answers=answers, judge_model=model)]
    appraised = node("appraise", "answers", answers=answers, reward_model=model)
    desk.cluster = cluster("cluster.default.gpu_type=a100", "cluster.stages.appraise.gpus=0")
    desk.type(plan_of(model, pool, plain, scored, answers, *verdicts, appraised))
    asked = {key: batch.gpus for batch in desk.batches() for key in batch.keys}
    assert [asked[n.key] for n in (plain, scored, *verdicts, appraised)] == [0, 1, 0, 1, 0]
    for number in range(1, len(desk.batches()) + 1):
        (batch,) = (batch for batch in desk.batches() if batch.job == desk.slurm.name(number))
        assert desk.slurm.option(number, "gpus-per-node") == ("a100:1" if batch.gpus else None)


def script(desk: Desk, number: int) -> str:
    """A job's script without what differs from run to run."""
    text = desk.slurm.script(number)
    for batch in desk.batches():
        text = text.replace(batch.name, f"{batch.stage}-NAME")
    for path in (desk.store.root / "probes").glob("*.json"):
        text = text.replace(path.stem, "SIGNATURE").replace(json.loads(path.read_text())["nonce"], "NONCE")
    return text.replace(str(desk.store.root), "STORE").replace(sys.executable, "PYTHON").strip()


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.sh").read_text().strip()


def test_the_script_of_an_array(desk: Desk) -> None:
    desk.cluster = cluster(
        "cluster.default.account=lab",
        "cluster.default.gpu_type=a100",
        "cluster.default.qos=high",
        'cluster.default.constraint="a100|h100"',
        "cluster.stages.train.partition=gpu",
        "cluster.stages.train.gpus=8",
        "cluster.stages.train.mem_gb=64",
        "cluster.stages.train.time_minutes=600",
        'cluster.stages.train.setup=[module load cuda,"export NCCL_DEBUG=WARN"]',
        "+cluster.default.extra.reservation=mine",
        "+cluster.stages.train.extra.exclusive=true",
        '+cluster.stages.train.extra.mail_user="me@lab.org"',
    )
    desk.type(plan_of(*sweep(3)))
    assert script(desk, 4) == golden("array")


def test_the_script_of_a_single_job_without_a_gpu(desk: Desk) -> None:
    """A short one is told of its end earlier than usual; what is not asked for is left to the cluster."""
    desk.cluster = cluster(
        "cluster.offline=true",
        "cluster.default.mem_gb=null",
        "cluster.stages.judge.time_minutes=4",
        "cluster.stages.judge.cpus=2",
    )
    desk.type(plan_of(*sweep(1)))
    assert script(desk, 6) == golden("single")


def test_an_array_of_as_many_elements_as_a_cluster_takes(desk: Desk) -> None:
    desk.cluster = cluster("cluster.max_array=2")
    desk.type(plan_of(*sweep(5)))
    assert [desk.slurm.option(n, "array") for n in (4, 5, 6)] == ["0-1%2", "0-1%2", None]
    assert desk.slurm.option(7, "dependency") == "afterany:4:5:6"
    assert "srun" in desk.slurm.script(6)


def test_the_script_of_the_first_job_and_of_one_that_waits_for_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.slurm.probe.WAIT", 0.0)
    desk.cluster = cluster(
        "cluster.probe=true",
        "cluster.default.partition=gpu",
        "cluster.default.setup=[module load cuda]",
        "+cluster.default.extra.reservation=mine",
        "+cluster.default.extra.exclusive=true",
    )
    desk.type(plan_of(*sweep(1)))
    assert script(desk, 1) == golden("probe")
    (asked,) = (probe.read(desk.store, path.stem) for path in (desk.store.root / "probes").glob("*.json"))
    assert asked is not None
    flags = desk.slurm.calls("sbatch")[0].replace(asked.nonce, "NONCE")
    assert flags.partition(" --mem")[0] == (
        "--job-name=prefsweep-probe-NONCE --output=/dev/null --partition=gpu --nodes=1 --ntasks=1 --cpus-per-task=1"
    )
    assert flags.partition(" --mem")[2].startswith("=1G --time=5 --reservation=mine /")
    assert script(desk, 3) == golden("behind")


def test_a_job_of_several_machines_begins_with_one_process_which_knows_of_the_others(desk: Desk) -> None:
    desk.cluster = cluster("cluster.stages.train.nodes=2", "cluster.stages.train.gpus=4", "cluster.sharding=none")
    desk.type(plan_of(*sweep(1)))
    assert desk.slurm.option(4, "nodes") == "2"
    assert desk.slurm.option(4, "gpus-per-node") == "4"
    assert " --nodes=1 --ntasks=1 --relative=0 " in desk.slurm.script(4)
    world = {"machines": 2, "processes": 4, "threads": 1, "sharding": "none", "devices": None}
    assert [batch.world for batch in desk.batches()] == [{}, {}, {}, world, {}, {}]
    assert " --ntasks=1 " not in desk.slurm.script(5)


def test_only_stages_with_a_language_model_ask_for_a_gpu(desk: Desk) -> None:
    desk.type(plan_of(*sweep(3)))
    asked = {desk.slurm.name(n).split("-")[1]: desk.slurm.option(n, "gpus-per-node") for n in range(1, 7)}
    assert asked == {"model": None, "sample": "1", "pairs": None, "train": "1", "respond": "1", "judge": None}


def test_a_batch_is_written_before_sbatch_and_its_files_are_private(desk: Desk) -> None:
    (desk.store.root / "batches").mkdir()
    desk.slurm.refuse("sbatch", "sbatch: error: Batch job submission failed: Invalid partition name specified")
    with pytest.raises(ConfigError):
        desk.type(plan_of(node("model", "a")))
    (private,) = (desk.store.root / "batches").iterdir()  # the batch itself was taken back
    assert private.stat().st_mode & 0o777 == 0o700
    desk.slurm.refuse("sbatch", "")
    desk.type(plan_of(node("model", "a")))
    assert len(desk.batches()) == 1


def test_arrays_are_split_and_small_nodes_packed(desk: Desk) -> None:
    desk.cluster = cluster("cluster.max_array=2", "cluster.stages.sample.nodes_per_job=3")
    desk.type(plan_of(*(node("sample", f"{i}") for i in range(14))))
    assert [[len(e) for e in b.elements] for b in desk.batches()] == [[3, 3], [3, 3], [2]]


def test_nodes_that_need_the_same_model_are_packed_together(desk: Desk) -> None:
    policies = [node("model", name) for name in "ab"]
    mixed = [node("sample", f"{i}", policy=policies[i % 2]) for i in range(8)]
    desk.type(plan_of(*policies, *mixed))
    for element in desk.batch("sample").elements:
        assert len({one.loads for one in mixed if one.key in element}) == 1


def test_nodes_of_a_stage_that_need_each_other_are_no_one_array(desk: Desk) -> None:
    """As rows on common prompts need the rows of all cells, and a second round needs the first."""
    first = node("pairs", "first")
    trained = node("train", "trained", pairs=first)
    nodes = [first, node("pairs", "common", others=first), trained, node("sample", "second round", policy=trained)]
    nodes.append(node("pairs", "second rows", picks=nodes[-1]))
    desk.type(plan_of(*nodes))
    assert [batch.stage for batch in desk.batches()] == ["pairs", "train", "sample", "pairs"]
    assert [len(list(batch.keys)) for batch in desk.batches()] == [1, 1, 1, 2]


def test_no_more_is_submitted_than_may_be_in_the_queue(desk: Desk) -> None:
    desk.cluster = cluster("cluster.max_submit=4")
    desk.type(plan_of(*sweep(4)))
    assert [b.stage for b in desk.batches()] == ["model", "sample", "pairs"]
    assert "cluster.max_submit=4: 12 nodes are left for later" in desk.said()


def test_the_environment_overrides_nothing_that_was_asked_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch prefers its variables to the script's flags; a job of another name would not be found again."""
    sbatch = Path(os.environ["PATH"].partition(os.pathsep)[0]) / "sbatch"
    sbatch.write_text(sbatch.read_text().replace("\n", '\nenv | grep ^SBATCH_ >> "$FAKE_SLURM/variables"\n', 1))
    for name in ("JOB_NAME", "TIMELIMIT", "PARTITION", "NO_REQUEUE", "ACCOUNT"):
        monkeypatch.setenv(f"SBATCH_{name}", "mine")
    desk.cluster = cluster("cluster.default.partition=gpu")
    desk.type(plan_of(node("model", "a")))
    assert (desk.slurm.folder / "variables").read_text() == "SBATCH_ACCOUNT=mine\n"
    assert os.environ["SBATCH_JOB_NAME"] == "mine"


# Again.


def test_typed_again_at_once_nothing_is_submitted(desk: Desk) -> None:
    plan = plan_of(*sweep(2))
    desk.type(plan)
    count = len(desk.slurm.calls("sbatch"))
    assert desk.type(plan).ok
    assert len(desk.slurm.calls("sbatch")) == count
    assert "nothing to submit" in desk.said()


def test_what_slurm_has_never_heard_of_is_submitted_anew_after_a_while(desk: Desk) -> None:
    plan = plan_of(*sweep(2))
    desk.type(plan)
    desk.age(jobs.GRACE + 1)
    desk.type(plan)
    assert len(desk.slurm.calls("sbatch")) == 12


def test_exactly_what_is_neither_done_nor_alive_is_submitted(desk: Desk) -> None:
    plan = plan_of(*(node("train", f"{i}") for i in range(4)))
    desk.type(plan)
    name, keys = desk.slurm.name(1), list(plan.nodes)
    desk.work("train")
    for artifact in (desk.store.root / "train").iterdir():
        if artifact.name.endswith(tuple(keys[1:])):
            desk.store.remove(artifact)
    states = ("COMPLETED", "FAILED", "RUNNING", "PENDING")
    desk.slurm.answer("squeue", *(f"1_{i}|{name}|{state}|0:01|None" for i, state in enumerate(states)))
    desk.type(plan)
    assert list(desk.batch("train").keys) == [keys[1]]


def test_what_was_done_since_the_plan_was_made_is_not_submitted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, look = plan_of(node("model", "a")), jobs.look
    desk.type(plan)

    def too_late(store: Store, done: Collection[str], others: Collection[str]) -> jobs.Queue:
        desk.work("model")
        return look(store, done, others)

    monkeypatch.setattr(jobs, "look", too_late)
    desk.type(plan)
    assert len(desk.slurm.calls("sbatch")) == 1


@pytest.mark.parametrize(
    "state", ["COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "STOPPED", "SPECIAL_EXIT", "A_STATE_TO_COME"]
)
def test_a_state_that_is_no_end_counts_as_alive(desk: Desk, state: str) -> None:
    plan = plan_of(node("model", "a"))
    desk.type(plan)
    desk.age(10 * jobs.GRACE)
    desk.slurm.answer("squeue", f"1|{desk.slurm.name(1)}|{state}|0:01|None")
    desk.type(plan)
    assert len(desk.slurm.calls("sbatch")) == 1


def test_an_id_that_slurm_has_given_to_another_job_says_nothing(desk: Desk) -> None:
    """As after a crash of slurmctld, which forgets its last jobs and counts on from there."""
    plan = plan_of(node("model", "a"))
    desk.type(plan)
    desk.age(2 * jobs.GRACE)
    desk.slurm.answer("squeue", "1|prefsweep-model-00000000|RUNNING|0:01|None")
    desk.type(plan)
    assert len(desk.slurm.calls("sbatch")) == 2


def test_an_array_larger_than_what_may_be_submitted_goes_in_parts(desk: Desk) -> None:
    desk.cluster = cluster("cluster.max_submit=4")
    plan = plan_of(*(node("train", f"{i}") for i in range(10)))
    for elements in (4, 4, 2):
        desk.type(plan)
        assert len(desk.batch("train").elements) == elements
        assert set(desk.work("train")) == {0}
    assert len(desk.slurm.calls("sbatch")) == 3


@pytest.mark.parametrize("reason", ["launch failed requeued held", "launch_failed_requeued_held", "JobHoldMaxRequeue"])
def test_a_job_that_slurm_itself_holds_is_cancelled_and_submitted_anew(desk: Desk, reason: str) -> None:
    """As after a crash of slurmctld that gave its id to another job; it would wait for ever, and others for it."""
    plan = plan_of(node("model", "a"))
    desk.type(plan)
    desk.slurm.answer("squeue", f"1|{desk.slurm.name(1)}|PENDING|0:00|{reason}")
    desk.type(plan)
    assert desk.slurm.calls("scancel") == ["1"]
    assert len(desk.slurm.calls("sbatch")) == 2
    assert "job 1 is held by SLURM" in desk.said()


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "job requeued in held state"])
def test_a_job_that_somebody_holds_is_left_to_him(desk: Desk, reason: str) -> None:
    plan = plan_of(node("model", "a"))
    desk.type(plan)
    desk.slurm.answer("squeue", f"1|{desk.slurm.name(1)}|PENDING|0:00|{reason}")
    desk.type(plan)
    assert desk.slurm.calls("scancel") == []
    assert len(desk.slurm.calls("sbatch")) == 1


def test_a_new_job_waits_for_live_jobs_of_an_earlier_command_only(desk: Desk) -> None:
    inputs = [node("model", "done"), node("prompts", "alive"), node("imported", "lost")]
    desk.type(plan_of(*inputs))
    desk.work("model")
    names = {desk.slurm.name(n).split("-")[1]: (n, desk.slurm.name(n)) for n in (1, 2, 3)}
    number, name = names["prompts"]
    ended = names["imported"]
    desk.slurm.answer("squeue", f"{number}|{name}|RUNNING|0:01|None", f"{ended[0]}|{ended[1]}|FAILED|0:01|None")
    desk.type(plan_of(*inputs, node("sample", "new", uses=inputs)))
    assert desk.slurm.option(4, "dependency") is None  # the import that was lost, again
    assert desk.slurm.option(5, "dependency") == f"afterany:{number}:4"


def test_nodes_in_the_hands_of_a_process_are_left_to_it(desk: Desk) -> None:
    first = node("sample", "held")
    with desk.store.claim(first.key):
        desk.type(plan_of(first, node("score", "behind", responses=first), node("model", "free")))
    assert [b.stage for b in desk.batches()] == ["model"]
    assert "in the hands of other commands, or behind those: 2 nodes" in desk.said()


def test_a_machine_with_a_bad_disk_is_avoided_by_the_next_command(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    bad, good = node("sample", "bad", {"do": "io"}), node("score", "free")
    desk.cluster = cluster("+cluster.default.extra.exclude=n3")
    desk.type(plan_of(bad, good))
    assert desk.slurm.option(1, "exclude") == "n3"
    assert desk.work("sample") == [1]
    desk.age(jobs.GRACE + 1)
    desk.type(plan_of(bad, good))
    assert [desk.slurm.option(n, "exclude") for n in (3, 4)] == ["n3,n17", "n3"]


def test_where_no_other_machine_is_left_a_bad_one_will_do(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    bad = node("sample", "bad", {"do": "io"})
    desk.type(plan_of(bad))
    desk.work("sample")
    desk.age(jobs.GRACE + 1)
    desk.slurm.refuse("sbatch --exclude", "sbatch: error: Requested node configuration is not available")
    desk.type(plan_of(bad))
    assert desk.slurm.option(2, "exclude") is None
    assert "submitted" in desk.said()


def test_a_lost_answer_does_not_have_a_job_submitted_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    bad = node("sample", "bad", {"do": "io"})
    desk.type(plan_of(bad))
    desk.work("sample")
    desk.age(jobs.GRACE + 1)
    desk.slurm.refuse("sbatch --exclude", "sbatch: error: Socket timed out on send/recv operation")
    with pytest.raises(SlurmError, match="timed out"):
        desk.type(plan_of(bad))
    assert len(desk.slurm.calls("sbatch")) == 2


def test_squeue_is_asked_once_and_not_at_all_where_all_is_done(desk: Desk) -> None:
    plan = plan_of(*sweep(2))
    desk.type(plan)
    assert desk.slurm.calls("squeue") == []  # there was no batch to ask for
    desk.type(plan)
    assert len(desk.slurm.calls("squeue")) == 1
    assert all(code == 0 for code in desk.work("model", "sample", "pairs", "train", "respond", "judge"))
    desk.type(plan)
    assert len(desk.slurm.calls("squeue")) == 1


# Bad input.


@pytest.mark.parametrize("name", ["at_%j", "100%4a", "back\\slash", "two\nlines"])
def test_a_path_that_slurm_would_change_is_refused(desk: Desk, tmp_path: Path, name: str) -> None:
    desk.store = Store(tmp_path / name / "store").prepare()
    with pytest.raises(ConfigError, match=r"^store: .* SLURM takes for something else"):
        desk.type(plan_of(node("model", "a")))
    assert desk.slurm.calls("sbatch") == []


def test_a_path_with_spaces_and_quotes_is_none_of_these(desk: Desk, tmp_path: Path) -> None:
    desk.store = Store(tmp_path / "a b's 100%" / "store").prepare()
    desk.type(plan_of(node("model", "a")))
    assert desk.work("model") == [0]


def test_without_slurm_the_command_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SlurmError, match=r"^cluster=slurm: there is no sbatch and no squeue and no srun on the path"):
        desk.type(plan_of(node("model", "a")))
    assert not (desk.store.root / "batches").exists()


def test_a_job_submits_no_jobs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(SlurmError, match="this is job 77 itself"):
        desk.type(plan_of(node("model", "a")))
    assert desk.slurm.calls("sbatch") == []


def test_without_an_answer_of_squeue_nothing_is_submitted(desk: Desk) -> None:
    desk.type(plan_of(node("model", "a")))
    desk.slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        desk.type(plan_of(node("model", "a"), node("model", "b")))
    assert len(desk.slurm.calls("sbatch")) == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "invalid partition specified: gpux",
            r"^cluster\.stages\.model\.partition: 'gpux' is refused; sbatch says: inv",
        ),
        ("Invalid account or account/partition combination specified", r"^cluster\.default\.account: 'lab' is refused"),
        ("Invalid qos specification", r"^cluster\.default\.qos: "),
        ("Invalid feature specification", r"^cluster\.default\.constraint: "),
        ("Invalid generic resource (gres) specification", r"^cluster\.default\.gpus: "),
        ("Memory specification can not be satisfied", r"^cluster\.default\.mem_gb: "),
        ("Requested time limit is invalid (missing or exceeds some limit)", r"^cluster\.default\.time_minutes: "),
        ("Requested node configuration is not available", r"^cluster\.default\.cpus: "),
        ("Invalid job array specification", r"^cluster\.max_array: "),
        (
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            r"^cluster\.max_submit",
        ),
        ("Slurm temporarily unable to accept job", r"^sbatch: Slurm temporarily"),
    ],
)
def test_a_refusal_names_our_field(desk: Desk, said: str, expected: str) -> None:
    desk.cluster = cluster("cluster.stages.model.partition=gpux", "cluster.default.account=lab")
    desk.slurm.refuse("sbatch", f"sbatch: error: {said}\n")
    with pytest.raises((ConfigError, SlurmError), match=expected):
        desk.type(plan_of(node("model", "a")))
    assert desk.batches() == []


def test_a_job_that_is_there_although_sbatch_failed_is_cancelled(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its payload would be called after the id that got lost."""
    desk.slurm.refuse("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    lost = jobs.Job(id="9_0", name="lost", state="PENDING")
    monkeypatch.setattr("harness.slurm.submit.squeue", lambda names: [lost])
    with pytest.raises(SlurmError, match="Socket timed out"):
        desk.type(plan_of(node("model", "a")))
    assert desk.slurm.calls("scancel") == ["9"]
    assert desk.batches() == []
