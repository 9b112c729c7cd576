"""Supervised fine-tuning with TRL on conversations that are tokenised, in this process or as one of several."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from jinja2.exceptions import TemplateError
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from harness import chat
from harness.engines import models, runs
from harness.engines.runs import TrainingError
from harness.engines.sharding import TokenShare
from harness.errors import ConfigError
from harness.progress import Reporter
from harness.world import World

_CHATML = ("<|im_start|>", "<|im_end|>")
"""Tokens that a template in ChatML takes for granted, and that come to a vocabulary without them."""

_SAMPLE = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
    {"role": "assistant", "content": "Four."},
]

_COLUMNS = {
    "loss": "loss",
    "accuracy": "mean_token_accuracy",
    "tokens": "num_tokens",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
}

_LEAK = 1e-3
"""Largest change of a logit, as a share of the largest, that packing a conversation behind another may make."""


class _CountsOn(TrainerCallback):  # type: ignore[misc]
    """Goes on counting tokens where a checkpoint has stopped, which holds no count that TRL would read."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        counted = [entry[_COLUMNS["tokens"]] for entry in state.log_history if _COLUMNS["tokens"] in entry]
        self._trainer._total_train_tokens = counted[-1] if counted else 0


class _ShareTrainer(TokenShare, SFTTrainer):  # type: ignore[misc]
    """One process's share of a fine-tuning by several."""


def train(
    policy: Path,
    rows: Any,
    spec: Any,
    work: Path,
    *,
    save_steps: int,
    reporter: Reporter,
    label: str,
    world: World | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune a model on conversations and save the weights to `work/weights`.

    Args:
        rows: `harness.tables.TURN_TOKENS`.
        spec: `harness.stages.sft.Spec`.
        save_steps: checkpoint every so many steps; 0 for none.
        world: the processes of which this is one, which all call this; None where it trains alone.

    Returns:
        One row of the fine-tuning table per optimiser step, the same in every process.

    Raises:
        ConfigError: a chat template that does not fit the model.
        TrainingError: the loss is not finite, or packed conversations would see each other.
    """
    models.quieten()
    disable_progress_bars()
    checkpoints = work / "checkpoints"
    model, tokenizer = prepare(policy, spec)
    if spec.packing:
        check_packing(model, tokenizer.pad_token_id)
    watch = runs.Watch(lambda logged: _check(_figures(logged)), world)
    trainer = (_ShareTrainer if world else SFTTrainer)(
        model=model,
        args=_arguments(spec, checkpoints, save_steps, world),
        train_dataset=Dataset(rows),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.add_callback(_CountsOn(trainer))
    history = [_figures(entry) for entry in runs.run(trainer, watch, checkpoints, reporter, label)]
    runs.save(trainer, tokenizer, spec.save_dtype, work / "weights", world)
    runs.clear(checkpoints, world)
    return history


def _arguments(spec: Any, checkpoints: Path, save_steps: int, world: World | None) -> SFTConfig:
    accumulated = spec.global_batch // (spec.micro_batch * (world.size if world else 1))
    common = runs.arguments(spec, checkpoints, save_steps, world, at_once=spec.micro_batch, accumulated=accumulated)
    # Best fit decreasing: conversations stay whole, and the trainer tells the model where each begins.
    packing = {"packing": True, "packing_strategy": "bfd"} if spec.packing else {}
    return runs.keep_types(SFTConfig(**common, max_length=spec.max_length, **packing))


def prepare(policy: Path, spec: Any) -> tuple[Any, Any]:
    """A model for a trainer to own and its tokenizer, which end a turn as the chat template does."""
    from transformers import set_seed

    tokenizer, end = prepared_tokenizer(policy, spec)
    model, _ = models.load_for_training(policy, spec.weights_dtype, spec.trust_remote_code)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        set_seed(spec.seed)  # new rows are drawn around the mean of the others
        model.resize_token_embeddings(len(tokenizer))
    # Whatever has ended a text before still does.
    before = model.generation_config.eos_token_id
    ends = {end, *(before if isinstance(before, list) else [before])} - {None}
    model.generation_config.eos_token_id = sorted(ends)
    model.config.eos_token_id = end
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def prepared_tokenizer(policy: Path, spec: Any) -> tuple[Any, int]:
    """The tokenizer with the chat template that is trained, and the token that ends a turn.

    Raises:
        ConfigError: no template, or one that does not end a turn with a special token, or cannot be trained on.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy, trust_remote_code=spec.trust_remote_code, padding_side="left")
    if spec.chat_template is not None:
        _take_template(tokenizer, spec.chat_template)
    if not tokenizer.chat_template:
        raise ConfigError("sft.chat_template: the model has none of its own; choose zephyr or chatml, or give a file")
    if not tokenizer.is_fast:
        raise ConfigError(
            "sft: the model's tokenizer does not tell which part of a text a token stands for; one that does is "
            "expected (tokenizer.json)"
        )
    end = _end(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, end


def _take_template(tokenizer: Any, template: str) -> None:
    """Give a tokenizer a chat template, with the tokens that it needs, and the first token of a text that it adds."""
    from tokenizers import AddedToken

    if all(token in template for token in _CHATML):
        tokens = [AddedToken(token, special=True, normalized=False) for token in _CHATML]
        tokenizer.add_tokens(tokens, special_tokens=True)
        tokenizer.eos_token = _CHATML[-1]
    # The model was trained on texts that begin with it. A template that writes none is taken to leave it to this.
    first = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] and "bos_token" not in template
    tokenizer.chat_template = ("{{ bos_token }}" if first else "") + template


