"""Win rates on AlpacaEval's scale: equal to the published ones, whatever holds the preferences."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import Estimate, StatisticsError, discrete_win_rate, win_rate
from tests.analysis.alpaca_eval import MODELS, needs_data, published, verdicts_of


@needs_data
@pytest.mark.parametrize("model", MODELS)
def test_published_rates_come_out(model: str) -> None:
    expected, preferences = published(model), verdicts_of(model)["preference"]
    raw, discrete = win_rate(preferences), discrete_win_rate(preferences)
    assert raw.value == pytest.approx(expected["win_rate"], abs=1e-6)
    assert raw.standard_error == pytest.approx(expected["standard_error"], abs=1e-6)
    assert discrete.value == pytest.approx(expected["discrete_win_rate"], abs=1e-6)
    assert raw.n == discrete.n == 805
    assert raw.low < raw.value < raw.high


def test_a_draw_counts_half_and_near_draws_count_by_their_side() -> None:
    preferences = [1.0, 1.5, 1.5000001, 2.0]
    assert win_rate(preferences).value == pytest.approx(50.0000025)
    assert discrete_win_rate(preferences).value == 62.5
    assert discrete_win_rate(preferences).standard_error == pytest.approx(100 * np.std([0, 0.5, 1, 1], ddof=1) / 2)


@pytest.mark.parametrize(
    "preferences",
    [
        [1.25, 2.0, None],
        (1.25, 2.0, math.nan),
        np.array([1.25, 2.0, -1]),
        np.array([1.25, 2.0, None], dtype=object),
        pd.Series([1.25, 2.0, -1.0], index=[5, 5, 5]),
        pd.Series([1.25, 2.0, None], dtype="Float64"),
        pd.Series([1.25, 2.0, pd.NA], dtype=object),
    ],
)
def test_every_container_gives_the_same_and_failures_are_counted(preferences: Any) -> None:
    estimate = win_rate(preferences)
    assert (estimate.value, estimate.n, estimate.excluded) == (62.5, 2, 1)
    assert discrete_win_rate(preferences).value == 50


def test_an_end_may_be_missed_by_rounding() -> None:
    preferences = [np.nextafter(1.0, 0), np.nextafter(2.0, 3)]
    assert win_rate(preferences).value == discrete_win_rate(preferences).value == 50


def test_zero_is_a_draw_as_in_alpaca_eval() -> None:
    assert win_rate([0, 2, 1]).value == discrete_win_rate([0, 2, 1]).value == 50


@pytest.mark.parametrize(
    ("preferences", "message"),
    [
        ([], "no rows"),
        ([None, -1], "2 preferences, all failed"),
        ([1.5, 3.0], "row 1 is 3"),
        ([1.5, 0.5], "row 1 is 0.5"),
        ([1.5, math.inf], "row 1 is inf"),
        ([1.5, "2"], "row 1 is '2'"),
        ([1.5, True], "row 1 is True"),
        ([0.0, 1.0, 0.0], "scale from 0 to 1"),
        ([[1.5]], "one column"),
        (1.5, "one column"),
        (pd.DataFrame({"preference": [1.5]}), "one column"),
    ],
)
def test_what_is_no_preference_is_refused(preferences: Any, message: str) -> None:
    for estimate in (win_rate, discrete_win_rate):
        with pytest.raises(StatisticsError, match=message):
            estimate(preferences)


def test_one_row_has_no_standard_error_but_an_interval() -> None:
    estimate = win_rate([2.0])
    assert (estimate.value, estimate.high, estimate.n) == (100, 100, 1)
    assert math.isnan(estimate.standard_error)
    assert estimate.low < 50


def test_an_estimate_is_made_of_five_numbers() -> None:
    estimate = Estimate(50.0, 1.0, 48.0, 52.0, 805)
    assert (estimate.excluded, estimate.method) == (0, "")
