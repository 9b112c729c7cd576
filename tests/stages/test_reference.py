"""The reference stage: each distinct pick once, cut as in training, in shards of similar length."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import tables
from harness.stages import Context, Outcome, reference
from harness.stages.reference import Spec, run
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, written

SPEC = Spec(max_length=8, dtype="float32", autocast="none", batch_tokens=64, trust_remote_code=False)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """In place of the model: the log-probability of a response is minus its tokens; notes what it was asked."""
    asked: list[tuple[str, int]] = []

    def fill(_: Context, __: Spec, shard: list[Row], advance: Callable[[int], None]) -> None:
        for row in shard:
            asked.append((row["prompt_id"], row["sample_index"]))
            row["logp"] = -float(sum(row["response_ids"]))
        advance(len(shard))

    monkeypatch.setattr(reference, "_fill", fill)
    monkeypatch.setattr(reference, "SHARD", 2)
    return asked


def block(shelf: Shelf, prompts: dict[str, int], samples: range) -> Artifact:
    """Responses of so many tokens as their sample index says, to prompts of so many tokens."""
    responses = [
        {
            "prompt_id": prompt_id,
            "sample_index": index,
            "text": "é" * index,
            "token_ids": list(range(1, index + 1)),
            "tokens": index,
            "finish_reason": "stop" if index % 2 else "length",
            "logp": None,
        }
        for index in samples
        for prompt_id in prompts
    ]
    tokens = [{"prompt_id": prompt_id, "prompt_ids": [7] * size} for prompt_id, size in prompts.items()]
    return shelf.put(
        "sample", {"responses": (tables.RESPONSES, responses), "prompt_tokens": (tables.PROMPT_TOKENS, tokens)}
    )


def refer(shelf: Shelf, picks: list[tuple[str, str, int]], *responses: Artifact) -> tuple[Outcome, Context]:
    rows: list[dict[str, Any]] = [
        {"prompt_id": p, "position": position, "sample_index": i, "reward": 0.0, "z": 0.0} for p, position, i in picks
    ]
    picked, policy = shelf.put("select", {"picks": (tables.PICKS, rows)}), shelf.put("model", {})
    context = shelf.context(picks=picked, responses=responses, policy=policy)
    return run(context, SPEC), context


PICKS = [("a", "max", 1), ("a", "mu", 1), ("a", "min", 6), ("b", "max", 3), ("b", "min", 4), ("long", "max", 2)]
PROMPTS = {"a": 3, "b": 2, "c": 1, "long": 8}


def test_every_distinct_pick_is_there_once_with_its_prompt_and_what_training_keeps_of_it(
    shelf: Shelf, asked: list[tuple[str, int]]
) -> None:
    blocks = [block(shelf, PROMPTS, range(4)), block(shelf, PROMPTS, range(4, 8))]
    outcome, context = refer(shelf, PICKS, *blocks)
    assert adds_up(outcome.rows, 5, 4, prompt_fills_max_length=1)
    assert outcome.measures == {"truncated": 1}
    rows = written(context, "reference")
    assert [(r["prompt_id"], r["sample_index"]) for r in rows] == [("a", 6), ("b", 4), ("b", 3), ("a", 1)] == asked
    assert rows[0] == {
        "prompt_id": "a",
        "sample_index": 6,
        "text": "é" * 6,
        "prompt_ids": [7, 7, 7],
        "response_ids": [1, 2, 3, 4, 5],
        "finish_reason": "length",
        "truncated": True,
        "logp": -15.0,
    }
    assert [len(list((context.work / "reference").glob("*.parquet"))), rows[1]["truncated"]] == [2, False]


def test_a_shard_of_an_interrupted_run_is_not_computed_again(shelf: Shelf, asked: list[tuple[str, int]]) -> None:
    _, context = refer(shelf, PICKS, block(shelf, PROMPTS, range(8)))
    before = written(context, "reference")
    (context.work / "reference" / "00000.parquet").unlink()
    asked.clear()
    run(context, SPEC)
    assert asked == [("a", 6), ("b", 4)]
    assert written(context, "reference") == before


def test_a_pick_without_a_response_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(ValueError, match="5 picks, but 4 responses for them"):
        refer(shelf, PICKS, block(shelf, PROMPTS, range(5)))


def test_a_response_that_stands_there_twice_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(ValueError, match="5 picks, but 7 responses for them"):
        refer(shelf, PICKS, block(shelf, PROMPTS, range(8)), block(shelf, {"b": 2}, range(8)))


def test_one_response_missing_and_another_twice_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(ValueError, match="2 picks, but 2 responses for them"):
        refer(shelf, [("a", "max", 1), ("b", "min", 2)], *(block(shelf, {"a": 3}, range(2)) for _ in range(2)))


def test_no_picks_make_an_empty_table(shelf: Shelf) -> None:
    outcome, context = refer(shelf, [], block(shelf, PROMPTS, range(8)))
    assert adds_up(outcome.rows, 0, 0)
    assert written(context, "reference") == []
