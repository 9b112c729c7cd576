"""lm-evaluation-harness as it is, on a tiny model and a small local task; `make lm-eval` makes its environment."""

from pathlib import Path
from typing import Any

import pytest

from harness.engines import lm_eval
from harness.errors import ConfigError
from tests.quiz import NAME, QUESTIONS, write_quiz
from tests.tiny import save_tiny_policy


def asked(model: Path, work: Path, **fields: Any) -> dict[str, Any]:
    own = {"task": NAME, "shots": 0, "limit": None, "batch_size": 4, "chat_template": False, "seed": 1234}
    weights = {"pretrained": str(model), "dtype": "float32", "trust_remote_code": False}
    return {**own, "model": weights, "cache": str(work / "answers"), **fields}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


def likeliest(policy: Path) -> list[int]:
    """The choice with the highest log-probability for each question, by a plain forward pass."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    found = []
    for question, choices, _ in QUESTIONS:
        start = tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
        scores = []
        for choice in choices:
            ids = torch.tensor([start + tokenizer(f" {choice}")["input_ids"]])
            with torch.no_grad():
                logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            scores.append(float(logps[len(start) - 1 :].sum()))
        found.append(scores.index(max(scores)))
    return found


def test_the_scores_are_those_of_the_model(policy: Path, tmp_path: Path, lm_eval_python: str) -> None:
    include = write_quiz(tmp_path / "tasks")
    found = lm_eval.evaluate(lm_eval_python, asked(policy, tmp_path), str(include), tmp_path, 1)
    expected = [float(choice == answer) for choice, (_, _, answer) in zip(likeliest(policy), QUESTIONS, strict=True)]
    samples = sorted(found["samples"], key=lambda row: row["question"])
    assert [row["value"] for row in samples] == expected
    assert len({row["hash"] for row in samples}) == len(QUESTIONS)
    (score,) = found["scores"]
    assert score["value"] == pytest.approx(sum(expected) / len(expected))
    assert (score["metric"], score["shots"], score["version"], score["higher_is_better"]) == ("acc", 0, "1.5", True)
    assert score["stderr"] >= 0
    assert found["questions"] == {NAME: {"original": len(QUESTIONS), "effective": len(QUESTIONS)}}
    assert found["versions"]["lm_eval"]


def test_a_task_whose_data_cannot_be_had_is_named(policy: Path, tmp_path: Path, lm_eval_python: str) -> None:
    include = write_quiz(tmp_path / "tasks", data=False)
    with pytest.raises(ConfigError, match=rf"^regressions.tasks.{NAME}: lm_eval cannot set it up; .*examples.jsonl"):
        lm_eval.evaluate(lm_eval_python, asked(policy, tmp_path), str(include), tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]


def test_an_unknown_task_is_refused_with_those_like_it(tmp_path: Path, lm_eval_python: str) -> None:
    include = write_quiz(tmp_path / "tasks")
    with pytest.raises(ConfigError, match=r"^regressions.tasks.arc_chalenge: .*did you mean .*arc_challenge.*ls tasks"):
        lm_eval.check_tasks(lm_eval_python, ["arc_chalenge", NAME], str(include))
    lm_eval.check_tasks(lm_eval_python, [NAME], str(include))


def test_an_interpreter_without_lm_eval_says_how_to_install_it(tmp_path: Path) -> None:
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\nexit 3\n")
    empty.chmod(0o755)
    with pytest.raises(ConfigError, match=r"^cluster.python.lm_eval: .* has no lm_eval; .*make lm-eval"):
        lm_eval.check_tasks(str(empty), [NAME], None)
