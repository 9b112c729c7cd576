"""The selecting reward on held-out answers: the same reward as the pool's, and nothing where it was imported."""

from pathlib import Path

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.plan import make_plan
from harness.stages import score
from harness.stages.appraise import run
from harness.stages.score import Spec
from tests.artifacts import Shelf, adds_up, written
from tests.configs import point
from tests.stages.test_model_score import SCALAR, context_of
from tests.tiny_rewards import save_classifier

QUESTIONS = {"a": "first?", "b": "second?"}
WORDS = Spec(engine="length", weights={"words": 1.0})


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_answers_get_the_reward_of_a_response(shelf: Shelf) -> None:
    context = shelf.context(answers=shelf.answers({"a": "one two", "b": ""}), prompts=shelf.prompts(QUESTIONS))
    outcome = run(context, WORDS)
    assert adds_up(outcome.rows, 2, 2)
    assert outcome.measures["reward"] == 1.0
    assert {r["prompt_id"]: r["reward"] for r in written(context, "rewards")} == {"a": 2.0, "b": 0.0}


def test_given_reference_answers_are_scored_as_finished_text(shelf: Shelf) -> None:
    given = shelf.prompts(QUESTIONS, {"a": "one two three"})
    context = shelf.context(answers=given, prompts=given)
    outcome = run(context, Spec(engine="embedded", weights={"finished": 1.0}))
    assert adds_up(outcome.rows, 1, 1)
    assert outcome.measures["reward"] == 1.0


def test_a_reward_that_counts_tokens_says_nothing_of_text_without_any(shelf: Shelf) -> None:
    given = shelf.prompts(QUESTIONS, {"a": "one two three"})
    context = shelf.context(answers=given, prompts=given)
    outcome = run(context, Spec(engine="length", weights={"tokens": 1.0}))
    assert outcome.measures["invalid"] == 1
    assert outcome.measures["reward"] is None
    assert np.isnan(written(context, "rewards")[0]["reward"])


def test_no_answers_at_all_have_no_reward(shelf: Shelf) -> None:
    outcome = run(shelf.context(answers=shelf.answers({}), prompts=shelf.prompts(QUESTIONS)), WORDS)
    assert adds_up(outcome.rows, 0, 0)
    assert outcome.measures["reward"] is None


def test_a_reward_model_scores_an_answer_as_it_scores_the_response_of_the_same_text(
    shelf: Shelf, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "classifier")
    texts = {"a": "An apple.", "b": "The Nile and the Po."}
    (tmp_path / "pool").mkdir()
    sampled = context_of(Shelf(tmp_path / "pool"), folder, {(name, 0): text for name, text in texts.items()})
    score.run(sampled, SCALAR)
    context = shelf.context(
        answers=shelf.answers(texts),
        prompts=sampled.input("prompts"),
        reward_model=sampled.input("reward_model"),
    )
    outcome = run(context, SCALAR)
    assert adds_up(outcome.rows, 2, 2)
    rewards = [{r["prompt_id"]: r["reward"] for r in written(c, "rewards")} for c in (sampled, context)]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5)
    assert sorted(path.name for path in context.work.iterdir()) == ["rewards"]


def test_no_reward_by_comparison_or_import_is_asked_of_answers() -> None:
    compared = make_plan([point("reward=pairrm", f"reward.model.revision={'a' * 40}")])
    assert compared.count()["appraise"] == 0


def test_every_cell_and_its_reference_are_appraised_after_every_win_rate() -> None:
    plan = make_plan([point("pair=max_min"), point("pair=max_mu")])
    stages = [node.stage for node in plan.nodes.values()]
    assert stages[-3:] == ["appraise"] * 3  # two cells and the untrained policy that both are judged against
    assert "appraise" not in stages[:-3]
    for made in plan.points:
        assert made.beside["appraise"].inputs["answers"] == (made.nodes["respond"],)
        assert made.beside["appraise_references"].inputs["answers"] == made.nodes["judge"].inputs["references"]
        assert "appraise" not in made.nodes  # no win rate waits for it


def test_another_judge_asks_for_no_further_appraisal() -> None:
    plan = make_plan([point(), point("judge=shorter")])
    assert plan.count()["judge"] == 2
    assert plan.count()["appraise"] == 2


def test_given_references_are_appraised_whatever_instructions_are_asked(tmp_path: Path) -> None:
    held_out, answers = tmp_path / "held_out.jsonl", tmp_path / "answers.jsonl"
    held_out.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    answers.write_text('{"prompt": "one", "answer": "1"}\n{"prompt": "two", "answer": "2"}\n')
    settings = (f"evaluate.path={held_out}", f"evaluate.references={answers}")
    one, both = (make_plan([point(*settings, f"evaluate.limit={limit}")]).points[0].beside for limit in (1, 2))
    assert one["appraise_references"].key == both["appraise_references"].key
    assert one["appraise"].key != both["appraise"].key


def test_a_wrong_weight_is_refused_as_ever() -> None:
    with pytest.raises(ConfigError, match=r"^reward.weights.wit: unknown"):
        make_plan([point("+reward.weights.wit=1")])
