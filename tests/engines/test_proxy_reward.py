"""The proxy reward: bounds, hand-written orderings, empty responses, and errors."""

import importlib.util
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.engines import embedding
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_reward import ATTRIBUTES, DEFAULT_WEIGHTS, ProxyReward
from harness.engines.text_features import copied_share, distinct_ngram_share, is_blank, words
from harness.errors import ConfigError

needs_model = pytest.mark.skipif(
    importlib.util.find_spec(embedding.PACKAGE) is None, reason=f"{embedding.PACKAGE} is not installed"
)
PROMPT = "Explain why leaves turn red and yellow in autumn."
GOOD = (
    "As days grow shorter, trees stop making chlorophyll, the pigment that keeps foliage green. Carotenoids, "
    "which were hidden all summer, then show as gold, while sugars trapped in the leaf become scarlet "
    "anthocyanins."
)


class FixedEncoder:
    """Gives every text the same unit vector, so that only the lexical attributes differ."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(texts), 1))


@pytest.fixture(scope="module")
def reward() -> ProxyReward:
    return ProxyReward(DEFAULT_WEIGHTS, SentenceEncoder())


def test_default_weights_sum_to_one() -> None:
    assert tuple(DEFAULT_WEIGHTS) == ATTRIBUTES
    assert math.isclose(sum(DEFAULT_WEIGHTS.values()), 1.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"relevanse": 1.0}, "relevanse.*valid attributes: relevance"),
        ({"relevance": math.nan}, "reward.weights.relevance is nan"),
        ({"relevance": 0.0}, "all zero"),
        ({}, "all zero"),
    ],
)
def test_bad_weights_are_named(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ProxyReward(weights, FixedEncoder())


def test_columns_of_different_lengths_are_refused() -> None:
    reward = ProxyReward(DEFAULT_WEIGHTS, FixedEncoder())
    with pytest.raises(ValueError, match="1 prompts but 2 responses"):
        reward.score(["a"], ["b", "c"], ["stop", "stop"])
    with pytest.raises(ValueError, match="2 responses but 1 finish reasons"):
        reward.score(["a", "a"], ["b", "c"], ["stop"])


def test_no_rows_give_no_rewards() -> None:
    scalar, attributes = ProxyReward(DEFAULT_WEIGHTS, FixedEncoder()).score([], [], [])
    assert scalar.shape == (0,)
    assert set(attributes) == set(ATTRIBUTES)


def test_scalar_is_the_weighted_sum() -> None:
    reward = ProxyReward({"finished": 2.0, "non_echo": 0.5}, FixedEncoder())
    scalar, attributes = reward.score([PROMPT], [GOOD], ["stop"])
    assert scalar[0] == pytest.approx(2.0 * attributes["finished"][0] + 0.5 * attributes["non_echo"][0])


@pytest.mark.parametrize("blank", ["", "  \n\t", "\u200b\u00a0", "\x00\x07"])
def test_a_blank_response_is_lowest_on_everything(blank: str) -> None:
    scalar, attributes = ProxyReward(DEFAULT_WEIGHTS, FixedEncoder()).score([PROMPT], [blank], ["stop"])
    assert is_blank(blank)
    assert scalar[0] == 0.0
    assert all(attributes[name][0] == 0.0 for name in ATTRIBUTES)


@given(
    st.lists(
        st.tuples(st.text(max_size=60), st.text(max_size=120), st.sampled_from(["stop", "length", None])),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_attributes_stay_within_zero_and_one(rows: list[tuple[str, str, str | None]]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []]
    scalar, attributes = ProxyReward(DEFAULT_WEIGHTS, FixedEncoder()).score(*columns)
    for values in (scalar, *attributes.values()):
        assert np.all((values >= 0.0) & (values <= 1.0 + 1e-12))


def test_a_copy_keeps_its_echo_after_a_change_of_some_words() -> None:
    source = words("write a short poem about the old house by the sea")
    changed = words("write a short poem regarding the old house by a lake")
    assert copied_share(source, source) == 1.0
    assert copied_share(source, changed) > 0.5
    assert copied_share(source, words("the sea is a house")) == 0.0
    assert copied_share([], changed) == 0.0


def test_repetition_is_seen_in_words_marks_and_unspaced_scripts() -> None:
    assert distinct_ngram_share("no " * 50) < 0.05
    assert distinct_ngram_share("!" * 50) < 0.05
    assert distinct_ngram_share("\u5f88\u597d" * 30) < 0.05
    assert distinct_ngram_share(GOOD) > 0.95
    assert distinct_ngram_share("yes") == 1.0


@needs_model
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (GOOD[:90], "length"),
        (" ".join([GOOD[:60]] * 4), "stop"),
        (
            "The stock market fell on Monday, as investors sold shares of large banks and oil companies.",
            "stop",
        ),
        (PROMPT, "stop"),
        (f"{PROMPT} {PROMPT}", "stop"),
        ("", "stop"),
    ],
    ids=["truncated", "repeated", "off topic", "echo", "echo twice", "empty"],
)
def test_a_good_response_beats_a_bad_one(reward: ProxyReward, bad: str, reason: str) -> None:
    scalar, _ = reward.score([PROMPT, PROMPT], [GOOD, bad], ["stop", reason])
    assert scalar[0] > scalar[1]


@needs_model
def test_equal_input_gives_equal_rewards(reward: ProxyReward) -> None:
    first, _ = reward.score([PROMPT] * 2, [GOOD, "Because."], ["stop", "stop"])
    again, _ = ProxyReward(DEFAULT_WEIGHTS, SentenceEncoder()).score([PROMPT] * 2, [GOOD, "Because."], ["stop", "stop"])
    assert np.array_equal(first, again)
