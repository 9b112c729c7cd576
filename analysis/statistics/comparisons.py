"""Several cells at once: intervals that hold together, comparisons with the best and with a baseline, ranks.

The best of 21 equal cells looks better than it is: its own 95 % interval covers two thirds of the time, at 805
instructions. What is made here pays for the choice. Cells of one experiment count once.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
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
    resamples,
    win_rate_interval,
)
from analysis.statistics.seeds import seed_variance

MAX_T: Final = "max-t over {} experiments"
WITH_THE_BEST: Final = "multiple comparisons with the best of {} experiments"
MATCHED: Final = "max-t over {} differences"
WITH_A_BASELINE: Final = "max-t over {} differences from the baseline"

ONE_EXPERIMENT: Final = "no interval: the two are one and the same experiment"

LEAST_ERROR: Final = 1.9
"""Standard error, in instructions, that an estimate has at least: where none differs, the guarded interval of one
comparison ends 3.7 instructions from it, as this times 1.96 does. Of 805 instructions it is 0.24 points."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The win rates of several experiments on the same instructions, and what is known of their errors.

    The variance between training seeds is taken as equal in all experiments: two or three seeds of one tell little,
    those of 21 together enough.
    """

    names: tuple[Hashable, ...]
    """One per experiment."""
    experiment: Mapping[Hashable, int]
    """Place in `names` of every cell; cells of one experiment share it."""
    means: Floats
    """Mean preferences over the seeds [instructions x experiments]."""
    seeds: npt.NDArray[np.int64]
    """Training seeds of each experiment."""
    seed_variance: float
    """Of a win rate between training seeds, pooled; 0 where no experiment has several."""
    between: float
    """Variance of one model's win rate between training seeds, pooled likewise, single preferences included."""
    noise: float
    """What these bring about of it."""
    degrees: float
    """Degrees of freedom of `seed_variance`: what the noise in it leaves of seeds less experiments; 0 without seeds."""
    excluded: int
    """Instructions left out because some cell lacks a verdict."""

    @property
    def rates(self) -> Floats:
        return np.asarray(self.means.mean(axis=0), dtype=np.float64)

    @property
    def scope(self) -> str:
        """What an interval over all of them speaks about."""
        return {1: THESE_MODELS, 2: TWO_SEEDS}.get(int(self.seeds.min(initial=3)), CONSTRUCTION)


def make_grid(cells: Mapping[Any, pd.DataFrame], experiments: Mapping[Any, Hashable] | None = None) -> Grid:
    """The grid of `cells`, each [instructions x training seeds] and indexed by instruction.

    `experiments` maps a cell to its experiment, of which the first cell stands for all. Instructions with a failed
    judgement in any cell are left out of all. Raises ValueError for a repeated instruction or what is no preference.
    """
    groups = {name: name if experiments is None else experiments[name] for name in cells}
    first = {group: name for name, group in reversed(groups.items())}
    names = tuple(name for name, group in groups.items() if first[group] == name)
    for name in names:
        if not cells[name].index.is_unique:
            raise ValueError(f"cell {name!r}: an instruction is repeated")
        checked(cells[name].to_numpy(float), dimensions=2)
    shared = pd.concat([cells[name] for name in names], axis=1, keys=range(len(names))) if names else pd.DataFrame()
    kept = shared.dropna().to_numpy(float)
    ends = np.cumsum([cells[name].shape[1] for name in names], dtype=np.int64)
    tables = [table.T for table in np.split(kept, ends[:-1], axis=1)] if names else []
    variances = [seed_variance(table) for table in tables if len(kept) and len(table) > 1]
    spare = sum(variance.seeds - 1 for variance in variances)
    pooled = sum(variance.excess * (variance.seeds - 1) for variance in variances) / max(spare, 1)
    between = sum(variance.between * (variance.seeds - 1) for variance in variances) / max(spare, 1)
    noise = sum(variance.residual * (variance.seeds - 1) for variance in variances) / max(spare, 1)
    # The excess is a difference of two estimates, and as uncertain as the larger of them (Satterthwaite).
    sure = (max(0.0, pooled) / between) ** 2 if between > 0 else 1.0
    place = {first[group]: number for number, group in enumerate(groups[name] for name in names)}
    return Grid(
        names=names,
        experiment={name: place[first[group]] for name, group in groups.items()},
        means=np.stack([table.mean(axis=0) for table in tables], axis=1) if tables else np.zeros((0, 0)),
        seeds=np.array([len(table) for table in tables], dtype=np.int64),
        seed_variance=max(0.0, pooled),
        between=between,
        noise=noise,
        degrees=max(1.0, spare * sure) if spare else 0.0,
        excluded=len(shared) - len(kept),
    )


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
    contrasts = np.eye(len(grid.names))
    errors, critical = errors_and_critical(grid, contrasts, draw_errors(grid, draws, seed), level=level)
    half = critical * errors
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
    errors, critical = errors_and_critical(grid, contrasts, draw_errors(grid, draws, seed), level=level)
    method = WITH_A_BASELINE.format(len(grid.names) - 1)
    differences = grid.rates - grid.rates[place]
    ends = _ends(differences, critical * errors, -1.0)
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
        errors, critical = errors_and_critical(grid, contrasts, draw_errors(grid, draws, seed), level=level)
        ends = _ends(grid.rates @ contrasts, critical * errors, -1.0)
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
        errors, critical = _limits(_less(grid, drawn, place), level=level, sides=1)
        margin[place] = critical * errors
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
    rates = grid.rates + draw_errors(grid, draws, seed).errors
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


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random deviations of a grid's win rates."""

    errors: Floats
    """[draws x experiments]: instructions resampled, seeds drawn from a normal."""
    known: Floats
    """[draws x 1]: the estimate of the seeds' variance, as a multiple of it, by chi squared."""


