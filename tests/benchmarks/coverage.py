"""How often the intervals hold: experiments with planted truth, by `python -m tests.benchmarks.coverage`.

Preferences are wins and losses whose probability varies from instruction to instruction, as a judge's do; cells
share the instructions' difficulty, and every training seed shifts its model by a planted amount. The tests run
the same simulations smaller. Prints a Markdown table, which docs/statistics.md shows.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import pandas as pd

from analysis.length_control import length_controlled_win_rate
from analysis.length_inputs import check_baselines, check_rows
from analysis.length_regression import make_design
from analysis.statistics import (
    Floats,
    Interval,
    baseline_differences,
    compare_with_best,
    make_grid,
    paired_difference,
    seeds_difference,
    seeds_interval,
    simultaneous_intervals,
    win_rate,
    win_rate_interval,
)
from tests.analysis.alpaca_eval import make_inputs, make_verdicts

ROWS: Final = 805
CELLS: Final = 21
SEED_DEVIATION: Final = 0.015
DRAWS: Final = 1000
GRID_DRAWS: Final = 4000
"""More, since levels of single cells in a grid are near 99.8 %."""

FIXED: Final = 2.7825594022071245
LIKELY: Final = 21.544346900318832
"""The C that cross-validation chooses most often; the truth hardly depends on it."""

Experiment = Callable[[np.random.Generator, int], dict[str, bool]]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was claimed, and in how many experiments it held."""

    claim: str
    held: int
    experiments: int

    @property
    def share(self) -> float:
        return self.held / self.experiments

    @property
    def error(self) -> float:
        """Standard error of the share."""
        return sqrt(self.share * (1 - self.share) / self.experiments)


def preferences(
    rng: np.random.Generator, rates: Floats, seeds: int, deviation: float = SEED_DEVIATION, rows: int = ROWS
) -> Floats:
    """Wins and losses [cells x seeds x rows] of cells with these win rates, whose seeds deviate by `deviation`.

    The instruction shifts all cells alike: two models' preferences correlate at about 0.4, as published ones do.
    Seeds are held within what the rates leave room for, so that the win rates stay what they are.
    """
    room = np.minimum(rates, 1 - rates)[:, None, None]
    hard = rng.beta(0.5, 0.5, rows) - 0.5
    shift = np.clip(rng.normal(0, deviation, (len(rates), seeds, 1)), -0.25 * room, 0.25 * room)
    return (rng.random((len(rates), seeds, rows)) < rates[:, None, None] + 1.4 * room * hard + shift).astype(float)


def run(experiment: Experiment, experiments: int, seed: int = 0) -> list[Coverage]:
    """`experiment` so many times, each with its own random state."""
    held: dict[str, int] = {}
    for number in range(experiments):
        # Four states of the resampling in turn: enough not to depend on one, few enough to be kept.
        for claim, holds in experiment(np.random.default_rng([seed, number]), number % 4).items():
            held[claim] = held.get(claim, 0) + holds
    return [Coverage(claim=claim, held=count, experiments=experiments) for claim, count in held.items()]


def covers(interval: Interval, truth: float) -> bool:
    """Whether the interval holds the truth."""
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def rates_of_one_model(rng: np.random.Generator, state: int) -> dict[str, bool]:
    """`win_rate` of one trained model, over instructions."""
    held = {}
    for rate in (0.5, 0.15, 0.026):
        values = preferences(rng, np.array([rate]), 1, 0.0)[0, 0]
        estimate = win_rate(1 + values, draws=DRAWS, seed=state)
        held[f"win rate {100 * rate:g} %, one model"] = estimate.low <= 100 * rate <= estimate.high
    return held


def differences_of_two_models(rng: np.random.Generator, state: int) -> dict[str, bool]:
    """`paired_difference` of two trained models."""
    held = {}
    for first, second in ((0.5, 0.5), (0.3, 0.2), (0.9, 0.85)):
        one, other = preferences(rng, np.array([first, second]), 1, 0.0)[:, 0]
        interval = paired_difference(pd.Series(one), pd.Series(other), draws=DRAWS, seed=state)
        claim = f"difference of {100 * first:g} % and {100 * second:g} %, two models"
        held[claim] = covers(interval, first - second)
    return held


def constructions(seeds: int, deviation: float) -> Experiment:
    """`seeds_interval` and `seeds_difference`: claims about constructions, from several training seeds."""
    text = f"{seeds} seeds that deviate by {100 * deviation:g} points"

    def experiment(rng: np.random.Generator, state: int) -> dict[str, bool]:
        table = preferences(rng, np.array([0.4, 0.35]), seeds, deviation)
        one, other = (pd.DataFrame(cell.T) for cell in table)
        difference = seeds_difference(one, other, draws=DRAWS, seed=state)
        return {
            f"win rate of a construction, {text}": covers(seeds_interval(table[0], draws=DRAWS, seed=state), 0.4),
            f"difference of two constructions, {text}": covers(difference, 0.05),
            f"(for contrast) interval over instructions of one seed, {text}": covers(
                win_rate_interval(table[0, 0], draws=DRAWS, seed=state), 0.4
            ),
        }

    return experiment


