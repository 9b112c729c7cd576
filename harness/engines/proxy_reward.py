"""The embedded proxy reward: a weighted sum of four bounded attributes of a response.

It makes the pipeline real and deterministic on a laptop. It is no measure of quality: it reads no facts, and
a policy trained on it can learn to copy or to stop early. So every attribute is kept beside the scalar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.engines.text_features import copied_share, distinct_ngram_share, is_blank, words
from harness.errors import ConfigError

ATTRIBUTES = ("relevance", "finished", "non_repetitive", "non_echo")

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    # Summing to 1, so that the scalar lies in [0, 1]. `finished` is 0 or 1 and so varies most in a prompt: a
    # larger weight would split every pool in two heaps. `relevance` rises when a response restates the
    # prompt, and `non_echo` has to cost more than that: 0.4 against 0.3 does, 0.3 against 0.4 does not.
    {"relevance": 0.30, "finished": 0.10, "non_repetitive": 0.20, "non_echo": 0.40}
)


class Encoder(Protocol):
    """What the proxies need of a sentence encoder: unit vectors, one row per text."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [n, d], each of length 1, in the order of `texts`."""
        ...


def _checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(set(weights) - set(ATTRIBUTES))
    if unknown:
        raise ConfigError(f"reward.weights names {unknown[0]!r}; valid attributes: {', '.join(ATTRIBUTES)}")
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ConfigError(f"reward.weights.{name} is {weight!r}; expected a finite number")
    if not any(weights.values()):
        raise ConfigError("reward.weights are all zero; expected at least one weight other than 0")
    return {name: float(weights.get(name, 0.0)) for name in ATTRIBUTES}


class ProxyReward:
    """Weighted sum of `ATTRIBUTES`, each in [0, 1] and larger for the better response.

    - relevance: cosine of the MiniLM embeddings of prompt and response, negative values set to 0.
    - finished: 1 where the sampler's finish reason is "stop", else 0.
    - non_repetitive: distinct 3-grams over all 3-grams.
    - non_echo: 1 minus the share of the response's words that stand in a 3-gram copied from the prompt. Short
      n-grams on purpose: with long ones a copy evades the measure by changing a word here and there.

    A blank response (nothing visible) has 0 on every attribute. Attributes left out of `weights` weigh 0.
    """

    label = "embedded proxy reward v1 (not a measure of quality)"

    def __init__(self, weights: Mapping[str, float], encoder: Encoder) -> None:
        """ConfigError for an unknown attribute, a weight that is not finite, or weights that are all zero."""
        self.weights = _checked_weights(weights)
        self.encoder = encoder

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], finish_reasons: Sequence[str | None]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Scalar rewards [n] and attributes {name: [n]} of n (prompt, response, finish reason) rows.

        ValueError when the three lengths differ.
        """
        attributes = {
            "relevance": self._relevance(prompts, responses),
            "finished": np.array([reason == "stop" for reason in finish_reasons], dtype=np.float64),
            "non_repetitive": np.array([distinct_ngram_share(text) for text in responses], dtype=np.float64),
            "non_echo": np.array(
                [
                    1.0 - copied_share(words(prompt), words(response))
                    for prompt, response in zip(prompts, responses, strict=True)
                ],
                dtype=np.float64,
            ),
        }
        if len(attributes["finished"]) != len(responses):
            raise ValueError(f"{len(responses)} responses but {len(attributes['finished'])} finish reasons")
        seen = np.array([not is_blank(text) for text in responses], dtype=bool)
        attributes = {name: np.where(seen, attributes[name], 0.0) for name in ATTRIBUTES}
        scalar = np.zeros(len(responses), dtype=np.float64)
        for name in ATTRIBUTES:
            scalar += self.weights[name] * attributes[name]
        return scalar, attributes

    def _relevance(self, prompts: Sequence[str], responses: Sequence[str]) -> NDArray[np.float64]:
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        if not prompts:
            return np.zeros(0, dtype=np.float64)
        rows = self.encoder.encode([*prompts, *responses]).astype(np.float64)
        cosine = np.einsum("ij,ij->i", rows[: len(prompts)], rows[len(prompts) :])
        clipped: NDArray[np.float64] = np.clip(cosine, 0.0, 1.0)
        return clipped
