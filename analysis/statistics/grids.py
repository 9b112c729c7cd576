"""The win rates of a grid's cells on the same instructions, and how far sums of them may be from the truth."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.statistics.intervals import CONSTRUCTION, THESE_MODELS, TWO_SEEDS, Floats, checked, resamples
from analysis.statistics.seeds import seed_variance

LEAST_ERROR: Final = 1.9
"""Standard error, in instructions, that an estimate has at least: where none differs, the guarded interval of one
comparison ends 3.7 instructions from it, as this times 1.96 does. Of 805 instructions it is 0.24 points."""

FEWEST_BEYOND: Final = 10
"""Draws beyond the |t| that all stay below; a level that leaves fewer has Bonferroni's, which is a little longer."""


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


def draw_errors(grid: Grid, draws: int, seed: int) -> Floats:
    """Random deviations of a grid's win rates [draws x experiments]: instructions resampled, seeds from a normal."""
    rows = len(grid.means)
    errors = np.asarray(resamples(rows, draws, seed) @ (grid.means - grid.rates) / rows, dtype=np.float64)
    if grid.seed_variance == 0:
        return errors
    generator = np.random.default_rng([seed, 1])
    noise: Floats = generator.standard_normal(errors.shape) * np.sqrt(grid.seed_variance / grid.seeds)
    return errors + noise


@dataclass(frozen=True, kw_only=True)
class Contrasts:
    """Win rates, or differences of some."""

    values: Floats
    """[instructions x contrasts]"""
    per_seed: Floats
    """[contrasts]: what a variance of one model is to be multiplied with."""
    deviations: Floats
    """[draws x contrasts]"""
    varies: npt.NDArray[np.bool_]
    """[contrasts]: which are not a cell's difference from itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far contrasts may be from what they estimate, such that all of them hold together; all [contrasts]."""

    half: Floats
    """Half-widths."""
    errors: Floats
    """Standard errors."""
    over_instructions: Floats
    """Variance over instructions, of the means over seeds."""
    noise: Floats
    """The share of it that single preferences bring about."""
    between: Floats
    """Variance that training seeds add."""


def differences_from(grid: Grid, drawn: Floats, place: int) -> Contrasts:
    """The cell at `place` less every cell: without products of matrices that hold little but zeros."""
    others = np.arange(len(grid.names)) != place
    return Contrasts(
        values=grid.means[:, [place]] - grid.means,
        per_seed=np.where(others, 1 / grid.seeds + 1 / grid.seeds[place], 0.0),
        deviations=drawn[:, [place]] - drawn,
        varies=others,
    )


def limits(grid: Grid, contrasts: Floats, drawn: Floats, *, level: float, sides: int = 2) -> Limits:
    """The limits of any `contrasts` [experiments x contrasts] of the win rates, from draws of `draw_errors`.

    The |t| that all stay below is that of errors whose size is known; it becomes Student's with the degrees of freedom
    of each contrast's error (Satterthwaite), where what seeds and single preferences vary by has those of the seeds.
    None is shorter than that over instructions alone.
    """
    made = Contrasts(
        values=grid.means @ contrasts,
        per_seed=(1 / grid.seeds) @ np.square(contrasts),
        deviations=drawn @ contrasts,
        varies=np.asarray(contrasts.any(axis=0)),
    )
    return limits_of(grid, made, level=level, sides=sides)


def limits_of(grid: Grid, contrasts: Contrasts, *, level: float, sides: int) -> Limits:
    """`limits` of contrasts that are made already.

    Verdicts that do not vary in a sample are in doubt all the same: no error is below `LEAST_ERROR`, and |t| not below
    a single comparison's. A cell's difference from itself is 0.
    """
    rows = len(contrasts.values)
    over_instructions = contrasts.values.var(axis=0, ddof=min(1, rows - 1)) / rows
    between = grid.seed_variance * contrasts.per_seed
    errors = np.maximum(np.sqrt(over_instructions + between), np.where(contrasts.varies, LEAST_ERROR / rows, 0.0))
    noise = np.minimum(grid.noise * contrasts.per_seed, over_instructions)
    critical = _critical(contrasts, np.sqrt(over_instructions + between), level=level, sides=sides)
    half = critical * errors
    if rows > 1:
        seeded, beyond = grid.between * contrasts.per_seed, float(special.ndtr(-critical))
        degrees = _degrees(over_instructions - noise, seeded, rows - 1, int((grid.seeds - 1).sum()))
        student = -special.stdtrit(degrees, beyond) * np.sqrt(over_instructions - noise + seeded)
        alone = -special.stdtrit(rows - 1, beyond) * np.sqrt(over_instructions)
        half = np.maximum(half, np.maximum(student, alone))
    return Limits(half=half, errors=errors, over_instructions=over_instructions, noise=noise, between=between)


def _critical(contrasts: Contrasts, scale: Floats, *, level: float, sides: int) -> float:
    """The |t| that all contrasts stay below."""
    single = float(special.ndtri((1 + level) / 2 if sides == 2 else level))
    if (1 - level) * len(contrasts.deviations) < FEWEST_BEYOND:
        tests = max(1, int(contrasts.varies.sum()))
        return max(single, float(special.ndtri(1 - (1 - level) / sides / tests)))
    deviations = contrasts.deviations
    ratio = np.divide(deviations, scale, out=np.zeros_like(deviations), where=scale > 1e-12)
    largest = (np.abs(ratio) if sides == 2 else ratio).max(axis=1)
    return max(single, float(np.quantile(largest, level)))


def _degrees(paired: Floats, seeded: Floats, instructions: int, seeds: int) -> Floats:
    """Satterthwaite's degrees of freedom of the sums of two variances [contrasts] with so many each."""
    spread = paired**2 / instructions + seeded**2 / max(seeds, 1)
    total = (paired + seeded) ** 2
    return np.divide(total, spread, out=np.full_like(total, float(instructions)), where=spread > 0)
