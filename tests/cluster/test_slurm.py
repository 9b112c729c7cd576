"""Sweeps on the real cluster: the same tables, one job for each node, and every way in which jobs end early."""

import json
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd

from harness.slurm.job import Exit
from tests.cluster.boot import Cluster, accounting
from tests.cluster.command import plan
from tests.cluster.conftest import Site
from tests.fakes import find, journal
from tests.processes import wait_until

TINY = [
    "-m",
    "policy=local",
    "pair=max_min,mu+1s_min,mu-2s_min",
    "n=4",
    "sweep=tiny",
    "prompts.limit=3",
    "sampler.sample_block=4",
    "sampler.max_new_tokens=8",
    "evaluate.limit=4",
    "evaluate.max_new_tokens=8",
    "train=lora",
    "train.max_steps=2",
    "train.global_batch=2",
    "train.micro_batch=2",
    "reward=longer",
    "judge=shorter",
]
ON_SLURM = [
    "cluster=slurm",
    "cluster.default.cpus=1",
    "cluster.default.mem_gb=0.5",
    "cluster.default.time_minutes=15",
    "wait=true",
]


def tables(store: Path) -> dict[str, pd.DataFrame]:
    """Every table of the artifacts by its path, which the key is part of."""
    paths = sorted(path for path in store.glob("*/*/**/*.parquet") if path.relative_to(store).parts[0] != "work")
    return {str(path.relative_to(store)): pd.read_parquet(path) for path in paths}


def done(site: Site, cells: int) -> bool:
    nodes = plan({"cells": cells}).nodes.values()
    site.store.forget()
    return all(site.store.find(node.stage, node.key) is not None for node in nodes)


def submitted(site: Site) -> list[str]:
    """Keys of all batches, each as often as it was submitted."""
    found = [json.loads(path.read_text()) for path in (site.store.root / "batches").glob("*.json")]
    return [key for batch in found for element in batch["elements"] for key in element]


def test_a_sweep_gives_the_same_tables_as_in_one_process(site: Site, tiny_policy: Path) -> None:
    given = [*TINY, f"policy.id={tiny_policy}"]
    ended = site.harness(*given, *ON_SLURM, "store=store")
    assert ended.returncode == 0, ended.stderr
    assert "1 points empty" in ended.stderr
    here = site.harness(*given, "cluster=debug", "cluster.threads=1", "store=here")
    assert here.returncode == 0, here.stderr
    theirs, ours = (tables(site.store.root.parent / name) for name in ("here", "store"))
    whole = {path.rpartition("-")[2].partition("/")[0] for path in theirs}
    assert {path.rpartition("-")[2].partition("/")[0] for path in ours} <= whole | set(submitted(site))
    shared = theirs.keys() & ours.keys()
    assert {path.partition("/")[0] for path in shared} >= {"sample", "score", "select", "reference", "pairs", "judge"}
    for path in shared:
        pd.testing.assert_frame_equal(theirs[path], ours[path])
    before = submitted(site)
    again = site.harness(*given, *ON_SLURM, "store=store")
    assert again.returncode == 0, again.stderr
    assert " 0 nodes computed" in again.stderr
    assert submitted(site) == before
    status = site.python("-m", "harness.sweepctl", "status", "tiny")
    assert status.returncode == 0, status.stderr


def test_the_command_returns_at_once_and_typed_again_submits_nothing(site: Site) -> None:
    begun = time.monotonic()
    code, text = site.type(cells=3, seconds=0.2)
    assert (code, time.monotonic() - begun < 15) == (0, True), text
    assert len(text.split("submitted prefsweep-")) == 7
    code, text = site.type(cells=3, seconds=0.2)
    assert code == 0
    assert "nothing to submit" in text
    site.settle()
    assert done(site, 3)
    assert set(journal(site.store).values()) == {1}
    assert Counter(submitted(site)).most_common(1)[0][1] == 1
    gpus = {find(site.store, n).manifest.provenance["threads"] for n in plan({"cells": 3}).nodes.values()}
    assert gpus == {1}


