"""A base model fine-tuned on conversations: the policy of everything that follows."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness import chat, memory, tables
from harness.errors import ConfigError
from harness.ranks import launch
from harness.sft import SftConfig, template_text
from harness.stages import Context, Outcome
from harness.store import Rows
from harness.training_spec import TrainingSpec, shared_settings

VERSION = 1

NO_TOKEN = "no_token_to_learn"  # noqa: S105 (a reason)
"""Why a conversation is dropped none of whose tokens that would be learnt is left within the length."""
REFUSED = "refused_by_template"
"""Why a conversation is dropped for which the chat template raises an error, such as for a system message."""

_SHARD = 4096
"""Conversations that are tokenised between two writes."""


@dataclass(frozen=True, kw_only=True)
class Spec(TrainingSpec):
    """Everything that decides the fine-tuned weights, besides base model and conversations."""

    chat_template: str | None
    """The template itself, without a beginning-of-sequence token; None: the model's own."""
    loss_on: str
    packing: bool
    micro_batch: int
    gradient_checkpointing: bool
    weights_dtype: str = "float32"


def spec_of(settings: SftConfig, trust_remote_code: bool) -> Spec:
    """What of the settings decides the weights."""
    return Spec(
        chat_template=template_text(settings.chat_template),
        loss_on=settings.loss_on,
        packing=settings.packing,
        micro_batch=settings.micro_batch,
        gradient_checkpointing=settings.gradient_checkpointing,
        trust_remote_code=trust_remote_code,
        **shared_settings(settings),
    )


def run(context: Context, spec: Spec) -> Outcome:
    """Fine-tune from the last whole checkpoint, or from the start; keep weights and one row of figures per step.

    Raises:
        ConfigError: a context shorter than the sequences, a template that does not fit, or nothing left to learn.
    """
    from harness.engines import loaded, models

    loaded.release()
    base = context.input("policy")
    if spec.max_length > base.manifest.measures["context"]:
        raise ConfigError(
            f"sft.max_length: {spec.max_length} is more than the context of {context.params['name']}, which is "
            f"{base.manifest.measures['context']}"
        )
    counts = _tokenise(context, spec)
    taken, kept = context.input("conversations").manifest.rows["kept"], counts["kept"]
    if not kept:
        raise ConfigError(f"sft: none of {taken} conversations is left to learn from ({counts['dropped']})")
    history = _train(context, spec)
    tables.write(tables.build(tables.SFT_TRAINING, history), context.work / "training.parquet")
    (context.work / "model.json").write_text(json.dumps({"path": "weights"}))
    for leftover in ("tokens", "tokens.json"):
        path = context.work / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    measures = models.inspect(context.work / "weights", spec.trust_remote_code, context.params["name"])
    return Outcome(
        rows=Rows(taken=taken, kept=kept, dropped=counts["dropped"]),
        measures={**measures, **counts["measures"], **_measures(history)},
    )


def _train(context: Context, spec: Spec) -> list[dict[str, Any]]:
    """Train in this process, or by several that it starts; returns one row of figures per step."""
    spec = replace(spec, micro_batch=memory.divisor(spec.micro_batch, context.parts))
    policy, rows = context.input("policy").model_path, tables.read(context.work / "tokens")
    given: dict[str, Any] = {
        "save_steps": context.params["save_steps"],
        "reporter": context.reporter,
        "label": context.label,
    }
    if context.world.size > 1:
        return launch.train(policy, rows, spec, context.work, context.world, stage="sft", **given)
    from harness.engines import finetuning

    launch.clear(context.work)  # several processes may have begun what one goes on with
    return finetuning.train(policy, rows, spec, context.work, **given)


def _tokenise(context: Context, spec: Spec) -> Mapping[str, Any]:
    """Write the conversations as tokens into the work in hand, where a run that goes on finds them; returns counts."""
    noted = context.work / "tokens.json"
    if noted.exists():
        found: dict[str, Any] = json.loads(noted.read_text())
        return found
    from harness.engines import finetuning

    folder = context.work / "tokens"
    shutil.rmtree(folder, ignore_errors=True)  # of an interrupted run
    folder.mkdir()
    tokenizer, end = finetuning.prepared_tokenizer(context.input("policy").model_path, spec)
    data = context.input("conversations")
    dropped: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    written = 0
    with context.reporter.task(context.label, data.manifest.rows["kept"], "conversations") as task:
        for shard in _shards(data):
            rows = []
            for messages in shard:
                row = _row(tokenizer, messages, end, spec, sums)
                if isinstance(row, str):
                    dropped[row] += 1
                else:
                    rows.append(row)
            if rows:
                tables.write(tables.build(tables.TURN_TOKENS, rows), folder / f"{written:09d}.parquet")
            written += len(rows)
            task.advance(len(shard))
    names = ("truncated", "tokens", "learnt_tokens")
    counts = {"kept": written, "dropped": dict(dropped), "measures": {name: sums[name] for name in names}}
    partial = noted.with_name("tokens.json.partial")
    partial.write_text(json.dumps(counts))
    partial.replace(noted)
    return counts


def _shards(data: Any) -> Iterator[list[Any]]:
    for rows in tables.batches(data.table_path("conversations"), ["messages"], _SHARD):
        yield [row["messages"] for row in rows]


def _row(
    tokenizer: Any, messages: list[dict[str, str]], end: int, spec: Spec, sums: Counter[str]
) -> dict[str, list[int]] | str:
    """Tokens of a conversation and what is learnt of them, or why it is dropped."""
    from jinja2.exceptions import TemplateError

    try:
        ids, own = chat.encode_turns(tokenizer, messages, end)
    except TemplateError:
        return REFUSED
    truncated = len(ids) > spec.max_length
    ids, own = ids[: spec.max_length], own[: spec.max_length]
    learnt = [True] * len(ids) if spec.loss_on == "all" else own
    # Nothing predicts the first token.
    if not any(learnt[1:]):
        return NO_TOKEN
    sums.update(truncated=truncated, tokens=len(ids), learnt_tokens=sum(learnt[1:]))
    return {"input_ids": ids, "labels": [i if yes else -100 for i, yes in zip(ids, learnt, strict=True)]}


def _measures(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the first and last step; losses are nats per token that is learnt."""
    last = history[-1]
    return {
        "steps": last["step"],
        "epochs": last["epoch"],
        "first_loss": history[0]["loss"],
        "train_loss": last["loss"],
    }
