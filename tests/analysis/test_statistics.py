"""Intervals: their coverage, measured, and the properties that any sample must keep."""

import math
import subprocess
import sys
from collections.abc import Hashable
from random import Random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import statistics
from analysis.statistics import (
    bootstrap_interval,
    guarded_interval,
    max_t_interval,
    paired_difference,
    seeds_interval,
    smallest_detectable_difference,
    win_rate_interval,
)
from analysis.statistics.intervals import resampled_sums, resamples

DRAWS = 400

samples = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1), min_size=1, max_size=40)


def draw(rng: np.random.Generator, win_rate: float, shape: tuple[int, ...], ties: float = 0.2) -> np.ndarray:
    """Preferences 0, 0.5 and 1 with mean `win_rate`, and `ties` of ties where the mean leaves room."""
    tied = min(ties, win_rate, 1 - win_rate)
    return rng.choice([0.0, 0.5, 1.0], size=shape, p=[1 - win_rate - tied / 2, tied, win_rate - tied / 2])


def covers(interval: statistics.Interval, truth: float) -> bool:
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


@pytest.mark.parametrize("n", [16, 32, 64, 805])
@pytest.mark.parametrize("win_rate", [0.026, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("ties", [0.0, 0.2])
def test_interval_covers_the_truth(n: int, win_rate: float, ties: float) -> None:
    rng = np.random.default_rng(n)
    repeats = 200
    rows = draw(rng, win_rate, (repeats, n), ties)
    hits = sum(covers(win_rate_interval(row, draws=DRAWS), win_rate) for row in rows)
    # 0.93, less two standard errors of the simulation itself.
    assert hits / repeats >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / repeats)


def test_plain_percentile_bootstrap_would_not_do_at_64_rows() -> None:
    rng = np.random.default_rng(1)
    rows = draw(rng, 0.026, (400, 64), ties=0.0)
    assert np.mean([covers(bootstrap_interval(row, draws=DRAWS), 0.026) for row in rows]) < 0.88


def test_seeds_interval_covers_the_construction_where_instructions_alone_do_not() -> None:
    rng = np.random.default_rng(2)
    narrow, wide = 0, 0
    for _ in range(200):
        difficulty = rng.normal(0, 0.25, 400)
        effect = rng.normal(0, 0.02, (3, 1))
        table = np.clip(0.5 + effect + difficulty + rng.normal(0, 0.1, (3, 400)), 0, 1)
        narrow += covers(win_rate_interval(table[0], draws=DRAWS), 0.5)
        wide += covers(seeds_interval(table, draws=DRAWS), 0.5)
    assert narrow / 200 < 0.85
    assert wide / 200 >= 0.93


def test_max_t_covers_all_of_21_equal_cells_together() -> None:
    rng = np.random.default_rng(3)
    alone, together = 0, 0
    for _ in range(60):
        shared = rng.random((300, 1))
        table = pd.DataFrame((0.5 * shared + 0.5 * rng.random((300, 21)) > 0.5).astype(float))
        best = int(table.mean().to_numpy().argmax())
        alone += covers(win_rate_interval(table[best], draws=DRAWS), 0.5)
        together += all(covers(interval, 0.5) for interval in max_t_interval(table, draws=DRAWS).values())
    assert alone / 60 < 0.85
    assert together / 60 >= 0.9


@settings(max_examples=30, deadline=None)
@given(samples)
def test_interval_holds_its_estimate_within_the_unit_interval(preferences: list[float]) -> None:
    interval = win_rate_interval(preferences, draws=DRAWS)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.estimate == pytest.approx(np.mean(preferences))
    assert interval.n == len(preferences)


@settings(max_examples=30, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_interval_ignores_order_and_mirrors_with_the_answers(preferences: list[float], random: Random) -> None:
    interval = win_rate_interval(preferences, draws=DRAWS)
    shuffled = random.sample(preferences, len(preferences))
    assert win_rate_interval(shuffled, draws=DRAWS).low == pytest.approx(interval.low, abs=1e-9)
    mirrored = win_rate_interval(1 - np.array(preferences), draws=DRAWS)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)
    assert mirrored.high == pytest.approx(1 - interval.low, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(samples, samples)
def test_difference_turns_its_sign_with_its_arguments(first: list[float], second: list[float]) -> None:
    a, b = pd.Series(first), pd.Series(second)
    forth, back = paired_difference(a, b, draws=DRAWS), paired_difference(b, a, draws=DRAWS)
    assert forth.estimate == pytest.approx(-back.estimate, abs=1e-9)
    assert forth.low == pytest.approx(-back.high, abs=1e-9)
    assert forth.n == min(len(first), len(second))
    assert forth.excluded == abs(len(first) - len(second))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 16, 805])
def test_equal_preferences_still_leave_doubt(value: float, n: int) -> None:
    interval = win_rate_interval(np.full(n, value), draws=DRAWS)
    assert interval.estimate == value
    assert interval.high - interval.low > 0.4 / n


def test_wins_and_losses_alone_give_the_exact_binomial_interval() -> None:
    interval = guarded_interval([1.0] * 3 + [0.0] * 17, draws=100_000)
    assert interval.low == pytest.approx(0.0321, abs=0.003)
    assert interval.high == pytest.approx(0.3789, abs=0.003)


@pytest.mark.parametrize(
    ("n", "win_rate", "method"),
    [
        (4, 0.5, statistics.GUARDED),
        (199, 0.5, statistics.SCORE),
        (200, 0.5, statistics.PERCENTILE),
        (805, 0.026, statistics.PERCENTILE),
        (805, 0.01, statistics.SCORE),
        (805, 0.005, statistics.GUARDED),
        (805, 1.0, statistics.GUARDED),
    ],
)
def test_interval_names_the_method_that_the_sample_allows(n: int, win_rate: float, method: str) -> None:
    preferences = (np.arange(n) < round(n * win_rate)).astype(float)
    assert win_rate_interval(preferences).method.removesuffix(", 10000 draws") == method


