"""Win rates on AlpacaEval's scale: a preference of 1 for the reference, 2 for the model, 1.5 for a draw.

The estimates are those of alpaca_eval 0.6.6 to rounding. What that package leaves out silently is counted here.
"""

from dataclasses import dataclass
from math import nan
from numbers import Real
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics.intervals import win_rate_interval
from harness.errors import PrefsweepError

Floats = npt.NDArray[np.float64]

FAILED: Final = -1
"""What alpaca_eval stores for a judgement that could not be parsed."""

OLD_DRAW: Final = 0
"""alpaca_eval's older mark of a draw."""


class StatisticsError(PrefsweepError, ValueError):
    """Data from which the number asked for does not follow; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty; in percent, where it is a win rate."""

    value: float
    standard_error: float
    """NaN for one row, which has no spread."""
    low: float
    high: float
    n: int
    """Rows that the value rests on."""
    excluded: int = 0
    """Rows left out because their judgement failed."""
    method: str = ""
    """How `low` and `high` were made; they are the ends of a 95 % interval unless it says otherwise."""


def win_rate(preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Estimate:
    """Mean of `preferences` [rows] in percent, its standard error, and an interval over instructions.

    A preference lies in [1, 2], 2 where the model is better; as in alpaca_eval, 0 is a draw. None, NaN and -1
    are failed judgements: left out and counted. Raises StatisticsError for anything else, and where no judgement
    is left.
    """
    return _estimate(as_preferences(preferences), level, draws, seed)


def discrete_win_rate(
    preferences: npt.ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """Share of `preferences` above 1.5, in percent, exact draws counting one half; otherwise as `win_rate`."""
    values = as_preferences(preferences)
    rounded = np.where(values == 0.5, 0.5, (values > 0.5).astype(float))
    return _estimate(np.where(np.isnan(values), nan, rounded), level, draws, seed)


def as_preferences(preferences: npt.ArrayLike) -> Floats:
    """Preferences of alpaca_eval's scale as fractions in [0, 1], NaN for a failed judgement.

    Raises StatisticsError for what is no such preference, naming the row by its place.
    """
    values = as_numbers(preferences, "preference", "a number in [1, 2], or None, NaN or -1 for a failed judgement")
    values[values == FAILED] = nan
    for end in (1.0, 2.0):  # which a mean over orders or seeds may miss by rounding
        values[np.isclose(values, end, rtol=0, atol=1e-9)] = end
    outside = ~np.isnan(values) & (values != OLD_DRAW) & ~((values >= 1) & (values <= 2))
    if outside.any():
        place = int(np.flatnonzero(outside)[0])
        raise StatisticsError(
            f"preference in row {place} is {values[place]:g}; expected a number in [1, 2], where 2 means that the "
            "model is better (0 for a draw; None, NaN or -1 for a failed judgement)"
        )
    if (values == OLD_DRAW).any() and np.nanmax(values) <= 1:
        raise StatisticsError(
            "the preferences are all 0 or 1: they seem to be on a scale from 0 to 1; expected 1 where the reference "
            "is better and 2 where the model is"
        )
    return np.where(values == OLD_DRAW, 0.5, values - 1)


def as_numbers(values: npt.ArrayLike, name: str, expected: str) -> Floats:
    """One dimension of numbers as a new array of floats, NaN for None; StatisticsError names what is none."""
    if isinstance(values, pd.DataFrame) or np.ndim(values) != 1:
        raise StatisticsError(f"{name}: expected one column of numbers, got shape {np.shape(values)}")
    entries = list(values) if isinstance(values, pd.Series) else list(np.asarray(values, dtype=object))
    numbers = np.empty(len(entries))
    for place, entry in enumerate(entries):
        if entry is None or entry is pd.NA or entry is pd.NaT:
            numbers[place] = nan
        elif isinstance(entry, Real) and type(entry) not in {bool, np.bool_}:
            numbers[place] = float(entry)
        else:
            raise StatisticsError(f"{name} in row {place} is {entry!r}; expected {expected}")
    return numbers


def _estimate(values: Floats, level: float, draws: int, seed: int) -> Estimate:
    judged = values[~np.isnan(values)]
    if len(judged) == 0:
        raise StatisticsError(f"no judged row: {len(values)} preferences, all failed" if len(values) else "no rows")
    interval = win_rate_interval(values, level=level, draws=draws, seed=seed)
    value = 100 * float(judged.mean())
    return Estimate(
        value=value,
        standard_error=100 * float(judged.std(ddof=1)) / len(judged) ** 0.5 if len(judged) > 1 else nan,
        low=min(value, 100 * interval.low),
        high=max(value, 100 * interval.high),
        n=len(judged),
        excluded=interval.excluded,
        method=interval.method,
    )
