"""Change of the log-probability of given responses, from the policy to a model that was trained from it.

Of held-out responses of the untrained policy this shows what training unlearns: how the change goes with their reward.
Of a pool's picks, times beta, it is the model's implicit reward.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from harness import chat, goals, tables
from harness.stages import Context, Outcome
from harness.stages.logprobs import SHARD, LogprobSpec, cut, logps
from harness.store import Rows

VERSION = 1

Shard = list[dict[str, Any]]

_POLICY = pa.schema([tables.CHANGES.field(name) for name in ("prompt_id", "sample_index", "policy_logp")])
"""What is kept of the policy's pass until the other model's."""


@dataclass(frozen=True, kw_only=True)
class Spec(LogprobSpec):
    """What decides the log-probabilities, besides the models and the tokens."""

    samples: int | None
    """The first so many responses to each prompt; None: the picks."""
    asked: goals.Asked | None
    """Goal under which both models are asked: training alone makes the difference."""


def run(context: Context, spec: Spec) -> Outcome:
    """Two forward passes per response; those whose prompt alone fills max_length are dropped and counted.

    All responses pass through the one model before the other is loaded: memory may not hold both.
    """
    given = _responses(context, spec)
    fitting = [cut(r, spec.max_length) for r in given if len(r["prompt_ids"]) < spec.max_length]
    # Similar lengths stand together in a shard, so that its batches hold little padding.
    fitting.sort(key=lambda r: (-len(r["prompt_ids"]) - len(r["response_ids"]), r["prompt_id"], r["sample_index"]))
    shards = [fitting[start : start + SHARD] for start in range(0, max(1, len(fitting)), SHARD)]
    with context.reporter.task(context.label, 2 * len(fitting), "log-probabilities") as task:
        _ask_policy(context, spec, shards, task.advance)
        _ask_model(context, spec, shards, task.advance)
    shutil.rmtree(context.work / "policy", ignore_errors=True)
    dropped = {"prompt_fills_max_length": len(given) - len(fitting)} if len(given) > len(fitting) else {}
    table = tables.read(context.work / "changes", ["policy_logp", "model_logp"])
    change = table.column("model_logp").to_numpy() - table.column("policy_logp").to_numpy()
    return Outcome(
        rows=Rows(taken=len(given), kept=len(fitting), dropped=dropped),
        measures={
            "change": float(np.mean(change)) if len(change) else None,
            "truncated": sum(r["truncated"] for r in fitting),
        },
    )


def _paths(context: Context, table: str, shards: Sequence[Shard]) -> Iterator[tuple[Path, Shard]]:
    folder = context.work / table
    folder.mkdir(exist_ok=True)
    for number, shard in enumerate(shards):
        yield folder / f"{number:05d}.parquet", shard


def _ask_policy(context: Context, spec: Spec, shards: Sequence[Shard], advance: Callable[[int], None]) -> None:
    """The policy's log-probabilities of all shards that neither it nor both models are done with."""
    path = context.input("policy").model_path
    for file, shard in _paths(context, "policy", shards):
        if file.exists() or (context.work / "changes" / file.name).exists():
            advance(len(shard))
            continue
        found = zip(shard, logps(context, spec, shard, path, advance), strict=True)
        rows = [{**{name: r[name] for name in ("prompt_id", "sample_index")}, "policy_logp": p} for r, p in found]
        tables.write(tables.build(_POLICY, rows), file)


def _ask_model(context: Context, spec: Spec, shards: Sequence[Shard], advance: Callable[[int], None]) -> None:
    """The changes of all shards that are not done."""
    policy, model = context.input("policy").model_path, context.input("model").model_path
    for file, shard in _paths(context, "changes", shards):
        if file.exists():
            advance(len(shard))
            continue
        kept = tables.read(context.work / "policy" / file.name).to_pylist()
        before = {(r["prompt_id"], r["sample_index"]): r["policy_logp"] for r in kept}
        asked = [before[r["prompt_id"], r["sample_index"]] for r in shard]
        if policy == model:  # it was trained by no step
            after = asked
            advance(len(shard))
        else:
            after = logps(context, spec, shard, model, advance, policy)
        rows = [
            {
                **{name: row[name] for name in ("prompt_id", "sample_index", "reward", "truncated")},
                "tokens": len(row["response_ids"]),
                "policy_logp": policy_logp,
                "model_logp": model_logp,
            }
            for row, policy_logp, model_logp in zip(shard, asked, after, strict=True)
        ]
        tables.write(tables.build(tables.CHANGES, rows), file)


def _responses(context: Context, spec: Spec) -> list[dict[str, Any]]:
    """The responses with their rewards and their prompts' tokens.

    Raises:
        ValueError: a response without a row in the rewards or the picks, or two.
    """
    prompt_ids: dict[str, list[int]] = {}
    frames = []
    for artifact in context.inputs["responses"]:
        prompt_ids |= {row["prompt_id"]: row["prompt_ids"] for row in artifact.table("prompt_tokens").to_pylist()}
        frames.append(artifact.table("responses", ["prompt_id", "sample_index", "token_ids"]).to_pandas())
    if spec.asked is not None:
        prompt_ids = _asked(context, spec, spec.asked)
    name, table = ("rewards", "rewards") if spec.samples is not None else ("picks", "picks")
    columns = ["prompt_id", "sample_index", "reward"]
    scored = pd.concat([a.table(table, columns).to_pandas() for a in context.inputs[name]]).drop_duplicates()
    responses = pd.concat(frames)
    if spec.samples is not None:
        scored = scored[scored["sample_index"] < spec.samples]
        responses = responses[responses["sample_index"] < spec.samples]
    found = scored.merge(responses, on=columns[:2], how="left" if spec.samples is None else "outer", validate="1:1")
    if found["token_ids"].isna().any():
        raise ValueError(f"{int(found['token_ids'].isna().sum())} {name} have no response")
    return [
        {
            "prompt_id": row.prompt_id,
            "sample_index": int(row.sample_index),
            "reward": float(row.reward),
            "prompt_ids": prompt_ids[row.prompt_id],
            "response_ids": [int(token) for token in row.token_ids],
        }
        for row in found.itertuples(index=False)
    ]


def _asked(context: Context, spec: Spec, asked: goals.Asked) -> dict[str, list[int]]:
    """Token ids of every prompt under the goal."""
    from harness.engines import models

    tokenizer, _ = models.load_tokenizer(context.input("policy").model_path, spec.trust_remote_code)
    placement = chat.place_goal(tokenizer, asked.placement, asked.text)
    prompts = context.input("prompts").table("prompts").to_pylist()
    return {p["prompt_id"]: chat.encode_asked(tokenizer, p["messages"], asked.text, placement) for p in prompts}
