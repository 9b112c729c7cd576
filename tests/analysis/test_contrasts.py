"""Contrasts of win rates: closed forms, what would tell, and prompts crossed with seeds."""

from math import inf, isnan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics import (
    CONSTRUCTION,
    THESE_MODELS,
    TWO_SEEDS,
    Contrast,
    Grid,
    baseline_differences,
    contrasts,
    crossed_contrast,
    make_grid,
    matched_differences,
    slope_shares,
    within_slope,
)
from tests.benchmarks.coverage import preferences


def grid(rates: list[float], seeds: int = 3, rows: int = 400, deviation: float = 0.02, state: int = 0) -> Grid:
    table = preferences(np.random.default_rng(state), np.array(rates), seeds, deviation, rows)
    return make_grid({number: pd.DataFrame(cell.T) for number, cell in enumerate(table)})


def one(found: list[Contrast]) -> Contrast:
    (contrast,) = found
    return contrast


def test_a_contrast_of_two_cells_is_their_difference() -> None:
    cells = grid([0.4, 0.5], 1)
    contrast, known = one(contrasts(cells, [{1: 1.0, 0: -1.0}], draws=4_000)), baseline_differences(cells, 0)[1]
    assert contrast.interval.estimate == pytest.approx(known.estimate)
    assert contrast.interval.high == pytest.approx(known.high, abs=0.002)
    error = np.sqrt(contrast.paired + contrast.noise + contrast.between)
    assert contrast.interval.high - known.estimate == pytest.approx(contrast.critical * error)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_one_difference_has_one_interval_whatever_asks_for_it(seeds: int) -> None:
    """Few seeds of few cells: what is not known of their spread is in all comparisons alike."""
    cells = grid([0.4, 0.5], seeds, deviation=0.03)
    known = one(contrasts(cells, [{1: 1.0, 0: -1.0}], draws=2_000)).interval
    for found in (
        baseline_differences(cells, 0, draws=2_000)[1],
        matched_differences(cells, {0: (1, 0)}, draws=2_000)[0],
    ):
        assert [found.low, found.high] == pytest.approx([known.low, known.high])


@given(st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_the_unit_of_a_contrast_is_no_matter(factor: float) -> None:
    cells = grid([0.4, 0.5, 0.45])
    weights = {0: -0.5, 1: 1.0, 2: -0.5}
    whole = one(contrasts(cells, [weights], draws=500))
    other = one(contrasts(cells, [{cell: factor * weight for cell, weight in weights.items()}], draws=500))
    assert other.interval.low == pytest.approx(factor * whole.interval.low)
    assert other.needed_seeds() == whole.needed_seeds()
    assert other.needed_instructions() == whole.needed_instructions()


def test_several_contrasts_pay_for_each_other() -> None:
    cells = grid([0.4, 0.5, 0.45, 0.42])
    weights = [{0: -1.0, cell: 1.0} for cell in (1, 2, 3)]
    alone = one(contrasts(cells, weights[:1]))
    together = contrasts(cells, weights)
    assert min(contrast.critical for contrast in together) > alone.critical
    assert together[0].interval.method == "max-t over 3 contrasts"


def test_levels_that_draws_cannot_show_have_bonferronis() -> None:
    weights = [{0: -1.0, cell: 1.0} for cell in (1, 2, 3)]
    found = contrasts(grid([0.4] * 4, 1), weights, level=0.999)
    assert found[0].critical == pytest.approx(3.588, abs=0.05)  # 1 - 0.001 / 6 of a normal, with 399 degrees of freedom


def test_few_instructions_have_students_t() -> None:
    few, many = (one(contrasts(grid([0.4, 0.5], 1, rows), [{0: 1.0, 1: -1.0}])) for rows in (20, 400))
    assert few.critical > 2.05 > many.critical > 1.95


def test_few_seeds_have_students_t() -> None:
    """Of two cells the seeds have four degrees of freedom, of twelve cells 24, of the same deviation."""
    few, many = (one(contrasts(grid([0.4] * cells, deviation=0.05), [{0: 1.0, 1: -1.0}])) for cells in (2, 12))
    assert few.critical > 2.5 > many.critical > 1.95


def test_no_interval_is_shorter_than_that_over_instructions() -> None:
    """Seeds that by chance deviate by less than single preferences would bring about."""
    cells = grid([0.4, 0.5], deviation=0.0, state=4)
    assert cells.seed_variance == 0
    contrast = one(contrasts(cells, [{0: 1.0, 1: -1.0}]))
    error = float((cells.means @ [1.0, -1.0]).std(ddof=1)) / np.sqrt(400)
    assert contrast.interval.high - contrast.interval.estimate >= 1.96 * error


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({0: 1.0, 1: -0.5}, "sum to zero, got 0.5"),
        ({0: 1.0, "none": -1.0}, "'none' is no cell of the grid; there are: 0, 1, 2"),
        ({1: 1.0, 2: -1.0}, "what is compared is one experiment"),
    ],
)
def test_what_is_no_contrast_is_refused(weights: dict[int | str, float], message: str) -> None:
    frames = {number: pd.DataFrame({0: [0.0, 1.0, 1.0]}) for number in range(3)}
    cells = make_grid(frames, {0: "a", 1: "b", 2: "b"})
    with pytest.raises(ValueError, match=message):
        contrasts(cells, [weights])


