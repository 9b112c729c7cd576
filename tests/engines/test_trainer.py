"""Micro-batches by length: the same pairs, the same losses as TRL's own trainer, less padding."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from harness.engines import models, training
from harness.engines.trainer import divide_further, split_by_length
from harness.progress import Reporter
from harness.stages.train import Spec
from tests.engines.test_training import LORA, SPEC, rows_of

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)
BY_TOKENS = dataclasses.replace(
    SPEC, micro_batch=None, batch_tokens=200, global_batch=8, epochs=None, max_steps=24, learning_rate=2e-3
)


@given(LENGTHS, st.integers(1, 2000))
def test_every_pair_is_in_one_group_and_no_group_is_too_large(lengths: list[int], batch_tokens: int) -> None:
    parts = split_by_length(lengths, batch_tokens)
    assert sorted(place for part in parts for place in part) == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or 2 * len(part) * max(lengths[i] for i in part) <= batch_tokens
    longest = [max(lengths[i] for i in part) for part in parts]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=40), st.integers(1, 2000))
def test_groups_without_padding_are_as_large_as_their_tokens(sides: list[tuple[int, int]], batch_tokens: int) -> None:
    lengths, sizes = [max(pair) for pair in sides], [sum(pair) for pair in sides]
    parts = split_by_length(lengths, batch_tokens, sizes)
    assert sorted(place for part in parts for place in part) == list(range(len(sides)))
    filled = [sum(sizes[i] for i in part) for part in parts]
    assert all(len(part) == 1 or size <= batch_tokens for part, size in zip(parts, filled, strict=True))
    for part, size in zip(parts[1:], filled, strict=False):
        assert size + sizes[part[0]] > batch_tokens  # none was begun before the one before it was full


@given(LENGTHS, st.integers(1, 2000), st.integers(0, 10))
def test_groups_can_be_divided_into_any_number_up_to_the_pairs(lengths: list[int], tokens: int, more: int) -> None:
    parts = split_by_length(lengths, tokens)
    number = min(len(lengths), len(parts) + more)
    divided = divide_further(parts, number)
    assert len(divided) == number
    assert [place for part in divided for place in part] == [place for part in parts for place in part]


def test_more_groups_than_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="2 pairs cannot be divided into 3 groups"):
        divide_further([[0, 1]], 3)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_losses_are_those_of_the_stock_trainer(tiny_policy: Path, tmp_path: Path, lora: Any) -> None:
    """24 steps in float32 against TRL's trainer as it comes, which runs the reference model itself."""
    spec = dataclasses.replace(BY_TOKENS, lora=lora, method="lora" if lora else "full")
    rows = rows_of(tiny_policy, count=21)
    mine = dataclasses.replace(spec, gradient_checkpointing=lora is not None)  # which must change nothing
    ours = training.train(tiny_policy, rows, mine, tmp_path / "ours", save_steps=0, reporter=Reporter(), label="train")
    stock = _stock(tiny_policy, rows, spec, tmp_path / "stock")
    assert len(ours) == len(stock) == 24
    for name, theirs in (("loss", "loss"), ("margin", "rewards/margins"), ("chosen_logp", "logps/chosen")):
        assert [row[name] for row in ours] == pytest.approx([row[theirs] for row in stock], abs=1e-3), name
    assert ours[-1]["loss"] < 0.9 * ours[0]["loss"]  # it learns, so that equal losses say something


def _stock(policy: Path, rows: list[dict[str, Any]], spec: Spec, work: Path) -> list[dict[str, Any]]:
    """The log of TRL's trainer on the same token ids."""
    from trl import DPOTrainer

    class Stock(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    model, tokenizer = models.load_for_training(policy, "float32", False)
    # One pair at a time: of a last step with fewer pairs it weighs its forward passes alike, whatever they hold.
    arguments = training._arguments(dataclasses.replace(spec, batch_tokens=None, micro_batch=1), work, 0)
    arguments.precompute_ref_log_probs = False
    columns = [{name: row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for row in rows]
    trainer = Stock(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(columns),
        processing_class=tokenizer,
        peft_config=training._adapters(spec, policy),
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_padding_behind_the_last_token_is_not_looked_at(tiny_policy: Path) -> None:
    """The trainer leaves out the mask, which is right for every causal model."""
    model, _ = models.load_for_training(tiny_policy, "float32", False)
    ids = torch.randint(3, 250, (1, 12))
    padded = torch.nn.functional.pad(ids, (0, 7), value=5)
    with torch.inference_mode():
        alone, among = model(ids).logits, model(padded).logits[:, :12]
    assert torch.allclose(alone, among, atol=1e-5)
