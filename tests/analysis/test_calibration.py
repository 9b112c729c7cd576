"""A judge against published verdicts: agreement, order of the models, and biases, each with an interval."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from analysis.calibration import MEASURES, Array, _label_points, calibrate, lines
from analysis.figures.canvas import figure_of, new_axes, style_for

NAMES = ["a", "b", "c", "d"]


def arrays(seed: int = 0, instructions: int = 200) -> tuple[Array, Array, Array, Array]:
    """Published verdicts, others that follow them with noise, lengths, and a preference for the first of 0.6."""
    rng = np.random.default_rng(seed)
    strength = np.array([-1.0, -0.3, 0.4, 1.0])[:, None]
    shape = (4, instructions)
    published = 1 / (1 + np.exp(-(strength + rng.normal(size=shape))))
    judged = np.clip(published + rng.normal(scale=0.1, size=shape), 0, 1)
    lengths = np.where(judged > 0.5, 1.0, -1.0) * np.where(rng.random(shape) < 0.8, 1, -1)
    return judged, published, lengths, np.full(shape, 0.6)


def test_the_measures_are_those_of_the_arrays() -> None:
    judged, published, longer, first = arrays()
    found = calibrate(NAMES, judged, published, longer, first)
    same = ((judged > 0.5) == (published > 0.5)).mean()
    assert set(found.measures) == set(MEASURES)
    assert found.measures["agreement"].value == pytest.approx(same)
    assert found.measures["rank_correlation"].value == pytest.approx(1.0)
    assert found.measures["longer_preferred"].value == pytest.approx(((judged > 0.5) == (longer > 0)).mean())
    assert found.measures["first_preferred"].value == pytest.approx(0.6)
    assert list(found.models["win_rate"]) == pytest.approx(list(100 * judged.mean(axis=1)))
    assert list(found.models["published_win_rate"]) == pytest.approx(list(100 * published.mean(axis=1)))


def test_intervals_hold_the_mean_of_the_population() -> None:
    held, truth = 0, 100 * arrays(999, 20000)[0][3].mean()
    for seed in range(40):
        judged, published, longer, first = arrays(seed, 100)
        model = calibrate(NAMES, judged, published, longer, first, draws=300).models.iloc[3]
        held += model["low"] <= truth <= model["high"]
    assert held >= 34


def test_what_one_judge_left_out_is_left_out_of_both() -> None:
    judged, published, longer, first = arrays()
    judged[0, :50], published[1, 50:60] = np.nan, np.nan
    found = calibrate(NAMES, judged, published, longer, first)
    assert list(found.models["comparisons"]) == [150, 190, 200, 200]
    assert found.models["published_win_rate"][0] == pytest.approx(100 * published[0, 50:].mean())


def test_every_number_of_a_model_has_an_interval_and_a_model_without_verdicts_none() -> None:
    judged, published, longer, first = arrays()
    judged[1] = np.nan
    found = calibrate(NAMES, judged, published, longer, first).models
    for value, low, high in (
        ("published_win_rate", "published_low", "published_high"),
        ("win_rate", "low", "high"),
        ("agreement", "agreement_low", "agreement_high"),
    ):
        rows = found.drop(index=1)
        assert (rows[low] < rows[value]).all()
        assert (rows[value] < rows[high]).all()
        assert found.loc[1, [value, low, high]].isna().all()
    assert found.loc[1, "comparisons"] == 0


def test_ties_count_half_and_equal_lengths_have_no_longer_answer() -> None:
    judged = np.array([[0.5, 1.0, 0.0]])
    published = np.array([[1.0, 0.5, 0.0]])
    found = calibrate(["a"], judged, published, np.zeros((1, 3)), np.full((1, 3), np.nan))
    assert found.measures["agreement"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    for name in ("longer_preferred", "first_preferred", "rank_correlation"):
        assert found.measures[name].value is None


def test_what_does_not_vary_has_no_interval() -> None:
    found = calibrate(["a"], np.ones((1, 9)), np.ones((1, 9)), np.ones((1, 9)), np.full((1, 9), 0.5))
    assert (found.measures["agreement"].value, found.measures["agreement"].low) == (1.0, None)
    assert "nothing varies" in "".join(lines(found))


def test_nothing_in_common_is_refused() -> None:
    nothing = np.full((1, 3), np.nan)
    with pytest.raises(ValueError, match="no comparison has a verdict of both"):
        calibrate(["a"], nothing, np.ones((1, 3)), nothing, nothing)
    with pytest.raises(ValueError, match="expected arrays of one shape"):
        calibrate(["a"], np.ones((1, 2)), np.ones((1, 3)), nothing, nothing)


def test_names_in_the_figure_stand_on_no_other_name_or_point() -> None:
    axes = new_axes(style_for(7), 2.8)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    places = [(50, 50), (50, 50), (55, 50), (98, 99), (97, 99)]
    models = pd.DataFrame(places, columns=["published_win_rate", "win_rate"], dtype=float)
    _label_points(axes, models.assign(model=[f"a model ${number}$" for number in range(5)]), 8)
    figure = figure_of(axes)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    points = axes.transData.transform(models.to_numpy(float))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)
    assert axes.texts[0].get_text() == "a model $0$"
