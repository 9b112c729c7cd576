"""The length-controlled win rate: equal to the published numbers, and right or refused on damaged input."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

from analysis.glm import Batch, solve
from analysis.length_control import (
    length_controlled_difference,
    length_controlled_win_rate,
    length_controlled_win_rate_without_difficulty,
)
from analysis.length_inputs import check_baselines, check_rows
from analysis.length_regression import make_design
from analysis.statistics import Estimate, StatisticsError
from tests.analysis.alpaca_eval import (
    MODELS,
    Inputs,
    hub_inputs,
    make_inputs,
    make_verdicts,
    needs_data,
    published,
    verdicts_of,
)

C = 2.7825594022071245


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return make_inputs()


@pytest.fixture
def verdicts(inputs: Inputs) -> pd.DataFrame:
    return make_verdicts(inputs[0])


def rate(verdicts: pd.DataFrame, inputs: Inputs, **options: Any) -> Estimate:
    """The rate at a fixed C with few draws, unless options say otherwise."""
    settings = {"C": C, "draws": 20} | options
    return length_controlled_win_rate(verdicts, difficulty=inputs[0], gamed=inputs[1], **settings)


@needs_data
@pytest.mark.parametrize("model", MODELS)
def test_published_rates_come_out(model: str) -> None:
    expected = published(model)
    known = rate(verdicts_of(model), hub_inputs(), C=expected["C_inferred"])
    chosen = rate(verdicts_of(model), hub_inputs(), C=None)
    assert known.value == pytest.approx(expected["length_controlled_winrate"], abs=0.002)
    assert chosen.value == pytest.approx(expected["length_controlled_winrate"], abs=0.2)
    assert known.n == chosen.n == 805


@needs_data
def test_standard_error_is_that_of_a_bootstrap_not_the_packages() -> None:
    estimate = rate(verdicts_of("claude-2.1"), hub_inputs(), draws=400)
    # The package says 0.75.
    assert estimate.standard_error == pytest.approx(1.73, abs=0.2)


@needs_data
@pytest.mark.parametrize("missing", [0, 100])
def test_published_rate_survives_shuffled_and_missing_rows(missing: int) -> None:
    whole = verdicts_of("claude-2.1")
    shuffled = whole.sample(frac=1, random_state=1).iloc[missing:]
    estimate = rate(shuffled, hub_inputs())
    assert estimate.n == 805 - missing
    assert estimate.value == pytest.approx(25.25, abs=0.01 if not missing else 1.5)


def test_order_of_rows_decides_nothing(verdicts: pd.DataFrame, inputs: Inputs) -> None:
    shuffled = verdicts.sample(frac=1, random_state=2)
    moved = (inputs[0].sample(frac=1, random_state=3), inputs[1].sample(frac=1, random_state=4))
    first, second = rate(verdicts, inputs, C=None), rate(shuffled, moved, C=None)
    assert second.value == pytest.approx(first.value, abs=0.02)
    assert rate(shuffled, inputs, C=None) == first


@pytest.mark.parametrize("kind", [str, float, "Int64", object])
def test_index_may_be_text_or_floats(kind: Any, verdicts: pd.DataFrame, inputs: Inputs) -> None:
    assert rate(verdicts.astype({"index": kind}), inputs) == rate(verdicts, inputs)


def test_missing_rows_are_joined_by_index(verdicts: pd.DataFrame, inputs: Inputs) -> None:
    part = verdicts.drop(index=range(50, 150))
    difficulty, gamed = inputs
    renamed = part.assign(index=part["index"] + 10_000)
    moved = difficulty.set_axis(difficulty.index + 10_000), gamed.assign(index=gamed["index"] + 10_000)
    assert rate(part, inputs) == rate(renamed, moved)
    assert rate(part, inputs).n == 705
    by_position = part.assign(index=np.arange(705))
    assert abs(rate(by_position, inputs).value - rate(part, inputs).value) > 0.02


@pytest.mark.parametrize("failed", [-1, None, np.nan])
def test_a_failed_verdict_is_counted_and_no_preference(
    failed: float | None, verdicts: pd.DataFrame, inputs: Inputs
) -> None:
    damaged = verdicts.astype({"preference": object})
    damaged.loc[range(20), "preference"] = failed
    estimate = rate(damaged, inputs)
    assert (estimate.n, estimate.excluded) == (785, 20)
    assert estimate.value == pytest.approx(rate(verdicts, inputs).value, abs=0.6)


def test_an_answer_that_is_missing_and_not_judged_is_left_out(verdicts: pd.DataFrame, inputs: Inputs) -> None:
    damaged = verdicts.astype({"preference": object, "len_model": object})
    damaged.loc[7, ["preference", "len_model"]] = None
    estimate = rate(damaged, inputs)
    assert estimate.value == rate(verdicts.drop(index=7), inputs).value
    assert (estimate.n, estimate.excluded) == (804, 1)


@pytest.mark.parametrize("preference", [1.0, 2.0, 1.5])
def test_one_verdict_everywhere_is_no_obstacle(preference: float, verdicts: pd.DataFrame, inputs: Inputs) -> None:
    estimate = rate(verdicts.assign(preference=preference), inputs)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 100
    assert ("too short" in estimate.method) == (preference != 1.5)


@pytest.mark.parametrize("common", [0, 7, 1000])
@pytest.mark.filterwarnings("error")
def test_resamples_whose_lengths_differ_by_nothing_are_refitted_as_well(
    common: int, verdicts: pd.DataFrame, inputs: Inputs
) -> None:
    """One row has another length; a third of the resamples are without it."""
    equal = verdicts.assign(len_reference=500 + common, len_model=500)
    equal.loc[400, "len_model"] = 900
    estimate = rate(equal, inputs, draws=60)
    assert estimate.low < estimate.value < estimate.high
    assert 0 < estimate.standard_error < 10


def test_no_solution_is_no_answer() -> None:
    ones, nothing = np.ones((1, 3)), np.full((1, 3), np.nan)
    batch = Batch(features=(nothing, np.ones((2, 3))), targets=np.ones(3), weights=ones, strength=1.0)
    with pytest.raises(ArithmeticError, match="did not converge"):
        solve(batch, np.zeros(3))


def test_the_reference_itself_has_50_by_definition(verdicts: pd.DataFrame, inputs: Inputs) -> None:
    same = verdicts.assign(len_model=verdicts["len_reference"], preference=1.5)
    estimate = rate(same, inputs)
    assert (estimate.value, estimate.standard_error, estimate.low, estimate.high) == (50, 0, 50, 50)


DAMAGE: list[tuple[Callable[[pd.DataFrame], Any], str]] = [
    (lambda v: pd.concat([v, v.iloc[[12]]]), "instruction 12 stands there more than once"),
    (lambda v: v.assign(len_model=v["len_reference"]), "nothing to control for"),
    (lambda v: v.assign(len_model=v["len_reference"] + 5), "nothing to control for"),
    (lambda v: v.assign(len_model=v["len_model"].astype(object).where(v["index"] != 3, None)), "len_model in row 3"),
    (lambda v: v.assign(len_model=v["len_model"].where(v["index"] != 3, -5)), "len_model in row 3 is -5"),
    (lambda v: v.astype(object).assign(len_model="long"), "len_model in row 0 is 'long'"),
    (lambda v: v.assign(preference=v["preference"] + 1), "expected a number in"),
    (lambda v: v.assign(preference=v["preference"].astype(str)), "preference in row 0"),
    (lambda v: v.assign(index=v["index"] + 195), "195 instructions of the verdicts are not in difficulty"),
    (lambda v: v.assign(index=v["index"] + 0.5), "expected AlpacaEval's official row number"),
    (lambda v: v.assign(index="a" + v["index"].astype(str)), "'a0'"),
    (lambda v: v.assign(index=None), "index in row 0 is None"),
    (lambda v: v.drop(columns="index"), "no column index"),
    (lambda v: v.set_index("index"), "never by position"),
    (lambda v: v.iloc[:399], "399 judged rows"),
    (lambda v: v.assign(preference=v["preference"].where(v["index"] < 399, -1)), "399 judged rows"),
    (lambda v: v.iloc[:0], "0 judged rows"),
    (lambda v: v.to_dict(), "expected a data frame, got dict"),
    (lambda v: pd.concat([v, v.assign(index=v["index"] + 805)]).iloc[:1000], "another instruction set"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_verdicts_are_refused(
    damage: Callable[[pd.DataFrame], Any], message: str, verdicts: pd.DataFrame, inputs: Inputs
) -> None:
    with pytest.raises(StatisticsError, match=message):
        rate(damage(verdicts), inputs)


BAD_INPUTS: list[tuple[Callable[["pd.Series[float]", pd.DataFrame], Any], str]] = [
    (lambda d, g: (None, g), "difficulty is missing"),
    (lambda d, g: (d, None), "gamed is missing"),
    (lambda d, g: (d.drop(44), g), "not in difficulty, such as 44"),
    (lambda d, g: (d.to_numpy(), g), "expected a series"),
    (lambda d, g: (pd.concat([d, d.iloc[:1]]), g), "difficulty: instruction 0 stands there more than once"),
    (lambda d, g: (d.where(d.index != 9), g), "difficulty: a value is missing"),
    (lambda d, g: (pd.Series(d.to_numpy()[::-1], d.index), g), "not of one instruction set"),
    (lambda d, g: (d, g.drop(columns="std_delta_len")), "gamed: no column std_delta_len"),
    (lambda d, g: (d, g[g["index"] != 44]), "not in gamed, such as 44"),
    (lambda d, g: (d, g.iloc[:805]), r"instruction 0 has 1 row\(s\); expected two"),
    (lambda d, g: (d, pd.concat([g, g])), r"instruction 0 has 4 row\(s\)"),
    (lambda d, g: (d, g.to_dict()), "expected the frame of df_gamed.csv, got dict"),
    (lambda d, g: (d, g.assign(not_gamed_baseline=True)), "not_gamed_baseline"),
    (lambda d, g: (d, g.assign(preference=g["preference"] + 1)), r"outside \[0, 1\]"),
    (lambda d, g: (d, g.assign(std_delta_len=np.inf)), "std_delta_len is missing or not finite"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_INPUTS)
def test_damaged_hub_files_are_refused(
    damage: Callable[["pd.Series[float]", pd.DataFrame], Any], message: str, verdicts: pd.DataFrame, inputs: Inputs
) -> None:
    with pytest.raises(StatisticsError, match=message):
        rate(verdicts, damage(*inputs))


@pytest.mark.parametrize("strength", [0, -1, np.nan, np.inf, "a"])
def test_a_strength_that_is_none_is_refused(strength: Any, verdicts: pd.DataFrame, inputs: Inputs) -> None:
    with pytest.raises(StatisticsError, match="expected a positive number"):
        rate(verdicts, inputs, C=strength)


def test_the_rate_without_difficulty_needs_no_files_and_takes_any_names(verdicts: pd.DataFrame) -> None:
    renamed = verdicts.assign(index="q" + verdicts["index"].astype(str))
    estimate = length_controlled_win_rate_without_difficulty(renamed, draws=20)
    assert 0 < estimate.low <= estimate.value <= estimate.high < 100
    with pytest.raises(StatisticsError, match="399 judged rows"):
        length_controlled_win_rate_without_difficulty(renamed.iloc[:399])


def test_a_difference_is_paired_and_turns_its_sign(verdicts: pd.DataFrame, inputs: Inputs) -> None:
    difficulty, gamed = inputs
    better = verdicts.assign(preference=np.minimum(2, verdicts["preference"] + 0.05))
    options: dict[str, Any] = {"difficulty": difficulty, "gamed": gamed, "C": C, "draws": 50}
    forth = length_controlled_difference(better, verdicts, **options)
    back = length_controlled_difference(verdicts, better, **options)
    assert forth.value == pytest.approx(-back.value)
    assert forth.low == pytest.approx(-back.high)
    assert forth.standard_error < 0.5 * rate(verdicts, inputs, draws=50).standard_error
    partly = length_controlled_difference(better.iloc[5:], verdicts, **options)
    assert (partly.n, partly.excluded) == (800, 5)


@pytest.mark.parametrize("strength", [0.006, C, 166.8])
def test_batched_solver_agrees_with_scikit_learn(strength: float) -> None:
    rng = np.random.default_rng(5)
    problems, rows = 4, 500
    own, shared = np.tanh(rng.normal(0, 1, (problems, rows))), rng.normal(0, 1, (2, rows))
    shared[1] = rng.random(rows) < 0.5
    targets = 1 / (1 + np.exp(-(shared[0] + own[0] - 2 * shared[1] + rng.normal(0, 1, rows))))
    weights = rng.integers(0, 4, (problems, rows)).astype(float)
    solved = solve(Batch(features=(own, shared), targets=targets, weights=weights, strength=strength), np.zeros(3))
    for problem in range(problems):
        features = np.column_stack([own[problem], *shared])
        model = LogisticRegression(
            C=strength, l1_ratio=1, solver="liblinear", tol=1e-10, max_iter=10_000, fit_intercept=False
        )
        model.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], rows),
            sample_weight=np.concatenate([targets * weights[problem], (1 - targets) * weights[problem]]),
        )
        exact = model.coef_[0]
        predicted = [100 / (1 + np.exp(-(shared[0] * w[1] + w[2]))).mean() for w in (solved[problem], exact)]
        assert predicted[0] == pytest.approx(predicted[1], abs=1e-4)
        assert solved[problem] == pytest.approx(exact, abs=1e-6)


def mean_log_loss(truth: np.ndarray, predicted: np.ndarray, *, share: np.ndarray, weight: np.ndarray) -> float:
    """alpaca_eval's score: a row of share p stands there as a win of weight p and as a loss of weight 1 - p."""
    target = np.where(truth == 1, share, 1 - share)
    predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean(weight * (target * np.log(predicted) + (1 - target) * np.log(1 - predicted))))


@pytest.mark.parametrize("seed", range(3))
def test_the_strength_is_that_of_scikit_learns_cross_validation(seed: int, inputs: Inputs) -> None:
    rows = check_rows(make_verdicts(inputs[0], strength=seed - 1.5, seed=seed))
    design = make_design(rows, check_baselines(*inputs, rows.index))
    features, targets, weights = design.features(), design.targets(), design.weights()
    share, weight = np.concatenate([targets, 1 - targets]), np.concatenate([weights, weights])
    scorer = make_scorer(mean_log_loss, response_method="predict_proba", greater_is_better=False)
    with config_context(enable_metadata_routing=True):
        search = LogisticRegressionCV(
            Cs=10,
            l1_ratios=(1,),
            solver="liblinear",
            cv=GroupKFold(5),
            random_state=123,
            fit_intercept=False,
            scoring=scorer.set_score_request(share=True, weight=True),
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        search.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], len(targets)),
            sample_weight=share * weight,
            groups=np.tile(np.arange(len(targets)), 2),
            share=share,
            weight=weight,
        )
    assert design.chosen_strength() == pytest.approx(search.C_)
    assert design.fit(design.chosen_strength()) == pytest.approx(search.coef_[0], abs=1e-12)
