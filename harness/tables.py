"""The schemas of every table in the store, in one place, and how tables are written and read."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_ROWS = 512
SHARD_SECONDS = 30.0
"""Rows, and time, after which what comes bit by bit is written."""

_THREADED = 4 * 2**20
"""Bytes of a file above which several threads read it."""

PART_ROWS = 8192
"""Rows of a table that are looked at together where the whole may not fit into memory."""

_REPEATED = ["prompt_id", "position", "finish_reason", "kind", "note", "dropped", "failure", "task", "metric", "filter"]
"""Columns whose values repeat. A dictionary of texts or token ids takes three times as long to write, and more room."""

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
PAIRS_OF_ROUND = pa.schema([*PAIRS, ("initial_chosen_logp", pa.float64()), ("initial_rejected_logp", pa.float64())])
"""Where the reference is not the policy that training starts from, with that policy's log-probabilities, too."""
_GOAL = (("goal", pa.list_(pa.float64())), ("goal_text", pa.string()), ("order", pa.string()))
RELABELLED = pa.schema(
    [
        _ID,
        *_GOAL,
        ("prompt_ids", _TOKENS),
        ("chosen_index", pa.int32()),
        ("rejected_index", pa.int32()),
        ("rejected_goal", pa.list_(pa.float64())),
    ]
)
GOAL_REFERENCE = REFERENCE.append(pa.field("goal_text", pa.string()))
GOAL_PAIRS = pa.schema([*PAIRS, *map(pa.field, *zip(*_GOAL, strict=True))])
CHANGES = pa.schema(
    [
        _ID,
        _SAMPLE,
        ("reward", pa.float64()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("policy_logp", pa.float64()),
        ("model_logp", pa.float64()),
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
                "preference_loss",
                "regulariser",
                "margin",
                "accuracy",
                "chosen_reward",
                "rejected_reward",
                "chosen_logp",
                "rejected_logp",
                "chosen_logp_change",
                "rejected_logp_change",
                "chosen_logp_change_per_token",
                "rejected_logp_change_per_token",
                "learning_rate",
                "grad_norm",
            )
        ),
    ]
)
CONVERSATIONS = pa.schema([("conversation_id", pa.string()), ("source_id", pa.string()), PROMPTS.field("messages")])
TURN_TOKENS = pa.schema([("input_ids", _TOKENS), ("labels", _TOKENS)])
"""Conversations as a trainer takes them: tokens, and those that are learnt, with -100 in place of the others."""
SFT_TRAINING = pa.schema(
    [
        ("step", pa.int32()),
        *((name, pa.float64()) for name in ("epoch", "loss", "accuracy", "tokens", "learning_rate", "grad_norm")),
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
DRAWN = pa.schema([_ID, ("token_ids", _TOKENS), ("finish_reason", pa.string())])
VERDICTS = pa.schema(
    [
        _ID,
        ("index", pa.int32()),
        ("preference_first", pa.float64()),
        ("preference_second", pa.float64()),
        ("preference", pa.float64()),
        ("same_text", pa.bool_()),
        ("failure", pa.string()),
        ("len_model", pa.int32()),
        ("len_reference", pa.int32()),
    ]
)
JUDGEMENTS = pa.schema(
    [
        _ID,
        ("index", pa.int32()),
        ("reference_first", pa.bool_()),
        ("preference", pa.float64()),
        ("answer", pa.string()),
        ("logprobs", pa.list_(pa.struct([("token", pa.string()), ("logprob", pa.float64())]))),
        ("failure", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
    ]
)
COMPARED = pa.schema([_ID, ("preference", pa.float64())])
RANKS = pa.schema(
    [
        _ID,
        ("responses", pa.int32()),
        ("comparisons", pa.int32()),
        ("identical", pa.int32()),
        ("failed", pa.int32()),
        ("ties", pa.int32()),
        ("disagreements", pa.int32()),
        ("cyclic_triples", pa.int32()),
        ("decided_triples", pa.int32()),
        ("kendall", pa.float64()),
        ("dropped", pa.string()),
    ]
)
COMPARISONS = pa.schema(
    [
        _ID,
        ("first_index", pa.int32()),
        ("second_index", pa.int32()),
        ("preference_first", pa.float64()),
        ("preference_second", pa.float64()),
        ("verdict", pa.int32()),
        ("same_text", pa.bool_()),
        ("known", pa.bool_()),
        ("failure", pa.string()),
    ]
)
KNOWN_VERDICTS = pa.schema([_ID, ("first", pa.string()), ("second", pa.string()), ("preference", pa.float64())])
VOTES = pa.schema(
    [
        _ID,
        ("on_policy_index", pa.int32()),
        ("static_index", pa.int32()),
        ("preference_first", pa.float64()),
        ("preference_second", pa.float64()),
        ("vote", pa.float64()),
        ("same_text", pa.bool_()),
        ("failure", pa.string()),
    ]
)
CANDIDATE_SETS = pa.schema(
    [
        _ID,
        ("responses", pa.int32()),
        *((name, pa.float64()) for name in ("distinct_1", "distinct_2", "distinct_3", "spread", "words", "reward")),
    ]
)
SOURCES = pa.schema([_ID, ("source", pa.string()), ("dropped", pa.string())])
MODEL_VALUES = pa.schema([("value", pa.float64()), ("note", pa.string())])

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


def candidates_schema(attributes: Sequence[str]) -> pa.Schema:
    """Schema of static candidates: their text, and the scores that the data come with."""
    return rewards_schema(attributes).insert(2, pa.field("text", pa.string()))


def rewards_schema(attributes: Sequence[str]) -> pa.Schema:
    """Schema of a reward table: the scalar and one column for each attribute."""
    return pa.schema([_ID, _SAMPLE, ("reward", pa.float64()), *((f"attribute_{a}", pa.float64()) for a in attributes)])


def model_rewards_schema(attributes: Sequence[str]) -> pa.Schema:
    """Schema of a reward model's rewards, with what there is to say of one: why it is none, or that texts were cut."""
    return rewards_schema(attributes).append(pa.field("note", pa.string()))


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
        pq.write_table(table, file, compression="zstd", use_dictionary=_REPEATED)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Shards:
    """Writes rows as they come, in shards of some rows or some seconds; those of an interrupted run stay."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder, self._schema = folder, schema
        self._number = len(list(folder.glob("*.parquet")))
        self._waiting: list[dict[str, Any]] = []
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()  # after an error, too: what is here is whole

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows that belong together: they come into one shard."""
        self._waiting += rows
        if len(self._waiting) >= SHARD_ROWS or time.monotonic() - self._written >= SHARD_SECONDS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            write(build(self._schema, self._waiting), self._folder / f"{self._number:05d}.parquet")
            self._number += 1
        self._waiting, self._written = [], time.monotonic()


def written(folder: Path, column: str) -> set[Any]:
    """Values of a column in the shards that a folder holds."""
    files = sorted(folder.glob("*.parquet"))
    return {v for f in files for v in pq.read_table(f, columns=[column], partitioning=None).column(0).to_pylist()}


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table: one file, or a folder of shards in the order of their names."""
    files = _files(path)
    # Half the time of `read_table`, which looks for a data set first: a sweep has thousands of small files.
    return pa.concat_tables([_read(file, columns) for file in files])


def _read(file: Path, columns: Sequence[str] | None) -> pa.Table:
    """One file; threads cost more than they save where it is small."""
    return pq.ParquetFile(file).read(columns=columns, use_threads=file.stat().st_size > _THREADED)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def count(path: Path) -> int:
    """Rows of a table, without reading it."""
    return sum(pq.ParquetFile(file).metadata.num_rows for file in _files(path))


def parts(path: Path, columns: Sequence[str], size: int = PART_ROWS) -> Iterator[pa.Table]:
    """A table in parts of at most `size` rows, in their order, without holding it in memory; no part of no rows."""
    for file in _files(path):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=size, columns=list(columns)):
            yield pa.Table.from_batches([batch])


def joined(found: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables as one, each column in one piece, out of which rows can be taken anywhere at their own cost.

    Text and lists get 64-bit offsets: those of a whole sweep's picks may be more than 2 GB.
    """
    large = pa.schema([(field.name, _large(field.type)) for field in schema])
    return pa.concat_tables(
        [large.empty_table(), *(table.select(schema.names).cast(large) for table in found)]
    ).combine_chunks()


class Keyed:
    """Rows of a table by some of their columns; only those that are asked for become Python objects.

    As lists, token ids take ten times the room that they take in a table: those of a whole sweep's picks would not
    fit into memory.
    """

    def __init__(self, table: pa.Table, keys: Sequence[str]) -> None:
        """Of rows of equal keys the last one counts."""
        self._table = joined([table], table.schema)
        columns = [table.column(name).to_pylist() for name in keys]
        self._row = {key: row for row, key in enumerate(zip(*columns, strict=True))}

    def get(self, key: tuple[Any, ...]) -> dict[str, Any] | None:
        """The row of these values; None where there is none."""
        if (row := self._row.get(key)) is None:
            return None
        found: dict[str, Any] = self._table.slice(row, 1).to_pylist()[0]
        return found


def _large(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind):
        return pa.large_string()
    return pa.large_list(kind.value_type) if pa.types.is_list(kind) else kind


def batches(path: Path, columns: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of a table in their order, `size` at a time, without holding the table in memory."""
    rows: list[dict[str, Any]] = []
    for file in _files(path):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=size, columns=list(columns)):
            rows += batch.to_pylist()
            while len(rows) >= size:
                yield rows[:size]
                rows = rows[size:]
    if rows:
        yield rows