def test_one_failing_cell_stops_only_what_needs_it(site: Site) -> None:
    code, text = site.type(cells=5, bad="train-2", wait=True)
    assert code == 1
    assert "failed: train train-2 (log: " in text
    assert "CUDA out of memory" in text
    assert "not done, since something they need is not there: 2 nodes" in text
    states = Counter(line.split("|")[1] for line in site.slurm("squeue", "-h", "-t", "all", "-r", "-o", "%j|%T"))
    assert states["FAILED"] >= 1
    status = site.python("-m", "harness.sweepctl", "status", "fake", "--json")
    facts = json.loads(status.stdout)
    assert status.returncode == 1
    assert (facts["done"], facts["failed"], facts["blocked"]) == (22, 1, 2)
    code, text = site.type(cells=5, wait=True)  # the cause was put right
    assert code == 0, text
    assert done(site, 5)


def test_cancelled_jobs_are_done_by_the_same_command_again(site: Site) -> None:
    site.type(cells=4, seconds=1.0)
    wait_until(lambda: journal(site.store)["shard sample-1 1"], 60, "a job is at work")
    assert site.python("-m", "harness.sweepctl", "cancel").returncode == 0
    site.settle()
    assert not done(site, 4)
    left = [json.loads(path.read_text()) for path in (site.store.root / "work").glob("*/*.json")]
    assert left
    assert all(owner["released"] for owner in left)  # another machine need not wait for signs of life
    code, text = site.type(cells=4, seconds=0.0, wait=True)
    assert code == 0, text
    assert done(site, 4)
    shards = {what: count for what, count in journal(site.store).items() if what.startswith("shard")}
    assert sum(shards.values()) - len(shards) <= 2  # those in hand


def test_two_commands_at_once_submit_nothing_twice(site: Site) -> None:
    commands = [site.begin(cells=4, seconds=0.1) for _ in range(2)]
    texts = [command.communicate(timeout=120)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], texts
    assert len(submitted(site)) == len(set(submitted(site))) == 21
    site.settle()
    assert done(site, 4)
    assert set(journal(site.store).values()) == {1}


def test_a_preempted_job_goes_on_from_its_shards(site: Site) -> None:
    low = ["cluster.default.partition=low", "cluster.stages.sample.nodes_per_job=1"]
    command = site.begin(cells=1, seconds=2.5, overrides=low, wait=True)
    wait_until(lambda: sum(journal(site.store)[f"shard sample-{i} 1"] for i in range(4)) == 4, 90, "second shards")
    urgent = site.slurm("sbatch", "--parsable", "-p", "main", "-N3", "--exclusive", "--wrap", "sleep 3")
    _, text = command.communicate(timeout=240)
    assert command.returncode == 0, text
    assert done(site, 1)
    counts = journal(site.store)
    assert any(counts[f"node sample-{i}"] == 2 for i in range(4)), "none was preempted"
    assert all(counts[f"shard sample-{i} 0"] == 1 for i in range(4))
    assert site.slurm("squeue", "-h", "-t", "all", "-j", urgent[0], "-o", "%T") == ["COMPLETED"]


def test_a_job_is_put_back_so_often_and_no_more(site: Site) -> None:
    command = site.begin(cells=1, seconds=60.0, overrides=["cluster.max_requeue=1"], wait=True)
    for times in ("once", "twice"):
        wait_until(partial(_begun, site, 1 + (times == "twice")), 90, f"the first node was begun {times}")
        time.sleep(1)
        site.slurm("scancel", "--signal=USR2", site.jobs("RUNNING")[0])
    _, text = command.communicate(timeout=120)
    assert command.returncode == 1
    assert "preempted or reached its time limit 2 times" in text
    assert f"{Exit.ENDED_OFTEN:d}:0" in site.slurm("sacct", "-n", "-X", "-P", "-o", "ExitCode") or not accounting()


