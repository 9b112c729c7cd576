"""Whether two grids of cells order them alike: does this judge rank the constructions as that one does?"""

from math import nan
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.statistics.intervals import THESE_MODELS, Floats, Interval, checked, nothing, resamples, tails

Kind = Literal["kendall", "spearman"]

LEAST_CELLS: Final = 3


def rank_correlation(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    kind: Kind = "kendall",
    level: float = 0.95,
    draws: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Rank correlation of the cells' win rates in two grids [instructions x cells], -1 to 1, ties allowed for.

    Cells are joined by their column, those of one grid only left out. Where both grids have the same instructions,
    these are resampled together, else each grid's on its own. The interval is the bias-corrected percentile
    bootstrap. It speaks about these cells; noise in the win rates lowers the correlation itself, so that two equal
    judges on few instructions do not reach 1. Instructions with a failed judgement in any cell are left out.
    """
    cells = [cell for cell in first.columns if cell in second.columns]
    for frame in (first, second):
        if not frame.index.is_unique:
            raise ValueError(f"an instruction is repeated: {frame.index[frame.index.duplicated()][0]!r}")
    tables = [frame[cells].astype(float).dropna() for frame in (first, second)]
    excluded = len(first) + len(second) - len(tables[0]) - len(tables[1])
    if set(first.index) == set(second.index):
        shared = tables[0].index.intersection(tables[1].index)
        tables = [table.loc[shared] for table in tables]
        excluded = len(first) - len(shared)
    one, other = (checked(table.to_numpy(float), dimensions=2) for table in tables)
    n = min(len(one), len(other))
    if len(cells) < LEAST_CELLS or n == 0:
        few = f"{len(cells)} shared cells; a rank correlation needs {LEAST_CELLS}"
        return nothing(few if n else "no judged instruction", level=level, excluded=excluded)
    estimate = _correlation(one.mean(axis=0), other.mean(axis=0), kind)
    if np.isnan(estimate):
        return nothing("all win rates of a grid are equal", level=level, excluded=excluded)
    together = tables[0].index.equals(tables[1].index)
    drawn = _drawn(one, other, kind, draws=draws, seed=seed, together=together)
    low, high = _bias_corrected(drawn, estimate, level)
    return Interval(
        estimate=estimate,
        low=min(low, estimate),
        high=max(high, estimate),
        method=f"{kind} over {len(cells)} cells, bias-corrected bootstrap over instructions, {draws} draws",
        n=n,
        scope=THESE_MODELS,
        level=level,
        excluded=excluded,
    )


def _correlation(one: Floats, other: Floats, kind: Kind) -> float:
    from scipy import stats  # half a second, which reports do without

    # To a billionth, so that equal sums in another order of the rows are a tie.
    ranks = [stats.rankdata(np.round(values, 9)) for values in (one, other)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return nan
    result = stats.kendalltau(*ranks) if kind == "kendall" else stats.spearmanr(*ranks)
    return float(result.statistic)


def _drawn(one: Floats, other: Floats, kind: Kind, *, draws: int, seed: int, together: bool) -> Floats:
    means = [
        resamples(len(table), draws, seed if together else seed + place) @ table / len(table)
        for place, table in enumerate((one, other))
    ]
    values = np.array([_correlation(a, b, kind) for a, b in zip(*means, strict=True)])
    return np.asarray(values[~np.isnan(values)], dtype=np.float64)


def _bias_corrected(drawn: Floats, estimate: float, level: float) -> tuple[float, float]:
    """Efron's BC limits; the percentile's own where all draws lie on one side of the estimate."""
    ends: npt.NDArray[np.float64] = np.array(tails(level))
    if len(drawn) == 0:
        return -1.0, 1.0
    below = float((drawn < estimate).mean() + 0.5 * (drawn == estimate).mean())
    if 0 < below < 1:
        ends = special.ndtr(2 * special.ndtri(below) + special.ndtri(ends))
    low, high = np.quantile(drawn, ends)
    return float(low), float(high)
