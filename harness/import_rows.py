"""Rows that a user brings along: read from Parquet, JSON lines or JSON, and checked one by one."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness import prompts, tables
from harness.errors import ConfigError
from harness.keys import canonical_json
from harness.progress import Reporter
from harness.selection import MAX_REWARD

Row = dict[str, Any]

_INT32 = 2**31 - 1
_BATCH = 1024
"""Parquet rows turned into Python at a time."""

_PROMPT = ("prompt", "messages", "prompt_id")
_ATTRIBUTE = "attribute_"

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "responses": ("sample_index", "response", "token_ids", "finish_reason"),
    "rewards": ("sample_index", "reward", "response"),
    "answers": ("answer",),
}
"""Valid columns by kind, besides those that name the prompt and the attributes of a reward."""

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "responses": ("sample_index", "response"),
    "rewards": ("sample_index", "reward"),
    "answers": ("answer",),
}


@dataclass(frozen=True)
class Place:
    """Where a row stands, for errors."""

    file: str
    unit: str
    """`row` or `line`."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"

    def error(self, field: str, expected: str, value: Any) -> ConfigError:
        """What is wrong with one field."""
        try:
            shown = repr(value)
        except RecursionError:
            shown = f"a {type(value).__name__} that is nested too deep"
        return ConfigError(f"{self}, {field}: expected {expected}, got {shown[:80]}{'...' * (len(shown) > 80)}")


def load(kind: str, path: Path, reporter: Reporter) -> list[Row]:
    """The rows of a file, checked and in the order of their ids.

    Raises:
        ConfigError: names file, row and field, and what was expected.
    """
    rows: dict[tuple[str, int], Row] = {}
    places: dict[tuple[str, int], Place] = {}
    source = open_rows(path)
    with reporter.task(f"reading {path.name}", source.total, source.unit) as task:
        for number, given, units in source.rows:
            place = Place(str(path), source.name, number)
            row = check(kind, place, given)
            key = (row["prompt_id"], row.get("sample_index", 0))
            if key in rows:
                what = f"prompt_id {key[0]}" + (f" and sample_index {key[1]}" if "sample_index" in row else "")
                raise ConfigError(f"{place}: the same {what} as in {source.name} {places[key].number}")
            rows[key], places[key] = row, place
            task.advance(units)
    if not rows:
        raise ConfigError(f"{path}: holds no rows")
    return [rows[key] for key in sorted(rows)]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A file that is being read."""

    name: str
    """What one entry is called: `row` or `line`."""
    total: int
    unit: str
    """What is counted for progress: rows or bytes."""
    rows: Iterator[tuple[int, Any, int]]
    """Number from 1, the row, and its units."""


def open_rows(path: Path) -> _Source:
    readers: dict[str, Callable[[Path], _Source]] = {
        ".parquet": _parquet,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path}: unknown kind of file; expected a name that ends in {', '.join(readers)}")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    return reader(path)


def _parquet(path: Path) -> _Source:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: no readable Parquet file: {_first_line(error)}") from None
    twice = [name for name, number in Counter(file.schema_arrow.names).items() if number > 1]
    if twice:
        raise ConfigError(f"{path}, {twice[0]}: two columns have this name")

    def rows() -> Iterator[tuple[int, Any, int]]:
        number = 0
        try:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row, 1
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: two fields of one name in a struct
            raise ConfigError(f"{path}, after row {number}: cannot be read: {_first_line(error)}") from None

    return _Source(name="row", total=file.metadata.num_rows, unit="rows", rows=rows())


def _json_lines(path: Path) -> _Source:
    def rows() -> Iterator[tuple[int, Any, int]]:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parse(line, f"{path}, line {number}"), len(line)

    return _Source(name="line", total=path.stat().st_size, unit="bytes", rows=rows())


def _json(path: Path) -> _Source:
    text = path.read_bytes()
    try:
        rows = _parse(text, str(path))
    except _UnfitError as error:
        raise ConfigError(f"{path}, row {_unfit_row(text.decode())}: {error.why}") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: expected a JSON list of objects (a file of JSON lines is named .jsonl)")
    return _Source(name="row", total=len(rows), unit="rows", rows=((i, row, 1) for i, row in enumerate(rows, 1)))


def _unfit_row(text: str) -> int:
    """The row of a JSON list at which it cannot be taken in."""
    decoder, number, at = json.JSONDecoder(), 0, text.find("[") + 1
    while True:
        number += 1
        start = re.compile(r"[\s,]*").match(text, at)
        assert start is not None
        try:
            _, at = decoder.raw_decode(text, start.end())
        except (ValueError, RecursionError):
            return number


class _UnfitError(ConfigError):
    """Valid JSON that holds what cannot be taken in."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.why = why


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: no UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        hint = " (a file of JSON lines is named .jsonl)" if error.msg == "Extra data" else ""
        raise ConfigError(f"{where}: no valid JSON ({error.msg} in line {error.lineno}){hint}") from None
    except ValueError:
        raise _UnfitError(where, "a number of too many digits") from None
    except RecursionError:
        raise _UnfitError(where, "lists or objects that are nested too deep") from None


def check(kind: str, place: Place, given: Any) -> Row:
    """One row in its canonical form: absent and null are one, and nothing is there that was not checked.

    Raises:
        ConfigError: names the row, the field, and what was expected.
    """
    if not isinstance(given, dict):
        raise ConfigError(f"{place}: expected an object, got {type(given).__name__}")
    if kind == "answers" and "instruction" in given:
        given = _of_alpaca_eval(given, place)
    _check_columns(kind, place, given)
    row: Row = {"prompt_id": _prompt_id(given, place)}
    return row | _CHECKS[kind](given, place)


