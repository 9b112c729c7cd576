"""Two rounds on a real, tiny policy: killed in the second, gone on with, and the first is the plain pipeline."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.load import load_results
from analysis.rounds import rounds
from analysis.schema import plain
from harness.store import Store
from tests.processes import MARK, any_file, mark_checkpoints

SETTINGS = [
    "policy=local",
    "reward=longer",
    "judge=shorter",
    "construction=max_min",
    "n=8",
    "prompts.limit=4",
    "sampler.max_new_tokens=8",
    "sampler.max_prompt_tokens=600",
    "evaluate.limit=3",
    "evaluate.max_prompt_tokens=600",
    "evaluate.max_new_tokens=4",
    "train=lora",
    "train.learning_rate=1e-2",
    "train.epochs=6",
    "train.save_steps=1",
    "train.global_batch=2",
    "train.micro_batch=2",
    "cluster.threads=1",
    "sweep=rounds",
    "rounds=on_on",
    "rounds.reference=start",
]


def command(store: Path, policy: Path) -> list[str]:
    return [sys.executable, "-m", "harness", "-m", f"store={store}", f"policy.id={policy}", *SETTINGS]


def kill_in_round_two(store: Path, policy: Path) -> None:
    """kill -9 as soon as the second training has written a checkpoint, which is marked."""
    given = command(store, policy)
    with subprocess.Popen(given, stderr=subprocess.DEVNULL, cwd=store.parent, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if list(store.glob("train/*")) and any_file(store / "work", "*/*/checkpoints/*/whole"):
                break
            time.sleep(0.01)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert mark_checkpoints(store / "work")


def manifests(store: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in store.glob(f"{stage}/*/manifest.json")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """A store in which two rounds were run, of which the second was killed once."""
    store = tmp_path_factory.mktemp("rounds") / "store"
    kill_in_round_two(store, tiny_policy)
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/*/manifest.json")}
    again = command(store, tiny_policy)
    said = subprocess.run(again, check=True, cwd=store.parent, capture_output=True, text=True, timeout=600)
    assert " 0 failed, 0 not done" in said.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    return store


def test_the_first_round_is_the_plain_pipeline_and_every_round_a_result(finished: Path) -> None:
    results = load_results(finished, "rounds").sort_values("round")
    assert results["status"].tolist() == ["done", "done"]
    assert results["round"].tolist() == [1, 2]
    assert results["rounds.path"].map(plain).tolist() == ["", "on_policy > on_policy"]
    assert len(manifests(finished, "train")) == 2
    assert results["kl"].is_monotonic_increasing  # from the start, further away with every round


def test_no_step_is_done_again_that_a_checkpoint_holds(finished: Path) -> None:
    first, second = sorted(
        (pd.read_parquet(path) for path in finished.glob("train/*/training.parquet")),
        key=lambda history: bool(history["grad_norm"].iloc[0] == MARK),
    )
    assert first["grad_norm"].max() < MARK == second["grad_norm"].iloc[0]
    assert first["step"].tolist() == list(range(1, len(first) + 1))
    assert second["step"].tolist() == list(range(1, len(second) + 1))


def test_the_second_round_has_a_pool_of_its_own_from_the_first_ones_model(finished: Path) -> None:
    store = Store(finished)
    pools: dict[str, list[str]] = {}
    for manifest in manifests(finished, "sample"):
        artifact = store.find("sample", manifest["key"])
        assert artifact is not None
        (policy,) = artifact.manifest.inputs["policy"]
        pools.setdefault(policy, []).extend(artifact.table("responses").column("text").to_pylist())
    assert len(pools) == 2
    one, other = pools.values()
    assert sorted(one) != sorted(other)
    assert len(one) == len(other) == 4 * 8
    names = {m["key"]: sorted(m["inputs"]) for m in manifests(finished, "model")}
    assert sorted(names[policy] for policy in pools) == [[], ["adapters", "policy"]]


def test_a_reference_other_than_the_policy_is_recorded_with_the_policys_own_log_probabilities(finished: Path) -> None:
    store = Store(finished)
    tables = [store.find("pairs", m["key"]) for m in manifests(finished, "pairs")]
    frames = [artifact.table("pairs").to_pandas() for artifact in tables if artifact is not None]
    (plain,) = [frame for frame in frames if "initial_chosen_logp" not in frame]
    (second,) = [frame for frame in frames if "initial_chosen_logp" in frame]
    assert len(plain)
    assert len(second)
    assert ((second["ref_chosen_logp"] - second["initial_chosen_logp"]).abs() > 1e-3).all()
    history = [pd.read_parquet(path) for path in finished.glob("train/*/training.parquet")]
    starts = sorted(abs(frame.sort_values("step")["margin"].iloc[0]) for frame in history)
    assert starts[0] < 1e-4 < starts[1]


def test_what_rounds_gain_is_told_with_its_interval(finished: Path) -> None:
    said = rounds(finished, "rounds")
    assert "round 1, on_policy data: " in said
    assert "round 2 after on_policy, on_policy data: " in said
    assert "(3 instructions, 1 seeds: these trained models only" in said
