"""Log-probability under the reference policy of every distinct pick, each computed once under each of its prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness import tables
from harness.stages import Context, Outcome
from harness.stages.logprobs import SHARD, LogprobSpec, cut, logps
from harness.store import Rows

VERSION = 1

_RESPONSES = pa.schema(
    [tables.RESPONSES.field(name) for name in ("prompt_id", "sample_index", "text", "token_ids", "finish_reason")]
)


@dataclass(frozen=True, kw_only=True)
class Spec(LogprobSpec):
    """What decides a reference log-probability, besides the model and the tokens."""


def run(context: Context, spec: Spec) -> Outcome:
    """One forward pass per distinct pick; picks whose prompt alone fills max_length are dropped and counted."""
    goals = "relabelled" in context.inputs
    found = _under_goals(context) if goals else _distinct_picks(context)
    prompt, response = (pc.list_value_length(found.column(c)).to_numpy() for c in ("prompt_ids", "response_ids"))
    room = spec.max_length - prompt
    kept = np.minimum(response, room)
    fitting = np.flatnonzero(room > 0)
    # Similar lengths stand together in a shard, so that its batches hold little padding.
    ids = found.column("prompt_id").to_numpy()
    order = np.lexsort((found.column("sample_index").to_numpy(), pd.factorize(ids, sort=True)[0], -(prompt + kept)))
    order = order[room[order] > 0]
    folder = context.work / "reference"
    folder.mkdir(exist_ok=True)
    with context.reporter.task(context.label, len(fitting), "log-probabilities") as task:
        for number, start in enumerate(range(0, max(1, len(fitting)), SHARD)):
            path, places = folder / f"{number:05d}.parquet", order[start : start + SHARD]
            if path.exists():
                task.advance(len(places))
            else:
                shard = [cut(row, spec.max_length) for row in found.take(places).to_pylist()]
                _fill(context, spec, shard, task.advance)
                schema = tables.GOAL_REFERENCE if goals else tables.REFERENCE
                tables.write(tables.build(schema, shard), path)
    policy = context.input("policy").manifest
    dropped = {"prompt_fills_max_length": len(found) - len(fitting)} if len(found) > len(fitting) else {}
    return Outcome(
        rows=Rows(taken=len(found), kept=len(fitting), dropped=dropped),
        measures={
            "truncated": int((response > room)[fitting].sum()),
            # A trained policy may be equal to another, and log-probabilities under both are.
            **({"policy": [policy.content_id]} if policy.content_id != policy.key else {}),
        },
    )


def _under_goals(context: Context) -> pa.Table:
    """Both responses of every relabelled pair, with the prompt's tokens under its goal, in the order of the rows."""
    relabelled = context.input("relabelled").table("relabelled").to_pylist()
    sides = [(r, r[f"{side}_index"]) for r in relabelled for side in ("chosen", "rejected")]
    keys = list(dict.fromkeys((r["prompt_id"], index) for r, index in sides))
    found = _responses(context, pd.DataFrame(keys, columns=["prompt_id", "sample_index"]))
    ids = zip(found.column("prompt_id").to_pylist(), found.column("sample_index").to_pylist(), strict=True)
    place = {response: row for row, response in enumerate(ids)}
    taken = found.take(np.array([place[r["prompt_id"], index] for r, index in sides], dtype=np.int64))
    prompts = pa.array([r["prompt_ids"] for r, _ in sides], pa.large_list(pa.int32()))
    goals = pa.array([r["goal_text"] for r, _ in sides], pa.large_string())
    return taken.append_column("prompt_ids", prompts).append_column("goal_text", goals)


def _distinct_picks(context: Context) -> pa.Table:
    """Responses that some position picked, with their prompts' tokens."""
    picks = context.input("picks").table("picks", ["prompt_id", "sample_index"]).to_pandas()
    found = _responses(context, picks)
    tokens: list[pa.Table] = []
    seen: set[str] = set()
    for artifact in context.inputs["responses"]:
        given = artifact.table("prompt_tokens")
        ids = given.column("prompt_id").to_pylist()
        tokens.append(given.filter(np.array([i not in seen for i in ids], dtype=bool)))
        seen.update(ids)
    prompts = tables.joined(tokens, tables.PROMPT_TOKENS)
    place = {prompt_id: i for i, prompt_id in enumerate(prompts.column("prompt_id").to_pylist())}
    rows = np.array([place[i] for i in found.column("prompt_id").to_pylist()], dtype=np.int64)
    return found.append_column("prompt_ids", prompts.column("prompt_ids").take(rows))


def _responses(context: Context, keys: pd.DataFrame) -> pa.Table:
    """Responses of these `prompt_id` and `sample_index`, each once; checked to be complete.

    The pool is read in parts, of which only these are kept: at most seven of a prompt's hundreds of responses.
    """
    prompts = pd.Index(np.sort(keys["prompt_id"].unique().astype(object)))
    width = int(keys["sample_index"].max()) + 1 if len(keys) else 0
    wanted = np.zeros((len(prompts), width), dtype=bool)
    wanted[prompts.get_indexer(keys["prompt_id"]), keys["sample_index"]] = True
    found = [
        part.filter(_among(wanted, prompts, part))
        for artifact in context.inputs["responses"]
        for part in tables.parts(artifact.table_path("responses"), _RESPONSES.names)
    ]
    table = tables.joined(found, _RESPONSES).rename_columns({"token_ids": "response_ids"})
    distinct = table.select(["prompt_id", "sample_index"]).group_by(["prompt_id", "sample_index"]).aggregate([])
    if len(table) != wanted.sum() or len(distinct) != len(table):
        raise ValueError(f"{wanted.sum()} picks, but {len(table)} responses for them")
    return table


def _among(wanted: npt.NDArray[np.bool_], prompts: pd.Index, part: pa.Table) -> npt.NDArray[np.bool_]:
    """Which responses are picks, [responses]."""
    row = prompts.get_indexer(part.column("prompt_id").to_numpy())
    column = part.column("sample_index").to_numpy()
    known: npt.NDArray[np.bool_] = (row >= 0) & (column < wanted.shape[1])
    known[known] = wanted[row[known], column[known]]
    return known


def _fill(context: Context, spec: Spec, shard: list[dict[str, Any]], advance: Callable[[int], None]) -> None:
    """Compute `logp` of each row in place."""
    found = logps(context, spec, shard, context.input("policy").model_path, advance)
    for row, logp in zip(shard, found, strict=True):
        row["logp"] = logp
