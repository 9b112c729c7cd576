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

_LETTERS: Final = bytes(byte if byte > 127 or chr(byte).isalnum() else 32 for byte in bytes(range(256)).lower())
"""By byte of UTF-8: itself in lower case, or a blank where it is of no word."""

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
    data = np.frombuffer(b" ".join([b"", *encoded, b""]).translate(_LETTERS), dtype=np.uint8)
    letter = data != ord(" ")
    edges = np.flatnonzero(letter[1:] != letter[:-1])
    starts, stops = edges[::2], edges[1::2]
    offsets = np.concatenate([[0], np.cumsum(stops - starts)]).astype(np.int64)
    found = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(data[letter])]
    ).dictionary_encode()
    sizes = np.diff(np.searchsorted(starts, ends), prepend=0)
    return Words(
        codes=found.indices.to_numpy().astype(np.int64),
        rows=np.repeat(np.arange(len(texts)), sizes),
        sizes=sizes,
        distinct=len(found.dictionary),
    )


def numbers_before(words: Words) -> Integers:
    """How often each word stood in its text before, [words]."""
    # In the order of the words, and of the texts within; of two bytes, numbers are sorted in one go.
    codes = words.codes.astype(np.uint16) if words.distinct <= 2**16 else words.codes
    order = np.argsort(codes, kind="stable")
    changes = (np.diff(words.codes[order]) != 0) | (np.diff(words.rows[order]) != 0)
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), dtype=bool), changes]))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return found


def joined(first: Integers, second: Integers, distinct: int) -> tuple[Integers, int]:
    """One number for each pair of numbers, those of `second` below `distinct`, and a bound that all are below."""
    highest = int(first.max(initial=0)) + 1
    if highest * distinct > _LARGEST:
        first, values = pd.factorize(first)
        highest = len(values)
    return first * distinct + second, highest * distinct
