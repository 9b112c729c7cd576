"""The proxy judge: both orders agree, hand-written orderings hold, blank and odd texts are defined."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import embedding
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_judge import WEIGHTS, ProxyJudge, ShorterJudge
from harness.engines.proxy_reward import DEFAULT_WEIGHTS, ProxyReward

needs_model = pytest.mark.skipif(
    importlib.util.find_spec(embedding.PACKAGE) is None, reason=f"{embedding.PACKAGE} is not installed"
)
ASKED = "Explain why leaves turn red and yellow in autumn."
GOOD = (
    "As days grow shorter, trees stop making chlorophyll, the pigment that keeps foliage green. Carotenoids, "
    "which were hidden all summer, then show as gold, while sugars trapped in the leaf become scarlet "
    "anthocyanins."
)
BAD = {
    "truncated": GOOD[:110],
    "repeated sentence": " ".join(["Trees stop making chlorophyll in autumn."] * 6),
    "looped words": "The leaves turn red because " + "the leaves are the leaves and " * 12,
    "off topic": "The stock market fell on Monday, as investors sold bank shares. Oil companies lost most.",
    "echo": ASKED,
    "empty": "",
}


@pytest.fixture(scope="module")
def judge() -> ProxyJudge:
    return ProxyJudge(SentenceEncoder())


@needs_model
@pytest.mark.parametrize("kind", BAD)
def test_a_good_answer_beats_a_bad_one(judge: ProxyJudge, kind: str) -> None:
    assert judge.compare([ASKED], [GOOD], [BAD[kind]])[0] > 0.5


@needs_model
def test_equal_answers_are_an_exact_tie(judge: ProxyJudge) -> None:
    answers = [GOOD, "", "\x00", "?!"]
    assert judge.compare([ASKED] * 4, answers, answers).tolist() == [0.5] * 4


@needs_model
@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=80), st.text(max_size=80)), max_size=4))
@settings(max_examples=25, deadline=None)
def test_both_orders_sum_to_one(judge: ProxyJudge, rows: list[tuple[str, str, str]]) -> None:
    asked, first, second = ([row[column] for row in rows] for column in range(3))
    forward, backward = judge.compare(asked, first, second), judge.compare(asked, second, first)
    assert np.all(np.abs(forward + backward - 1.0) <= 1e-12)
    assert np.all((forward >= 0.0) & (forward <= 1.0))


@needs_model
def test_orders_agree_for_separate_judges_and_many_rows() -> None:
    asked = [f"{ASKED} Part {count}." for count in range(40)]
    second = [BAD["off topic"] + " word" * count for count in range(40)]
    forward = ProxyJudge(SentenceEncoder()).compare(asked, [GOOD] * 40, second)
    backward = ProxyJudge(SentenceEncoder()).compare(asked, second, [GOOD] * 40)
    assert np.all(np.abs(forward + backward - 1.0) <= 1e-12)


@needs_model
@pytest.mark.parametrize(
    "odd",
    ["\ud800", "\u202egnirts", "日本語の答えです。次の文です。", "\U0001f600" * 3, "a\x00b", "```\nx\n```"],
)
def test_odd_characters_are_judged(judge: ProxyJudge, odd: str) -> None:
    assert np.isfinite(judge.compare([odd], [GOOD], [odd])).all()


@needs_model
def test_a_blank_answer_loses_to_any_visible_one(judge: ProxyJudge) -> None:
    assert judge.compare([ASKED], ["\u200b\n"], ["no no no no no no no no no no no no no"])[0] < 0.01
    with pytest.raises(ValueError, match="answer 1 is blank"):
        judge.measures([ASKED, ASKED], [GOOD, " "])


@needs_model
def test_measures_are_those_that_have_a_weight(judge: ProxyJudge) -> None:
    assert list(judge.measures([ASKED], [GOOD])) == list(WEIGHTS)


@needs_model
def test_judge_and_reward_disagree_where_an_answer_copies_to_stay_on_topic(judge: ProxyJudge) -> None:
    copying = "Leaves turn red and yellow in autumn because of the leaves, which turn red and yellow in the autumn."
    reward = ProxyReward({"relevance": 1.0}, SentenceEncoder())
    scalar, _ = reward.score([ASKED, ASKED], [copying, GOOD], ["stop", "stop"])
    assert scalar[0] > scalar[1]
    assert judge.compare([ASKED], [copying], [GOOD])[0] < 0.5


@needs_model
def test_columns_of_different_lengths_are_refused(judge: ProxyJudge) -> None:
    for each in (judge, ShorterJudge()):
        with pytest.raises(ValueError, match=r"different lengths: \[1, 2, 1\]"):
            each.compare(["a"], ["b", "c"], ["d"])


def test_shorter_judge_counts_words() -> None:
    preferred = ShorterJudge().compare(["q"] * 4, ["a b", "a", "a  b", ""], ["a", "a b", "b\na", "a"])
    assert preferred.tolist() == [0.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", [ProxyJudge, ShorterJudge, ProxyReward])
def test_labels_say_what_they_are_not(
    kind: type[ProxyJudge] | type[ShorterJudge] | type[ProxyReward],
) -> None:
    assert "not a measure of quality" in kind.label


@needs_model
def test_default_reward_and_judge_carry_different_labels(judge: ProxyJudge) -> None:
    assert judge.label != ProxyReward(DEFAULT_WEIGHTS, SentenceEncoder()).label
