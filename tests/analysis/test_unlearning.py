"""Slopes within prompts: closed form, coverage, what has none; and the cells of a sweep."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics import CLUSTERED, CONSTRUCTION, within_slope
from analysis.unlearning import MEASURES, unlearning_cells, unlearning_section


def test_the_slope_is_that_of_a_regression_with_a_level_for_each_group() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 5)
    x = random.normal(size=30)
    y = 0.7 * x + 10 * groups + random.normal(size=30)
    design = np.column_stack([x, *(groups == g for g in range(6))]).astype(float)
    coefficients, *_ = np.linalg.lstsq(design, y, rcond=None)
    found = within_slope(x, y, groups)
    assert found.estimate == pytest.approx(coefficients[0])
    assert found.method == CLUSTERED
    # The sandwich of the whole design, by hand.
    residuals = y - design @ coefficients
    bread = np.linalg.inv(design.T @ design)
    scores = np.array([design[groups == g].T @ residuals[groups == g] for g in range(6)])
    error = np.sqrt(6 / 5 * (bread @ scores.T @ scores @ bread)[0, 0])
    assert found.high - found.estimate == pytest.approx(2.5705818366 * error)  # Student's t, 5 degrees of freedom


@given(st.integers(0, 2**32 - 1), st.floats(-5, 5))
def test_a_groups_own_level_and_the_order_of_rows_say_nothing(seed: int, slope: float) -> None:
    random = np.random.default_rng(seed)
    groups, x = random.integers(0, 4, 40), random.normal(size=40)
    y = slope * x + random.normal(size=40)
    found = within_slope(x, y, groups)
    order = random.permutation(40)
    moved = within_slope(x[order] + 3 * groups[order], y[order] - 100 * groups[order], groups[order])
    assert moved.estimate == pytest.approx(found.estimate, abs=1e-9)
    assert moved.high == pytest.approx(found.high, abs=1e-9)


def test_what_says_nothing_about_a_slope_is_left_out() -> None:
    x = np.array([1.0, 2.0, 3.0, 3.0, 1.0, np.nan, 1.0, 4.0])
    y = np.array([1.0, 2.0, 5.0, 9.0, 0.0, 0.0, 2.0, 3.0])
    found = within_slope(x, y, np.array(["a", "a", "same", "same", "one", "one", "b", "b"]))
    assert (found.n, found.excluded) == (4, 4)
    assert found.estimate == pytest.approx((0.5 + 1.5) / (0.5 + 4.5))


@pytest.mark.parametrize(
    ("groups", "note"), [(["a", "a"], "no interval: one group"), (["a", "b"], "no group whose values vary")]
)
def test_too_few_groups_have_no_interval_but_a_reason(groups: list[str], note: str) -> None:
    found = within_slope(np.array([1.0, 2.0]), np.array([1.0, 3.0]), np.array(groups))
    assert np.isnan(found.low)
    assert found.note == note


def test_the_interval_holds_with_rows_that_go_together() -> None:
    """40 prompts with slopes of their own, 8 responses each: an interval over rows would cover far too rarely."""
    random, held = np.random.default_rng(1), 0
    for _ in range(400):
        groups = np.repeat(np.arange(40), 8)
        x = random.normal(size=320)
        y = random.normal(1.0, 1.0, 40)[groups] * x + 0.2 * random.normal(size=320)
        found = within_slope(x, y, groups)
        held += found.low <= 1.0 <= found.high
    assert 0.91 <= held / 400 <= 0.98


def cells(*rows: dict[str, Any]) -> pd.DataFrame:
    fixed = {
        "n": 8,
        "pair.chosen": None,
        "pair.rejected": None,
        "train.imported": None,
        "evaluate.answers": None,
        "construction.pairs.name": None,
        "loss.beta": 0.1,
        "train.seed": 0,
    }
    return pd.DataFrame([{**fixed, **row} for row in rows])


def changes(result: str, slope: float, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(5)
    rows = [
        {"result": result, "prompt_id": f"p{p}", "sample_index": i, "reward": random.normal(), "tokens": 10}
        for p in range(12)
        for i in range(4)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(change=slope * frame["reward"] - 2.0 + 0.01 * np.random.default_rng(seed).normal(size=48))


PLAIN = {"construction.name": "max_min", "results": ["plain"]}
GOALS = {"construction.name": "reward_augmented", "construction.pairs.name": "max_min", "results": ["goals"]}


def test_a_cell_is_compared_with_the_same_pairs_without_goals() -> None:
    frame = pd.concat([changes("plain", 0.5), changes("goals", 2.0, seed=1)])
    found = unlearning_cells(cells(PLAIN, GOALS), frame).set_index(["cell", "measure"])
    assert found.loc[(0, "slope"), "estimate"] == pytest.approx(0.5, abs=0.01)
    assert found.loc[(0, "slope_per_token"), "estimate"] == pytest.approx(0.05, abs=0.001)
    assert found.loc[(1, "change"), "estimate"] == pytest.approx(
        frame[frame["result"] == "goals"].groupby("prompt_id")["change"].mean().mean()
    )
    difference = found.to_dict("index")[1, "slope_less_plain"]
    assert difference["low"] < 1.5 < difference["high"]
    assert (0, "slope_less_plain") not in found.index


@pytest.mark.parametrize(
    "other",
    [
        {"n": 16},
        {"loss.beta": 0.2},
        {"construction.name": "sweet_spot"},
        {"construction.min_margin": 0.5},
        {"construction.pairs.static_share": 1.0, "construction.static_share": 0.0},
    ],
)
def test_cells_that_differ_in_more_are_not_compared(other: dict[str, Any]) -> None:
    frame = pd.concat([changes("plain", 0.5), changes("goals", 2.0)])
    found = unlearning_cells(cells({**PLAIN, **other}, GOALS), frame)
    assert "slope_less_plain" not in set(found["measure"])


def test_several_seeds_widen_the_interval() -> None:
    one = cells({**GOALS, "results": ["s0"]})
    three = cells({**GOALS, "results": ["s0", "s1", "s2"]})
    frame = pd.concat([changes(f"s{i}", slope, seed=i) for i, slope in enumerate((1.0, 2.0, 3.0))])
    narrow, wide = (unlearning_cells(c, frame).set_index("measure").loc["slope"] for c in (one, three))
    assert wide["estimate"] == pytest.approx(2.0, abs=0.01)
    assert wide["scope"] == CONSTRUCTION
    assert wide["high"] - wide["low"] > 4.0 > narrow["high"] - narrow["low"]  # t of two degrees: 2 x 4.3 x 1 / sqrt(3)


def test_the_section_shows_every_measure_and_nothing_without_changes() -> None:
    table = cells(PLAIN, GOALS)
    rows = unlearning_cells(table, pd.concat([changes("plain", 0.5), changes("goals", 2.0)]))
    head, _, shown = unlearning_section(table, rows)
    assert head == "## Unlearning"
    assert all(text in shown for text in MEASURES.values())
    assert unlearning_section(table, rows.iloc[:0]) == []
