"""Answers as long as real ones, without a model: what is counted of texts takes the time that it takes with real ones.

Words come as often as in a language (Zipf's law), the frequent ones are short, lengths are log-normal, and three in ten
answers hold characters beyond ASCII, as those of a chat model do.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

VOCABULARY: Final = 25_000
SPREAD: Final = 0.6
"""Standard deviation of the logarithm of an answer's length."""

_CHARACTERS: Final = 6.0
"""Of a word on average, with what stands behind it."""

_ENDS: Final = (" ", ", ", ". ", "\n\n- ")
_END_SHARES: Final = (0.86, 0.06, 0.06, 0.02)
_QUOTED: Final = 0.3


def draw_texts(rng: np.random.Generator, texts: int, characters: int) -> list[tuple[str, list[int]]]:
    """Answers of so many characters on average, each with the numbers of its words."""
    median = characters / _CHARACTERS / np.exp(SPREAD**2 / 2)
    sizes = np.maximum(1, np.round(median * np.exp(SPREAD * rng.standard_normal(texts)))).astype(int)
    numbers = np.searchsorted(_cumulative(), rng.random(sizes.sum()))
    words = np.array(vocabulary(), dtype=object)[numbers]
    pieces = words + np.array(_ENDS, dtype=object)[rng.choice(len(_ENDS), len(words), p=_END_SHARES)]
    quoted, edges = rng.random(texts) < _QUOTED, np.cumsum(sizes)[:-1]
    drawn = ["".join(own).rstrip(", \n-") for own in np.split(pieces, edges)]
    whole = [f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}" for text in drawn]
    shown = [quotation if quote else text for quotation, text, quote in zip(whole, drawn, quoted, strict=True)]
    return list(zip(shown, (own.tolist() for own in np.split(numbers, edges)), strict=True))


@cache
def vocabulary() -> tuple[str, ...]:
    """Different words, the most frequent first."""
    rng = np.random.default_rng(0)
    sizes = np.clip(
        np.round(1.5 + 0.75 * np.log(np.arange(1, VOCABULARY + 1)) + rng.standard_normal(VOCABULARY)), 1, 16
    )
    known: dict[str, None] = {}
    for size in sizes.astype(int).tolist():
        letters = rng.integers(0, 26, size)
        while (word := "".join(chr(ord("a") + letter) for letter in letters)) in known:
            letters = np.append(letters, rng.integers(0, 26))  # short ones are soon used up
        known[word] = None
    return tuple(known)


@cache
def _cumulative() -> npt.NDArray[np.float64]:
    """Up to each word, what share of all words it and the more frequent ones are."""
    shares = 1 / np.arange(1.0, VOCABULARY + 1)
    return np.asarray(np.cumsum(shares) / shares.sum(), dtype=np.float64)
