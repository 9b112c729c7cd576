"""A sweep with a task of lm-evaluation-harness beside it, from the command to the report."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

from analysis.__main__ import main
from analysis.load import load_results
from harness.store import Store
from tests.quiz import NAME, QUESTIONS, write_quiz
from tests.tiny import save_tiny_policy

SETTINGS = (
    "reward=shorter",
    "judge=shorter",
    "prompts.limit=4",
    "sampler.max_new_tokens=8",
    "sampler.max_prompt_tokens=600",
    "evaluate.limit=4",
    "evaluate.max_new_tokens=8",
    "evaluate.max_prompt_tokens=600",
    "train=lora",
    "train.learning_rate=1e-2",
    "n=8",
    "pair=max_min",
    "sweep=quiz",
    "cluster.threads=1",
    "keep_weights=none",
)


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *SETTINGS, *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_a_cell_and_its_policy_are_scored_and_joined(tmp_path: Path, lm_eval_python: str) -> None:
    policy = save_tiny_policy(tmp_path / "policy")
    include = write_quiz(tmp_path / "tasks")
    tasks = ("regressions=file", f"regressions.include={include}", f"+regressions.tasks.{NAME}=2")
    settings = ("policy=local", f"policy.id={policy}", f"cluster.python.lm_eval={lm_eval_python}")
    ended = command(tmp_path, *settings, *tasks)
    assert ended.returncode == 0, ended.stderr
    store = Store(tmp_path / "store")
    scored = [a for a in map(store.find, ["lm_eval"] * 2, [f.name[-16:] for f in store.folders("lm_eval")]) if a]
    assert sorted(a.manifest.inputs["model"] == a.manifest.inputs["reference"] for a in scored) == [False, True]
    for artifact in scored:
        assert artifact.manifest.rows["kept"] == len(QUESTIONS)
        assert artifact.table("scores").column("shots").to_pylist() == [2]
    # Weights went only after they were scored.
    assert "released the weights" in ended.stderr
    again = command(tmp_path, *settings, *tasks)
    assert " 0 nodes computed" in again.stderr
    assert load_results(tmp_path / "store", "quiz")["status"].tolist() == ["done"]
    assert main(["report", "--store", str(tmp_path / "store"), "--sweep", "quiz", "--out", str(tmp_path / "out")]) == 0
    row = pd.read_csv(tmp_path / "out" / "regressions.csv").iloc[0]
    assert (row["task"], row["shots"], row["n"], row["paired"]) == (NAME, 2, len(QUESTIONS), True)
    assert 0 <= row["value"] <= 1
