"""Change of the log-probability of given responses, by real models."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness import chat, goals, tables
from harness.engines import logprobs, models
from harness.stages import Context, change
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, written
from tests.stages.test_relabel import Policy
from tests.tiny import save_tiny_policy

ASKED = goals.Asked(text="Overall score: 10.", placement="auto")
SPEC = change.Spec(
    samples=2, asked=None, max_length=200, dtype="float32", autocast="none", batch_tokens=512, trust_remote_code=False
)
SAMPLES = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A policy, and another model in the place of what was trained from it."""
    folder = tmp_path_factory.mktemp("models")
    return save_tiny_policy(folder / "policy"), save_tiny_policy(folder / "model", seed=1)


@pytest.fixture
def inputs(tmp_path: Path, folders: tuple[Path, Path]) -> tuple[Shelf, dict[str, Artifact]]:
    shelf, tokenizer = Shelf(tmp_path), AutoTokenizer.from_pretrained(folders[0])
    texts = {"a": "one", "b": "two"}
    responses: list[Row] = [
        {
            "prompt_id": p,
            "sample_index": i,
            "text": "",
            "token_ids": [10 + i, 20, 2],
            "tokens": 3,
            "finish_reason": "stop",
            "logp": None,
        }
        for p in texts
        for i in range(SAMPLES)
    ]
    prompts = [
        {"prompt_id": p, "prompt_ids": chat.encode_prompt(tokenizer, [{"role": "user", "content": text}])}
        for p, text in texts.items()
    ]
    given = {
        "policy": Policy(folders[0]),
        "model": Policy(folders[1]),
        "responses": shelf.put(
            "sample", {"responses": (tables.RESPONSES, responses), "prompt_tokens": (tables.PROMPT_TOKENS, prompts)}
        ),
        "rewards": shelf.rewards({(r["prompt_id"], r["sample_index"]): float(r["sample_index"]) for r in responses}),
        "prompts": shelf.prompts(texts),
    }
    return shelf, given


def _expected(folder: Path, prompt: list[int], response: list[int]) -> float:
    model, _, _ = models.load(folder, "float32", False)
    return float(logprobs.response_logps(model, [(prompt, response)], 512, "none", lambda _: None)[0])


def _by_response(context: Context) -> dict[tuple[str, int], Row]:
    return {(r["prompt_id"], r["sample_index"]): r for r in written(context, "changes")}


@pytest.mark.parametrize("asked", [None, ASKED])
def test_both_models_are_asked_alike(
    inputs: tuple[Shelf, dict[str, Artifact]], folders: tuple[Path, Path], asked: goals.Asked | None
) -> None:
    shelf, given = inputs
    context = shelf.context(**given)
    outcome = change.run(context, dataclasses.replace(SPEC, asked=asked))
    assert adds_up(outcome.rows, 4, 4)
    rows = _by_response(context)
    assert set(rows) == {(p, i) for p in "ab" for i in (0, 1)}
    messages = [{"role": "user", "content": "two"}]
    if asked is not None:
        messages = goals.conditioned(messages, asked.text, "system")
    prompt = chat.encode_prompt(AutoTokenizer.from_pretrained(folders[0]), messages)
    row = rows["b", 1]
    assert (row["reward"], row["tokens"]) == (1.0, 3)
    for name, folder in zip(("policy_logp", "model_logp"), folders, strict=True):
        assert row[name] == pytest.approx(_expected(folder, prompt, [11, 20, 2]), abs=1e-4)
    differences = [r["model_logp"] - r["policy_logp"] for r in rows.values()]
    assert outcome.measures["change"] == pytest.approx(sum(differences) / 4)


def test_without_training_nothing_changes(inputs: tuple[Shelf, dict[str, Artifact]]) -> None:
    shelf, given = inputs
    context = shelf.context(**{**given, "model": given["policy"]})
    assert change.run(context, SPEC).measures["change"] == 0.0


def test_the_picks_are_each_measured_once(inputs: tuple[Shelf, dict[str, Artifact]]) -> None:
    shelf, given = inputs
    picks: list[Row] = [
        {"prompt_id": "a", "position": position, "sample_index": i, "reward": float(i), "z": 0.0}
        for position, i in (("max", 2), ("mu+2s", 2), ("min", 0))
    ]
    del given["rewards"]
    context = shelf.context(**given, picks=shelf.put("select", {"picks": (tables.PICKS, picks)}))
    outcome = change.run(context, dataclasses.replace(SPEC, samples=None))
    assert adds_up(outcome.rows, 2, 2)
    assert set(_by_response(context)) == {("a", 0), ("a", 2)}


def test_what_stands_from_an_interrupted_run_stays(inputs: tuple[Shelf, dict[str, Artifact]]) -> None:
    shelf, given = inputs
    context = shelf.context(**given)
    change.run(context, SPEC)
    (shard,) = (context.work / "changes").iterdir()
    before = shard.stat().st_mtime_ns
    change.run(context, SPEC)
    assert shard.stat().st_mtime_ns == before
    assert [entry.name for entry in context.work.iterdir()] == ["changes"]


def test_each_model_reads_every_shard_before_the_other_is_loaded(
    inputs: tuple[Shelf, dict[str, Artifact]], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory does not hold both, each is loaded once; a run goes on from what either has read."""
    shelf, given = inputs
    load, asked = models.load, list[Path]()

    def loading(path: Path, *rest: Any) -> Any:
        asked.append(path)
        if len(asked) == 7:
            raise RuntimeError("the job is killed")
        return load(path, *rest)

    once, apart = shelf.context("once", **given), shelf.context("apart", **given)
    whole = change.run(once, SPEC)
    monkeypatch.setattr(change, "SHARD", 1)
    monkeypatch.setattr(models, "load", loading)
    policy, model = folders
    with pytest.raises(RuntimeError, match="killed"):
        change.run(apart, SPEC)
    assert asked == [policy] * 4 + [model] * 3
    asked.clear()
    assert change.run(apart, SPEC).measures["change"] == pytest.approx(whole.measures["change"], abs=1e-4)
    assert asked == [model] * 2
    assert [entry.name for entry in apart.work.iterdir()] == ["changes"]
    for response, row in _by_response(once).items():
        assert _by_response(apart)[response] == pytest.approx(row, abs=1e-4)


def test_too_long_prompts_are_dropped_and_responses_cut_as_in_training(
    inputs: tuple[Shelf, dict[str, Artifact]], folders: tuple[Path, Path]
) -> None:
    shelf, given = inputs
    length = len(given["responses"].table("prompt_tokens").to_pylist()[0]["prompt_ids"])
    context = shelf.context(**given)
    outcome = change.run(context, dataclasses.replace(SPEC, max_length=length + 1))
    assert outcome.measures["truncated"] == 4
    assert {r["tokens"] for r in _by_response(context).values()} == {1}
    again = shelf.context("again", **given)
    outcome = change.run(again, dataclasses.replace(SPEC, max_length=length))
    assert adds_up(outcome.rows, 4, 0, prompt_fills_max_length=4)
    assert outcome.measures["change"] is None


def test_a_reward_without_its_response_is_refused(inputs: tuple[Shelf, dict[str, Artifact]]) -> None:
    shelf, given = inputs
    context = shelf.context(**{**given, "rewards": shelf.rewards({("c", 0): 1.0})})
    with pytest.raises(ValueError, match="1 rewards have no response"):
        change.run(context, SPEC)
