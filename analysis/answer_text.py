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

from analysis.alike import count_alike
from analysis.words import Integers, Words, joined, words_of

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

_MAY_REFUSE: Final = re.compile(r"\W*(as|i|my|really|so|sorry|truly|unfortunately|very)\b", re.ASCII | re.IGNORECASE)
"""What a text of ASCII begins with where any of `REFUSALS` may be found: few do."""

_BEGINNING: Final = 128
_COMPARED: Final = 48
"""Characters of a text that its beginning is taken from, and of those that are left without blanks."""

_NO_WORD: Final = re.compile(r"^\W+")
_SPACE: Final = re.compile(r"\s+")

_REFUSAL: Final = re.compile("|".join(REFUSALS))


def is_empty(text: str) -> bool:
    """Whether nothing can be seen of a text."""
    return not any(_visible(character) for character in text)


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal does (`REFUSALS`)."""
    start = text[:200]
    if start.isascii() and _MAY_REFUSE.match(start) is None:
        return False
    start = _NO_WORD.sub("", start.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold())
    return _REFUSAL.match(_SPACE.sub(" ", start).replace("i am ", "i'm ", 1)) is not None


def repetition(text: str) -> float:
    """Share of a text's 4-grams of words that stood in it before; 0 for a text without any."""
    return float(repetitions(words_of([text]))[0])


def repetitions(words: Words) -> npt.NDArray[np.float64]:
    """`repetition` of each of the texts, given by their words, [texts]."""
    grams, distinct = words.codes, max(words.distinct, 1)
    for step in (1, 2):  # of words to pairs, of pairs to fours
        grams, distinct = joined(grams[: len(grams) - step], grams[step:], distinct)
    ends = np.cumsum(words.sizes)
    for start, end in zip((ends - words.sizes).tolist(), (ends - NGRAM + 1).tolist(), strict=True):
        grams[start : max(start, end)].sort()  # its own, without those that run into the next text
    again = np.flatnonzero(grams[1:] == grams[:-1])
    own = words.rows[again[words.rows[again] == words.rows[again + NGRAM]]]
    repeated = np.bincount(own, minlength=len(words.sizes))
    return np.asarray(repeated / np.maximum(words.sizes - NGRAM + 1, 1), dtype=np.float64)


def normal_form(text: str) -> str:
    """A text by which equal ones are found: compatibility forms, case and white space do not count."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def beginning(text: str) -> str:
    """The first characters of a text's normal form, without blanks: where two differ, the normal forms do."""
    start = text[:_BEGINNING]
    if not text[: _BEGINNING + 1].isascii():
        # Up to a character of ASCII, which never joins what stands before it.
        last = _BEGINNING if len(text) > _BEGINNING else 0
        while last and text[last] > "\x7f":
            last -= 1
        start = unicodedata.normalize("NFKC", text[:last] if last else text)
    found = "".join(start.casefold().split())[:_COMPARED]
    if len(found) < _COMPARED and len(text) > _BEGINNING:  # blanks, for the most part
        return normal_form(text).replace(" ", "")[:_COMPARED]
    return found


def near_copies(texts: Sequence[str], found: Words | None = None) -> Integers:
    """How many of the texts, itself among them, are near-copies of each text, [texts].

    Two texts are compared by the words that they share, each as often as it stands in both: 2 shared / (all of both).
    Texts without words are near-copies of each other where their normal forms are equal. `found` are the texts' words,
    where known.
    """
    if not texts:
        return np.zeros(0, dtype=np.int64)
    words = words_of(texts) if found is None else found
    copies = count_alike(words, COPY)
    wordless = np.flatnonzero(words.sizes == 0)
    forms = [normal_form(texts[row]) for row in wordless.tolist()]
    counts = Counter(forms)
    copies[wordless] = [counts[form] for form in forms]
    return copies


def _visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf", "Mn", "Zs")