def test_cells_that_share_too_few_instructions_have_a_reason() -> None:
    frames = {0: pd.DataFrame({0: [0.0, np.nan]}), 1: pd.DataFrame({0: [1.0, 1.0]})}
    found = one(contrasts(make_grid(frames), [{0: 1.0, 1: -1.0}]))
    assert (found.interval.n, found.interval.note) == (0, "fewer than two instructions that all cells were judged on")
    assert isnan(found.needed_instructions())
    assert isnan(found.needed_seeds())


@pytest.mark.parametrize(("seeds", "scope"), [(1, THESE_MODELS), (2, TWO_SEEDS), (3, CONSTRUCTION)])
def test_the_cell_with_the_fewest_seeds_says_what_it_is_about(seeds: int, scope: str) -> None:
    table = preferences(np.random.default_rng(0), np.full(3, 0.5), 3, 0.02, 300)
    frames = {number: pd.DataFrame(cell.T) for number, cell in enumerate(table)}
    frames[0] = frames[0].iloc[:, :seeds]
    contrast, other = contrasts(make_grid(frames), [{0: 1.0, 1: -1.0}, {1: 1.0, 2: -1.0}])
    assert (contrast.interval.scope, contrast.seeds) == (scope, seeds)
    assert other.interval.scope == CONSTRUCTION


def contrast_of(estimate: float, paired: float, noise: float, between: float, seeds: int = 3) -> Contrast:
    interval = one(contrasts(grid([0.5, 0.5]), [{0: 1.0, 1: -1.0}], draws=100)).interval
    known = {"critical": 2.0, "paired": paired, "noise": noise, "between": between, "seeds": seeds}
    return Contrast(interval=type(interval)(**{**vars(interval), "estimate": estimate, "n": 100}), **known)  # type: ignore[arg-type]


def test_what_would_tell_is_what_can_be_made_smaller() -> None:
    # The error must fall to 1 / (2 + 0.84) = 0.352, its square to 0.124.
    over_instructions = contrast_of(1.0, paired=0.2, noise=0.1, between=0.024)
    assert over_instructions.needed_instructions() == 301  # 0.3 / 0.1 times
    assert over_instructions.needed_seeds() == inf
    assert over_instructions.needed_times() == pytest.approx(0.324 / 0.124, rel=0.01)
    over_seeds = contrast_of(1.0, paired=0.024, noise=0.1, between=0.2)
    assert over_seeds.needed_instructions() == inf
    assert over_seeds.needed_seeds() == 10  # 0.3 / 0.1 times 3
    nothing = contrast_of(0.0, 0.1, 0.1, 0.1)
    assert nothing.needed_seeds() == nothing.needed_instructions() == nothing.needed_times() == inf


def test_with_too_few_seeds_more_instructions_do_not_tell() -> None:
    two, single = (contrast_of(1.0, 0.01, 0.01, 0.01, seeds) for seeds in (2, 1))
    assert (two.needed_instructions(), two.needed_seeds(), two.needed_times()) == (inf, 3, 1.5)
    assert (single.needed_instructions(), single.needed_seeds()) == (inf, 3)
    assert isnan(single.needed_times())


def test_shares_in_a_slope_give_its_cluster_robust_interval() -> None:
    rng = np.random.default_rng(0)
    groups, x = np.repeat(np.arange(20), 4), rng.normal(size=80)
    y = rng.normal(1.0, 0.5, 20)[groups] * x + rng.normal(size=80)
    x[5], y[9] = np.nan, np.nan
    known = within_slope(x, y, groups)
    found = crossed_contrast(slope_shares(x, y[None], groups)).interval
    assert [found.estimate, found.low] == pytest.approx([known.estimate, known.low])
    assert found.n == 20
    assert found.scope == THESE_MODELS
    flat = crossed_contrast(slope_shares(np.ones(80), y[None], groups)).interval
    assert (flat.n, flat.note) == (0, "fewer than two units that vary")


def test_values_without_spread_have_no_interval() -> None:
    found = crossed_contrast(np.full((3, 5), 0.7)).interval
    assert (found.n, found.note) == (0, "all values are equal: their spread is not known")


def test_seeds_crossed_with_prompts_hold_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(1), 0
    for _ in range(600):
        units, seeds = rng.normal(0, 1.0, 60), rng.normal(0, 0.15, (3, 1))
        interval = crossed_contrast(units + seeds + rng.normal(0, 1.0, (3, 60))).interval
        held += interval.low <= 0 <= interval.high
    assert 0.93 <= held / 600 <= 0.985
