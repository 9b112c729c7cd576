"""Contrasts of win rates: weighted sums over a grid's cells whose intervals hold together, and what they lack.

A claim about a grid, such as that win rates fall with n, is one: weights that sum to zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan, nan, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.statistics.grids import Grid, draw_errors, limits
from analysis.statistics.intervals import CONSTRUCTION, THESE_MODELS, TWO_SEEDS, Floats, Interval, nothing, tails
from analysis.statistics.seeds import degrees_of_freedom, seed_variance

TOGETHER: Final = "max-t over {} contrasts"
UNITS: Final = "Student's t over prompts, cluster-robust"
CROSSED_UNITS: Final = f"{UNITS}, widened for training seeds by the crossed model (Satterthwaite)"

SCOPES: Final = {1: THESE_MODELS, 2: TWO_SEEDS}
"""By the training seeds of the cell that has the fewest; more speak about the construction."""

LEAST_SEEDS: Final = 3
"""Training seeds of every cell from which an interval speaks about the construction."""

POWER: Final = 0.8


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of win rates with its interval, and where its error comes from."""

    interval: Interval
    critical: float = nan
    """Standard errors from the estimate to either end."""
    paired: float = nan
    """Variance over instructions that further seeds do not lessen."""
    noise: float = nan
    """Variance over instructions that further seeds do lessen: single preferences."""
    between: float = nan
    """Variance between training seeds."""
    seeds: int = 0
    """Training seeds of the cell that has the fewest."""

    def needed_instructions(self, power: float = POWER) -> float:
        """Instructions with which the interval would leave zero out at `power`, with these seeds and if the estimate
        is the truth; infinite where instructions alone do not suffice, NaN where nothing is known."""
        if self.seeds < LEAST_SEEDS:
            return nan if self.interval.n == 0 else inf
        return _ceil(_times(self.interval.n, self.paired + self.noise, self._bearable(power) - self.between))

    def needed_seeds(self, power: float = POWER) -> float:
        """Training seeds of each cell likewise, with these instructions; at least `LEAST_SEEDS`. Of one seed it is not
        known what the others would differ by, and `LEAST_SEEDS` is a beginning."""
        if self.seeds <= 1:
            return nan if self.interval.n == 0 else LEAST_SEEDS
        found = _ceil(_times(self.seeds, self.noise + self.between, self._bearable(power) - self.paired))
        return nan if isnan(found) else max(found, LEAST_SEEDS)

    def needed_times(self, power: float = POWER) -> float:
        """Times as many instructions and seeds likewise, both together; at least 1. Not known of one seed."""
        if self.seeds <= 1:
            return nan
        found = _times(1, self.paired + self.noise + self.between, self._bearable(power))
        return nan if isnan(found) else max(found, LEAST_SEEDS / self.seeds)

    def _bearable(self, power: float) -> float:
        """The variance at which the estimate would be told from zero."""
        return float((self.interval.estimate / (self.critical + special.ndtri(power))) ** 2)


