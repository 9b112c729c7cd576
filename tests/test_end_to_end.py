"""The whole way on a real language model: shared work counted in model calls, resumed after kill -9, reported."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import load_results, load_verdicts
from harness.positions import PAIRS
from harness.store import Store
from tests.processes import any_file

SMALL = [
    "prompts.limit=3",
    "sampler.sample_block=4",
    "sampler.max_new_tokens=8",
    "evaluate.limit=4",
    "evaluate.max_new_tokens=8",
    "train=lora",
    "train.epochs=1",
    "train.global_batch=2",
    "train.micro_batch=2",
    "cluster.threads=1",
]
TWO_CELLS = ["pair=max_min,mu+1s_min", "n=4", "sweep=two", *SMALL]


def _command(store: Path, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "harness", "-m", f"store={store}", *overrides]


def _run(store: Path, overrides: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(store, overrides), capture_output=True, text=True, check=True, cwd=store.parent, timeout=900
    )


def _tables(store: Path) -> dict[str, pd.DataFrame]:
    """Every table of a store by stage, slug and name, without what differs by time."""
    return {
        str(path.relative_to(store)): pd.read_parquet(path)
        for path in sorted(store.glob("*/*/**/*.parquet"))
        if path.relative_to(store).parts[0] != "work"
    }


@pytest.fixture(scope="module")
def finished(real_store: Path) -> Path:
    """A store in which two cells were trained and judged on SmolLM2-135M."""
    _run(real_store, TWO_CELLS)
    return real_store


def test_a_real_sweep_ends_with_judged_cells(finished: Path) -> None:
    results = load_results(finished, "two")
    assert results["status"].tolist() == ["done", "done"]
    assert results["instructions"].tolist() == [4, 4]
    assert (results["steps"] >= 1).all()
    assert (results["kl"] > 0).all()
    assert (results["z_chosen"] > results["z_rejected"]).all()
    assert "not a measure of quality" in results["judge_label"][0]
    verdicts = load_verdicts(finished, "two")
    by_result = verdicts.groupby("result")["preference"].mean()
    assert np.allclose(by_result.loc[results["result"]].to_numpy(), results["win_rate"])


def test_rows_are_accounted_for_in_every_manifest(finished: Path) -> None:
    manifests = [json.loads(path.read_text()) for path in finished.glob("*/*/manifest.json")]
    assert {m["stage"] for m in manifests} >= {"sample", "score", "select", "reference", "pairs", "train", "judge"}
    for manifest in manifests:
        rows = manifest["rows"]
        assert rows["taken"] == rows["kept"] + sum(rows["dropped"].values())
        assert manifest["provenance"]["versions"]["torch"]
        assert manifest["provenance"]["threads"] == 1


def test_every_file_is_as_its_manifest_says(finished: Path) -> None:
    store = Store(finished)
    for path in finished.glob("*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        artifact = store.find(manifest["stage"], manifest["key"])
        assert artifact is not None
        assert store.verify(artifact) == []


def test_the_same_command_again_computes_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    again = _run(finished, TWO_CELLS)
    assert " 0 nodes computed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")} == before


def test_training_uses_the_sampled_token_ids(finished: Path) -> None:
    """No text is tokenised again: a pair's ids are those of the pool, with the stop token the sampler drew."""
    tables = _tables(finished)
    responses = pd.concat([t for name, t in tables.items() if name.startswith("sample/") and "/responses/" in name])
    pool = {(r["prompt_id"], r["sample_index"]): r["token_ids"].tolist() for r in responses.to_dict("records")}
    pairs = pd.concat([t for name, t in tables.items() if name.startswith("pairs/")])
    assert len(pairs)
    for row in pairs.to_dict("records"):
        assert row["chosen_ids"].tolist() == pool[row["prompt_id"], row["chosen_index"]]
        assert row["rejected_ids"].tolist() == pool[row["prompt_id"], row["rejected_index"]]


