"""What can be said of an answer from its text alone: blank, repetitive, a refusal, a copy of others.

The definitions are those of docs/beside-the-win-rate.md; thresholds and lists that are ours are named so there.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

NGRAM: Final = 4
"""Words of an n-gram: the seq-rep-4 of Welleck et al. (arXiv 1908.04319), on words instead of tokens."""

REPETITIVE: Final = 0.5
"""Ours: an answer is repetitive where at least this share of its 4-grams stood in it before."""

COPY: Final = 0.8
"""Ours: two answers are near-copies where they share at least this much of their words (Dice coefficient)."""

NEAR_CONSTANT: Final = 0.2
"""Ours: answers are flagged as near-constant where at least this share are near-copies of one answer."""

FEWEST: Final = 5
"""Below this many answers near-constant means nothing: two short answers that agree would be enough."""

REFUSALS: Final = (
    r"(i'm )?(so |very |really |truly )?sorry(, |\. | but )",
    r"(i|my) apolog(y|ies|i[sz]e)\b",
    r"(unfortunately,? )?i (can't|cannot|can not|won't|will not|must decline|decline|refuse)\b",
    r"(unfortunately,? )?i'm (afraid|unable|not able|not comfortable)\b",
    r"as an? ((large )?language model|ai|artificial intelligence|assistant)\b",
)
"""Ours, English only, a heuristic: what an answer begins with that is counted as a refusal. Sympathy is none."""

_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
"""A word; where a script leaves no blanks between words (Chinese, Japanese), each character."""

_REFUSAL: Final = re.compile("|".join(REFUSALS))

_ROWS: Final = 512
"""Answers that are compared with all others together."""


def is_empty(text: str) -> bool:
    """Whether nothing can be seen of a text."""
    return not any(_visible(character) for character in text)


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal does (`REFUSALS`)."""
    start = re.sub(r"^\W+", "", text[:200].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold())
    return _REFUSAL.match(re.sub(r"\s+", " ", start).replace("i am ", "i'm ", 1)) is not None


def repetition(text: str) -> float:
    """Share of a text's 4-grams of words that stood in it before; 0 for a text without any."""
    found = words(text)
    grams = len(found) - NGRAM + 1
    if grams < 1:
        return 0.0
    return 1.0 - len(set(zip(*(found[i:] for i in range(NGRAM)), strict=False))) / grams


def normal_form(text: str) -> str:
    """A text by which equal ones are found: compatibility forms, case and white space do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Words of a text in lower case, without punctuation."""
    return _WORD.findall(text.casefold())


def near_copies(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """How many of the texts, itself among them, are near-copies of each text, [texts].

    Two texts are compared by the words that they share, each as often as it stands in both: 2 shared / (all of both).
    Texts without words are near-copies where their normal forms are equal.
    """
    if not texts:
        return np.zeros(0, dtype=np.int64)
    counts, sizes = _bags([words(text) or [normal_form(text)] for text in texts])
    copies = [
        (
            2 * (counts[start : start + _ROWS] @ counts.T).toarray()
            >= COPY * (sizes[start : start + _ROWS, None] + sizes)
        )
        for start in range(0, len(texts), _ROWS)
    ]
    return np.concatenate([block.sum(axis=1) for block in copies])


def _bags(texts: Sequence[Sequence[str]]) -> tuple[sparse.csr_array, npt.NDArray[np.float64]]:
    """Each text's words as a row of ones, [texts x (word, how often before)], and how many there are, [texts].

    A word's second occurrence is a column of its own, so that a product of two rows counts what both bags hold.
    """
    columns: dict[tuple[str, int], int] = {}
    rows, places = [], []
    for row, text in enumerate(texts):
        seen: Counter[str] = Counter()
        for word in text:
            rows.append(row)
            places.append(columns.setdefault((word, seen[word]), len(columns)))
            seen[word] += 1
    shape = (len(texts), len(columns))
    sizes = np.array([len(text) for text in texts], dtype=np.float64)
    return sparse.csr_array((np.ones(len(rows), dtype=np.float32), (rows, places)), shape=shape), sizes


def _visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf", "Mn", "Zs")
