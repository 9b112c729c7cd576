"""Several cells at once, several seeds, two grids: what holds by construction, and small seeded simulations."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import statistics
from analysis.statistics import (
    Grid,
    baseline_differences,
    compare_with_best,
    make_grid,
    paired_difference,
    rank_correlation,
    ranked_first,
    seeds_difference,
    seeds_interval,
    simultaneous_intervals,
    smallest_detectable_difference,
)
from tests.benchmarks import coverage

DRAWS = 1000


def grid_of(rates: list[float], seeds: int = 1, rows: int = 300, state: int = 0) -> Grid:
    table = coverage.preferences(np.random.default_rng(state), np.array(rates), seeds, rows=rows)
    return make_grid({name: pd.DataFrame(cell.T) for name, cell in zip("abcdefgh", table, strict=False)})


@pytest.mark.parametrize(
    ("experiment", "experiments", "least"),
    [
        (coverage.rates_of_one_model, 200, 0.91),
        (coverage.differences_of_two_models, 200, 0.91),
        (coverage.constructions(3, 0.015), 200, 0.91),
        (coverage.grids(3, 0.06), 30, 0.8),
    ],
)
def test_intervals_hold_as_often_as_they_say(
    experiment: coverage.Experiment, experiments: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "GRID_DRAWS", 1000)
    for found in coverage.run(experiment, experiments, seed=11):
        if found.claim.startswith("(for contrast)"):
            assert found.share < 0.93
        else:
            assert found.share >= least


def test_the_best_is_told_from_the_rest_where_it_stands_out() -> None:
    against = compare_with_best(grid_of([0.3, 0.32, 0.6], rows=800), draws=DRAWS)
    assert against["c"].low == 0 < against["c"].high
    assert against["a"].high == against["b"].high == 0
    assert against["a"].low < against["a"].estimate < 0


def test_equal_cells_are_all_candidates() -> None:
    grid = grid_of([0.5, 0.5, 0.5, 0.5])
    for interval in compare_with_best(grid, draws=DRAWS).values():
        assert interval.low < 0 < interval.high
    shares = ranked_first(grid, draws=DRAWS)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())


def test_identical_cells_are_one_experiment_in_every_comparison() -> None:
    table = coverage.preferences(np.random.default_rng(1), np.array([0.4, 0.5]), 1, rows=300)
    cells = {name: pd.DataFrame(table[place].T) for name, place in (("a", 0), ("b", 1), ("c", 1))}
    experiments = {"a": "x", "b": "y", "c": "y"}
    collapsed = make_grid(cells, experiments)
    two = make_grid({name: cells[name] for name in "ab"})
    assert collapsed.names == ("a", "b")
    assert compare_with_best(collapsed, draws=DRAWS)["b"] == compare_with_best(two, draws=DRAWS)["b"]
    assert ranked_first(collapsed, draws=DRAWS)["c"] == ranked_first(two, draws=DRAWS)["b"]
    assert baseline_differences(collapsed, "b", draws=DRAWS)["c"].estimate == 0


@pytest.mark.parametrize("rows", [4, 64, 805])
@pytest.mark.parametrize("seeds", [1, 3])
def test_cells_without_a_difference_in_a_sample_are_in_doubt_all_the_same(rows: int, seeds: int) -> None:
    """All intervals together are never shorter than that of one comparison."""
    ties = pd.DataFrame(np.full((rows, seeds), 0.5))
    grid = make_grid({"a": ties, "b": ties.copy()})
    alone = seeds_difference(ties, ties)
    for interval in (baseline_differences(grid, "a")["b"], simultaneous_intervals(grid)["a"]):
        assert interval.high - interval.low >= 0.95 * (alone.high - alone.low) / (1 if interval.estimate == 0 else 2)
    best = compare_with_best(grid)["a"]
    assert -1 <= best.low < 0 < best.high <= 1
    itself = baseline_differences(grid, "a")["a"]
    assert (itself.low, itself.high) == (0, 0)


def test_differences_from_a_baseline_leave_it_at_nothing() -> None:
    grid = grid_of([0.4, 0.5, 0.6], seeds=3)
    found = baseline_differences(grid, "b", draws=DRAWS)
    assert (found["b"].estimate, found["b"].low, found["b"].high) == (0, 0, 0)
    assert found["c"].estimate == pytest.approx(grid.rates[2] - grid.rates[1])
    assert found["c"].low < found["c"].estimate < found["c"].high
    with pytest.raises(ValueError, match="'z' is no cell; there are: a, b, c"):
        baseline_differences(grid, "z")


def test_seeds_widen_what_holds_together() -> None:
    rng = np.random.default_rng(2)
    table = coverage.preferences(rng, np.full(6, 0.5), 3, 0.04)
    several = make_grid({name: pd.DataFrame(cell.T) for name, cell in enumerate(table)})
    means = make_grid({name: pd.DataFrame(cell.mean(axis=0)) for name, cell in enumerate(table)})
    wide, narrow = (simultaneous_intervals(grid, draws=DRAWS) for grid in (several, means))
    assert several.seed_variance == pytest.approx(0.04**2, rel=0.6)
    assert all(wide[name].high - wide[name].low > narrow[name].high - narrow[name].low for name in wide)
    assert wide[0].scope == statistics.CONSTRUCTION
    assert narrow[0].scope == statistics.THESE_MODELS


def test_a_cell_without_a_verdict_costs_the_instruction() -> None:
    frames = {name: pd.DataFrame({0: [1.0, 0.0, 0.5, 1.0]}) for name in "ab"}
    frames["b"].loc[1, 0] = math.nan
    grid = make_grid(frames)
    assert (len(grid.means), grid.excluded) == (3, 1)


def test_nothing_to_compare_gives_nan_and_a_reason() -> None:
    single = grid_of([0.5])
    assert compare_with_best(single)["a"].note == "no other cell to compare with"
    empty = make_grid({name: pd.DataFrame({0: [math.nan]}) for name in "ab"})
    assert "no instruction" in simultaneous_intervals(empty)["a"].note
    assert math.isnan(ranked_first(empty)["a"])
    assert make_grid({}).names == ()
    with pytest.raises(ValueError, match="repeated"):
        make_grid({"a": pd.DataFrame({0: [1.0, 0.0]}, index=["x", "x"])})


def test_a_difference_over_seeds_agrees_with_the_paired_one_where_there_is_one() -> None:
    one, other = coverage.preferences(np.random.default_rng(3), np.array([0.5, 0.4]), 1, 0.0)[:, 0]
    first, second = pd.Series(one), pd.Series(other)
    crossed = seeds_difference(first.to_frame(), second.to_frame(), draws=DRAWS)
    assert crossed == paired_difference(first, second, draws=DRAWS)


def test_a_difference_takes_unequal_seeds_and_says_what_it_speaks_about() -> None:
    table = coverage.preferences(np.random.default_rng(4), np.array([0.5, 0.4]), 4, 0.03)
    first, second = (pd.DataFrame(cell.T) for cell in table)
    scopes = {seeds: seeds_difference(first, second.iloc[:, :seeds], draws=DRAWS).scope for seeds in (1, 2, 3)}
    assert list(scopes.values()) == [statistics.THESE_MODELS, statistics.TWO_SEEDS, statistics.CONSTRUCTION]
    back, forth = seeds_difference(second, first, draws=DRAWS), seeds_difference(first, second, draws=DRAWS)
    assert back.estimate == pytest.approx(-forth.estimate)
    partly = seeds_difference(first.iloc[5:], second, draws=DRAWS)
    assert (partly.n, partly.excluded) == (800, 5)
    assert seeds_difference(first.iloc[:5], second.iloc[5:]).n == 0


def test_seeds_alone_make_an_interval_where_instructions_do_not_vary() -> None:
    table = np.full((3, 300), 0.5) + np.array([[-0.02], [0.0], [0.02]])
    interval = seeds_interval(table, draws=DRAWS)
    # 4.303 standard errors of 0.02 / sqrt(3), and what is not known of instructions.
    assert interval.high - interval.estimate >= 4.303 * 0.02 / math.sqrt(3)


@pytest.mark.parametrize("kind", ["kendall", "spearman"])
def test_rank_correlation_of_a_grid_with_itself_and_its_mirror(kind: statistics.agreement.Kind) -> None:
    table = coverage.preferences(np.random.default_rng(5), np.linspace(0.2, 0.8, 6), 1, 0.0)[:, 0].T
    grid = pd.DataFrame(table, columns=list("abcdef"))
    same = rank_correlation(grid, grid.sample(frac=1, random_state=0), kind=kind, draws=200)
    assert same.estimate == pytest.approx(1)
    assert same.high == pytest.approx(1)
    mirrored = rank_correlation(grid, 1 - grid, kind=kind, draws=200)
    assert mirrored.estimate == pytest.approx(-1)
    other = rank_correlation(grid, grid.iloc[:400].set_axis([f"x{i}" for i in range(400)]), kind=kind, draws=200)
    assert other.n == 400
    assert other.low <= other.estimate <= other.high


def test_rank_correlation_needs_three_cells_that_differ() -> None:
    grid = pd.DataFrame({"a": [1.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 1.0]})
    assert "2 shared cells" in rank_correlation(grid, grid[["a", "b"]]).note
    assert "equal" in rank_correlation(grid, grid.assign(a=1.0, b=1.0)).note
    with pytest.raises(ValueError, match="repeated"):
        rank_correlation(grid.set_axis([0, 0]), grid)


def test_an_uncertain_seed_variance_makes_detecting_harder() -> None:
    sure = smallest_detectable_difference(805, 0.4, seed_deviation=0.02, seeds=3, seed_degrees=60)
    unsure = smallest_detectable_difference(805, 0.4, seed_deviation=0.02, seeds=3)
    assert sure < unsure
    assert smallest_detectable_difference(805, 0.4) < sure
