"""The words of many texts as numbers, so that what is counted of them is counted in arrays."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Integers = npt.NDArray[np.int64]

_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
"""A word; where a script leaves no blanks between words (Chinese, Japanese), each character."""

_LETTERS: Final = np.array([chr(byte).isalnum() if byte < 128 else True for byte in range(256)])
"""By byte of UTF-8: whether it is of a word, in a text of ASCII or of words apart by blanks."""

_LOWER: Final = np.frombuffer(bytes(range(256)).lower(), dtype=np.uint8)

_LARGEST: Final = 2**62


@dataclass(frozen=True, kw_only=True)
class Words:
    """The words of several texts in their order: in lower case, without punctuation."""

    codes: Integers
    """[words]: equal for equal words, from 0."""
    rows: Integers
    """[words]: the text of each, ascending."""
    sizes: Integers
    """[texts]: how many each has."""
    distinct: int
    """Different words."""


def words_of(texts: Sequence[str]) -> Words:
    """The words of each of the texts."""
    # A text of ASCII is split as bytes below; of any other its words are put there, apart by blanks.
    given = [text if text.isascii() else " ".join(_WORD.findall(text.casefold())) for text in texts]
    encoded = [text.encode() for text in given]
    ends = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
    data = np.frombuffer(b" ".join([*encoded, b""]), dtype=np.uint8)
    letter = _LETTERS[data]
    edges = np.flatnonzero(np.diff(letter, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
    found = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(_LOWER[data[letter]])]
    ).dictionary_encode()
    rows = np.searchsorted(ends, starts, side="right")
    return Words(
        codes=found.indices.to_numpy().astype(np.int64),
        rows=rows,
        sizes=np.bincount(rows, minlength=len(texts)),
        distinct=len(found.dictionary),
    )


def joined(first: Integers, second: Integers, distinct: int) -> tuple[Integers, int]:
    """One number for each pair of numbers, those of `second` below `distinct`, and a bound that all are below."""
    highest = int(first.max(initial=0)) + 1
    if highest * distinct > _LARGEST:
        first, values = pd.factorize(first)
        highest = len(values)
    return first * distinct + second, highest * distinct