def grids(seeds: int, spread: float, cells: int = CELLS, deviation: float = SEED_DEVIATION) -> Experiment:
    """Claims about all of some cells at once, whose true win rates are `spread` apart from the first to the last."""
    truth = 0.4 + np.linspace(0, spread, cells)
    text = f"{cells} {'equal cells' if spread == 0 else f'cells over {100 * spread:g} points'}, {seeds} seed(s)"
    if deviation != SEED_DEVIATION:
        text += f" that deviate by {100 * deviation:g} points"

    def experiment(rng: np.random.Generator, state: int) -> dict[str, bool]:
        table = preferences(rng, truth, seeds, deviation if seeds > 1 else 0.0)
        grid = make_grid({number: pd.DataFrame(cell.T) for number, cell in enumerate(table)})
        best = int(grid.rates.argmax())
        together = simultaneous_intervals(grid, draws=GRID_DRAWS, seed=state)
        against_best = compare_with_best(grid, draws=GRID_DRAWS, seed=state)
        against_first = baseline_differences(grid, 0, draws=GRID_DRAWS, seed=state)
        others = [truth[number] - np.delete(truth, number).max() for number in range(cells)]
        return {
            f"max-t, all hold: {text}": all(covers(together[number], truth[number]) for number in range(cells)),
            f"max-t, that of the best holds: {text}": covers(together[best], truth[best]),
            f"comparisons with the best, all hold: {text}": all(
                covers(against_best[number], others[number]) for number in range(cells)
            ),
            f"differences from a baseline, all hold: {text}": all(
                covers(against_first[number], truth[number] - truth[0]) for number in range(cells)
            ),
            f"(for contrast) the best cell's own interval: {text}": covers(
                seeds_interval(table[best], draws=GRID_DRAWS, seed=state), truth[best]
            ),
        }

    return experiment


def length_controlled(draws: int = 400) -> Experiment:
    """`length_controlled_win_rate` of instructions drawn from a large population, C fixed and chosen."""
    population = 100 * ROWS
    difficulty, gamed = make_inputs(population)
    rows = check_rows(make_verdicts(difficulty))
    design = make_design(rows, check_baselines(difficulty, gamed, rows.index))
    # The penalty counts for as much of the whole population as C makes it count for of one sample.
    truths = {strength: design.rate(design.fit(strength * ROWS / population)) for strength in (FIXED, LIKELY)}
    verdicts = make_verdicts(difficulty)

    def experiment(rng: np.random.Generator, state: int) -> dict[str, bool]:
        drawn = np.sort(rng.choice(population, ROWS, replace=False))
        hard, rows = difficulty.iloc[drawn], gamed[gamed["index"].isin(drawn)]
        held = {}
        for claim, strength, truth in (("C fixed", FIXED, truths[FIXED]), ("C chosen", None, truths[LIKELY])):
            found = length_controlled_win_rate(
                verdicts.iloc[drawn], difficulty=hard, gamed=rows, C=strength, draws=draws, seed=state
            )
            held[f"length-controlled win rate, {claim}"] = found.low <= truth <= found.high
        return held

    return experiment


def all_experiments() -> Iterator[tuple[str, Experiment, int]]:
    """Each simulation with its name and its number of experiments."""
    yield "rates", rates_of_one_model, 1000
    yield "differences", differences_of_two_models, 1000
    for seeds, deviation in ((3, 0.005), (3, 0.015), (3, 0.03), (5, 0.015)):
        yield f"seeds-{seeds}-{deviation}", constructions(seeds, deviation), 1000
    for seeds, spread in ((1, 0.0), (1, 0.06), (3, 0.0), (3, 0.06)):
        yield f"grids-{seeds}-{spread}", grids(seeds, spread), 500
    for cells, seeds in ((2, 2), (2, 3), (3, 3)):
        yield f"small-{cells}-{seeds}", grids(seeds, 0.001, cells, 0.03), 1000
    yield "length", length_controlled(), 200


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.coverage", description=__doc__)
    parser.add_argument("--only", default="", help="simulations whose name begins so")
    parser.add_argument(
        "--experiments", type=int, help="of each (default: 1000, 500 of grids, 200 of the length-controlled)"
    )
    options = parser.parse_args()
    print("| claim | experiments | held, % (± standard error) |\n| --- | --- | --- |")
    for name, experiment, number in all_experiments():
        if name.startswith(options.only):
            for found in run(experiment, options.experiments or number):
                print(
                    f"| {found.claim} | {found.experiments} | {100 * found.share:.1f} ± {100 * found.error:.1f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
