"""What reports have measured of answers, kept beside them: the next one measures only what is new.

It is a copy, and may be deleted at any time. One that cannot be read, is damaged, or was measured by other code counts
as none.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import alike, answer_text, answers, words
from analysis.answers import ANSWERS, Columns, Given
from harness.keys import digest

NAME: Final = ".measured_answers.parquet"
"""In the folder of a report."""

_NUMBERS: Final = tuple(name for name in ANSWERS if name not in ("result", "prompt_id"))
_SCHEMA: Final = pa.schema([("prompt_id", pa.string()), *((name, pa.float64()) for name in _NUMBERS)])
_ROWS: Final = b"rows"
"""Of the metadata: how many rows each model has, in their order."""
_MEASURED_BY: Final = b"measured_by"


def content_of(found: Given) -> str:
    """What the measures of a result's answers depend on: the contents of its artifacts."""
    return digest({name: artifact.manifest.digest if artifact else None for name, artifact in found.items()})


def read_kept(folder: Path) -> dict[str, Columns]:
    """The columns that are kept in a report's folder, by `content_of` what they were measured of."""
    try:
        table = pq.read_table(folder / NAME, partitioning=None, page_checksum_verification=True)
        sizes: dict[str, int] = json.loads(table.schema.metadata[_ROWS])
        usable = table.schema.equals(_SCHEMA) and table.schema.metadata[_MEASURED_BY] == measured_by()
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError):
        return {}
    if not usable or sum(sizes.values()) != table.num_rows:
        return {}
    ids = table["prompt_id"].combine_chunks()
    numbers = {name: table[name].to_numpy() for name in _NUMBERS}
    ends = np.cumsum([*sizes.values()]).tolist()
    return {
        content: _part(ids, numbers, end - size, end) for (content, size), end in zip(sizes.items(), ends, strict=True)
    }


def keep(folder: Path, measured: Mapping[str, Columns]) -> None:
    """Keep columns in a report's folder in place of those that it has; a reader sees the old ones or the new ones."""
    ids = pa.chunked_array([columns["prompt_id"] for columns in measured.values()], pa.string())
    numbers = [np.concatenate([columns[name] for columns in measured.values()]) for name in _NUMBERS]
    sizes = {content: len(columns["prompt_id"]) for content, columns in measured.items()}
    told = {_ROWS: json.dumps(sizes), _MEASURED_BY: measured_by()}
    waiting = folder / f"{NAME}.{os.getpid()}"
    table = pa.table([ids, *numbers], schema=_SCHEMA.with_metadata(told))
    pq.write_table(table, waiting, write_page_checksum=True)
    waiting.replace(folder / NAME)


def measured_by() -> bytes:
    """The code that measures, by its content: what another version has measured is not taken for its own."""
    whole = hashlib.sha256(unicodedata.unidata_version.encode())
    for module in (alike, answer_text, answers, words):
        whole.update(Path(str(module.__file__)).read_bytes())
    return whole.hexdigest().encode()


def _part(ids: pa.Array, numbers: Mapping[str, Any], start: int, end: int) -> Columns:
    return {"prompt_id": ids[start:end], **{name: values[start:end] for name, values in numbers.items()}}
