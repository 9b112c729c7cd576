"""What a judge is worth: its verdicts on published models beside the published verdicts on the same answers.

Preferences are probabilities that the model's answer beats the reference, 0 to 1, in arrays [models x instructions];
NaN where there is no verdict. Intervals are percentile bootstraps over instructions, which all models share: they speak
about these models on other instructions, not about other models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

MEASURES = {
    "agreement": "share of comparisons in which both judges prefer the same answer; a tie of one of them counts half",
    "rank_correlation": "Spearman's, of the models' win rates by the two judges",
    "longer_preferred": "share of comparisons in which the judge prefers the longer answer",
    "longer_preferred_published": "the same of the published verdicts",
    "first_preferred": "mean preference for the answer shown first, both orders of each pair",
}

_FEWEST_MODELS = 3
"""Below this a rank correlation says nothing."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A measure with its 95 % interval: all None where it is not defined, the ends None where nothing varies."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a judge compares with published verdicts."""

    models: pd.DataFrame
    """One row per model: comparisons, win rates in percent by both and agreement, each with its interval (NaN where
    nothing varies)."""
    measures: dict[str, Interval]
    """By name, as in `MEASURES`."""


def calibrate(
    names: Sequence[str],
    judged: Array,
    published: Array,
    longer: Array,
    first: Array,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Calibration:
    """Compare verdicts [models x instructions] with published ones.

    Args:
        longer: characters of the model's answer less those of the reference.
        first: preference for the answer shown first; NaN where a pair was judged in one order.

    Raises:
        ValueError: arrays of different shapes, or no comparison that both judged.
    """
    if any(array.shape != judged.shape for array in (published, longer, first)):
        raise ValueError("expected arrays of one shape [models x instructions]")
    both = ~np.isnan(judged) & ~np.isnan(published)
    if not both.any():
        raise ValueError("no comparison has a verdict of both")
    agreement = np.where(both, _agreement(judged, published), np.nan)
    unequal = np.where(longer == 0, np.nan, longer)
    resampled = np.random.default_rng(seed).multinomial(
        judged.shape[1], np.full(judged.shape[1], 1 / judged.shape[1]), draws
    )
    weights = np.vstack([np.ones(judged.shape[1]), resampled]).astype(np.float64)
    ours, theirs = (_by_model(np.where(both, one, np.nan), weights) for one in (judged, published))
    measures = {
        "agreement": _pooled(agreement, weights),
        "rank_correlation": _rank_correlation(ours, theirs),
        "longer_preferred": _pooled(_agreement(judged, 0.5 + np.sign(unequal) / 2), weights),
        "longer_preferred_published": _pooled(_agreement(published, 0.5 + np.sign(unequal) / 2), weights),
        "first_preferred": _pooled(first, weights),
    }
    by_model = {"published_win_rate": 100 * theirs, "win_rate": 100 * ours, "agreement": _by_model(agreement, weights)}
    columns = {
        name: [vars(_interval(values[:, row])) for row in range(len(names))] for name, values in by_model.items()
    }
    table = pd.DataFrame({"model": list(names), "comparisons": both.sum(axis=1)})
    for name, intervals in columns.items():
        prefix = "" if name == "win_rate" else f"{name.removesuffix('_win_rate')}_"
        ends = {"value": name, "low": f"{prefix}low", "high": f"{prefix}high"}
        frame = pd.DataFrame(intervals, dtype="float64")
        table = table.join(frame.rename(columns=ends))
    return Calibration(models=table, measures={name: _interval(values) for name, values in measures.items()})


def _agreement(one: Array, other: Array) -> Array:
    """1 where both prefer the same side, 0 where not, 1/2 where one of them has a tie; NaN where one has nothing."""
    result: Array = 0.5 + np.sign((one - 0.5) * (other - 0.5)) / 2
    return result


def _pooled(values: Array, weights: Array) -> Array:
    """Mean over all comparisons, for each row of instruction weights."""
    valid = ~np.isnan(values)
    number = weights @ valid.sum(axis=0)
    total: Array = weights @ np.where(valid, values, 0.0).sum(axis=0)
    mean: Array = np.divide(total, number, out=np.full(len(weights), np.nan), where=number > 0)
    return mean


def _by_model(values: Array, weights: Array) -> Array:
    """Mean of each model [weightings x models]."""
    return np.column_stack([_pooled(row[None, :], weights) for row in values])


def _rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's correlation along the models, for each weighting; NaN for too few, or where all are equal."""
    if one.shape[1] < _FEWEST_MODELS:
        return np.full(len(one), np.nan)
    ranks = [rankdata(rates, axis=1) for rates in (one, other)]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    products: Array = (centred[0] * centred[1]).sum(axis=1)
    correlation: Array = np.divide(products, scale, out=np.full(len(one), np.nan), where=scale > 0)
    return correlation


