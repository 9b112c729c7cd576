"""Training with TRL on token ids and reference log-probabilities of ours, in this process or as one of several."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig

from harness import losses
from harness.engines import models, packing, runs
from harness.engines.logprobs import rounding
from harness.engines.runs import TrainingError
from harness.engines.sharding import Part, gathered_weights
from harness.engines.trainer import INITIAL, PreferenceTrainer
from harness.progress import Reporter
from harness.world import World

_COLUMNS = {
    "loss": "loss",
    "preference_loss": "preference_loss",
    "regulariser": "regulariser",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen_reward": "rewards/chosen",
    "rejected_reward": "rewards/rejected",
    "chosen_logp": "logps/chosen",
    "rejected_logp": "logps/rejected",
    "chosen_logp_change": "chosen_logp_change",
    "rejected_logp_change": "rejected_logp_change",
    "chosen_logp_change_per_token": "chosen_logp_change_per_token",
    "rejected_logp_change_per_token": "rejected_logp_change_per_token",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
}


class _PartTrainer(Part, PreferenceTrainer):
    """One process's part of a training by several."""


def train(
    policy: Path,
    rows: Sequence[dict[str, Any]],
    spec: Any,
    work: Path,
    *,
    save_steps: int,
    reporter: Reporter,
    label: str,
    world: World | None = None,
) -> list[dict[str, Any]]:
    """Train `policy` on preference rows and save the weights to `work/weights`.

    Args:
        rows: rows of the pairs table.
        spec: `harness.stages.train.Spec`.
        save_steps: checkpoint every so many steps; 0 for none.
        world: the processes of which this is one, which all call this; None where it trains alone.

    Returns:
        One row of the training table per optimiser step, the same in every process.

    Raises:
        TrainingError: a row has no reference log-probability, the first step's margin is not zero, or the loss is not
            finite.
    """
    models.quieten()
    _check_references(rows)
    checkpoints = work / "checkpoints"
    arguments = _arguments(spec, checkpoints, save_steps, world)
    model, tokenizer = models.load_for_training(policy, spec.weights_dtype, spec.trust_remote_code)
    packed = packing.use(model, spec.max_length, half="bfloat16" in (spec.autocast, spec.weights_dtype))
    watch = runs.Watch(lambda logged: _check(logged, spec), world)
    trainer = (_PartTrainer if world else PreferenceTrainer)(
        model=model,
        loss=spec.loss,
        batch_tokens=spec.batch_tokens,
        packed=packed,
        args=arguments,
        train_dataset=_dataset(rows),
        processing_class=tokenizer,
        peft_config=_adapters(spec, policy),
        callbacks=[watch],
    )
    logged = runs.run(trainer, watch, checkpoints, reporter, label)
    history = [_figures(entry) for entry in logged]
    for entry in logged:
        _check(entry, spec)
    _save(trainer, tokenizer, spec, work / "weights", world)
    runs.clear(checkpoints, world)
    return history


def _check_references(rows: Sequence[dict[str, Any]]) -> None:
    """Losses without a reference need them, too: for the check of the first step and how far the policy moves."""
    for number, row in enumerate(rows):
        for name in ("ref_chosen_logp", "ref_rejected_logp"):
            if row[name] is None or not math.isfinite(row[name]):
                raise TrainingError(
                    f"pairs: row {number} (prompt {row['prompt_id']}): {name} is {row[name]}; every loss needs the "
                    "log-probabilities of the reference model, which the stage reference makes"
                )


def _dataset(rows: Sequence[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt_ids": r["prompt_ids"],
                "chosen_ids": r["chosen_ids"],
                "rejected_ids": r["rejected_ids"],
                "ref_chosen_logps": r["ref_chosen_logp"],
                "ref_rejected_logps": r["ref_rejected_logp"],
                **{name: r[name[:-1]] for name in INITIAL if name[:-1] in r},
            }
            for r in rows
        ]
    )


def _arguments(spec: Any, checkpoints: Path, save_steps: int, world: World | None = None) -> DPOConfig:
    # By tokens, the trainer divides a step's pairs itself; of several processes each is dealt its own by `Part`.
    at_once = spec.micro_batch if spec.batch_tokens is None else spec.global_batch
    ours = spec.loss.type in losses.OURS
    processes = world.size if world is not None and spec.batch_tokens is None else 1
    common = runs.arguments(
        spec,
        checkpoints,
        save_steps,
        world,
        at_once=at_once,
        accumulated=spec.global_batch // (at_once * processes),
    )
    arguments = DPOConfig(
        **common,
        # Of a loss that TRL has not, it computes the figures beside it, and what balances experts.
        loss_type=["sigmoid" if ours else spec.loss.type],
        loss_weights=[0.0 if ours else 1.0],
        beta=spec.loss.beta,
        label_smoothing=spec.loss.label_smoothing,
        max_length=spec.max_length,
        truncation_mode="keep_start",
        precompute_ref_log_probs=True,
    )
    return runs.keep_types(arguments)


def _adapters(spec: Any, policy: Path) -> Any:
    if spec.lora is None:
        return None
    from peft import LoraConfig

    modules = spec.lora.target_modules
    return LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        target_modules=modules if modules == "all-linear" else modules.split(","),
        base_model_name_or_path=str(policy),
        task_type="CAUSAL_LM",
    )


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": int(entry["step"]), **{ours: float(entry[theirs]) for ours, theirs in _COLUMNS.items()}}


def _check(entry: Mapping[str, Any], spec: Any) -> None:
    if "loss" not in entry:
        return
    row = _figures(entry)
    if row["step"] == 1:
        _check_first(entry, row, spec)
    if not abs(row["loss"]) < float("inf"):
        raise TrainingError(f"step {row['step']}: the loss is {row['loss']}")


def _check_first(entry: Mapping[str, Any], row: dict[str, Any], spec: Any) -> None:
    """Rows and the log-probabilities that were computed for them belong together."""
    limit = rounding(spec.weights_dtype, spec.autocast)  # before the first update nothing else has changed
    if INITIAL[0] in entry:  # the reference is another model, from which a mean says nothing of single rows
        sides = zip(("chosen_logp", "rejected_logp"), INITIAL, strict=True)
        change, other = max(abs(row[name] - entry[initial]) for name, initial in sides), "the round before"
    else:
        change = max(abs(row[name]) for name in ("margin", "chosen_reward", "rejected_reward")) / spec.loss.beta
        other = "its reference"
    if not change < limit:
        raise TrainingError(
            f"first step: the policy differs from {other} by {change:.2g} nats (limit {limit:g}); "
            "reference log-probabilities and training rows do not belong together"
        )


def _save(trainer: Any, tokenizer: Any, spec: Any, target: Path, world: World | None) -> None:
    """Save weights with the policy's stop and padding tokens, which answers rely on."""
    if spec.lora is None:
        runs.save(trainer, tokenizer, spec.save_dtype, target, world)
        return
    weights = gathered_weights(trainer, None, world)
    if trainer.is_world_process_zero():
        given = {} if weights is None else {"state_dict": weights}
        trainer.model.save_pretrained(target, safe_serialization=True, **given)
        tokenizer.save_pretrained(target)
        _make_reproducible(target)


def _make_reproducible(adapters: Path) -> None:
    """Leave nothing beside the adapters that differs from run to run: a card and a path of this machine, a set's order.

    Equal trainings have equal files then, by which the store knows them.
    """
    (adapters / "README.md").unlink(missing_ok=True)
    path = adapters / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