def test_killed_anywhere_and_run_again_gives_the_same_tables(finished: Path, tmp_path: Path) -> None:
    """kill -9 at the first sign of each stage's work, then the same command; float32, one thread, same seeds."""
    store = tmp_path / "store"
    (store / "model").mkdir(parents=True)
    for name in ("model", "content"):
        subprocess.run(["cp", "-r", str(finished / name), str(store)], check=True)
    (store / "store.json").write_text((finished / "store.json").read_text())
    one_cell = ["pair=max_min", *TWO_CELLS[1:]]
    for stage in ("sample", "score", "reference", "train", "respond"):
        _kill_at(store, one_cell, stage)
    _run(store, one_cell)
    undisturbed, resumed = _tables(finished), _tables(store)
    assert any(name.startswith("judge/") for name in resumed)
    for name, table in resumed.items():
        pd.testing.assert_frame_equal(table, undisturbed[name])


def _kill_at(store: Path, overrides: Sequence[str], stage: str) -> None:
    """Start the command, and kill it as soon as it says that it is past `stage`'s beginning."""
    done = {path.name for path in (store / stage).glob("*")}
    with subprocess.Popen(
        _command(store, overrides), stderr=subprocess.DEVNULL, cwd=store.parent, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            work = any_file(store / "work", f"*/*/{_FIRST_FILE[stage]}")
            if work or {path.name for path in (store / stage).glob("*")} - done:
                break
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)


_FIRST_FILE = {
    "sample": "responses",
    "score": "rewards",
    "reference": "reference",
    "train": "checkpoints",
    "respond": "answers",
}
"""What a stage puts into its work folder first."""


def test_sharing_is_of_model_calls_not_only_of_plan_entries(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 pairs x n in {16, 32, 64}: one pool, and at most seven reference passes per prompt and n."""
    from harness import app
    from harness.engines import generation, logprobs, training
    from tests.configs import composed

    calls: Counter[str] = Counter()

    def count(module: Any, name: str, size: Any) -> None:
        original = getattr(module, name)

        def counted(*given: Any, **named: Any) -> Any:
            calls[name] += size(*given)
            return original(*given, **named)

        monkeypatch.setattr(module, name, counted)

    count(generation, "generate", lambda model, stops, requests, samples, *_: len(requests) * samples)
    count(logprobs, "response_logps", lambda model, responses, *_: len(responses))
    monkeypatch.setattr(training, "train", _no_training)
    prompts, instructions = 5, 3
    fixed = [
        "policy=local",
        f"policy.id={tiny_policy}",
        "reward=shorter",
        "reward.weights.words=-0.001",
        "+reward.weights.tokens=-1.0",
        "judge=shorter",
        f"prompts.limit={prompts}",
        f"evaluate.limit={instructions}",
        "sampler.max_new_tokens=24",
        "sampler.max_prompt_tokens=600",
        "evaluate.max_prompt_tokens=600",
        "evaluate.max_new_tokens=4",
        "train=lora",
        f"store={tmp_path / 'store'}",
    ]
    points = [
        composed(f"pair={chosen}_{rejected}", f"n={n}", *fixed) for chosen, rejected in PAIRS for n in (16, 32, 64)
    ]
    code = app.run(points)
    assert code == 0
    pool = prompts * 64
    status = load_results(tmp_path / "store")["status"].value_counts()
    trained = int(status["done"])
    assert trained + status["empty"] == 63
    assert trained > 50
    assert pool <= calls["generate"] <= pool + instructions * (1 + trained)
    assert prompts * 3 * 3 < calls["response_logps"] <= 7 * prompts * 3


def _no_training(policy: Path, rows: Any, spec: Any, work: Path, **_: Any) -> list[dict[str, Any]]:
    """Stands in for the trainer, which other tests run for real: copies the policy."""
    import shutil

    from harness import tables

    shutil.copytree(policy, work / "weights")
    return [{name: 1 if name == "step" else 0.0 for name in tables.TRAINING.names}]
