"""Cost by stage: time, tokens and money, and what sharing work among points has saved."""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.captions import provenance_text
from analysis.figures.canvas import INK, LINES, MUTED, POINTS, Style, new_axes, style_for, text_width
from analysis.figures.panels import Handle, check_some, draw_legend, finish, label, legend_room

Units = tuple[tuple[str, float], ...]

GPU: Final[Units] = (("GPU hours", 1.0), ("GPU minutes", 60.0), ("GPU seconds", 3600.0))
WALL: Final[Units] = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))

UNSHARED: Final = "#d5dde4"


def stage_costs(
    costs: pd.DataFrame,
    *,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Time of each stage, as it was spent and as it would have been without sharing; tokens and money in columns.

    GPU time where any GPU was held, else the time of the work. Stages that took no such time keep their row.

    Args:
        costs: `schema.COSTS`.
        width: in inches.
        heading: over the figure.
        provenance: its small print.
    """
    check_some(costs, "cost by stage")
    style = style_for(width)
    spent, unshared, unit = time_of(costs)
    columns = [c for c in (_column(costs, "tokens", "tokens"), _column(costs, "money", "US$")) if c is not None]
    handles: list[Handle] = [
        Patch(color=LINES[0], label="spent"),
        Patch(color=UNSHARED, label="with a pipeline for every point"),
    ]
    number, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=(1.7 * style.small * (len(costs) + 0.4)) / POINTS,
        heading=heading,
        caption=_caption(costs),
        provenance=provenance_text(provenance),
        above=room + (1.4 * style.small / POINTS if columns else 0.0),
    )
    _make_room(axes, costs, columns, style)
    finish(axes, style)
    rows = np.arange(len(costs))
    axes.barh(rows, unshared, height=0.74, color=UNSHARED, zorder=2)
    axes.barh(rows, spent, height=0.4, color=LINES[0], zorder=3)
    axes.set_yticks(rows, costs["stage"].to_list(), parse_math=False)
    axes.set_ylim(len(costs) - 0.3, -0.7)
    axes.set_xlim(0, 1.02 * float(max(unshared.max(), spent.max())) or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    label(axes, style, x=unit)
    _write_columns(axes, columns, style)
    draw_legend(axes, handles, number, style, over=1.4 * style.small / POINTS if columns else 0.02)
    return axes


Column = tuple[str, list[str]]
"""A heading and a text for each stage."""


def time_of(costs: pd.DataFrame) -> tuple["pd.Series[float]", "pd.Series[float]", str]:
    """Time spent by stage, what it would have been unshared, and their unit: the largest of which there is one."""
    gpu = bool((costs["gpu_hours"] > 0).any())
    spent = costs["gpu_hours"] if gpu else costs["seconds"] / 3600
    unshared = costs["unshared_gpu_hours"] if gpu else costs["unshared_seconds"] / 3600
    units = GPU if gpu else WALL
    unit, factor = _unit(float(unshared.max()), units)
    return spent * factor, unshared * factor, unit


def _unit(hours: float, units: Units) -> tuple[str, float]:
    """The largest unit of which there is one, and how many are an hour."""
    return next((pair for pair in units if hours * pair[1] >= 1), units[-1])


def short(value: float) -> str:
    """A count in three digits at most, with k, M or G; nothing where it is not known."""
    if math.isnan(value):
        return ""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"


def cents(value: float) -> str:
    """Dollars and cents; nothing where they are not known."""
    return "" if math.isnan(value) else f"{value:,.2f}"


def _column(costs: pd.DataFrame, name: str, heading: str) -> Column | None:
    """A column of text, or None where no stage has the number."""
    if costs[name].isna().all():
        return None
    words = cents if name == "money" else short
    return heading, [words(float(value)) for value in costs[name]]


def _make_room(axes: Axes, costs: pd.DataFrame, columns: list[Column], style: Style) -> None:
    """Narrow the axes by the names of the stages on the left and the columns on the right."""
    box, inches = axes.get_position(), style.width
    names = max((text_width(str(name), style.small) for name in costs["stage"]), default=0.0) + 0.12
    right = sum(_width(column, style) for column in columns) + style.right
    axes.set_position((names / inches, box.y0, 1 - (names + right) / inches, box.height))


def _width(column: Column, style: Style) -> float:
    """Inches of a column of text, with the gap before it."""
    return max(text_width(text, style.small) for text in (column[0], *column[1])) + 0.14


def _write_columns(axes: Axes, columns: list[Column], style: Style) -> None:
    """Right-aligned numbers beside the bars, under their heading."""
    inches = axes.get_position().width * style.width
    right = 0.0
    for heading, texts in columns:
        right += _width((heading, texts), style)
        at = 1 + right / inches
        for row, text in enumerate(texts):
            place = axes.get_yaxis_transform()
            axes.text(at, row, text, transform=place, size=style.small, color=INK, ha="right", va="center")
        axes.text(at, 1.02, heading, transform=axes.transAxes, size=style.small, color=MUTED, ha="right", va="bottom")


def _caption(costs: pd.DataFrame) -> str:
    spent, unshared, unit = time_of(costs)
    units = GPU if unit.startswith("GPU") else WALL
    total, whole = (float(each.sum()) / dict(units)[unit] for each in (spent, unshared))
    text = f"{_duration(total, units)} were spent; a pipeline of its own for every point would have taken "
    saved = f": sharing has saved {100 * (1 - total / whole):.0f}\N{NO-BREAK SPACE}%" if whole > 0 else ""
    parts = [f"{text}{_duration(whole, units)}{saved}."]
    if units is WALL:
        parts.append("No GPU was held; the stages' own time.")
    if costs["tokens"].notna().any():
        parts.append("Tokens: generated, or read and written by a judge that counts them.")
    if costs["money"].isna().all():
        parts.append("Money: no stage has a known price.")
    else:
        parts.append("Money: what paid judges cost; stages without a price have none.")
    parts.append("Only what is done and ended well; counted, not sampled, so without intervals.")
    return " ".join(parts)


def _duration(hours: float, units: Units) -> str:
    unit, factor = _unit(hours, units)
    return f"{hours * factor:,.3g} {unit}"
