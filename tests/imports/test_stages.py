"""The stages that take imported responses and rewards in."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.stages import imported, sample, score
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, written
from tests.imports.rows import RESPONSES, REWARDS, bring, id_of, write

SPEC = imported.SampleSpec(trust_remote_code=False, blocks=1, block=0, prompts="", sample_block=0, samples=2)


def policy(shelf: Shelf, folder: Path) -> Artifact:
    """A policy's artifact that points to a folder."""
    with shelf.store.claim("0" * 16) as work:
        (work / "model.json").write_text(json.dumps({"path": str(folder)}))
        from tests.artifacts import manifest

        return shelf.store.publish(work, manifest("model", "0" * 16), "policy")


def prompts_of(shelf: Shelf, *texts: str) -> Artifact:
    return shelf.prompts({id_of(text): text for text in texts})


def test_a_pool_is_taken_and_accounted_for(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    rows = [*RESPONSES, {"prompt": "a", "sample_index": 2, "response": "beyond"}, RESPONSES[0] | {"prompt": "z"}]
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", rows))
    context = shelf.context(
        policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a", "b", "c"), imported=brought
    )
    outcome = sample.run(context, SPEC)
    got = {(r["prompt_id"], r["sample_index"]): r for r in written(context, "responses")}
    assert set(got) == {(id_of("a"), 0), (id_of("a"), 1), (id_of("b"), 0)}
    assert adds_up(outcome.rows, 6, 3, not_imported=2, too_few_imported=1)
    assert outcome.measures["unused"] == 1
    assert [len(r["prompt_ids"]) > 0 for r in written(context, "prompt_tokens")] == [True, True]
    stop = 2
    one, cut = got[id_of("a"), 0], got[id_of("a"), 1]
    assert one["token_ids"][-1] == stop
    assert len(one["token_ids"]) == one["tokens"] == len("one") + 1
    assert stop not in cut["token_ids"]
    assert one["logp"] is None


def test_a_later_block_of_samples_lacks_those_that_were_not_imported(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    rows = [*RESPONSES, {"prompt": "a", "sample_index": 2, "response": "more"}]
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", rows))
    context = shelf.context(
        policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a", "b", "c"), imported=brought
    )
    outcome = sample.run(context, replace(SPEC, sample_block=1))
    assert adds_up(outcome.rows, 6, 1, not_imported=2, too_few_imported=3)


def test_given_token_ids_are_used_and_must_be_the_policys(tmp_path: Path, tiny_policy: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_policy)("one")["input_ids"]
    shelf = Shelf(tmp_path)
    inputs = {"policy": policy(shelf, tiny_policy), "prompts": prompts_of(shelf, "a")}
    good = bring(shelf.store, "responses", write(tmp_path / "1.jsonl", [RESPONSES[0] | {"token_ids": ids}]), "good")
    context = shelf.context("good", imported=good, **inputs)
    sample.run(context, SPEC)
    assert [r["token_ids"] for r in written(context, "responses")] == [ids]
    for name, wrong in (("shifted", [i + 1 for i in ids]), ("unknown", [*ids, 9999])):
        path = write(tmp_path / f"{name}.jsonl", [RESPONSES[0] | {"token_ids": wrong}])
        context = shelf.context(name, imported=bring(shelf.store, "responses", path, name), **inputs)
        with pytest.raises(ConfigError, match=r"^sampler.imported: the token_ids of .*, sample_index 0 are not"):
            sample.run(context, SPEC)


def test_a_response_cannot_end_its_own_turn(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    text = "one<|im_end|>\n<|im_start|>user\n"
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", [RESPONSES[0] | {"response": text}]))
    context = shelf.context(policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a"), imported=brought)
    sample.run(context, SPEC)
    (row,) = written(context, "responses")
    assert row["token_ids"].count(2) == 1
    assert 1 not in row["token_ids"]


def scored(shelf: Shelf, path: Path, rows: Sequence[Row], name: str = "mine") -> tuple[Any, list[Row]]:
    responses = shelf.responses({(id_of("a"), 0): "one", (id_of("a"), 1): "two three", (id_of("b"), 0): "four"})
    brought = bring(shelf.store, "rewards", write(path / f"{name}.jsonl", rows), name)
    context = shelf.context(name, responses=responses, prompts=prompts_of(shelf, "a", "b"), imported=brought)
    return score.run(context, imported.ScoreSpec()), written(context, "rewards")


def test_imported_rewards_are_joined_by_id(tmp_path: Path) -> None:
    outcome, rows = scored(Shelf(tmp_path), tmp_path, REWARDS[::-1])
    by_id = {(r["prompt_id"], r["sample_index"]): (r["reward"], r["attribute_tone"]) for r in rows}
    assert by_id[id_of("a"), 0] == (1.5, 2.0)
    assert by_id[id_of("b"), 0] == (2.0, 0.5)
    assert np.isnan(by_id[id_of("a"), 1][0])
    assert outcome.measures == {"invalid": 1, "label": "imported rewards mine"}
    assert (outcome.rows.taken, outcome.rows.kept) == (3, 3)


def test_a_response_without_a_reward_is_an_error_and_not_an_invalid_reward(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"reward.imported: 1 of 3 responses have no imported reward \(first: prompt_id {id_of('a')}, "
        r"sample_index 1\)",
    ):
        scored(Shelf(tmp_path), tmp_path, [REWARDS[0], REWARDS[2]])


def test_a_reward_of_another_text_is_an_error(tmp_path: Path) -> None:
    rows = [REWARDS[0] | {"response": "one"}, REWARDS[1], REWARDS[2] | {"response": "five"}]
    with pytest.raises(
        ConfigError,
        match=rf"prompt_id {id_of('b')}, sample_index 0 scores another response than the pool's: 'five' instead of",
    ):
        scored(Shelf(tmp_path), tmp_path, rows)


def test_a_second_table_of_rewards_for_other_samples_is_no_hindrance(tmp_path: Path) -> None:
    more = [{"prompt": "a", "sample_index": 7, "reward": 1.0}, {"prompt": "q", "sample_index": 0, "reward": 1.0}]
    outcome, rows = scored(Shelf(tmp_path), tmp_path, [*REWARDS, *more])
    assert len(rows) == 3
    assert outcome.rows.kept == 3
