"""Reward models as judges: real ones of a tiny size, both orders, and what says that it selected the data."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.engines.batches import BudgetedBatches
from harness.engines.reward_models import ComparingModel, ScoringModel
from harness.judges.models import SELECTED, PairwiseSpec, RewardSpec
from harness.stages import Context, Outcome
from harness.stages.judge import run
from tests.artifacts import Shelf, adds_up, manifest, written
from tests.tiny_rewards import save_classifier, save_pairrm

QUESTIONS = {"a": "Name a fruit.", "b": "Name two rivers.", "c": "Say nothing."}
ANSWERS = {"a": "An apple.", "b": "The Rhine", "c": "same"}
REFERENCES = {"a": "A plum", "b": "Rhine and Elbe", "c": "same"}
REWARD = RewardSpec(
    scorer="sequence_classification",
    dtype="float32",
    trust_remote_code=False,
    max_tokens=100,
    batch_tokens=300,
    scale=2.0,
)
PAIRWISE = PairwiseSpec(dtype="float32", max_tokens=200, max_prompt_tokens=50, batch_tokens=1000)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("judge") / "classifier")


@pytest.fixture(scope="module")
def pairrm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pairrm(tmp_path_factory.mktemp("judge") / "pairrm")


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def prepared(shelf: Shelf, folder: Path, answers: dict[str, str], *, selected: bool = False) -> Context:
    with shelf.store.claim("model") as work:
        (work / "model.json").write_text(json.dumps({"path": str(folder)}))
        spec = {"id": "org/tiny", "revision": "0123456789abcdef"}
        model = shelf.store.publish(work, manifest("model", "model", spec=spec), "tiny")
    context = shelf.context(
        answers=shelf.answers(answers),
        references=shelf.answers(REFERENCES),
        instructions=shelf.prompts(QUESTIONS),
        reward_model=model,
    )
    params = {"selected_the_data": selected, "max_failed_share": 0.5}
    return Context(**{**vars(context), "params": params})


def judged(
    shelf: Shelf, folder: Path, spec: Any, answers: dict[str, str] | None = None, *, selected: bool = False
) -> tuple[Outcome, Context]:
    context = prepared(shelf, folder, answers or ANSWERS, selected=selected)
    return run(context, spec), context


def prompt(prompt_id: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTIONS[prompt_id]}]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_reward_model_prefers_by_a_logistic_of_its_scores(shelf: Shelf, classifier: Path) -> None:
    outcome, context = judged(shelf, classifier, REWARD)
    assert adds_up(outcome.rows, 3, 3)
    label = "org/tiny@01234567 (logistic of a reward difference, scale 2)"
    assert (outcome.measures["label"], outcome.measures["selected_the_data"]) == (label, False)
    assert outcome.measures["order_disagreement"] == 0
    assert outcome.measures["position_bias"] == pytest.approx(0)
    scorer = ScoringModel("sequence_classification", classifier, "float32", False, 100)
    for row in written(context, "verdicts")[:2]:
        key = row["prompt_id"]
        values = scorer.score([prompt(key)] * 2, [ANSWERS[key], REFERENCES[key]], BudgetedBatches(1)).values[:, 0]
        expected = sigmoid((values[0] - values[1]) / 2)
        assert row["preference_first"] == pytest.approx(expected, abs=1e-4)
        assert row["preference_second"] == pytest.approx(expected, abs=1e-4)
    assert written(context, "verdicts")[2]["preference"] == 0.5


def test_a_comparing_model_is_asked_in_both_orders(shelf: Shelf, pairrm: Path) -> None:
    outcome, context = judged(shelf, pairrm, PAIRWISE)
    assert outcome.measures["label"] == "org/tiny@01234567 (pairwise, both orders)"
    model = ComparingModel(pairrm, "float32", 200, 50)
    row = written(context, "verdicts")[0]
    orders = [ANSWERS["a"], REFERENCES["a"]]
    there, back = model.compare([prompt("a")] * 2, orders, orders[::-1], BudgetedBatches(1)).values[:, 0]
    assert row["preference_first"] == pytest.approx(sigmoid(there), abs=1e-4)
    assert row["preference_second"] == pytest.approx(1 - sigmoid(back), abs=1e-4)


@pytest.mark.parametrize("kind", ["reward_model", "pairwise_model"])
def test_the_reward_that_selected_the_data_says_so(shelf: Shelf, classifier: Path, pairrm: Path, kind: str) -> None:
    folder, spec = (classifier, REWARD) if kind == "reward_model" else (pairrm, PAIRWISE)
    outcome, _ = judged(shelf, folder, spec, selected=True)
    assert outcome.measures["selected_the_data"] is True
    assert outcome.measures["label"].endswith(f"; {SELECTED}")


def test_an_answer_that_is_cut_is_noted_and_one_without_a_score_fails(shelf: Shelf, classifier: Path) -> None:
    outcome, context = judged(shelf, classifier, REWARD, {**ANSWERS, "a": "apples, " * 20})
    assert outcome.measures["notes"] == {"truncated": 1}
    assert outcome.rows.kept == 3
    short = RewardSpec(**{**vars(REWARD), "max_tokens": 37})
    outcome, context = judged(Shelf(context.store.parent / "other"), classifier, short)
    assert outcome.measures["failures"] == {"prompt_too_long": 1}
    assert adds_up(outcome.rows, 3, 2, failed_judgement=1)
    assert [row["failure"] for row in written(context, "verdicts")] == [None, "prompt_too_long", None]


def test_what_was_judged_before_an_interruption_is_not_judged_again(
    shelf: Shelf, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.judges.models._SHARD", 2)
    asked: list[list[str]] = []
    score = ScoringModel.score

    def spied(self: ScoringModel, prompts: Any, responses: Sequence[str], batches: Any) -> Any:
        asked.append(list(responses))
        return score(self, prompts, responses, batches)

    monkeypatch.setattr(ScoringModel, "score", spied)
    context = prepared(shelf, classifier, ANSWERS)
    first = run(context, REWARD)
    assert asked == [["An apple.", "A plum"], ["The Rhine", "Rhine and Elbe"]]
    (context.work / "judged" / "000002.parquet").unlink()
    asked.clear()
    assert run(context, REWARD) == first
    assert asked == [["The Rhine", "Rhine and Elbe"]]
