"""One cell: a policy trained on preference rows."""

import json
import os
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from harness import memory, tables
from harness.config import LoraConfig, LossConfig
from harness.errors import PrefsweepError
from harness.keys import ADDED, digest
from harness.ranks import launch
from harness.resources import checkpointing
from harness.stages import Context, Outcome
from harness.store import Rows
from harness.training_spec import TrainingSpec

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingSpec):
    """Everything that decides the trained weights, besides policy and rows.

    `micro_batch` is None where `batch_tokens` divides a step's pairs. What memory demands of `gradient_checkpointing`
    changes results by rounding at most, and is recorded.
    """

    loss: LossConfig
    method: str
    lora: LoraConfig | None
    """None for full fine-tuning."""
    batch_tokens: int | None = field(default=None, metadata=ADDED)

    sequences: ClassVar[int] = 2

    @property
    def adapters(self) -> tuple[int, str] | None:
        """Rank and target modules of the adapters that are trained; None where all weights are."""
        return (self.lora.r, self.lora.target_modules) if self.lora is not None else None

    @property
    def most_tokens(self) -> int:
        """Padded tokens of the largest forward pass; a pair alone may be longer than what batches are divided by."""
        return super().most_tokens if self.batch_tokens is None else max(self.batch_tokens, self.least_tokens)


OF_LAST_STEP = (
    "preference_loss",
    "regulariser",
    "chosen_logp_change",
    "rejected_logp_change",
    "chosen_logp_change_per_token",
    "rejected_logp_change_per_token",
)
"""Figures of the last step that are kept as measures."""


class TemplateError(PrefsweepError):
    """Policies of two rounds that read the same prompt otherwise."""


def run(context: Context, spec: Spec) -> Outcome:
    """Train from the last whole checkpoint, or from the start; keep weights and one row of figures per step."""
    rows = context.input("pairs").table("pairs").to_pylist()
    _check_template(context, spec)
    if spec.max_steps == 0:
        return _untrained(context, len(rows))
    decided = {}
    if spec.gradient_checkpointing is None:
        # Memory that ran out once has shown that the estimate was wrong.
        on = context.parts > 1 or checkpointing.demanded(spec, context.input("policy").model_path, rows, context.world)
        spec, decided = replace(spec, gradient_checkpointing=on), {"gradient_checkpointing": on}
    history = _train(context, rows, spec)
    tables.write(tables.build(tables.TRAINING, history), context.work / "training.parquet")
    (context.work / "model.json").write_text(json.dumps({"path": "weights"}))
    measures = {**_measures(history), **decided}
    return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)


def _check_template(context: Context, spec: Spec) -> None:
    """Refuse a round whose policy would read the prompts otherwise than the first round's did.

    Raises:
        TemplateError: names both models.
    """
    if "start" not in context.inputs:
        return
    from harness.engines import models

    policy, start = context.input("policy"), context.input("start")
    templates = [models.load_tokenizer(a.model_path, spec.trust_remote_code)[0].chat_template for a in (policy, start)]
    if templates[0] != templates[1]:
        raise TemplateError(
            f"rounds: {policy.folder.name} has another chat template than {start.folder.name}, from which the first "
            "round began; the rounds of a path need one template, or prompts mean something else in each"
        )


def _train(context: Context, rows: list[dict[str, Any]], spec: Spec) -> list[dict[str, Any]]:
    """Train in this process, or by several that it starts; returns one row of figures per step."""
    from harness.engines import loaded

    loaded.release()
    spec = memory.smaller_training(spec, context.parts)
    policy, save_steps = context.input("policy").model_path, context.params["save_steps"]
    given: dict[str, Any] = {"save_steps": save_steps, "reporter": context.reporter, "label": context.label}
    if context.world.size > 1:
        return launch.train(policy, rows, spec, context.work, context.world, **given)
    from harness.engines import training

    launch.clear(context.work)  # several processes may have begun what one goes on with
    return training.train(policy, rows, spec, context.work, **given)


def _untrained(context: Context, rows: int) -> Outcome:
    """Zero steps: the policy itself, without a copy of its weights."""
    path = context.input("policy").model_path
    # Relative to where the artifact will stand, so that it survives a moved store.
    store = context.store.resolve()
    inside = path.is_relative_to(store)
    pointer = os.path.relpath(path, store / "train" / "here") if inside else str(path)
    (context.work / "model.json").write_text(json.dumps({"path": pointer}))
    tables.write(tables.build(tables.TRAINING, []), context.work / "training.parquet")
    # Untrained policies are one experiment, whatever their rows, seeds and settings.
    content = digest({"untrained": context.input("policy").manifest.content_id})
    return Outcome(rows=Rows(taken=rows, kept=rows), measures={"steps": 0}, content=content)


def _measures(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the first and last step; changes of log-probability are the last batch's, in nats per response."""
    last = history[-1]
    return {
        "steps": last["step"],
        "epochs": last["epoch"],
        "train_loss": last["loss"],
        "first_margin": history[0]["margin"],
        "last_margin": last["margin"],
        **{name: last[name] for name in OF_LAST_STEP},
    }
