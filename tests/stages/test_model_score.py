"""The score stage with real reward models of a tiny size: shards, notes, opponents, and what is counted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness import tables
from harness.engines.batches import BudgetedBatches
from harness.engines.reward_models import ComparingModel, ScoringModel
from harness.errors import ConfigError
from harness.stages import Context, Outcome, model_score
from harness.stages.score import run
from harness.store import Artifact
from tests.artifacts import Shelf, adds_up, manifest, written
from tests.tiny_rewards import OBJECTIVES, save_armorm, save_classifier, save_pairrm

QUESTIONS = {"a": "Name a fruit.", "b": "Name two rivers."}
RESPONSES = {("a", 0): "An apple.", ("a", 1): "", ("a", 3): "A pear, a plum " * 3, ("b", 0): "One.", ("b", 1): "Two"}
SCALAR = model_score.Spec(
    engine="sequence_classification",
    dtype="float32",
    trust_remote_code=False,
    max_tokens=100,
    batch_tokens=300,
    objectives=(),
)
PAIRWISE = model_score.PairwiseSpec(
    dtype="float32", max_tokens=200, max_prompt_tokens=50, batch_tokens=1000, opponents=3
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rewards")
    return {
        "classifier": save_classifier(root / "classifier"),
        "armorm": save_armorm(root / "armorm"),
        "pairrm": save_pairrm(root / "pairrm"),
    }


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def model(shelf: Shelf, folder: Path) -> Artifact:
    """The artifact of a model stage, which points to the folder."""
    key = folder.name
    with shelf.store.claim(key) as work:
        (work / "model.json").write_text(json.dumps({"path": str(folder)}))
        spec = {"id": "org/tiny", "revision": "0123456789abcdef"}
        return shelf.store.publish(work, manifest("model", key, spec=spec), "tiny")


def context_of(shelf: Shelf, folder: Path, texts: dict[tuple[str, int], str], **inputs: Artifact) -> Context:
    return shelf.context(
        responses=shelf.responses(texts), prompts=shelf.prompts(QUESTIONS), reward_model=model(shelf, folder), **inputs
    )


def prompt(prompt_id: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTIONS[prompt_id]}]


def test_every_response_is_scored_with_its_own_prompt(shelf: Shelf, folders: dict[str, Path]) -> None:
    context = context_of(shelf, folders["classifier"], RESPONSES)
    outcome = run(context, SCALAR)
    assert adds_up(outcome.rows, 5, 5)
    assert outcome.measures == {
        "invalid": 0,
        "notes": {},
        "label": "org/tiny@01234567 (scalar head)",
        "memory_retries": 0,
    }
    scorer = ScoringModel("sequence_classification", folders["classifier"], "float32", False, 100)
    for row in written(context, "rewards"):
        key = (row["prompt_id"], row["sample_index"])
        alone = scorer.score([prompt(key[0])], [RESPONSES[key]], BudgetedBatches(1))
        assert row == {
            "prompt_id": key[0],
            "sample_index": key[1],
            "reward": pytest.approx(alone.values[0, 0], abs=1e-4),
            "note": None,
        }


def test_objectives_are_kept_by_name(shelf: Shelf, folders: dict[str, Path]) -> None:
    context = context_of(shelf, folders["armorm"], RESPONSES)
    spec = model_score.Spec(
        engine="armorm",
        dtype="float32",
        trust_remote_code=False,
        max_tokens=200,
        batch_tokens=500,
        objectives=OBJECTIVES,
    )
    assert run(context, spec).measures["label"] == "org/tiny@01234567 (gated objectives)"
    scorer = ScoringModel("armorm", folders["armorm"], "float32", False, 200)
    row = written(context, "rewards")[3]
    values = scorer.score([prompt("b")], ["One."], BudgetedBatches(1)).values[0]
    assert [row["reward"], *(row[f"attribute_{name}"] for name in OBJECTIVES)] == pytest.approx(values, abs=1e-4)


def test_names_that_are_not_one_for_each_head_are_refused(shelf: Shelf, folders: dict[str, Path]) -> None:
    context = context_of(shelf, folders["armorm"], RESPONSES)
    with pytest.raises(ConfigError, match=r"reward\.objectives: 1 names, but the model has 3 heads"):
        run(context, model_score.Spec(**{**vars(SCALAR), "engine": "armorm", "objectives": ("one",)}))


def test_what_has_no_score_is_kept_and_counted_by_its_reason(shelf: Shelf, folders: dict[str, Path]) -> None:
    texts = {("a", 0): "short", ("a", 1): "long " * 50, ("b", 0): "x"}
    context = context_of(shelf, folders["classifier"], texts)
    prompts = shelf.prompts({"a": "q", "b": "an endless question " * 10})
    context = Context(**{**vars(context), "inputs": {**context.inputs, "prompts": (prompts,)}})
    outcome = run(context, SCALAR)
    assert adds_up(outcome.rows, 3, 3)
    assert outcome.measures["invalid"] == 1
    assert outcome.measures["notes"] == {"prompt_too_long": 1, "truncated": 1}
    rows = written(context, "rewards")
    assert [r["note"] for r in rows] == [None, "truncated", "prompt_too_long"]
    assert np.isfinite([r["reward"] for r in rows]).tolist() == [True, True, False]


def test_shards_of_an_interrupted_run_are_not_scored_again(
    shelf: Shelf, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_score._Scoring, "shard", 2)
    asked: list[Sequence[str]] = []
    score = ScoringModel.score

    def spied(self: ScoringModel, prompts: Any, responses: Sequence[str], batches: Any) -> Any:
        asked.append(responses)
        return score(self, prompts, responses, batches)

    monkeypatch.setattr(ScoringModel, "score", spied)
    context = context_of(shelf, folders["classifier"], RESPONSES)
    first = run(context, SCALAR)
    rows, texts = written(context, "rewards"), list(RESPONSES.values())
    assert asked == [texts[:2], texts[2:4], texts[4:]]
    (context.work / "rewards" / "00001.parquet").unlink()
    asked.clear()
    assert run(context, SCALAR) == first
    assert asked == [texts[2:4]]
    assert written(context, "rewards") == rows


def test_no_responses_make_an_empty_table(shelf: Shelf, folders: dict[str, Path]) -> None:
    context = context_of(shelf, folders["classifier"], {})
    assert adds_up(run(context, SCALAR).rows, 0, 0)
    assert written(context, "rewards") == []


def compared(
    shelf: Shelf, folder: Path, texts: dict[tuple[str, int], str], first: dict[tuple[str, int], str]
) -> tuple[Outcome, Context]:
    context = context_of(shelf, folder, texts, opponents=shelf.responses(first))
    return run(context, PAIRWISE), context


def test_a_response_is_compared_with_the_first_of_the_pool(shelf: Shelf, folders: dict[str, Path]) -> None:
    first = {**RESPONSES, ("a", 2): "A fig", ("b", 5): "not among the first three"}
    later = {("a", 7): "A quince", ("a", 2): "A fig", ("b", 7): "One."}
    outcome, context = compared(shelf, folders["pairrm"], later, first)
    assert outcome.measures["label"] == "org/tiny@01234567 (mean margin over the pool's first 3)"
    model = ComparingModel(folders["pairrm"], "float32", 200, 50)

    def margin(prompt_id: str, one: str, other: str) -> float:
        values = model.compare([prompt(prompt_id)] * 2, [one, other], [other, one], BudgetedBatches(1)).values
        return float(values[0, 0] - values[1, 0]) / 2

    apple, nothing, fig, quince = "An apple.", "", "A fig", "A quince"
    expected = [
        np.mean([margin("a", quince, other) for other in (apple, nothing, fig)]),
        np.mean([margin("a", fig, other) for other in (apple, nothing)]),
        np.mean([margin("b", "One.", "One."), margin("b", "One.", "Two")]),
    ]
    assert [r["reward"] for r in written(context, "rewards")] == pytest.approx(expected, abs=1e-4)
    assert margin("b", "One.", "One.") == pytest.approx(0, abs=1e-5)


def test_a_response_without_opponents_has_no_reward(shelf: Shelf, folders: dict[str, Path]) -> None:
    texts = {("a", 0): "alone", ("b", 4): "none there", ("b", 5): "cut " * 60}
    outcome, context = compared(shelf, folders["pairrm"], texts, {("a", 0): "alone"})
    assert [r["note"] for r in written(context, "rewards")] == ["no_opponent"] * 3
    assert outcome.measures["invalid"] == 3
    outcome, context = compared(Shelf(context.store.parent / "other"), folders["pairrm"], texts, {("b", 0): "one"})
    assert [r["note"] for r in written(context, "rewards")] == ["no_opponent", None, "truncated"]
    assert outcome.measures["notes"] == {"no_opponent": 1, "truncated": 1}


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_a_table_is_read_piece_by_piece(tmp_path: Path, size: int) -> None:
    schema = pa.schema([("a", pa.int32()), ("b", pa.int32())])
    for file, numbers in enumerate([range(4), range(4, 4), range(4, 11)]):
        table = tables.build(schema, [{"a": i, "b": -i} for i in numbers])
        tables.write(table, tmp_path / f"{file}.parquet")
    pieces = list(tables.batches(tmp_path, ["a"], size))
    assert [row["a"] for piece in pieces for row in piece] == list(range(11))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert set(pieces[0][0]) == {"a"}
    assert tables.count(tmp_path) == 11
