"""Win rates and their differences, with intervals that state their method and what they speak about.

A preference is a number in [0, 1] per instruction: 1 when the cell's answer is better, 0.5 for a tie, NaN for
a failed judgement (left out and counted). Every random draw comes from the `seed` argument, so the same input
gives the same interval.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import nan, sqrt
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

Floats = npt.NDArray[np.float64]

THESE_MODELS: Final = "these trained models only"
TWO_SEEDS: Final = "two training seeds, too few for a claim about the construction"
CONSTRUCTION: Final = "construction"

PERCENTILE: Final = "percentile bootstrap over instructions"
GUARDED: Final = "guarded bootstrap over instructions"

BOOTSTRAP_ROWS: Final = 200
"""Below this many instructions the percentile bootstrap is too short (at 64 and a 2.6 % win rate: 79 %)."""

BOOTSTRAP_EVENTS: Final = 20
"""Nor is it used with fewer wins, losses, or rows beside the commonest value than this."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its interval; all three numbers are NaN when there is nothing to estimate from."""

    estimate: float
    low: float
    high: float
    method: str
    n: int
    """Instructions used."""
    scope: str
    """What the interval speaks about: `THESE_MODELS`, `TWO_SEEDS` or `CONSTRUCTION`."""
    level: float = 0.95
    excluded: int = 0
    """Instructions left out because a judgement failed or, in a comparison, has no partner."""
    note: str = ""
    """Reason for a missing interval, or a caveat."""