def contrasts(
    grid: Grid,
    weights: Sequence[Mapping[Any, float]],
    *,
    level: float = 0.95,
    draws: int = 4_000,
    seed: int = 0,
) -> list[Contrast]:
    """Sums of the grid's win rates, each with the weights of some cells, in intervals that hold together at `level`.

    The weights of a contrast sum to zero. Instructions are resampled, training seeds drawn from a normal of the grid's
    pooled variance; see `grids.limits`.

    Raises:
        ValueError: weights of a cell that is not in the grid, that do not sum to zero, or that cancel out.
    """
    if not weights:
        return []
    table = np.stack([_weights(grid, own) for own in weights], axis=1)
    rows = len(grid.means)
    if rows < 2:
        few = nothing("fewer than two instructions that all cells were judged on", level=level, excluded=grid.excluded)
        return [Contrast(interval=few) for _ in weights]
    # As differences of two weighted means, whose least error is that of a difference and whose ends are -1 and 1.
    scale = np.abs(table).sum(axis=0) / 2
    scaled = table / scale
    found_limits = limits(grid, scaled, draw_errors(grid, draws, seed), level=level)
    errors, noise, between = found_limits.errors, found_limits.noise, found_limits.between
    # What the floor of the error adds to its variance is over instructions.
    over_instructions = np.maximum(found_limits.over_instructions, np.square(errors) - between)
    found = []
    for place, factor in enumerate(scale):
        fewest = int(grid.seeds[table[:, place] != 0].min())
        estimate, half = float(grid.rates @ scaled[:, place]), float(found_limits.half[place])
        low, high = max(-1.0, estimate - half), min(1.0, estimate + half)
        interval = Interval(
            estimate=float(factor) * estimate,
            low=float(factor) * low,
            high=float(factor) * high,
            method=TOGETHER.format(len(weights)),
            n=rows,
            scope=SCOPES.get(fewest, CONSTRUCTION),
            level=level,
            excluded=grid.excluded,
        )
        found.append(
            Contrast(
                interval=interval,
                critical=half / float(errors[place]),
                paired=float(factor**2 * (over_instructions[place] - noise[place])),
                noise=float(factor**2 * noise[place]),
                between=float(factor**2 * between[place]),
                seeds=fewest,
            )
        )
    return found


def crossed_contrast(values: Floats, *, level: float = 0.95) -> Contrast:
    """The mean of `values` [seeds x units], any real numbers, over training seeds crossed with units.

    As `seeds_interval` of preferences: the variance over units, of the means over seeds, and what seeds add to it, with
    Student's t of Satterthwaite's degrees of freedom.
    """
    seeds, units = values.shape
    if units < 2 or seeds < 1:
        return Contrast(interval=nothing("fewer than two units that vary", level=level, excluded=0))
    if np.ptp(values) == 0:
        return Contrast(interval=nothing("all values are equal: their spread is not known", level=level, excluded=0))
    variance = seed_variance(values)
    over_units, between = float(values.mean(axis=0).var(ddof=1)) / units, max(0.0, variance.excess) / seeds
    noise = min(variance.residual / seeds, over_units)
    spread = degrees_of_freedom(over_units + between, over_units, units, [variance]) if seeds > 1 else units - 1
    critical = float(special.stdtrit(spread, tails(level)[1]))
    estimate, half = float(values.mean()), critical * sqrt(over_units + between)
    interval = Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        method=CROSSED_UNITS if seeds > 1 else UNITS,
        n=units,
        scope=SCOPES.get(seeds, CONSTRUCTION),
        level=level,
    )
    facts = {"paired": over_units - noise, "noise": noise, "between": between}
    return Contrast(interval=interval, critical=critical, seeds=seeds, **facts)


def _weights(grid: Grid, weights: Mapping[Any, float]) -> Floats:
    """Weights [experiments] of the cells' experiments."""
    found: npt.NDArray[np.float64] = np.zeros(len(grid.names))
    for cell, weight in weights.items():
        if cell not in grid.experiment:
            raise ValueError(f"{cell!r} is no cell of the grid; there are: {', '.join(map(str, grid.experiment))}")
        found[grid.experiment[cell]] += weight
    found[np.abs(found) < 1e-12] = 0.0
    if abs(found.sum()) > 1e-9:
        raise ValueError(f"the weights of a contrast sum to zero, got {found.sum():g}")
    if not found.any():
        raise ValueError("the weights cancel out: what is compared is one experiment")
    return found


def _ceil(number: float) -> float:
    return float(ceil(number)) if isfinite(number) else number


def _times(count: int, variance: float, bearable: float) -> float:
    """`count`, as many times as makes `variance` bearable; infinite where nothing does."""
    if not isfinite(bearable):
        return nan
    return max(1.0, count * variance / bearable) if bearable > 0 else inf
