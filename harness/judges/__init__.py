"""Judges: who compares two answers, one module per kind.

A judge is asked flat lists of ordered comparisons and gives one judgement for each. Which orders are asked, how they
become a preference, and what is counted is the same for every judge: see `harness.stages.judge`. Light to import; what
is heavy is imported where a judge is opened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Order = Literal["both", "seeded", "given"]
"""`both`: every pair of answers is shown in both orders, and the mean counts; `seeded`: in one order, drawn by
alpaca_eval's generator from the instruction, as its leaderboard was made; `given`: in an order that is not known."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two answers to one instruction, in the order in which they are shown."""

    prompt_id: str
    instruction: str
    first: str
    second: str
    reversed: bool
    """Whether the reference is shown first, and the policy's answer second."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge said of one comparison, or why it said nothing that counts."""

    preference: float | None
    """Probability that the answer shown first is the better one, 0 to 1; None with a `failure`."""
    failure: str | None = None
    """Why there is no preference: a short name that is counted."""
    answer: str | None = None
    """The judge's own words."""
    logprobs: Mapping[str, float] | None = None
    """Log-probabilities, in nats, of the tokens that the judge might have answered with."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Judge(Protocol):
    """Compares answers."""

    label: str
    """The judge in words, shown beside every number it gave."""
    order: Order

    def judge(self, comparisons: Sequence[Comparison], advance: Callable[[int], None]) -> Sequence[Judgement]:
        """One judgement for each comparison, in their order; `advance` counts those that are new.

        Raises:
            PrefsweepError: the judge cannot be asked; what it has said so far is kept.
        """

    def measures(self) -> Mapping[str, Any]:
        """What a manifest records of this judge: its identity, and what it cost."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A judge as the plan knows it."""

    spec: Any
    """What decides a verdict; a dataclass with a field `engine`."""
    params: Mapping[str, Any]
    """What asking takes, and no verdict depends on."""