def win_rate_interval(
    preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of the mean of `preferences` [instructions], over instructions, for one trained model.

    The percentile bootstrap where it can be trusted (`BOOTSTRAP_ROWS`, `BOOTSTRAP_EVENTS`), else the guarded
    one. Raises ValueError for a preference outside [0, 1].
    """
    values, excluded = _finite(_preferences(preferences, dimensions=1))
    n = len(values)
    if n == 0:
        return _nothing("no judged instruction", level=level, excluded=excluded)
    events = n * min(values.mean(), 1 - values.mean())
    unusual = n - np.unique(values, return_counts=True)[1].max()
    trusted = n >= BOOTSTRAP_ROWS and min(events, unusual) >= BOOTSTRAP_EVENTS
    estimate = bootstrap_interval if trusted else guarded_interval
    return replace(estimate(values, level=level, draws=draws, seed=seed), excluded=excluded)


def bootstrap_interval(
    preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean over instructions, whatever their number (at least one)."""
    values, excluded = _finite(_preferences(preferences, dimensions=1))
    if len(values) == 0:
        return _nothing("no judged instruction", level=level, excluded=excluded)
    # Sorted, so that the order of the instructions does not move the interval.
    means = _resamples(len(values), draws, seed) @ np.sort(values) / len(values)
    low, high = np.quantile(means, _tails(level))
    return _interval(values, low, high, method=f"{PERCENTILE}, {draws} draws", level=level, excluded=excluded)


def guarded_interval(
    preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Bayesian bootstrap of the mean with one more observation: 1 for the upper limit, 0 for the lower.

    That observation stands for what the sample did not show, so samples of only wins, losses or ties get an
    interval of positive length. For wins and losses alone it is the Clopper-Pearson interval. It is the bound
    of Gaffke (2005) and of Learned-Miller and Thomas (arXiv 1905.06208): its coverage is at or above the
    level in every case tried, at the price of intervals some 5-10 % longer than a Wilson interval's.
    """
    values, excluded = _finite(_preferences(preferences, dimensions=1))
    if len(values) == 0:
        return _nothing("no judged instruction", level=level, excluded=excluded)
    weights = _spacings(len(values), draws, seed)
    tail = _tails(level)[1]
    ordered = np.sort(values)
    high = np.quantile(weights @ np.append(ordered, 1.0), tail)
    # The lower limit mirrors the upper one, with the same draws: swapping the answers mirrors it.
    low = 1 - np.quantile(weights @ np.append(np.sort(1 - values), 1.0), tail)
    return _interval(values, low, high, method=f"{GUARDED}, {draws} draws", level=level, excluded=excluded)


def seeds_interval(preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Interval of the mean of `preferences` [seeds x instructions], over training seeds and instructions.

    Seeds and instructions are crossed, so each adds its own variance, and half-widths are joined in squares: that
    of the seeds from Student's t on the seeds' means, that of the instructions from `win_rate_interval` of the mean
    over seeds, less the residual, which the seeds' means hold already. Never shorter than the interval over
    instructions alone. Instructions with a failed judgement in any seed are left out.
    """
    table = _preferences(preferences, dimensions=2)
    complete = ~np.isnan(table).any(axis=0)
    kept, excluded = table[:, complete], int((~complete).sum())
    if 0 in kept.shape:
        return _nothing("no instruction judged under every seed", level=level, excluded=excluded)
    over_instructions = win_rate_interval(kept.mean(axis=0), level=level, draws=draws, seed=seed)
    seeds = len(kept)
    if seeds == 1:
        return replace(over_instructions, excluded=excluded)
    mean, low, high = over_instructions.estimate, over_instructions.low, over_instructions.high
    deviation = kept.mean(axis=1).std(ddof=1) / np.sqrt(seeds)
    half = special.stdtrit(seeds - 1, _tails(level)[1]) * deviation
    share = sqrt(_instruction_share(kept))
    return replace(
        over_instructions,
        low=max(0.0, min(low, float(mean - np.hypot(half, share * (mean - low))))),
        high=min(1.0, max(high, float(mean + np.hypot(half, share * (high - mean))))),
        method=f"{over_instructions.method}, joined with Student t over training seeds",
        scope=CONSTRUCTION if seeds >= 3 else TWO_SEEDS,
        excluded=excluded,
        note="" if seeds >= 3 else "the seeds' spread has one degree of freedom: t is 12.7 at 95 %",
    )


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
        if not series.index.is_unique:
            raise ValueError(f"an instruction is repeated: {series.index[series.index.duplicated()][0]!r}")
        _preferences(series.to_numpy(float), dimensions=1)
    difference = (first.astype(float) - second.astype(float)).to_numpy(float)
    half = win_rate_interval((difference + 1) / 2, level=level, draws=draws, seed=seed)
    low, middle, high = (2 * value - 1 for value in (half.low, half.estimate, half.high))
    return replace(half, estimate=middle, low=low, high=high, method=f"{half.method}, paired")


def smallest_detectable_difference(
    instructions: int,
    deviation: float,
    *,
    seed_deviation: float = 0.0,
    seeds: int = 1,
    level: float = 0.95,
    power: float = 0.8,
) -> float:
    """Difference of two win rates that one paired comparison, chosen beforehand, finds at `power`.

    `deviation` is the standard deviation of the difference per instruction, `seed_deviation` that of a win
    rate between training seeds. NaN without instructions.
    """
    if instructions < 1 or seeds < 1:
        return nan
    error = sqrt(deviation**2 / instructions + 2 * seed_deviation**2 / seeds)
    quantiles = float(special.ndtri(_tails(level)[1]) + special.ndtri(power))
    return quantiles * error


def max_t_interval(
    preferences: pd.DataFrame,
    experiments: Mapping[Hashable, Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[Hashable, Interval]:
    """Intervals, one per column of `preferences` [instructions x cells], that hold together at `level`.

    The best of 21 equal cells looks better than it is; these intervals allow for the choice. The largest |t|
    over the cells, in resamples of the instructions, gives the level that each cell's own interval needs; it
    never exceeds Bonferroni's. `experiments` maps a column to its experiment: cells of one experiment count
    once. Instructions with a failed judgement in any cell are left out of all.
    """
    kept = preferences.dropna()
    groups = {column: column if experiments is None else experiments[column] for column in kept.columns}
    distinct = kept.loc[:, ~pd.Index(list(groups.values())).duplicated()]
    table = _preferences(distinct.to_numpy(float), dimensions=2)
    each = simultaneous_level(table, level=level, draws=draws, seed=seed)
    intervals: dict[Hashable, Interval] = {}
    for column in distinct.columns:
        own = win_rate_interval(distinct[column].to_numpy(float), level=each, draws=draws, seed=seed)
        intervals[groups[column]] = replace(
            own,
            method=f"max-t over {distinct.shape[1]} experiments, {own.method}",
            level=level,
            excluded=len(preferences) - len(kept),
        )
    return {column: intervals[experiment] for column, experiment in groups.items()}


def simultaneous_level(table: Floats, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> float:
    """Level of the single interval at which all columns of `table` [rows x cells] hold together."""
    rows, cells = table.shape
    bonferroni = 1 - (1 - level) / max(int(cells), 1)
    if rows == 0 or not (varying := np.ptp(table, axis=0) > 0).any():
        return bonferroni
    spread = table[:, varying]
    centred = (spread - spread.mean(axis=0)) / (spread.std(axis=0) / np.sqrt(rows))
    largest = np.abs(_resamples(rows, draws, seed) @ centred / rows).max(axis=1)
    joint = 2 * float(special.ndtr(np.quantile(largest, level))) - 1
    return float(np.clip(joint, level, bonferroni))


def _instruction_share(table: Floats) -> float:
    """Share of the variance of the instructions' means over `table` [seeds x instructions] that is not residual."""
    seeds, instructions = table.shape
    means = table.mean(axis=0)
    between = seeds * float(np.square(means - means.mean()).sum()) / max(instructions - 1, 1)
    residual = table - means - table.mean(axis=1, keepdims=True) + table.mean()
    within = float(np.square(residual).sum()) / max((seeds - 1) * (instructions - 1), 1)
    # Nothing varies: nothing can be told to be residual either.
    return max(0.0, 1 - within / between) if between > 0 else 1.0


def _preferences(values: npt.ArrayLike, *, dimensions: Literal[1, 2]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"expected preferences in {dimensions} dimension(s), got shape {array.shape}")
    # 1e-9: a mean over seeds or orders may miss the end by rounding.
    outside = (array < -1e-9) | (array > 1 + 1e-9)
    if outside.any():
        raise ValueError(f"a preference lies in [0, 1], got {array[outside][0]}")
    return np.clip(array, 0.0, 1.0)


def _finite(values: Floats) -> tuple[Floats, int]:
    """The judged preferences, and how many were not."""
    judged = values[~np.isnan(values)]
    return judged, len(values) - len(judged)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level lies between 0 and 1, got {level}")
    return (1 - level) / 2, (1 + level) / 2


def _interval(values: Floats, low: float, high: float, *, method: str, level: float, excluded: int) -> Interval:
    mean = float(values.mean())
    return Interval(
        estimate=mean,
        low=float(np.clip(low, 0.0, mean)),
        high=float(np.clip(high, mean, 1.0)),
        method=method,
        n=len(values),
        scope=THESE_MODELS,
        level=level,
        excluded=excluded,
    )


def _nothing(reason: str, *, level: float, excluded: int) -> Interval:
    facts = {"method": "none", "scope": THESE_MODELS, "note": reason}
    return Interval(estimate=nan, low=nan, high=nan, n=0, level=level, excluded=excluded, **facts)


@lru_cache(maxsize=4)
def _resamples(n: int, draws: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each of `n` rows stands in each resample [draws x n]; kept, since cells share it."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return counts.astype(np.float32)


@lru_cache(maxsize=4)
def _spacings(n: int, draws: int, seed: int) -> Floats:
    """Weights [draws x n + 1], each row uniform over the weights that sum to 1."""
    weights = np.random.default_rng(seed).standard_exponential((draws, n + 1))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
