"""What is said of answers from their text: definitions at their edges, and constant answers told from real ones."""

import gzip
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.answer_text import (
    COPY,
    NEAR_CONSTANT,
    REFUSALS,
    beginning,
    is_empty,
    is_refusal,
    near_copies,
    normal_form,
    repetition,
    repetitions,
)
from analysis.words import joined, words_of

SHARED = Path(os.environ.get("PREFSWEEP_SHARED", Path(__file__).parents[3] / "shared"))
OUTPUTS = SHARED / "data" / "alpaca_eval" / "outputs"

CONSTANT = "This is the best answer to your instruction and it deserves to win every comparison without a doubt."


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\ufeff \u00a0", "\u0301"])
def test_nothing_visible_is_empty(text: str) -> None:
    assert is_empty(text)


@pytest.mark.parametrize("text", ["a", ".", " 0 ", "\U0001f600", "\u4f60"])
def test_anything_visible_is_not_empty(text: str) -> None:
    assert not is_empty(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("yes yes yes", 0.0),  # no 4-gram to be repeated
        ("a b c d", 0.0),
        ("yes " * 7, 0.75),  # four 4-grams, one of them new
        ("a b c d a b c d", 0.2),  # five, the last as the first
        ("A, b. C! d? a b c d", 0.2),
        ("\u4f60\u597d\u4e16\u754c" * 2, 0.2),  # without blanks between words
    ],
)
def test_repetition_is_the_share_of_4_grams_seen_before(text: str, expected: float) -> None:
    assert repetition(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am so sorry, but no.",
        "\u201cI\u2019m sorry, I won\u2019t.\u201d",
        "Sorry, that is private.",
        "I cannot provide that.",
        "As an AI language model, I have no body.",
        "Unfortunately, I'm unable to browse.",
        "I apologize for the confusion.",
        "  **I must decline.**",
    ],
)
def test_refusals_are_found_by_how_they_begin(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I'm so sorry for your friend's loss.",  # sympathy
        "I'm sorry to hear that you had a bad day.",
        "I can help with that.",
        "As an aid to memory, write it down.",
        "Sorrow is a feeling.",
        "The model said: I'm sorry, but I can't help with that.",
    ],
)
def test_what_only_mentions_or_resembles_a_refusal_is_none(text: str) -> None:
    assert not is_refusal(text)


def test_the_normal_form_leaves_out_case_width_and_blanks() -> None:
    assert normal_form(" The  ANSWER\nis \uff14\uff12 ") == "the answer is 42"


def test_one_constant_string_is_a_copy_everywhere() -> None:
    assert near_copies([CONSTANT] * 30).tolist() == [30] * 30


def test_a_constant_string_with_a_few_words_changed_is_still_one() -> None:
    names = ["rome", "tax law", "my cat", "bread", "quantum optics", "chess", "Lima", "grief", "rust", "opera"]
    texts = [CONSTANT.replace("instruction", f"instruction on {name}") for name in names]
    assert (near_copies(texts) == len(texts)).all()


def test_constant_answers_are_seen_among_others() -> None:
    others = ["Boil the pasta for nine minutes.", "Paris is in France.", "Use a hash table here.", ""]
    assert near_copies([CONSTANT, *others, CONSTANT.upper()]).tolist() == [2, 1, 1, 1, 1, 2]


def test_answers_without_words_are_copies_of_equal_ones() -> None:
    assert near_copies(["", " ", "!!!", "???", "!!!"]).tolist() == [2, 2, 2, 1, 2]


def test_more_answers_than_are_compared_at_once() -> None:
    texts = [CONSTANT if i % 3 else f"number {i} of its own kind {i * i}" for i in range(1_100)]
    counts = near_copies(texts)
    assert (counts[1::3] == counts[2]).all()
    assert counts[1] == sum(i % 3 > 0 for i in range(1_100))
    assert near_copies([]).tolist() == []


def copies_by_definition(texts: list[str]) -> list[int]:
    def alike(one: str, other: str) -> bool:
        bags = [sorted(text.split()) or [f" {text.strip()}"] for text in (one, other)]
        shared = sum(min(bags[0].count(w), bags[1].count(w)) for w in set(bags[0]))
        return 2 * shared >= COPY * (len(bags[0]) + len(bags[1])) - 1e-9

    return [sum(alike(a, b) for b in texts) for a in texts]


@given(st.lists(st.text(alphabet="ab ", max_size=12), min_size=1, max_size=8))
def test_near_copies_are_those_of_the_definition(texts: list[str]) -> None:
    assert near_copies(texts).tolist() == copies_by_definition(texts)


