"""Estimates with intervals that state their method and what they speak about. Pure: no file, no model, no torch.

Every random draw comes from a `seed` argument, so that the same input gives the same interval.
"""

from analysis.statistics.agreement import (
    rank_correlation,
)
from analysis.statistics.comparisons import (
    baseline_differences,
    compare_with_best,
    matched_differences,
    max_t_interval,
    ranked_first,
    simultaneous_intervals,
    simultaneous_level,
)
from analysis.statistics.contrasts import (
    LEAST_SEEDS,
    Contrast,
    contrasts,
    crossed_contrast,
)
from analysis.statistics.grids import Grid, make_grid
from analysis.statistics.intervals import (
    BOOTSTRAP_EVENTS,
    BOOTSTRAP_ROWS,
    CONSTRUCTION,
    GUARDED,
    PERCENTILE,
    SCORE,
    SCORE_EVENTS,
    THESE_MODELS,
    TWO_SEEDS,
    Floats,
    Interval,
    bootstrap_interval,
    guarded_interval,
    score_interval,
    win_rate_interval,
)
from analysis.statistics.means import mean_interval
from analysis.statistics.preferences import (
    Estimate,
    StatisticsError,
    discrete_win_rate,
    win_rate,
)
from analysis.statistics.ratios import (
    ratio_of_gains,
)
from analysis.statistics.seeds import (
    paired_difference,
    seeds_difference,
    seeds_interval,
    smallest_detectable_difference,
)
from analysis.statistics.slopes import (
    CLUSTERED,
    slope_shares,
    within_slope,
)

__all__ = [
    "BOOTSTRAP_EVENTS",
    "BOOTSTRAP_ROWS",
    "CLUSTERED",
    "CONSTRUCTION",
    "GUARDED",
    "LEAST_SEEDS",
    "PERCENTILE",
    "SCORE",
    "SCORE_EVENTS",
    "THESE_MODELS",
    "TWO_SEEDS",
    "Contrast",
    "Estimate",
    "Floats",
    "Grid",
    "Interval",
    "StatisticsError",
    "baseline_differences",
    "bootstrap_interval",
    "compare_with_best",
    "contrasts",
    "crossed_contrast",
    "discrete_win_rate",
    "guarded_interval",
    "make_grid",
    "matched_differences",
    "max_t_interval",
    "mean_interval",
    "paired_difference",
    "rank_correlation",
    "ranked_first",
    "ratio_of_gains",
    "score_interval",
    "seeds_difference",
    "seeds_interval",
    "simultaneous_intervals",
    "simultaneous_level",
    "slope_shares",
    "smallest_detectable_difference",
    "win_rate",
    "win_rate_interval",
    "within_slope",
]
