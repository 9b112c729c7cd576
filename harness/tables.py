"""The schemas of every table in the store, in one place, and how tables are written and read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_TOKENS = pa.list_(pa.int32())
_ID = ("prompt_id", pa.string())
_SAMPLE = ("sample_index", pa.int32())

PROMPTS = pa.schema(
    [
        _ID,
        ("source_id", pa.string()),
        ("kind", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("answer", pa.string()),
    ]
)
PROMPT_TOKENS = pa.schema([_ID, ("prompt_ids", _TOKENS)])
RESPONSES = pa.schema(
    [
        _ID,
        _SAMPLE,
        ("text", pa.string()),
        ("token_ids", _TOKENS),
        ("tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("logp", pa.float64()),
    ]
)
PICKS = pa.schema([_ID, ("position", pa.string()), _SAMPLE, ("reward", pa.float64()), ("z", pa.float64())])
SPREADS = pa.schema(
    [_ID, ("valid", pa.int32()), ("mu", pa.float64()), ("sigma", pa.float64()), ("dropped", pa.string())]
)
REFERENCE = pa.schema(
    [
        _ID,
        _SAMPLE,
        ("text", pa.string()),
        ("prompt_ids", _TOKENS),
        ("response_ids", _TOKENS),
        ("finish_reason", pa.string()),
        ("truncated", pa.bool_()),
        ("logp", pa.float64()),
    ]
)
_SIDE = (("index", pa.int32()), ("text", pa.string()), ("ids", _TOKENS), ("reward", pa.float64()), ("z", pa.float64()))
PAIRS = pa.schema(
    [
        _ID,
        ("prompt_ids", _TOKENS),
        *((f"{side}_{name}", kind) for side in ("chosen", "rejected") for name, kind in _SIDE),
        ("ref_chosen_logp", pa.float64()),
        ("ref_rejected_logp", pa.float64()),
    ]
)
TRAINING = pa.schema(
    [
        ("step", pa.int32()),
        *(
            (name, pa.float64())
            for name in (
                "epoch",
                "loss",
                "margin",
                "accuracy",
                "chosen_reward",
                "rejected_reward",
                "chosen_logp",
                "rejected_logp",
                "learning_rate",
                "grad_norm",
            )
        ),
    ]
)
ANSWERS = pa.schema(
    [
        _ID,
        ("instruction", pa.string()),
        ("text", pa.string()),
        ("token_ids", _TOKENS),
        ("tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("kl", pa.float64()),
    ]
)
VERDICTS = pa.schema(
    [
        _ID,
        ("index", pa.int32()),
        ("preference_first", pa.float64()),
        ("preference_second", pa.float64()),
        ("preference", pa.float64()),
        ("same_text", pa.bool_()),
    ]
)


_TASK = (("task", pa.string()), ("metric", pa.string()), ("filter", pa.string()), ("value", pa.float64()))
LM_EVAL_SCORES = pa.schema(
    [
        *_TASK,
        ("stderr", pa.float64()),
        ("higher_is_better", pa.bool_()),
        ("shots", pa.int32()),
        ("version", pa.string()),
    ]
)
LM_EVAL_QUESTIONS = pa.schema([*_TASK, ("question", pa.int32()), ("hash", pa.string())])

IMPORTED_RESPONSES = pa.schema(
    [_ID, _SAMPLE, ("text", pa.string()), ("token_ids", _TOKENS), ("finish_reason", pa.string())]
)
IMPORTED_ANSWERS = pa.schema([_ID, ("answer", pa.string())])
IMPORTED_PROMPTS = pa.schema([_ID, ("rows", pa.int32())])


def imported_rewards_schema(attributes: Sequence[str]) -> pa.Schema:
    """Schema of imported rewards, which may carry the text that they score."""
    return rewards_schema(attributes).insert(2, pa.field("response", pa.string()))


def rewards_schema(attributes: Sequence[str]) -> pa.Schema:
    """Schema of a reward table: the scalar and one column for each attribute."""
    return pa.schema([_ID, _SAMPLE, ("reward", pa.float64()), *((f"attribute_{a}", pa.float64()) for a in attributes)])


def build(schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """A table out of rows; a row with a missing or unknown column is an error."""
    names = set(schema.names)
    for row in rows:
        if set(row) != names:
            raise ValueError(f"row has columns {sorted(row)}, expected {sorted(names)}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """Write one Parquet file (zstd) so that it is either absent or whole."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table: one file, or a folder of shards in the order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return pa.concat_tables([pq.read_table(file, columns=columns, partitioning=None) for file in files])
