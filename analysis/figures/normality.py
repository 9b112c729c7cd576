"""The check of normality: tests of prompts, quantiles, skewness and kurtosis, beside those of normal rewards."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.captions import provenance_text
from analysis.figures.canvas import INK, LINES, POINTS, Style, new_axes, style_for
from analysis.figures.panels import check_some, divide, draw_legend, label, legend_room, line, point, size_axis, title
from analysis.normality import LEVEL, SHAPES
from analysis.schema import plain

NORMAL: Final[dict[str, Any]] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (3, 2))}
TITLES: Final = {"skewness": "Skewness", "excess_kurtosis": "Excess kurtosis"}


def normality_check(
    tests: pd.DataFrame,
    histograms: pd.DataFrame,
    quantiles: pd.DataFrame,
    *,
    width: float = 7.0,
    heading: str = "",
    reward: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Share of prompts rejected at each n, quantiles of z, and histograms of two shapes, over what is normal.

    Args:
        tests: of `analysis.normality.normality`, of one policy and reward.
        histograms: of `shape_histograms`, of the pool with the largest n.
        quantiles: of `quantiles`, of the same pool.
        width: in inches.
        heading: over the figure.
        reward: the reward in words.
        provenance: its small print.

    Returns:
        The axes of the tests; the others follow on the same figure: quantiles, skewness, kurtosis.
    """
    check_some(tests, "check of normality")
    style = style_for(width)
    handles = [line("rewards", color=LINES[0], linewidth=1.4), line("expected of normal rewards", **NORMAL)]
    columns, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=(0.95 if style.narrow else 0.66) * (style.width - style.left),
        heading=heading,
        caption=_caption(tests, reward),
        provenance=provenance_text(provenance),
        above=room + 1.6 * style.text / POINTS,
    )
    first, second, *shapes = divide(axes, style, widths=(1, 1), heights=(1, 1))
    _draw_tests(first, tests, style)
    _draw_quantiles(second, quantiles, style)
    for panel, shape in zip(shapes, SHAPES, strict=True):
        _draw_histogram(panel, histograms[histograms["measure"] == shape], style, TITLES[shape])
    draw_legend(first, handles, columns, style, over=1.8 * style.text / POINTS)
    return first


def _draw_tests(axes: Axes, tests: pd.DataFrame, style: Style) -> None:
    sized = tests.sort_values("n")
    places = sized["n"].to_numpy(float) if sized["n"].nunique() > 1 else np.arange(len(sized), dtype=float)
    for x, (_, row) in zip(places, sized.iterrows(), strict=True):
        ends = 100 * float(row["low"]), 100 * float(row["high"])
        point(axes, x, 100 * float(row["rejected"]), *ends, style=style, color=LINES[0], marker="o")
    if sized["n"].nunique() > 1:
        size_axis(axes, sorted(sized["n"].dropna().unique()), style)
    else:
        axes.set_xticks(places, [plain(n) or "all" for n in sized["n"]])
        axes.set_xlim(-1, len(sized))
    axes.axhline(100 * LEVEL, zorder=2, **NORMAL)
    axes.set_ylim(0, max(10.0, 105 * float(sized["high"].max()) if sized["high"].notna().any() else 10.0))
    title(axes, "Test rejects", style)
    label(axes, style, x="samples per prompt, n", y="% of prompts")


def _draw_quantiles(axes: Axes, quantiles: pd.DataFrame, style: Style) -> None:
    ends = quantiles[["expected", "realised"]].to_numpy(float)
    low, high = (float(ends.min()), float(ends.max())) if len(ends) else (-1.0, 1.0)
    axes.plot([low, high], [low, high], zorder=2, **NORMAL)
    axes.plot(quantiles["expected"], quantiles["realised"], ".", color=LINES[0], markersize=3 if style.narrow else 4)
    title(axes, "Quantiles of z", style)
    label(axes, style, x="of normal rewards", y="of the rewards")


def _draw_histogram(axes: Axes, histogram: pd.DataFrame, style: Style, name: str) -> None:
    if len(histogram):
        edges = [*histogram["low"], float(histogram["high"].iloc[-1])]
        axes.stairs(100 * histogram["share"], edges, color=LINES[0], linewidth=1.4)
        if histogram["expected"].notna().all():
            axes.stairs(100 * histogram["expected"], edges, **NORMAL)
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    title(axes, name, style)
    label(axes, style, x="of a prompt's rewards", y="% of prompts")


def _caption(tests: pd.DataFrame, reward: str) -> str:
    low, high = int(tests["prompts"].min()), int(tests["prompts"].max())
    prompts = f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
    largest = plain(tests["n"].max())
    size = f" of n = {largest}" if tests["n"].nunique() > 1 else ""
    shapes = tests.sort_values("n").iloc[-1]
    means = "; ".join(_mean(shapes, shape) for shape in SHAPES)
    scored = plain(reward) or _names(tests, "reward.name")
    return (
        f"Reward: {scored}. Policy: {_names(tests, 'policy.name')}. Shapiro and Wilk's test of "
        f"each prompt's rewards at 5\N{NO-BREAK SPACE}%, which normal rewards fail as often; {prompts} prompts tested. "
        f"Bars: 95\N{NO-BREAK SPACE}% intervals ({_names(tests[tests['method'] != 'none'], 'method')}). Quantiles and "
        f"shapes{size}: {means} (Student's t over prompts)."
    )


def _mean(row: "pd.Series[Any]", shape: str) -> str:
    """The mean of a shape in words, with its interval and what it is of normal rewards."""
    low, high = row[f"{shape}_low"], row[f"{shape}_high"]
    ends = f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else ""
    return f"mean {TITLES[shape].lower()} {row[shape]:.2f}{ends}, of normal rewards {row[f'{shape}_expected']:.2f}"


def _names(frame: pd.DataFrame, column: str) -> str:
    return " / ".join(dict.fromkeys(plain(value) for value in frame[column]))
