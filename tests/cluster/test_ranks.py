"""A training by two processes in a job: the curve of one process."""

import json
import shutil
import subprocess
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from harness.store import Artifact, Store
from tests.cluster.conftest import Site
from tests.cluster.training import plan
from tests.processes import running

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


def begun(site: Site, store: Path, policy: Path, *overrides: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    arguments = ["-m", "tests.cluster.training", str(store), str(policy), json.dumps(overrides)]
    return running(arguments, site.store.root.parent, site.environment, stderr=subprocess.PIPE)


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
    with begun(site, site.store.root, tiny_policy, "cluster=debug", "cluster.threads=1") as alone:
        _, text = alone.communicate(timeout=200)
    assert alone.returncode == 0, text
    expected = trained(site.store.root, tiny_policy)
    with ExitStack() as stack:
        commands = {}
        for shape, asked in SHAPES.items():
            store = site.store.root.parent / shape.replace(" ", "-")
            shutil.copytree(site.store.root, store)
            for folder in ("train", "content"):
                shutil.rmtree(store / folder)
            commands[shape] = store, stack.enter_context(begun(site, store, tiny_policy, *ON_SLURM, *asked))
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
