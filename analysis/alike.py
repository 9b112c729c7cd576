"""How many of many texts are alike, by the words that they share."""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from analysis.words import Integers, Words, joined

Matrix: TypeAlias = sparse.csr_array | npt.NDArray[np.float32]
"""[texts x (word, how often before)]"""

_ROWS: Final = 128
"""Texts that are compared with all others together: few enough for what is computed to stay near the processor."""

_DENSE: Final = 2_000_000
"""Entries up to which a table of words is dense, which multiplies faster."""

_LIKELY: Final = 16
"""Pairs for each text up to which each pair is looked at by itself."""

_CHANCES: Final = 1_000
"""Shared rare words for each text up to which the pairs that share them are listed."""

_RARE: Final = 4
"""Words among its rarest that a text shares at least with one that is like it; with fewer most pairs are chance."""

_BUCKETS: Final = 256
"""Sums of a text's words by which a pair is looked at first: few that are not alike could be by them."""

_ROUNDING: Final = 0.05
"""Of a word, lest rounding leave out an equality."""

Pairs = tuple[Integers, Integers]
"""Texts by their places, the first of each pair and the second, [pairs] each."""


def count_alike(words: Words, share: float) -> Integers:
    """How many of the texts, itself among them, share at least `share` of their words with each text, [texts].

    Of two texts it is 2 shared / (all of both), where a word counts as often as it stands in both. A word's second
    occurrence is a column of its own in the table, so that a product of two rows counts what both hold.
    """
    columns = _columns(words)
    held = np.bincount(columns)
    texts = len(words.sizes)
    if texts * np.count_nonzero(held > 1) > _DENSE:
        pairs = _likely(words, columns, held, share)
        if pairs is not None and len(pairs[0]) <= _LIKELY * texts:
            return _of_pairs(words, columns, pairs, share)
    return _of_all(_table(words, columns, held), words.sizes, share)


def _columns(words: Words) -> Integers:
    """A number for each word and how often it stood in its text before, [words], those of a text in any order."""
    ordered, bits = _sorted(words.rows, words.codes)
    columns = ordered & ((1 << bits) - 1)
    again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    before = 1 + _before(again - np.arange(len(again)))  # one after the other, these are of one word
    seen, _ = joined(before, columns[again], max(words.distinct, 1))
    columns[again] = words.distinct + pd.factorize(seen)[0]
    return columns


def _sorted(high: Integers, low: Integers) -> tuple[Integers, int]:
    """Pairs of numbers in their order, each as one number, and how many of its bits are the second's."""
    bits = int(low.max(initial=0)).bit_length()
    # Half the bytes where they are enough: it is memory that takes the time.
    kind = np.int32 if int(high.max(initial=0)).bit_length() + bits < 32 else np.int64
    shifted: Any = high.astype(kind) << np.array(bits, dtype=kind)
    return np.sort(shifted | low.astype(kind)), bits


def _before(ordered: Integers) -> Integers:
    """How many equal numbers stand before each in an order."""
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    return np.arange(len(ordered)) - np.repeat(first, np.diff(first, append=len(ordered)))


