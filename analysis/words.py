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

_ALONE: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""Where a script leaves no blanks between words (Chinese, Japanese), each character is one."""

_LETTERS: Final = bytes(byte if byte > 127 or chr(byte).isalnum() else 32 for byte in bytes(range(256)).lower())
"""By byte of UTF-8: itself in lower case, or a blank where it is of no word."""

_SHORT: Final = 8
"""Bytes of a word that fit into one number."""

_BYTES: Final = np.array([2 ** (8 * size) - 1 for size in range(_SHORT + 1)], dtype="<u8")
"""By size of a word: what of such a number is its own."""

_LONG: Final = np.uint64(0xFF << 56)
"""Added to the number of a longer word: no byte of UTF-8 is 0xFF."""

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
    """The words of each of the texts: letters and digits that stand together, of all scripts."""
    encoded = [text.encode() for text in _parted(texts)]
    ends = np.cumsum([len(text) + 1 for text in encoded], dtype=np.int64)
    whole = b" ".join([b"", *encoded, b" " * _SHORT]).translate(_LETTERS)
    letter = np.frombuffer(whole, dtype=np.uint8) != ord(" ")
    edges = np.flatnonzero(letter[1:] != letter[:-1]) + 1
    starts, lengths = edges[::2].copy(), edges[1::2] - edges[::2]
    codes, distinct = _numbered(whole, starts, lengths)
    sizes = np.diff(np.searchsorted(starts, ends), prepend=0)
    return Words(codes=codes, rows=np.repeat(np.arange(len(texts)), sizes), sizes=sizes, distinct=distinct)


def _parted(texts: Sequence[str]) -> list[str]:
    """The texts; those that hold more than ASCII in lower case, and beyond it only letters that blanks part."""
    found = list(texts)
    other = [place for place, text in enumerate(found) if not text.isascii()]
    if not other:
        return found
    folded = [found[place].casefold() for place in other]
    points = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), dtype="<u4").copy()
    beyond = np.flatnonzero(points > 127)
    distinct, places = np.unique(points[beyond], return_inverse=True)
    characters = [chr(point) for point in distinct.tolist()]
    alone = np.array([_ALONE.match(character) is not None for character in characters], dtype=bool)
    letters = np.array([character.isalnum() for character in characters], dtype=bool) | alone
    points[beyond[~letters[places]]] = ord(" ")
    ends = np.cumsum([len(text) for text in folded])
    if len(single := beyond[alone[places]]):
        points = np.insert(points, np.concatenate([single, single + 1]), ord(" "))
        ends += 2 * np.searchsorted(single, ends)
    whole = points.tobytes().decode("utf-32-le")
    for place, start, end in zip(other, [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        found[place] = whole[start:end]
    return found


def _numbered(whole: bytes, starts: Integers, lengths: Integers) -> tuple[Integers, int]:
    """A number for each of the words that start there, and how many different ones there are."""
    # Eight bytes from each byte on: most words are their own number then, and need no table of texts.
    eights = np.ndarray(len(whole) - _SHORT + 1, dtype="<u8", buffer=whole, strides=(1,))
    values = eights[starts] & _BYTES[np.minimum(lengths, _SHORT)]
    long = np.flatnonzero(lengths > _SHORT)
    offsets = np.concatenate([[0], np.cumsum(lengths[long])]).astype(np.int64)
    places = np.arange(offsets[-1]) + np.repeat(starts[long] - offsets[:-1], lengths[long])
    texts = [None, pa.py_buffer(offsets), pa.py_buffer(np.frombuffer(whole, dtype=np.uint8)[places])]
    found = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(long), texts).dictionary_encode()
    values[long] = found.indices.to_numpy().astype(np.uint64) | _LONG
    codes, distinct = pd.factorize(values)
    return codes, len(distinct)


def joined(first: Integers, second: Integers, distinct: int) -> tuple[Integers, int]:
    """One number for each pair of numbers, those of `second` below `distinct`, and a bound that all are below."""
    highest = int(first.max(initial=0)) + 1
    if highest * distinct > _LARGEST:
        first, values = pd.factorize(first)
        highest = len(values)
    return first * distinct + second, highest * distinct
