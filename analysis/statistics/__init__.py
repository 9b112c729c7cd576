"""Estimates with intervals that state their method and what they speak about. Pure: no file, no model, no torch.

Every random draw comes from a `seed` argument, so that the same input gives the same interval.
"""

from analysis.statistics.intervals import (
    BOOTSTRAP_EVENTS,
    BOOTSTRAP_ROWS,
    CONSTRUCTION,
    GUARDED,
    PERCENTILE,
    THESE_MODELS,
    TWO_SEEDS,
    Floats,
    Interval,
    bootstrap_interval,
    guarded_interval,
    max_t_interval,
    paired_difference,
    seeds_interval,
    simultaneous_level,
    smallest_detectable_difference,
    win_rate_interval,
)
from analysis.statistics.preferences import Estimate, StatisticsError, discrete_win_rate, win_rate

__all__ = [
    "BOOTSTRAP_EVENTS",
    "BOOTSTRAP_ROWS",
    "CONSTRUCTION",
    "GUARDED",
    "PERCENTILE",
    "THESE_MODELS",
    "TWO_SEEDS",
    "Estimate",
    "Floats",
    "Interval",
    "StatisticsError",
    "bootstrap_interval",
    "discrete_win_rate",
    "guarded_interval",
    "max_t_interval",
    "paired_difference",
    "seeds_interval",
    "simultaneous_level",
    "smallest_detectable_difference",
    "win_rate",
    "win_rate_interval",
]