def _of_alpaca_eval(given: Row, place: Place) -> Row:
    """A row of alpaca_eval's model_outputs, whose further fields say nothing about the answer."""
    if "output" not in given:
        raise ConfigError(f"{place}, output: missing (a row with 'instruction' is one of alpaca_eval's model_outputs)")
    return {"prompt": given["instruction"], "answer": given["output"]}


def _check_columns(kind: str, place: Place, given: Row) -> None:
    valid = (*_PROMPT, *COLUMNS[kind])
    attribute = re.compile(rf"{_ATTRIBUTE}\w+")
    for name in given:
        if name not in valid and not (kind == "rewards" and attribute.fullmatch(str(name))):
            more = f", {_ATTRIBUTE}<name>" if kind == "rewards" else ""
            also = "; or alpaca_eval's instruction and output" if kind == "answers" else ""
            raise ConfigError(f"{place}, {name}: unknown column; valid are {', '.join(valid)}{more}{also}")
    for name in _REQUIRED[kind]:
        if name not in given:
            raise ConfigError(f"{place}, {name}: missing")


def _prompt_id(given: Row, place: Place) -> str:
    """The prompt's id, out of the prompt itself where it is there; an id beside it must agree."""
    text, messages, name = (given.get(column) for column in _PROMPT)
    if text is None and messages is None and name is None:
        raise ConfigError(f"{place}: no prompt; expected one of {', '.join(_PROMPT)}")
    if text is not None and messages is not None:
        raise ConfigError(f"{place}: 'prompt' and 'messages' are both there; expected one of them")
    if name is not None and not (isinstance(name, str) and re.fullmatch(r"[0-9a-f]{16}", name)):
        raise place.error("prompt_id", "16 hex digits", name)
    if text is None and messages is None:
        assert isinstance(name, str)
        return name
    if text is not None:
        messages = [{"role": "user", "content": _text(text, "prompt", place)}]
    found = prompts.prompt_id(messages, str(place))
    if name is not None and name != found:
        raise ConfigError(
            f"{place}, prompt_id: {name} is not the id of this row's "
            f"{'messages' if text is None else 'prompt'}, which is {found}"
        )
    return found


def _response(given: Row, place: Place) -> Row:
    finish = given.get("finish_reason")
    finish = "stop" if finish is None else finish
    if finish not in ("stop", "length"):
        raise place.error("finish_reason", "stop or length", finish)
    row = {
        "sample_index": _index(given["sample_index"], "sample_index", place),
        "text": _text(given["response"], "response", place),
        "token_ids": _token_ids(given.get("token_ids"), place),
        "finish_reason": finish,
    }
    if not row["text"] and row["token_ids"] is None and finish == "length":
        raise ConfigError(f"{place}, response: empty, and cut by its length; expected text, or finish_reason stop")
    return row


def _reward(given: Row, place: Place) -> Row:
    reward = number_or_none(given["reward"], "reward", place)
    if reward is not None and math.isfinite(reward) and abs(reward) > MAX_REWARD:
        raise place.error("reward", f"at most {MAX_REWARD:g} either way, to be standardised", reward)
    response = given.get("response")
    attributes = {name: number_or_none(given[name], name, place) for name in given if name.startswith(_ATTRIBUTE)}
    return {
        "sample_index": _index(given["sample_index"], "sample_index", place),
        "response": None if response is None else _text(response, "response", place),
        "reward": reward,
        **{name: value for name, value in attributes.items() if value is not None},
    }


def _answer(given: Row, place: Place) -> Row:
    return {"answer": _text(given["answer"], "answer", place)}


_CHECKS: Mapping[str, Callable[[Row, Place], Row]] = {"responses": _response, "rewards": _reward, "answers": _answer}


def _text(value: Any, field: str, place: Place) -> str:
    if not isinstance(value, str):
        raise place.error(field, "text", value)
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise place.error(field, "text without half a surrogate pair", value)
    return value


def _index(value: Any, field: str, place: Place) -> int:
    if type(value) is not int or not 0 <= value <= _INT32:
        raise place.error(field, "an integer from 0", value)
    return value


def number_or_none(value: Any, field: str, place: Place) -> float | None:
    """A number; None and NaN alike are none."""
    if value is None:
        return None
    if type(value) not in (int, float):
        raise place.error(field, "a number or null", value)
    try:
        number = float(value)
    except OverflowError:
        raise place.error(field, "a number that fits 64 bits", value) from None
    return None if math.isnan(number) else number


def _token_ids(value: Any, place: Place) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise place.error("token_ids", "a list of token ids that is not empty", value)
    return [_index(i, f"token_ids[{at}]", place) for at, i in enumerate(value)]


def content(rows: Sequence[Row]) -> str:
    """Hash of checked rows in their order; the same for every kind of file that holds them."""
    hashed = hashlib.sha256()
    for row in rows:
        known = {name: _finite(value) for name, value in row.items() if value is not None}
        hashed.update(canonical_json(known).encode() + b"\n")
    return hashed.hexdigest()[:16]


def _finite(value: Any) -> Any:
    """An infinite number has no form in JSON."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def table(kind: str, rows: Sequence[Row]) -> Any:
    """Checked rows as a table."""
    if kind != "rewards":
        return tables.build(tables.IMPORTED_RESPONSES if kind == "responses" else tables.IMPORTED_ANSWERS, rows)
    attributes = attribute_names(rows)
    schema = tables.imported_rewards_schema(attributes)
    return tables.build(schema, [{name: row.get(name) for name in schema.names} for row in rows])


def attribute_names(rows: Sequence[Row]) -> list[str]:
    """Attributes that any reward has, without their prefix."""
    found = {name for row in rows for name in row if name.startswith(_ATTRIBUTE)}
    return sorted(name.removeprefix(_ATTRIBUTE) for name in found)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
