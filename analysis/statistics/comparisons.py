"""Several cells at once: intervals that hold together, comparisons with the best and with a baseline, ranks.

The best of 21 equal cells looks better than it is: its own 95 % interval covers two thirds of the time, at 805
instructions. What is made here pays for the choice. Cells of one experiment count once.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import special

from analysis.statistics.grids import Grid, differences_from, draw_errors, limits, limits_of, make_grid
from analysis.statistics.intervals import Floats, Interval, nothing, resamples, win_rate_interval

MAX_T: Final = "max-t over {} experiments"
WITH_THE_BEST: Final = "multiple comparisons with the best of {} experiments"
MATCHED: Final = "max-t over {} differences"
WITH_A_BASELINE: Final = "max-t over {} differences from the baseline"

ONE_EXPERIMENT: Final = "no interval: the two are one and the same experiment"


def simultaneous_intervals(
    grid: Grid, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[Hashable, Interval]:
    """An interval for each cell's win rate such that all hold together at `level`.

    With one training seed each, a cell's own interval at the level that the largest |t| over the cells asks for, at
    most Bonferroni's. With several, the estimate and its standard error over seeds and instructions times that |t|.
    """
    if 0 in grid.means.shape:
        return _no_intervals(grid, level)
    method = MAX_T.format(len(grid.names))
    if grid.degrees == 0:
        each = simultaneous_level(grid.means, level=level, draws=draws, seed=seed)
        own = [
            replace(win_rate_interval(column, level=each, draws=draws, seed=seed), level=level, excluded=grid.excluded)
            for column in grid.means.T
        ]
        return _by_cell(grid, [replace(interval, method=f"{method}, {interval.method}") for interval in own])
    half = limits(grid, np.eye(len(grid.names)), draw_errors(grid, draws, seed), level=level).half
    return _by_cell(grid, [_interval(grid, *ends, method, level) for ends in _ends(grid.rates, half, 0.0)])


def baseline_differences(
    grid: Grid, baseline: Hashable, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[Hashable, Interval]:
    """Win rate of each cell less that of `baseline`, in intervals that hold together; the baseline's own is 0.

    Paired by instruction; training seeds are independent. Raises ValueError for a baseline that is no cell.
    """
    if baseline not in grid.experiment:
        raise ValueError(f"baseline {baseline!r} is no cell; there are: {', '.join(map(str, grid.experiment))}")
    if 0 in grid.means.shape:
        return _no_intervals(grid, level)
    place = grid.experiment[baseline]
    contrasts = np.eye(len(grid.names))
    contrasts[place] -= 1
    half = limits(grid, contrasts, draw_errors(grid, draws, seed), level=level).half
    method = WITH_A_BASELINE.format(len(grid.names) - 1)
    ends = _ends(grid.rates - grid.rates[place], half, -1.0)
    return _by_cell(grid, [_interval(grid, *each, method, level) for each in ends])


def matched_differences(
    grid: Grid,
    matches: Mapping[Any, tuple[Hashable, Hashable]],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[Hashable, Interval]:
    """Win rate of the first cell of each match less that of the second, in intervals that hold together.

    Paired by instruction; training seeds are independent. The difference of two cells of one experiment is 0, with
    nothing to estimate: it has no interval, and is none of those that hold together. Raises ValueError for a match of
    what is no cell.
    """
    if unknown := [cell for match in matches.values() for cell in match if cell not in grid.experiment]:
        raise ValueError(f"{unknown[0]!r} is no cell; there are: {', '.join(map(str, grid.experiment))}")
    places = {name: (grid.experiment[first], grid.experiment[second]) for name, (first, second) in matches.items()}
    apart = {name: place for name, place in places.items() if place[0] != place[1]}
    if 0 in grid.means.shape or not places:
        reason = "no instruction that all cells were judged on"
        return dict.fromkeys(matches, nothing(reason, level=level, excluded=grid.excluded))
    method = MATCHED.format(len(apart))
    found = {}
    if apart:
        contrasts = np.zeros((len(grid.names), len(apart)))
        for column, (first, second) in enumerate(apart.values()):
            contrasts[[first, second], column] = 1, -1
        half = limits(grid, contrasts, draw_errors(grid, draws, seed), level=level).half
        ends = _ends(grid.rates @ contrasts, half, -1.0)
        found = {name: _interval(grid, *each, method, level) for name, each in zip(apart, ends, strict=True)}
    same = replace(_interval(grid, 0.0, np.nan, np.nan, "none", level), method="none", note=ONE_EXPERIMENT)
    return {name: found.get(name, same) for name in matches}


def compare_with_best(
    grid: Grid, *, level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> dict[Hashable, Interval]:
    """Each cell's win rate less that of the best other, by Hsu's constrained comparisons with the best.

    The intervals hold together. One whose `high` is 0 is of a cell that is not the best; one whose `low` is 0 is of
    a cell that is; all others may be. Hsu, Multiple Comparisons (1996), with unequal errors.
    """
    count = len(grid.names)
    if 0 in grid.means.shape or count < 2:
        return _no_intervals(grid, level)
    rates = grid.rates
    apart = rates[:, None] - rates[None, :]
    margin, drawn = np.zeros((count, count)), draw_errors(grid, draws, seed)
    for place in range(count):
        margin[place] = limits_of(grid, differences_from(grid, drawn, place), level=level, sides=1).half
    others = ~np.eye(count, dtype=bool)
    upper = np.minimum(1.0, apart + margin)
    highest = np.array([max(0.0, float(upper[place, others[place]].min())) for place in range(count)])
    candidates = highest > 0
    intervals = []
    for place in range(count):
        rivals = candidates & others[place]
        # The margin of each rival as the control, which is what Hsu's lower limits are made from.
        lower = np.clip(apart[place] - margin[:, place], -1.0, 0.0)
        lowest = float(lower[rivals].min()) if rivals.any() else 0.0
        estimate = float(apart[place, others[place]].min())
        ends = (estimate, min(lowest, estimate), max(float(highest[place]), estimate))
        intervals.append(_interval(grid, *ends, WITH_THE_BEST.format(count), level))
    return _by_cell(grid, intervals)


def ranked_first(grid: Grid, *, draws: int = 10_000, seed: int = 0) -> dict[Hashable, float]:
    """Share of resamples in which each cell has the highest win rate; a tie is shared.

    Resampled are the instructions and, as normal deviations of the pooled variance, the training seeds. Cells of one
    experiment have the same share, which counts once.
    """
    if 0 in grid.means.shape:
        return dict.fromkeys(grid.experiment, float("nan"))
    rates = grid.rates + draw_errors(grid, draws, seed)
    # To a billionth: equal sums in another order of the rows are a tie.
    highest = np.round(rates, 9) == np.round(rates.max(axis=1, keepdims=True), 9)
    shares = (highest / highest.sum(axis=1, keepdims=True)).mean(axis=0)
    return {cell: float(shares[place]) for cell, place in grid.experiment.items()}


def max_t_interval(
    preferences: pd.DataFrame,
    experiments: Mapping[Hashable, Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> dict[Hashable, Interval]:
    """`simultaneous_intervals` of columns of `preferences` [instructions x cells], one training seed each."""
    cells = {column: preferences[[column]] for column in preferences.columns}
    return simultaneous_intervals(make_grid(cells, experiments), level=level, draws=draws, seed=seed)


def simultaneous_level(table: Floats, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> float:
    """Level of the single interval at which all columns of `table` [rows x cells] hold together."""
    rows, cells = table.shape
    bonferroni = 1 - (1 - level) / max(int(cells), 1)
    if rows == 0 or not (varying := np.ptp(table, axis=0) > 0).any():
        return bonferroni
    spread = table[:, varying]
    centred = (spread - spread.mean(axis=0)) / (spread.std(axis=0) / np.sqrt(rows))
    largest = np.abs(resamples(rows, draws, seed) @ centred / rows).max(axis=1)
    joint = 2 * float(special.ndtr(np.quantile(largest, level))) - 1
    return float(np.clip(joint, level, bonferroni))


def _ends(estimates: Floats, half: Floats, least: float) -> list[tuple[float, float, float]]:
    low, high = np.maximum(least, estimates - half), np.minimum(1.0, estimates + half)
    return [(float(each[0]), float(each[1]), float(each[2])) for each in zip(estimates, low, high, strict=True)]


def _interval(grid: Grid, estimate: float, low: float, high: float, method: str, level: float) -> Interval:
    over = "instructions and training seeds" if grid.degrees else "instructions"
    return Interval(
        estimate=estimate,
        low=low,
        high=high,
        method=f"{method}, over {over}",
        n=len(grid.means),
        scope=grid.scope,
        level=level,
        excluded=grid.excluded,
    )


def _by_cell(grid: Grid, intervals: list[Interval]) -> dict[Hashable, Interval]:
    return {cell: intervals[place] for cell, place in grid.experiment.items()}


def _no_intervals(grid: Grid, level: float) -> dict[Hashable, Interval]:
    reason = "no other cell to compare with" if len(grid.means) else "no instruction that all cells were judged on"
    return dict.fromkeys(grid.experiment, nothing(reason, level=level, excluded=grid.excluded))
