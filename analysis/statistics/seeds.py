"""Training seeds crossed with instructions: intervals of a construction, and of the difference of two.

Seeds are no repeats of instructions. With a seed-to-seed standard deviation of 3 points, an interval over 805
instructions of one model covers the construction's win rate in two thirds of the cases, not in 95 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.statistics.intervals import (
    CONSTRUCTION,
    THESE_MODELS,
    TWO_SEEDS,
    Floats,
    Interval,
    checked,
    nothing,
    tails,
    win_rate_interval,
)

CROSSED: Final = "widened for training seeds by the crossed model (Satterthwaite)"


@dataclass(frozen=True, kw_only=True)
class SeedVariance:
    """What the training seeds of one construction add to the variance of a win rate, and how surely that is known."""

    excess: float
    """Variance between seeds beyond what single preferences bring about; may be below 0 by chance."""
    between: float
    """Variance of the seeds' own win rates, that share included."""
    residual: float
    """The share that single preferences bring about."""
    seeds: int
    instructions: int


def seed_variance(table: Floats) -> SeedVariance:
    """Of `table` [seeds x instructions], without NaN, by the two-way model without repeats."""
    seeds, instructions = table.shape
    if seeds < 2:
        return SeedVariance(excess=0.0, between=0.0, residual=0.0, seeds=seeds, instructions=instructions)
    means = table.mean(axis=1, keepdims=True)
    residual = table - table.mean(axis=0) - means + table.mean()
    noise = float(np.square(residual).sum()) / max((seeds - 1) * (instructions - 1), 1) / instructions
    between = float(means.var(ddof=1))
    return SeedVariance(excess=between - noise, between=between, residual=noise, seeds=seeds, instructions=instructions)