def _begun(site: Site, times: int) -> bool:
    return journal(site.store)["node policy"] >= times


def test_a_job_whose_machine_falls_over_goes_on_elsewhere_once(site: Site, cluster: Cluster) -> None:
    site.type(cells=1, seconds=4.0)
    wait_until(lambda: journal(site.store)["shard policy 1"], 60, "the second shard is begun")
    ((ident, machine),) = (line.split() for line in site.slurm("squeue", "-h", "-t", "R", "-o", "%i %N"))
    cluster.crash(machine)
    try:
        wait_until(lambda: journal(site.store)["published policy"], 120, "the job has gone on")
    finally:
        cluster.launch(machine)
    shown = " ".join(site.slurm("scontrol", "show", "job", ident)).split()
    assert "Restarts=1" in shown
    assert f"BatchHost={machine}" not in shown
    counts = journal(site.store)
    assert (counts["node policy"], counts["shard policy 0"], counts["shard policy 1"]) == (2, 1, 2)
    assert counts["published policy"] == 1
    wait_until(
        lambda: len(site.slurm("sinfo", "-h", "-N", "-p", "main", "-t", "idle,mix,alloc")) == 3, 60, "it is back"
    )


def test_a_refusal_of_sbatch_names_our_field(site: Site) -> None:
    code, text = site.type(cells=1, overrides=["cluster.stages.model.partition=nowhere"])
    assert code == 1
    assert "cluster.stages.model.partition: 'nowhere' is refused; sbatch says: " in text
    assert submitted(site) == []


PROBE = {"overrides": ["cluster.probe=true"]}


def test_a_store_that_only_this_machine_sees_is_found_out_first(site: Site) -> None:
    code, text = site.hidden(cells=1, **PROBE)
    assert code == 1
    assert f"does not see the store {site.store.root}: it must be on a file system that all machines share" in text
    assert "submitted" not in text


def test_an_interpreter_that_machines_do_not_have_is_found_out_first(site: Site) -> None:
    code, text = site.type(cells=1, python="/nowhere/python", **PROBE)
    assert code == 1
    assert "of the default partition cannot run the Python of this command (/nowhere/python): " in text
    assert "No such file or directory" in text
    assert submitted(site) == []
    status = site.python("-m", "harness.sweepctl", "status")
    assert "what waited for it was not begun" in status.stdout


def test_what_waits_for_a_first_job_that_fails_is_not_begun(site: Site) -> None:
    full = site.slurm("sbatch", "--parsable", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 100")[0]
    wait_until(lambda: site.jobs("RUNNING") != [], 30, "the cluster is full")
    code, text = site.type(cells=1, overrides=["cluster.probe=true", "cluster.default.setup=[exit 7]"])
    assert code == 0, text
    assert "looks first whether the machines can do the work" in text
    site.slurm("scancel", full)
    site.settle()
    states = Counter(line.split("|")[1] for line in site.slurm("squeue", "-h", "-t", "all", "-r", "-o", "%j|%T"))
    assert states["CANCELLED"] >= 6
    assert journal(site.store) == Counter()
    status = site.python("-m", "harness.sweepctl", "status", "fake")
    assert "gave no answer (job" in status.stdout
    code, text = site.type(cells=1, overrides=["cluster.probe=true"], wait=True)
    assert code == 0, text
    assert done(site, 1)


def test_a_job_does_not_submit(site: Site) -> None:
    said = site.store.root.parent / "said"
    wrapped = f"{sys.executable} -m harness cluster=slurm"
    number = site.slurm("sbatch", "--parsable", "-D", str(said.parent), "-o", str(said), "--wrap", wrapped)[0]
    site.settle()
    assert f"this is job {number} itself, and jobs submit no jobs" in said.read_text()
