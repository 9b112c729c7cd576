"""Lexical measures of a text, in pure Python: words, segments, repetition and copying.

A word is a run of letters and digits in any script; a character of a script written without spaces (Chinese,
Japanese, Korean) is a word of its own, so such texts are not one long word. Case is folded everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['\u2019][^\W{_UNSPACED}]+)*")
_MARK = re.compile(rf"{_WORD.pattern}|\S")
_SEGMENT_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*|\n+")


def is_blank(text: str) -> bool:
    """Whether nothing in the text can be seen: only separators, control and format characters."""
    return all(unicodedata.category(character)[0] in "ZC" for character in text)


def words(text: str) -> list[str]:
    """The words of the text in order, case-folded, without punctuation."""
    return _WORD.findall(text.casefold())


def segments(text: str, *, min_words: int, max_words: int) -> list[str]:
    """Sentences and lines with at least `min_words` words, each cut after `max_words` whitespace-separated
    ones.

    A text that has none is one segment as a whole; a blank text has no segment.
    """
    if is_blank(text):
        return []
    lines = (line.strip(" \t-*#>|\u2022") for line in _SEGMENT_END.split(text))
    kept = [line for line in lines if len(words(line)) >= min_words] or [text.strip()]
    return [" ".join(line.split()[:max_words]) for line in kept]


def distinct_ngram_share(text: str, n: int = 3) -> float:
    """Distinct n-grams over all n-grams of words and single marks, in (0, 1]; 1 for a text shorter than n."""
    tokens = _MARK.findall(text.casefold())
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def copied_share(source: Sequence[str], copy: Sequence[str], n: int = 3) -> float:
    """Share of the words of `copy` that lie in an n-gram which also stands in `source`, in [0, 1].

    A source shorter than n words is one n-gram as a whole; an empty source or copy gives 0.
    """
    size = min(n, len(source))
    if size == 0 or not copy:
        return 0.0
    known = {tuple(source[start : start + size]) for start in range(len(source) - size + 1)}
    covered: set[int] = set()
    for start in range(len(copy) - size + 1):
        if tuple(copy[start : start + size]) in known:
            covered.update(range(start, start + size))
    return len(covered) / len(copy)
