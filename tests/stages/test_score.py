"""The score stage: known rewards, rewards that are not finite, and shards of an interrupted run."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import tables
from harness.errors import ConfigError
from harness.stages import Context, Outcome
from harness.stages import score as score_stage
from harness.stages.score import Scores, Spec, check_weights, run
from tests.artifacts import Shelf, adds_up, written

RESPONSES = {("a", 0): "one two  three", ("a", 1): "", ("b", 0): "one\ntwo"}
QUESTIONS = {"a": "first?", "b": "second?"}


class FakeReward:
    """Rewards as listed, by text; remembers what it was asked."""

    label = "fake"
    attributes = ("size",)

    def __init__(self, rewards: dict[str, float]) -> None:
        self.rewards = rewards
        self.asked: list[tuple[str, str]] = []

    def score(self, instructions: list[str], responses: list[dict[str, Any]]) -> Scores:
        texts = [r["text"] for r in responses]
        self.asked += zip(instructions, texts, strict=True)
        return np.array([self.rewards[t] for t in texts]), {"size": np.array([float(len(t)) for t in texts])}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def score(shelf: Shelf, texts: dict[tuple[str, int], str], **weights: float) -> tuple[Outcome, Context]:
    context = shelf.context(responses=shelf.responses(texts), prompts=shelf.prompts(QUESTIONS))
    return run(context, Spec(engine="length", weights=weights)), context


def test_the_length_reward_counts_words_and_tokens(shelf: Shelf) -> None:
    outcome, context = score(shelf, RESPONSES, words=-1.0, tokens=0.5)
    assert adds_up(outcome.rows, 3, 3)
    assert outcome.measures == {"invalid": 0, "label": "control: -1 per words, +0.5 per tokens"}
    assert written(context, "rewards") == [
        {"prompt_id": "a", "sample_index": 0, "reward": -1.5, "attribute_tokens": 3.0, "attribute_words": 3.0},
        {"prompt_id": "a", "sample_index": 1, "reward": 0.0, "attribute_tokens": 0.0, "attribute_words": 0.0},
        {"prompt_id": "b", "sample_index": 0, "reward": -1.0, "attribute_tokens": 2.0, "attribute_words": 2.0},
    ]


@pytest.mark.parametrize(
    ("engine", "weights", "message"),
    [
        ("length", {"words": 1.0, "lines": 1.0}, r"^reward\.weights\.lines: unknown; this reward has tokens, words$"),
        ("embedded", {"tokens": 1.0}, r"^reward\.weights\.tokens: unknown; this reward has relevance, finished"),
        ("length", {}, r"^reward\.weights: all are zero"),
        ("length", {"words": 0.0}, r"^reward\.weights: all are zero"),
    ],
)
def test_weights_that_cannot_rank_are_refused(engine: str, weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_weights(Spec(engine=engine, weights=weights))


def test_no_responses_make_an_empty_table(shelf: Shelf) -> None:
    outcome, context = score(shelf, {}, words=1.0)
    assert adds_up(outcome.rows, 0, 0)
    assert written(context, "rewards") == []


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeReward:
    engine = FakeReward({"one two  three": math.nan, "": math.inf, "one\ntwo": 2.0})
    monkeypatch.setattr(score_stage, "make_engine", lambda spec: engine)
    monkeypatch.setattr(score_stage, "_SHARD", 2)
    return engine


def test_a_reward_that_is_not_finite_is_kept_and_counted(shelf: Shelf, fake: FakeReward) -> None:
    outcome, context = score(shelf, RESPONSES)
    assert outcome.measures == {"invalid": 2, "label": "fake"}
    rewards = [r["reward"] for r in written(context, "rewards")]
    assert math.isnan(rewards[0])
    assert rewards[1:] == [math.inf, 2.0]


def test_each_response_is_scored_with_its_own_prompt(shelf: Shelf, fake: FakeReward) -> None:
    score(shelf, dict(reversed(RESPONSES.items())))
    assert fake.asked == [("second?", "one\ntwo"), ("first?", ""), ("first?", "one two  three")]


def test_shards_of_an_interrupted_run_are_not_scored_again(shelf: Shelf, fake: FakeReward) -> None:
    context = shelf.context(responses=shelf.responses(RESPONSES), prompts=shelf.prompts(QUESTIONS))
    done = [
        {"prompt_id": "a", "sample_index": i, "reward": reward, "attribute_size": 1.0}
        for i, reward in enumerate((math.nan, 5.0))
    ]
    (context.work / "rewards").mkdir()
    tables.write(tables.build(tables.rewards_schema(("size",)), done), context.work / "rewards" / "00000.parquet")
    outcome = run(context, Spec(engine="length", weights={}))
    assert fake.asked == [("second?", "one\ntwo")]
    assert outcome.measures["invalid"] == 1
    assert [r["reward"] for r in written(context, "rewards")][1:] == [5.0, 2.0]


def test_a_response_without_its_prompt_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(KeyError, match="stranger"):
        score(shelf, {("stranger", 0): "text"}, words=1.0)
