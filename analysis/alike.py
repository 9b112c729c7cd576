"""How many of many texts are alike, by the words that they share."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from analysis.words import Integers, Words, joined, numbers_before

Matrix: TypeAlias = sparse.csr_array | npt.NDArray[np.float32]
"""[texts x (word, how often before)]"""

_ROWS: Final = 128
"""Texts that are compared with all others together: few enough for what is computed to stay near the processor."""

_DENSE: Final = 2_000_000
"""Entries up to which a table of words is dense, which multiplies faster."""

_LIKELY: Final = 16
"""Pairs for each text up to which each pair is looked at by itself."""

_RARE: Final = 4
"""Words among its rarest that a text shares at least with one that is like it; with fewer most pairs are chance."""

_ROUNDING: Final = 0.05
"""Of a word, lest rounding leave out an equality."""


def count_alike(words: Words, share: float) -> Integers:
    """How many of the texts, itself among them, share at least `share` of their words with each text, [texts].

    Of two texts it is 2 shared / (all of both), where a word counts as often as it stands in both. A word's second
    occurrence is a column of its own in the table, so that a product of two rows counts what both hold.
    """
    columns, _ = pd.factorize(joined(numbers_before(words), words.codes, max(words.distinct, 1))[0])
    held = np.bincount(columns)
    texts = len(words.sizes)
    if texts * np.count_nonzero(held > 1) > _DENSE:
        first, second = _likely(words, columns, held, share)
        if len(first) <= _LIKELY * texts:
            return _of_pairs(words, columns, (first, second), share)
    return _of_all(_table(words, columns, held), words.sizes, share)


def _likely(words: Words, columns: Integers, held: Integers, share: float) -> tuple[Integers, Integers]:
    """Pairs of texts among which are all that are alike: those that share some of their rarest words.

    A text of n words shares m = share / (2 - share) n of them at least with any that is like it, so k of any
    n - m + k (prefix filtering: Chaudhuri et al., ICDE 2006; with several words: Wang et al., SIGMOD 2012).
    """
    order = np.argsort(held, kind="stable")
    rarity = np.empty(len(held), dtype=np.int64)
    rarity[order] = np.arange(len(held))
    rows, ranks = np.divmod(np.sort(words.rows * len(held) + rarity[columns]), len(held))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(words.sizes) - words.sizes, words.sizes)
    least = np.ceil(share / (2 - share) * words.sizes - _ROUNDING).astype(np.int64)
    kept = (places < (words.sizes - least + _RARE)[rows]) & (held[order][ranks] > 1)
    rarest = sparse.csr_array(
        (np.ones(np.count_nonzero(kept), dtype=np.float32), (rows[kept], ranks[kept])),
        shape=(len(words.sizes), len(held)),
    )
    found = sparse.triu(rarest @ rarest.T, k=1).tocoo()
    first, second = found.row.astype(np.int64), found.col.astype(np.int64)
    enough = found.data >= np.minimum(_RARE, np.maximum(least[first], least[second]))
    return first[enough], second[enough]


def _of_pairs(words: Words, columns: Integers, pairs: tuple[Integers, Integers], share: float) -> Integers:
    """Of pairs of texts, each looked at; all others are not alike."""
    ones = np.ones(len(columns), dtype=np.float32)
    table = sparse.csr_array((ones, (words.rows, columns)), shape=(len(words.sizes), int(columns.max(initial=-1)) + 1))
    copies = np.ones(len(words.sizes), dtype=np.int64)
    for start in range(0, len(pairs[0]), _ROWS):
        first, second = (side[start : start + _ROWS] for side in pairs)
        shared = np.asarray(table[first].multiply(table[second]).sum(axis=1)).ravel()
        alike = 2 * shared >= share * (words.sizes[first] + words.sizes[second]) - _ROUNDING
        copies += np.bincount(np.concatenate([first[alike], second[alike]]), minlength=len(copies))
    return copies


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
        copies[start : start + _ROWS] += counted.sum(axis=1, dtype=np.int64)
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