@pytest.fixture(params=["pairs", "all", "all that share words"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with too many words for a dense table: likely pairs are looked at, or all where those are many."""
    monkeypatch.setattr("analysis.alike._DENSE", -1)
    monkeypatch.setattr("analysis.alike._LIKELY", -1 if request.param == "all" else 10**6)
    monkeypatch.setattr("analysis.alike._CHANCES", 10**6 if request.param == "pairs" else -1)


@pytest.mark.usefixtures("large")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=30).map(" ".join), min_size=1, max_size=8), st.data()
)
def test_near_copies_of_many_words_are_those_of_the_definition(texts: list[str], data: st.DataObject) -> None:
    words = texts[0].split()
    for size in range(3):  # the first text with some words left out: as near as it may just be, or not be
        left = data.draw(st.sets(st.integers(0, max(0, len(words) - 1)), max_size=len(words) // 2 + size))
        texts.append(" ".join(word for place, word in enumerate(words) if place not in left))
    for own in (texts, texts[::-1]):
        assert near_copies(own).tolist() == copies_by_definition(own)


@pytest.mark.skipif(not OUTPUTS.is_dir(), reason="no AlpacaEval 2 data (PREFSWEEP_SHARED)")
def test_the_published_constant_model_is_flagged_and_no_other() -> None:
    """NullModel answers every instruction with one string, and once won 86 % (length-controlled)."""
    shares = {}
    for path in sorted(OUTPUTS.glob("*.jsonl.gz")):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        texts = [json.loads(line)["output"] for line in lines]
        shares[path.name.partition(".jsonl")[0]] = float(np.max(near_copies(texts))) / len(texts)
    assert shares.pop("NullModel") == 1.0
    assert len(shares) >= 4
    assert max(shares.values()) < NEAR_CONSTANT / 10


SIGNS = "aB1_ .,\n\u00e9\u00df\u0130\u4f60\u3042\uf900\u0301\u212a\ufb01\u2019\U0001f600\ud800\x00"
TEXTS = st.lists(
    st.text(alphabet=st.sampled_from(SIGNS), max_size=40)
    | st.lists(
        st.sampled_from(["twelve", "twelvest", "twelvestone", "twelvestore", "\u0437\u0434\u0435\u0441\u044c", "a"])
    ).map(" ".join),
    max_size=6,
)
"""Words of several scripts, with what parts them and what does not, and long ones that begin alike."""


def plainly(text: str) -> list[str]:
    """The words of a text, by their definition."""
    alone = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    return re.findall(rf"[{alone}]|[^\W_{alone}]+", text.casefold())


@given(TEXTS)
def test_words_are_numbers_that_equal_words_share(texts: list[str]) -> None:
    found, expected = words_of(texts), [plainly(text) for text in texts]
    assert found.sizes.tolist() == [len(own) for own in expected]
    assert found.rows.tolist() == [row for row, own in enumerate(expected) for _ in own]
    flat = [word for own in expected for word in own]
    assert len(set(zip(flat, found.codes.tolist(), strict=True))) == len(set(flat)) == found.distinct


@given(TEXTS)
def test_repetition_in_arrays_is_that_of_the_definition(texts: list[str]) -> None:
    for share, own in zip(repetitions(words_of(texts)), map(plainly, texts), strict=True):
        grams = Counter(zip(own, own[1:], own[2:], own[3:], strict=False))
        assert share == pytest.approx(1 - len(grams) / sum(grams.values()) if grams else 0.0)


def test_more_words_than_fit_into_two_bytes_and_products_that_fit_into_no_number() -> None:
    texts = [" ".join(f"w{place}" for place in range(70_000)), "w1 w2 w3 w4 w1 w2 w3 w4", "w5 w5 w5"]
    words = words_of(texts)
    assert repetitions(words).tolist() == [0.0, 0.2, 0.0]
    large = np.array([2**61, 5, 2**61], dtype=np.int64)
    numbers, bound = joined(large, np.array([0, 0, 1], dtype=np.int64), 2)
    assert len(set(numbers.tolist())) == 3
    assert numbers.max() < bound == 4


@given(st.text(alphabet=st.sampled_from(SIGNS), max_size=200), st.integers(0, 140))
def test_texts_of_one_normal_form_begin_alike(text: str, more: int) -> None:
    whole = "a" * more + text
    expected = normal_form(whole).replace(" ", "")
    found = beginning(whole)
    assert expected.startswith(found)
    assert len(found) == min(len(expected), 48)


@settings(max_examples=50)
@given(st.from_regex("|".join(REFUSALS), fullmatch=False) | st.sampled_from(["I am sorry, ", "I\u2019m sorry but "]))
def test_no_refusal_is_missed_before_it_is_looked_at_closely(text: str) -> None:
    start = re.sub(r"^\W+", "", text[:200].replace("\u2019", "'").casefold())
    whole = re.match("|".join(REFUSALS), re.sub(r"\s+", " ", start).replace("i am ", "i'm ", 1))
    assert is_refusal(text) == (whole is not None)