def _interval(values: Array) -> Interval:
    """The first value is that of all instructions, the others those of the resamples."""
    if np.isnan(values[0]):
        return Interval(value=None, low=None, high=None)
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    if low == high:  # of equal verdicts; what resampling cannot vary it says nothing about
        return Interval(value=float(values[0]), low=None, high=None)
    return Interval(value=float(values[0]), low=float(low), high=float(high))


def draw(found: Calibration, label: str, path: Path, new_axes: Callable[..., Any], style: Any) -> None:
    """The models' win rates by the judge against the published ones, each with its interval, as a PNG."""
    models = found.models.dropna(subset=["win_rate"])
    agreement = found.measures["agreement"]
    caption = (
        f"Judge: {label}. Agreement with the published verdicts {_in_words(agreement)}; rank correlation "
        f"{_in_words(found.measures['rank_correlation'])}. Bars: 95 % over instructions; the line: equal win rates."
    )
    axes = new_axes(style, 2.8, heading="Win rates of published models", caption=caption)
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
    low, high = models["low"].astype(float), models["high"].astype(float)
    errors = [(models["win_rate"] - low).fillna(0), (high - models["win_rate"]).fillna(0)]
    axes.errorbar(models["published_win_rate"], models["win_rate"], yerr=errors, fmt="o", markersize=4, linewidth=0.9)
    axes.set(xlim=(-3, 103), ylim=(-3, 103))
    _label_points(axes, models, style.small)
    axes.set_xlabel("published win rate (%)", fontsize=style.text)
    axes.set_ylabel("win rate by this judge (%)", fontsize=style.text)
    axes.figure.savefig(path)


def _label_points(axes: Any, models: pd.DataFrame, size: float) -> None:
    """Write each model's name beside its point, above or below where another name or point stands."""
    renderer, pixels = axes.figure.canvas.get_renderer(), axes.figure.dpi / 72
    points = axes.transData.transform(models[["published_win_rate", "win_rate"]].to_numpy(float))
    taken = [Bbox([point - 2.5 * pixels, point + 2.5 * pixels]) for point in points]
    for _, row in models.sort_values("published_win_rate").iterrows():
        left = row["published_win_rate"] > 60
        label = axes.annotate(
            row["model"],
            (row["published_win_rate"], row["win_rate"]),
            textcoords="offset points",
            xytext=(0, 0),
            ha="right" if left else "left",
            fontsize=size,
            parse_math=False,
        )
        for step in range(2 * len(models)):
            lines_away = (step + 1) // 2 * (-1 if step % 2 else 1)
            label.xyann = (-5 if left else 5, -3 + 1.1 * size * lines_away)
            box = label.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _in_words(measure: Interval) -> str:
    if measure.value is None:
        return "not defined"
    if measure.low is None or measure.high is None:
        return f"{measure.value:.2f} [no interval: nothing varies]"
    return f"{measure.value:.2f} [{measure.low:.2f}, {measure.high:.2f}]"


def lines(found: Calibration) -> list[str]:
    """The measures in words, with their intervals."""
    return [f"{name}: {_in_words(found.measures[name])} ({meaning})" for name, meaning in MEASURES.items()]