def _likely(words: Words, columns: Integers, held: Integers, share: float) -> Pairs | None:
    """Pairs of texts among which are all that are alike: those that share some of their rarest words.

    A text of n words shares m = share / (2 - share) n of them at least with any that is like it, so k of any
    n - m + k (prefix filtering: Chaudhuri et al., ICDE 2006; with several words: Wang et al., SIGMOD 2012). None where
    so many words are shared that all pairs are compared in less time.
    """
    sizes, texts = words.sizes, len(words.sizes)
    order = np.argsort(held.astype(np.uint16) if texts < 2**16 else held, kind="stable")
    rarity = np.empty(len(held), dtype=np.int64)
    rarity[order] = np.arange(len(held))
    ordered, bits = _sorted(words.rows, rarity[columns])
    ranks = ordered & ((1 << bits) - 1)
    places = np.arange(len(ranks)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    least = np.ceil(share / (2 - share) * sizes - _ROUNDING).astype(np.int64)
    alone = np.count_nonzero(held < 2)  # words of one text, the rarest
    kept = (ranks >= alone) & (places < np.repeat(sizes - least + _RARE, sizes))
    found = _sharing(words.rows[kept], ranks[kept], texts)
    if found is None:
        return None
    (first, second), shared = found
    enough = shared >= np.minimum(_RARE, np.maximum(least[first], least[second]))
    return _not_apart(words, columns, (first[enough], second[enough]), share)


def _sharing(rows: Integers, columns: Integers, texts: int) -> tuple[Pairs, Integers] | None:
    """Texts that share columns, and how many; None where that are too many to be listed."""
    ordered, bits = _sorted(columns, rows)
    rows, before = ordered & ((1 << bits) - 1), _before(ordered >> bits)
    if before.sum() > _CHANCES * texts:
        return None
    # Each text with all that stand before it in the same column, which are lower.
    second = np.repeat(np.arange(len(rows)), before)
    first = second - 1 - _before(second)
    ordered, bits = _sorted(rows[first], rows[second])
    found, shared = np.unique(ordered, return_counts=True)
    return (found >> bits, found & ((1 << bits) - 1)), shared


def _not_apart(words: Words, columns: Integers, pairs: Pairs, share: float) -> Pairs:
    """The pairs that may be alike by how many of their words fall into each of some buckets."""
    texts = len(words.sizes)
    buckets = np.bincount(words.rows * _BUCKETS + columns % _BUCKETS, minlength=texts * _BUCKETS)
    sums = buckets.reshape(texts, _BUCKETS).astype(np.uint16 if words.sizes.max(initial=0) < 2**16 else np.int64)
    kept = [np.zeros(0, dtype=bool)]
    for first, second in _parts(pairs):
        shared = np.minimum(sums[first], sums[second]).sum(axis=1, dtype=np.uint32)
        kept.append(_enough(words, shared, (first, second), share))
    may = np.concatenate(kept)
    return pairs[0][may], pairs[1][may]


def _of_pairs(words: Words, columns: Integers, pairs: Pairs, share: float) -> Integers:
    """Of pairs of texts, each looked at; all others are not alike."""
    copies = np.ones(len(words.sizes), dtype=np.int64)
    if not len(pairs[0]):
        return copies
    edges = np.concatenate([[0], np.cumsum(words.sizes)])
    shape = (len(words.sizes), int(columns.max(initial=-1)) + 1)
    table = sparse.csr_array((np.ones(len(columns), dtype=np.float32), columns, edges), shape=shape)
    for first, second in _parts(pairs):
        shared = np.asarray(table[first].multiply(table[second]).sum(axis=1)).ravel()
        alike = _enough(words, shared, (first, second), share)
        copies += np.bincount(np.concatenate([first[alike], second[alike]]), minlength=len(copies))
    return copies


def _parts(pairs: Pairs) -> Iterator[Pairs]:
    """Some pairs at a time."""
    for start in range(0, len(pairs[0]), _ROWS):
        yield pairs[0][start : start + _ROWS], pairs[1][start : start + _ROWS]


def _enough(words: Words, shared: npt.NDArray[Any], pairs: Pairs, share: float) -> npt.NDArray[np.bool_]:
    """Whether pairs of texts that share so many words are alike."""
    return np.asarray(2 * shared >= share * (words.sizes[pairs[0]] + words.sizes[pairs[1]]) - _ROUNDING)


def _of_all(table: Matrix, sizes: Integers, share: float) -> Integers:
    """Every text with every other."""
    least = (share * sizes - _ROUNDING / 2).astype(np.float32)
    copies = np.zeros(len(sizes), dtype=np.int64)
    for start in range(0, len(sizes), _ROWS):
        shared = table[start : start + _ROWS] @ table[start:].T
        both = shared if isinstance(shared, np.ndarray) else shared.toarray()
        both += both
        both -= least[start:]
        alike = both >= least[start : start + _ROWS, None]
        np.fill_diagonal(alike, val=True)  # of a text's own words some may have no column
        counted = alike.view(np.uint8)
        copies[start : start + _ROWS] += counted.sum(axis=1, dtype=np.uint32)
        copies[start + _ROWS :] += counted[:, _ROWS:].sum(axis=0, dtype=np.int64)
    return copies


def _table(words: Words, columns: Integers, held: Integers) -> Matrix:
    """The columns that several texts hold: the others count for none but their own."""
    several = held > 1
    kept = several[columns]
    places, rows = (np.cumsum(several) - 1)[columns[kept]], words.rows[kept]
    shape = (len(words.sizes), int(np.count_nonzero(several)))
    if shape[0] * shape[1] <= _DENSE:
        dense = np.zeros(shape, dtype=np.float32)
        dense[rows, places] = 1
        return dense
    return sparse.csr_array((np.ones(len(places), dtype=np.float32), (rows, places)), shape=shape)