def test_no_judged_instruction_gives_nan_and_a_reason() -> None:
    interval = win_rate_interval([math.nan, math.nan])
    assert math.isnan(interval.estimate)
    assert math.isnan(interval.low)
    assert (interval.n, interval.excluded, interval.note) == (0, 2, "no judged instruction")
    assert math.isnan(seeds_interval(np.full((3, 2), math.nan)).estimate)
    assert math.isnan(paired_difference(pd.Series([1.0], ["a"]), pd.Series([1.0], ["b"])).estimate)


def test_failed_judgements_are_left_out_and_counted() -> None:
    interval = win_rate_interval([1.0, math.nan, 0.0])
    assert (interval.estimate, interval.n, interval.excluded) == (0.5, 2, 1)
    crossed = seeds_interval([[1.0, math.nan, 0.0], [1.0, 1.0, 0.0]])
    assert (crossed.estimate, crossed.n, crossed.excluded) == (0.5, 2, 1)


@pytest.mark.parametrize("preferences", [[1.5], [-0.1], [math.inf], [[0.5]]])
def test_what_is_no_preference_is_refused(preferences: list[float]) -> None:
    with pytest.raises(ValueError, match="preference"):
        win_rate_interval(preferences)


def test_a_repeated_instruction_is_refused() -> None:
    with pytest.raises(ValueError, match="'x'"):
        paired_difference(pd.Series([1.0, 0.0], ["x", "x"]), pd.Series([1.0], ["x"]))


def test_a_level_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        win_rate_interval([0.5], level=95)


@pytest.mark.parametrize(
    ("seeds", "scope"),
    [(1, statistics.THESE_MODELS), (2, statistics.TWO_SEEDS), (3, statistics.CONSTRUCTION)],
)
def test_scope_follows_the_number_of_seeds(seeds: int, scope: str) -> None:
    table = draw(np.random.default_rng(4), 0.6, (seeds, 300))
    interval = seeds_interval(table, draws=DRAWS)
    assert interval.scope == scope
    assert bool(interval.note) == (seeds == 2)
    over_instructions = win_rate_interval(table.mean(axis=0), draws=DRAWS)
    assert interval.low <= over_instructions.low
    assert interval.high >= over_instructions.high


def test_pairing_shortens_the_interval_of_correlated_answers() -> None:
    rng = np.random.default_rng(5)
    hard = rng.random(500)
    first, second = (pd.Series(np.clip(hard + rng.normal(0, 0.1, 500), 0, 1)) for _ in range(2))
    paired = paired_difference(first, second)
    shuffled = paired_difference(first, pd.Series(rng.permutation(second.to_numpy())))
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_difference_is_paired_by_instruction_not_by_row() -> None:
    first = pd.Series([1.0, 0.0, 0.5], ["a", "b", "c"])
    assert paired_difference(first, first.iloc[::-1]).estimate == 0


def test_identical_cells_count_once_in_simultaneous_intervals() -> None:
    table = pd.DataFrame(draw(np.random.default_rng(6), 0.5, (300, 4)), columns=list("abcd"))
    table["e"] = table["d"]
    experiments: dict[Hashable, Hashable] = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 4}
    collapsed = max_t_interval(table, experiments, draws=DRAWS)
    assert collapsed["d"] == collapsed["e"]
    assert collapsed["a"] == max_t_interval(table[list("abcd")], draws=DRAWS)["a"]
    assert "max-t over 4 experiments" in collapsed["a"].method
    assert collapsed["a"].high > win_rate_interval(table["a"], draws=DRAWS).high


def test_simultaneous_intervals_of_constant_cells_are_bonferroni() -> None:
    intervals = max_t_interval(pd.DataFrame({"a": [1.0] * 20, "b": [0.0] * 20}), draws=20_000)
    assert intervals["a"].low == pytest.approx(0.0125 ** (1 / 20), abs=0.02)


def test_smallest_detectable_difference_shrinks_with_the_root_of_the_instructions() -> None:
    # Standard errors of 0.9 to 1.3 points at 805 rows, times 1.96 + 0.84.
    assert smallest_detectable_difference(805, 0.30) == pytest.approx(0.0296, abs=5e-4)
    fourfold = smallest_detectable_difference(1600, 0.4)
    assert smallest_detectable_difference(400, 0.4) == pytest.approx(2 * fourfold, rel=0.01)
    assert smallest_detectable_difference(805, 0.3, seed_deviation=0.015, seeds=3) > 0.04
    assert math.isnan(smallest_detectable_difference(0, 0.3))


def test_statistics_import_no_model_library() -> None:
    heavy = "('torch', 'transformers', 'vllm', 'hydra', 'matplotlib')"
    code = f"import sys, analysis.statistics; sys.exit(any(name in sys.modules for name in {heavy}))"
    # The command is a constant of this test.
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "values", [[0.0] * 3 + [0.5] * 40 + [1.0] * 57, [1.0] * 5, [0.25], [1 / 3] * 30 + [2 / 3] * 11]
)
def test_resamples_summed_by_value_are_those_summed_by_row(values: list[float]) -> None:
    ordered = np.array(values)
    by_row = resamples(len(ordered), DRAWS, 3).astype(float) @ ordered
    assert np.allclose(resampled_sums(ordered, DRAWS, 3), by_row, rtol=1e-12)
