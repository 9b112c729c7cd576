"""A training by two processes in a job: the curve of one process, and no process that outlives its job."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from harness.store import Artifact, Store
from tests.cluster.conftest import Site
from tests.cluster.training import plan
from tests.processes import start, wait_until

ON_SLURM = (
    "cluster=slurm",
    "cluster.default.cpus=2",
    "cluster.default.mem_gb=1.5",
    "cluster.default.time_minutes=15",
    "wait=true",
)
SHAPES = {
    "two machines": ("cluster.stages.train.nodes=2", "cluster.stages.train.gpus=1"),
    "two GPUs": ("cluster.stages.train.gpus=2",),
}


def begin(site: Site, store: Path, policy: Path, *overrides: str) -> "subprocess.Popen[str]":
    arguments = ["-m", "tests.cluster.training", str(store), str(policy), json.dumps(overrides)]
    return start(arguments, site.store.root.parent, site.environment, stderr=subprocess.PIPE)


def trained(store: Path, policy: Path, *overrides: str) -> Artifact:
    *_, node = plan(str(policy), *overrides).nodes.values()
    found = Store(store).find("train", node.key)
    assert found is not None
    return found


def ranks(site: Site) -> list[psutil.Process]:
    """Processes of trainings in the cluster's jobs."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if "harness.ranks" in command and str(site.store.root.parent) in command:
            found.append(process)
    return found


def weights(artifact: Artifact) -> dict[str, Any]:
    from safetensors.numpy import load_file

    tensors: dict[str, Any] = load_file(artifact.folder / "weights" / "model.safetensors")
    return tensors


def test_two_processes_draw_the_curve_of_one(site: Site, tiny_policy: Path) -> None:
    alone = begin(site, site.store.root, tiny_policy, "cluster=debug", "cluster.threads=1")
    _, text = alone.communicate(timeout=200)
    assert alone.returncode == 0, text
    expected = trained(site.store.root, tiny_policy)
    commands = {}
    for shape, asked in SHAPES.items():
        store = site.store.root.parent / shape.replace(" ", "-")
        shutil.copytree(site.store.root, store)
        for folder in ("train", "content"):
            shutil.rmtree(store / folder)
        commands[shape] = store, begin(site, store, tiny_policy, *ON_SLURM, *asked)
    for shape, (store, command) in commands.items():
        _, text = command.communicate(timeout=200)
        assert command.returncode == 0, text
        found = trained(store, tiny_policy)
        made = found.manifest.provenance
        assert (made["processes"], made["machines"]) == (2, 2 if shape == "two machines" else 1)
        pd.testing.assert_frame_equal(
            found.table("training").to_pandas(), expected.table("training").to_pandas(), rtol=1e-4, atol=1e-5
        )
        assert found.manifest.measures["steps"] >= 4
        one, several = weights(expected), weights(found)
        assert one.keys() == several.keys()
        assert all(np.allclose(one[name], several[name], atol=1e-4) for name in one)
    assert ranks(site) == []


def test_no_process_outlives_its_job(site: Site, tiny_policy: Path) -> None:
    """A job of two machines that is told of its end comes again, goes on from its checkpoint, and is cancelled."""
    long = ("train.max_steps=100000", "train.save_steps=100")
    here = begin(site, site.store.root, tiny_policy, "cluster=debug", "cluster.threads=1", "train.max_steps=0")
    assert here.wait(200) == 0
    command = begin(site, site.store.root, tiny_policy, *ON_SLURM, *SHAPES["two machines"], *long, "wait=false")
    _, text = command.communicate(timeout=60)
    assert command.returncode == 0, text
    wait_until(lambda: list(site.store.root.glob("work/*/*/checkpoints/*/whole")), 90, "a checkpoint")
    found = ranks(site)
    before = {process.pid for process in found}
    assert len(before) >= 4  # torchrun and a rank on each machine
    trained = [process.environ() for process in found if "harness.ranks.rank" in process.cmdline()]
    assert {one["RANK"] for one in trained} == {"0", "1"}
    assert all(one["CUDA_VISIBLE_DEVICES"] for one in trained)
    site.slurm("scancel", "--signal=USR2", site.jobs("RUNNING")[0])
    wait_until(lambda: before.isdisjoint(process.pid for process in ranks(site)), 30, "they have ended")
    wait_until(lambda: begun_at(site) >= 100, 90, "the training goes on from its checkpoint")
    site.slurm("scancel", *site.jobs())
    site.settle()
    wait_until(lambda: not ranks(site), 10, "no process is left")
    *_, node = plan(str(tiny_policy), *long).nodes.values()
    assert site.store.owner(node.key) is None


def begun_at(site: Site) -> int:
    """The step that the training in hand has begun at; -1 where it has not begun."""
    for path in site.store.root.glob("work/*/*/ranks/progress"):
        for line in path.read_text().splitlines()[:2]:
            kind, *rest = json.loads(line)
            if kind == "open":
                return int(rest[3])
    return -1