def _end(tokenizer: Any) -> int:
    """The special token that ends the assistant's turns.

    Raises:
        ConfigError: there is none, or the template cannot render a conversation.
    """
    try:
        end = chat.end_of_turn(tokenizer)
        ids, own = chat.encode_turns(tokenizer, _SAMPLE, -1 if end is None else end)
    except (TemplateError, TypeError) as error:
        raise ConfigError(f"sft.chat_template: it cannot render a conversation: {error}") from None
    last = [token for token, yes in zip(ids, own, strict=True) if yes][-1:]
    if end is None or last != [end]:
        raise ConfigError(
            "sft.chat_template: it ends the assistant's turn with no special token, so that a model trained on it "
            "would never stop; write {{ eos_token }} there"
        )
    return end


def check_packing(model: Any, padding: int) -> None:
    """Refuse to pack for a model in which a conversation sees the one before it in the same sequence.

    Raises:
        TrainingError: it does.
    """
    first, second = ([(start + i) % model.config.vocab_size for i in range(8)] for start in (11, 97))
    packed = {"input_ids": first + second, "labels": first + second, "seq_lengths": [len(first), len(second)]}
    inputs = DataCollatorForLanguageModeling(pad_token_id=padding, padding_free=True)([packed])
    inputs = {name: value for name, value in inputs.items() if name != "labels"}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        alone = model(input_ids=torch.tensor([second])).logits[0]
        behind = model(**inputs, use_cache=False).logits[0, len(first) :]
    model.train(was_training)
    change = float((alone - behind).abs().max() / alone.abs().max())
    if not change < _LEAK:
        raise TrainingError(
            f"sft.packing: in a {type(model).__name__} a conversation sees the one before it in its sequence (a logit "
            f"changes by {change:.2g} of the largest; limit {_LEAK:g}); set sft.packing=false"
        )


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": int(entry["step"]), **{ours: float(entry[theirs]) for ours, theirs in _COLUMNS.items()}}


def _check(row: Mapping[str, Any]) -> None:
    if not math.isfinite(row["loss"]):
        raise TrainingError(f"step {row['step']}: the loss is {row['loss']}")