def seeds_interval(preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Interval of the mean of `preferences` [seeds x instructions], over training seeds and instructions.

    Seeds and instructions are crossed, so each adds its own variance. The interval over instructions, of the
    preferences' means over seeds, is widened by the seeds' variance and by Student's t with Satterthwaite's degrees
    of freedom; it is never shorter. Instructions with a failed judgement in any seed are left out.
    """
    table = checked(preferences, dimensions=2)
    complete = ~np.isnan(table).any(axis=0)
    kept, excluded = table[:, complete], int((~complete).sum())
    if 0 in kept.shape:
        return nothing("no instruction judged under every seed", level=level, excluded=excluded)
    over_instructions = win_rate_interval(kept.mean(axis=0), level=level, draws=draws, seed=seed)
    widened = _widen(over_instructions, kept.mean(axis=0), [seed_variance(kept)])
    return replace(widened, low=max(0.0, widened.low), high=min(1.0, widened.high), excluded=excluded)


def seeds_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of the mean preference of `first` less that of `second` [instructions x seeds], indexed by instruction.

    Instructions are paired; the seeds of the two are taken as independent, so their numbers may differ. A side with
    one seed adds no seed variance, and the interval then speaks about these trained models only.
    """
    for frame in (first, second):
        _check_unique(frame.index)
        checked(frame.to_numpy(float), dimensions=2)
    sides = [frame.astype(float).dropna() for frame in (first, second)]
    shared = sides[0].index.intersection(sides[1].index)
    left_out = len(first.index.union(second.index)) - len(shared)
    one, other = (side.loc[shared].to_numpy(float).T for side in sides)
    if 0 in one.shape or 0 in other.shape:
        return nothing("no instruction judged under every seed of both", level=level, excluded=left_out)
    difference = one.mean(axis=0) - other.mean(axis=0)
    paired = _stretched(win_rate_interval((difference + 1) / 2, level=level, draws=draws, seed=seed))
    widened = _widen(paired, difference, [seed_variance(one), seed_variance(other)])
    return replace(widened, low=max(-1.0, widened.low), high=min(1.0, widened.high), excluded=left_out)


def paired_difference(
    first: "pd.Series[float]",
    second: "pd.Series[float]",
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `first` - `second`, two series of preferences indexed by instruction.

    Paired by index, which is unique in each; instructions that only one has are left out and counted. The
    difference lies in [-1, 1], so it has the method of a win rate, stretched.
    """
    for series in (first, second):
        _check_unique(series.index)
        checked(series.to_numpy(float), dimensions=1)
    difference = (first.astype(float) - second.astype(float)).to_numpy(float)
    return _stretched(win_rate_interval((difference + 1) / 2, level=level, draws=draws, seed=seed))


def smallest_detectable_difference(
    instructions: int,
    deviation: float,
    *,
    seed_deviation: float = 0.0,
    seeds: int = 1,
    seed_degrees: float | None = None,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """Difference of two win rates that one paired comparison, chosen beforehand, finds at `power`.

    `deviation` is the standard deviation of the difference per instruction, `seed_deviation` that of a win
    rate between training seeds, known with `seed_degrees` degrees of freedom (None: those of the two cells
    alone). The quantiles are Student's with Satterthwaite's degrees of freedom, which is near the noncentral t.
    NaN without instructions.
    """
    if instructions < 1 or seeds < 1:
        return nan
    over_instructions, over_seeds = deviation**2 / instructions, 2 * seed_deviation**2 / seeds
    error = sqrt(over_instructions + over_seeds)
    known = 2 * (seeds - 1) if seed_degrees is None else seed_degrees
    spread = over_instructions**2 / max(instructions - 1, 1) + (over_seeds**2 / known if known > 0 else 0.0)
    degrees = error**4 / spread if spread > 0 else float(instructions)
    return float(special.stdtrit(degrees, tails(level)[1]) + special.stdtrit(degrees, power)) * error


def _widen(over_instructions: Interval, means: Floats, sides: Sequence[SeedVariance]) -> Interval:
    """`over_instructions`, of the mean of `means`, with the variance that the seeds of `sides` add."""
    several = [side for side in sides if side.seeds > 1]
    if not several:
        return over_instructions
    n = len(means)
    own = float(means.var(ddof=1)) / n if n > 1 else 0.0
    added = sum(max(0.0, side.excess) / side.seeds for side in several)
    total = own + added
    fewest = min(side.seeds for side in sides)
    degrees = degrees_of_freedom(total, own, n, several)
    quantile = tails(over_instructions.level)[1]
    middle, low, high = over_instructions.estimate, over_instructions.low, over_instructions.high
    if own > 0 and degrees > 1:
        longer = float(special.stdtrit(degrees, quantile) / special.ndtri(quantile)) * sqrt(total / own)
        down, up = longer * (middle - low), longer * (high - middle)
    else:
        # With one degree of freedom the approximation is too bold, and it needs instructions that vary. The seeds'
        # own spread, noise included, errs to the safe side.
        spread = sqrt(sum(side.between / side.seeds for side in several))
        alone = float(special.stdtrit(degrees, quantile)) * spread
        down, up = (float(np.hypot(half, alone)) for half in (middle - low, high - middle))
    return replace(
        over_instructions,
        low=middle - down,
        high=middle + up,
        method=f"{over_instructions.method}, {CROSSED}",
        scope={1: THESE_MODELS, 2: TWO_SEEDS}.get(fewest, CONSTRUCTION),
        note=_SEED_NOTES.get(fewest, ""),
    )


_SEED_NOTES: Final = {
    1: "one side has one training seed, and adds no seed variance",
    2: "the seeds' spread has one degree of freedom: t is 12.7 at 95 %",
}


def degrees_of_freedom(total: float, own: float, n: int, several: Sequence[SeedVariance]) -> float:
    """Satterthwaite's degrees of freedom of `total`, no fewer than the seeds alone have."""
    least = float(min(side.seeds for side in several) - 1)
    if least == 1:
        return least
    spread = own**2 / max(n - 1, 1)
    for side in several:
        # Seeds that do not vary beyond the noise add nothing to `total`, nor to its uncertainty.
        spread += (side.between / side.seeds) ** 2 / (side.seeds - 1) if side.excess > 0 else 0.0
        spread += (side.residual / side.seeds) ** 2 / max((side.seeds - 1) * (side.instructions - 1), 1)
    return max(least, total**2 / spread) if spread > 0 else float(max(n - 1, 1))


def _stretched(half: Interval) -> Interval:
    """The interval of a difference from that of (difference + 1) / 2."""
    low, middle, high = (2 * value - 1 for value in (half.low, half.estimate, half.high))
    return replace(half, estimate=middle, low=low, high=high, method=f"{half.method}, paired")


def _check_unique(index: "pd.Index[Any]") -> None:
    if not index.is_unique:
        raise ValueError(f"an instruction is repeated: {index[index.duplicated()][0]!r}")
