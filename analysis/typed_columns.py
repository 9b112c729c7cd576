"""Columns of a frame in Parquet and back, every value and type as it was.

A column of one kind of value is of Parquet's own type. One that holds several, as a setting does that is a number in
one cell and a word in another, is JSON text.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

PLAIN: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "bool")
"""Data types of pandas that Parquet has, too."""

TEXT: Final = "str"
OBJECT: Final = "object"
JSON: Final = "json"


def encode(column: "pd.Series[Any]") -> tuple[pa.Array, dict[str, str]]:
    """The column as Parquet holds it, and what `decode` needs to know: `pandas` (its data type), `parquet`.

    NaN and None are null. Raises TypeError for a data type, or a value, that no frame has.
    """
    name = str(column.dtype)
    if name in PLAIN:
        values = pa.array(column.to_numpy(), from_pandas=True)
        return values, {"pandas": name, "parquet": str(values.type)}
    if name not in (TEXT, OBJECT):
        raise TypeError(f"column {column.name}: no way to keep a {name}")
    given = [None if isinstance(v, float) else v for v in column] if name == TEXT else [_plain(v) for v in column]
    try:
        values = pa.array(given, pa.string() if name == TEXT else None)
        if name == TEXT or (_is_parquets(values.type) and json.dumps(values.to_pylist()) == json.dumps(given)):
            return values, {"pandas": name, "parquet": str(values.type)}
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError, OverflowError):
        pass  # of several kinds, or text that UTF-8 cannot hold
    # In JSON values are equal only if their types are.
    return pa.array([json.dumps(value) for value in given], pa.string()), {"pandas": name, "parquet": JSON}


def decode(values: pa.ChunkedArray, said: Mapping[str, str]) -> "pd.Series[Any]":
    """The column that `encode` was given."""
    found: Any = values.to_pylist() if said["pandas"] == OBJECT or said["parquet"] == JSON else values.to_pandas()
    if said["parquet"] == JSON:
        found = [json.loads(text) for text in found]
    column: pd.Series[Any] = pd.Series(found, dtype=_known(said["pandas"]))
    return column


def _known(name: str) -> Any:
    """A data type of this version of pandas; before its third, text was objects."""
    return OBJECT if name == TEXT and pd.Series(["a"]).dtype == OBJECT else name


def _is_parquets(kind: pa.DataType) -> bool:
    """Whether Parquet has a type: it has no record without fields."""
    if pa.types.is_struct(kind):
        return bool(kind.num_fields) and all(_is_parquets(field.type) for field in kind)
    return _is_parquets(kind.value_type) if pa.types.is_list(kind) else True


def _plain(value: Any) -> Any:
    """A value as JSON and Parquet know it, NumPy's kinds among them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
