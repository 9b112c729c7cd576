"""Sampling and answering with a vLLM engine, a fake one: rows, shards of an interrupted run, adapters, divergences."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness import tables
from harness.engines.process import EngineError
from harness.errors import ConfigError
from harness.stages import Context, Outcome, respond, sample
from harness.store import Artifact
from tests.artifacts import Shelf, adds_up, written

IDS = [f"{i:016x}" for i in range(12)]
LONG = "f" * 16
PROMPTS = {prompt_id: "word " * (i + 1) for i, prompt_id in enumerate(IDS)} | {LONG: "word " * 200}
SAMPLE: dict[str, Any] = {
    "seed": 0,
    "temperature": 0.8,
    "top_p": 1.0,
    "max_new_tokens": 8,
    "max_prompt_tokens": 300,
    "dtype": "float32",
    "trust_remote_code": False,
    "blocks": 1,
    "block": 0,
    "prompts": "hash",
    "sample_block": 2,
    "samples": 3,
}
RESPOND: dict[str, Any] = {
    "instructions": "hash",
    "max_new_tokens": 8,
    "max_prompt_tokens": 300,
    "temperature": 0.0,
    "top_p": 1.0,
    "seed": 0,
    "dtype": "float32",
    "trust_remote_code": False,
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def _policy(shelf: Shelf, path: Path, stage: str = "model") -> Artifact:
    artifact = shelf.put(stage, {})
    (artifact.folder / "model.json").write_text(json.dumps({"path": str(path)}))
    return artifact


def _sampling(shelf: Shelf, policy: Path, texts: dict[str, str] = PROMPTS) -> Context:
    name = f"work-{len(list(shelf.store.root.parent.iterdir()))}"
    return shelf.context(name, policy=_policy(shelf, policy), prompts=shelf.prompts(texts))


def _asked(fake: Path) -> list[str]:
    lines = [json.loads(line) for line in (fake / "journal").read_text().splitlines()]
    return [words[2] for words in lines if words[1] == "request"]


def test_every_fitting_prompt_has_its_block_of_samples(fake_vllm: Path, shelf: Shelf, tiny_policy: Path) -> None:
    context = _sampling(shelf, tiny_policy)
    outcome = sample.run(context, sample.VllmSpec(**SAMPLE))
    assert adds_up(outcome.rows, 39, 36, prompt_too_long=3)
    rows = written(context, "responses")
    assert {(r["prompt_id"], r["sample_index"]) for r in rows} == {(i, k) for i in IDS for k in (6, 7, 8)}
    assert all(r["token_ids"][1] == r["sample_index"] - 6 and r["finish_reason"] == "stop" for r in rows)
    assert {r["logp"] for r in rows} == {None}
    tokens = tables.read(context.work / "prompt_tokens.parquet")
    assert set(tokens.column("prompt_id").to_pylist()) == set(IDS)
    assert outcome.measures["engine"] == "vLLM 0.0.fake on cpu"
    assert outcome.measures["engine_start_seconds"] > 0
    assert outcome.measures["finished"] == 36
    again = sample.run(_sampling(shelf, tiny_policy), sample.VllmSpec(**SAMPLE))
    assert again.measures["engine_start_seconds"] == 0  # the engine has stayed


def test_what_an_interrupted_run_has_written_is_not_drawn_again(
    fake_vllm: Path, shelf: Shelf, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SHARD_ROWS", 6)
    context = _sampling(shelf, tiny_policy)
    (fake_vllm / "die").write_text("5")
    with pytest.raises(EngineError, match=r"^twice, the vLLM engine died"):
        sample.run(context, sample.VllmSpec(**SAMPLE))
    kept = tables.written(context.work / "responses", "prompt_id")
    assert len(kept) == 10  # five of each of two engines
    shards = {p.name: p.read_bytes() for p in (context.work / "responses").glob("*.parquet")}
    (fake_vllm / "die").unlink()
    before = len(_asked(fake_vllm))
    outcome = sample.run(context, sample.VllmSpec(**SAMPLE))
    assert sorted(_asked(fake_vllm)[before:]) == sorted(set(IDS) - kept)
    assert adds_up(outcome.rows, 39, 36, prompt_too_long=3)
    assert len({(r["prompt_id"], r["sample_index"]) for r in written(context, "responses")}) == 36
    assert all((context.work / "responses" / name).read_bytes() == data for name, data in shards.items())


def test_the_second_block_of_samples_leaves_the_first_as_it_is(
    fake_vllm: Path, shelf: Shelf, tiny_policy: Path
) -> None:
    drawn = []
    for block in (0, 1, 0):
        context = _sampling(shelf, tiny_policy)
        sample.run(context, sample.VllmSpec(**{**SAMPLE, "sample_block": block}))
        drawn.append({(r["prompt_id"], r["sample_index"]): r["token_ids"][0] for r in written(context, "responses")})
    assert drawn[0] == drawn[2]
    assert drawn[0].keys().isdisjoint(drawn[1])
    assert sum(drawn[0][i, 0] != drawn[1][i, 3] for i in {p for p, _ in drawn[0]}) > 8


def test_no_prompt_that_fits_needs_no_engine(fake_vllm: Path, shelf: Shelf, tiny_policy: Path) -> None:
    context = _sampling(shelf, tiny_policy, {LONG: "word " * 200})
    outcome = sample.run(context, sample.VllmSpec(**SAMPLE))
    assert adds_up(outcome.rows, 3, 0, prompt_too_long=3)
    assert written(context, "responses") == []
    assert not (fake_vllm / "journal").exists()


def test_a_context_without_room_for_a_prompt_is_named_by_its_key(
    fake_vllm: Path, shelf: Shelf, tiny_policy: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^sampler\.max_new_tokens: 1024 leaves no room .* context of 1024"):
        sample.run(_sampling(shelf, tiny_policy), sample.VllmSpec(**{**SAMPLE, "max_new_tokens": 1024}))


def test_answers_come_from_the_engine_and_divergences_from_transformers(
    fake_vllm: Path, shelf: Shelf, tiny_policy: Path, tmp_path: Path
) -> None:
    from tests.tiny import save_tiny_policy

    other = save_tiny_policy(tmp_path / "trained", seed=1)
    reference, instructions = _policy(shelf, tiny_policy), shelf.prompts(PROMPTS)
    outcomes: list[Outcome] = []
    for model in (reference, _policy(shelf, other, "train")):
        context = shelf.context(f"work-{len(outcomes)}", model=model, reference=reference, instructions=instructions)
        outcomes.append(respond.run(context, respond.VllmSpec(**RESPOND)))
        rows = written(context, "answers")
        assert {r["prompt_id"] for r in rows} == set(IDS)
        assert all((r["kl"] == 0.0) if model is reference else r["kl"] > 0 for r in rows)
        assert not (context.work / "drawn").exists()
    assert all(adds_up(outcome.rows, 13, 12, prompt_too_long=1) for outcome in outcomes)
    lines = [json.loads(line)[1:] for line in (fake_vllm / "journal").read_text().splitlines()]
    assert [words[1] for words in lines if words[0] == "start"] == [str(tiny_policy)]
    assert [words[1] for words in lines if words[0] == "reload_weights"] == [str(other)]
