"""Agreement of a score with verdicts, with intervals: balanced accuracy, shares and rank correlations.

Bootstraps draw instructions, since several pairs may share one; the generator's seed is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_CLASS = 10
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval, from `n` units."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return "-" if np.isnan(self.value) else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def credit(preferred: Floats, wins: NDArray[np.bool_]) -> Floats:
    """1 where the preference [n] (above 0.5: the first) agrees with the verdict, 0.5 for a tie, else 0."""
    sign = np.sign(preferred - 0.5)
    return np.where(wins, 0.5 + 0.5 * sign, 0.5 - 0.5 * sign)


def balanced_accuracy(
    preferred: Floats, wins: NDArray[np.bool_], instructions: NDArray[np.int64], *, seed: int = 0
) -> Estimate:
    """Mean of the accuracies on wins and on losses, [n] rows each; percentile bootstrap over instructions."""
    right = credit(preferred, wins)
    if wins.all() or not wins.any():
        return Estimate(value=nan, low=nan, high=nan, n=len(wins))
    columns, units = np.unique(instructions, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(columns), np.full(len(columns), 1 / len(columns)), size=DRAWS)
    weights = np.vstack([np.ones(len(wins)), counts[:, units]])
    with np.errstate(invalid="ignore"):
        sides = [weights[:, side] @ right[side] / weights[:, side].sum(axis=1) for side in (wins, ~wins)]
    values = (sides[0] + sides[1]) / 2
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return Estimate(value=float(values[0]), low=float(low), high=float(high), n=len(wins))


def share(right: Floats) -> Estimate:
    """Mean of values in [0, 1] with Wilson's interval (which takes them as successes and failures)."""
    n, z = len(right), 1.959964
    if n == 0:
        return Estimate(value=nan, low=nan, high=nan, n=0)
    p = float(right.mean())
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(value=p, low=min(centre - half, p), high=max(centre + half, p), n=n)


def _ranks(values: Floats) -> Floats:
    """Ranks [n] from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts + 1) / 2
    ranks: Floats = means[inverse]
    return ranks


def spearman(first: Floats, second: Floats, *, seed: int = 0) -> Estimate:
    """Rank correlation of two columns [n]; percentile bootstrap over rows."""

    def correlate(rows: NDArray[np.int64]) -> float:
        a, b = _ranks(first[rows]), _ranks(second[rows])
        if np.ptp(a) == 0 or np.ptp(b) == 0:
            return nan
        return float(np.corrcoef(a, b)[0, 1])

    return _bootstrap(correlate, len(first), seed)


def _bootstrap(statistic: Callable[[NDArray[np.int64]], float], n: int, seed: int) -> Estimate:
    rng = np.random.default_rng(seed)
    draws = np.array([statistic(rng.integers(0, n, size=n)) for _ in range(DRAWS)])
    if np.isnan(draws).all():
        return Estimate(value=nan, low=nan, high=nan, n=n)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Estimate(value=statistic(np.arange(n)), low=float(low), high=float(high), n=n)
