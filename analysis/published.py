"""Published scaling curves, number by number with where each was read.

They are of other policies, judges and references than a sweep's own: they show a shape to look for, not a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One published win rate."""

    n: int
    """Samples per prompt."""
    win_rate: float
    """In %."""
    read: Literal["figure", "table"]
    """What it was read from; off a figure to about a point."""


@dataclass(frozen=True, kw_only=True)
class PublishedCurve:
    """Win rates of one construction against n, as others have published them."""

    construction: str
    """The construction of ours that implements it."""
    what: str
    """What was measured."""
    policy: str
    source: str
    second_hand: bool
    """Whether the numbers come from notes of others on the source, and were not checked against it."""
    points: Sequence[PublishedPoint]

    @property
    def provenance(self) -> str:
        """Source, and how far the numbers can be trusted, in words."""
        read = " and ".join(f"a {kind}" for kind in ("figure", "table") if kind in {p.read for p in self.points})
        how = f"second-hand, from notes of others who read {read}; not checked" if self.second_hand else f"from {read}"
        return f"{self.source}, {self.policy}, {self.what}; {how}"


def _curve(construction: str, figure: dict[int, float], table: dict[int, float]) -> PublishedCurve:
    read = [PublishedPoint(n=n, win_rate=rate, read="figure") for n, rate in figure.items()]
    stated = [PublishedPoint(n=n, win_rate=rate, read="table") for n, rate in table.items()]
    return PublishedCurve(
        construction=construction,
        what="length-controlled win rates on AlpacaEval 2",
        policy="Llama-3-8B-Instruct",
        source="arXiv 2502.16825",
        second_hand=True,
        points=[*read, *stated],
    )


SWEET_SPOT_SCALING: Final = (
    _curve("max_min", {5: 45, 50: 43, 100: 42, 200: 41}, {400: 42.0}),
    _curve("sweet_spot", {5: 45, 50: 47, 100: 48, 200: 49}, {400: 49.1}),
)
"""Highest against lowest reward of n samples, and highest of n against the lowest of five.

The notes list the policy at the table and set the figure's values beneath it. In the table they also have 48.2 for
max-min at n = 5 (the paper's baseline), three points above the figure. The two are not of one run; only the figure's is
here.
"""