def draw_errors(grid: Grid, draws: int, seed: int) -> Draws:
    rows = len(grid.means)
    errors = np.asarray(resamples(rows, draws, seed) @ (grid.means - grid.rates) / rows, dtype=np.float64)
    if grid.seed_variance == 0:
        return Draws(errors=errors, known=np.ones((draws, 1)))
    generator = np.random.default_rng([seed, 1])
    noise = generator.standard_normal(errors.shape) * np.sqrt(grid.seed_variance / grid.seeds)
    known = generator.chisquare(grid.degrees, (draws, 1)) / grid.degrees
    return Draws(errors=errors + noise, known=known)


@dataclass(frozen=True, kw_only=True)
class _Contrasts:
    """Win rates, or differences of some."""

    values: Floats
    """[instructions x contrasts]"""
    between: Floats
    """[contrasts]: the variance that training seeds add."""
    deviations: Floats
    """[draws x contrasts]"""
    known: Floats
    """Of `Draws`."""
    varies: npt.NDArray[np.bool_]
    """[contrasts]: which are not a cell's difference from itself."""


def _less(grid: Grid, drawn: Draws, place: int) -> _Contrasts:
    """The cell at `place` less every cell: without products of matrices that hold little but zeros."""
    others, between = np.arange(len(grid.names)) != place, grid.seed_variance / grid.seeds
    return _Contrasts(
        values=grid.means[:, [place]] - grid.means,
        between=np.where(others, between + between[place], 0.0),
        deviations=drawn.errors[:, [place]] - drawn.errors,
        known=drawn.known,
        varies=others,
    )


def errors_and_critical(
    grid: Grid, contrasts: Floats, drawn: Draws, *, level: float, sides: int = 2
) -> tuple[Floats, float]:
    """`_limits` of any `contrasts` [experiments x contrasts] of the win rates."""
    made = _Contrasts(
        values=grid.means @ contrasts,
        between=(grid.seed_variance / grid.seeds) @ np.square(contrasts),
        deviations=drawn.errors @ contrasts,
        known=drawn.known,
        varies=np.asarray(contrasts.any(axis=0)),
    )
    return _limits(made, level=level, sides=sides)


def _limits(contrasts: _Contrasts, *, level: float, sides: int) -> tuple[Floats, float]:
    """Standard errors of the contrasts, and the |t| that all stay below.

    Verdicts that do not vary in a sample are in doubt all the same: no error is below `LEAST_ERROR`, and |t| not below
    a single comparison's. A cell's difference from itself is 0.
    """
    rows = len(contrasts.values)
    over_instructions = contrasts.values.var(axis=0, ddof=min(1, rows - 1)) / rows
    scale = np.sqrt(over_instructions + contrasts.known * contrasts.between)
    deviations = contrasts.deviations
    ratio = np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 1e-12)
    largest = (np.abs(ratio) if sides == 2 else ratio).max(axis=1)
    least = np.where(contrasts.varies, LEAST_ERROR / rows, 0.0)
    single = float(special.ndtri((1 + level) / 2 if sides == 2 else level))
    errors = np.maximum(np.sqrt(over_instructions + contrasts.between), least)
    return errors, max(single, float(np.quantile(largest, level)))


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
