"""Several axes on one figure of exact size, and marks that figures share."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.canvas import (
    DASHES,
    GREY,
    INK,
    LINES,
    MUTED,
    POINTS,
    ROW,
    Style,
    figure_of,
    legend,
    name_sizes,
    text_width,
)
from harness.errors import PrefsweepError

Handle = Line2D | Patch


def divide(
    axes: Axes,
    style: Style,
    *,
    widths: Sequence[float] = (1,),
    heights: Sequence[float] = (1,),
    aside: float | None = None,
) -> list[Axes]:
    """Panels in place of `axes`, row by row, in proportion to `widths` and `heights`, from the left and from the top.

    Between rows there is room for labels and a title; between columns `aside` inches, or room for labels.
    """
    figure, box = figure_of(axes), axes.get_position()
    width, height = figure.get_size_inches()
    axes.remove()
    beside, between = (
        (style.left if aside is None else aside) / width,
        (style.bottom + 1.9 * style.text / POINTS) / height,
    )
    across = (box.width - beside * (len(widths) - 1)) / sum(widths)
    down = (box.height - between * (len(heights) - 1)) / sum(heights)
    panels = []
    for row, tall in enumerate(heights):
        bottom = box.y1 - down * sum(heights[: row + 1]) - between * row
        for column, wide in enumerate(widths):
            left = box.x0 + across * sum(widths[:column]) + beside * column
            panels.append(figure.add_axes((left, bottom, across * wide, down * tall)))
    for panel in panels:
        finish(panel, style)
    return panels


def check_some(frame: pd.DataFrame, what: str) -> None:
    """Raise PrefsweepError where a frame has no row that could be drawn."""
    if frame.empty:
        raise PrefsweepError(f"{what}: there is nothing to draw, the frame has no rows")


def finish(axes: Axes, style: Style) -> None:
    """Quiet ticks, grid and frame."""
    axes.tick_params(labelsize=style.small, length=2.5, width=0.6, colors=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def title(axes: Axes, text: str, style: Style) -> None:
    """What a panel shows, over its left corner."""
    axes.set_title(text, loc="left", size=style.text, color=INK, pad=3, parse_math=False)


def label(axes: Axes, style: Style, *, x: str = "", y: str = "") -> None:
    """The labels of the two axes."""
    axes.set_xlabel(x, size=style.small, color=INK, labelpad=2, parse_math=False)
    axes.set_ylabel(y, size=style.small, color=INK, labelpad=2, parse_math=False)


def size_axis(axes: Axes, sizes: Sequence[float], style: Style) -> None:
    """A log2 axis of sample sizes that has a tick at each of them."""
    axes.set_xscale("log", base=2)
    margin = max(sizes[-1] / sizes[0], 2) ** 0.06
    axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    name_sizes(axes, sizes, style.small)


def legend_room(labels: Sequence[str], style: Style) -> tuple[int, float]:
    """Columns of a legend over the whole width of a figure, and the inches that it takes."""
    widest = max((text_width(text, style.small) for text in labels), default=0.0) + 4.2 * style.small / POINTS
    columns = max(1, int((style.width - 0.2) / widest)) if labels else 1
    rows = -(-len(labels) // columns)
    return columns, (ROW * rows * style.small + 4) / POINTS if labels else 0.0


def draw_legend(axes: Axes, handles: Sequence[Handle], columns: int, style: Style, *, over: float) -> None:
    """A legend of the whole figure, `over` inches above the axes that stand highest."""
    figure = figure_of(axes)
    width, height = figure.get_size_inches()
    corner = (0.1 / width, axes.get_position().y1 + over / height)
    legend(figure, handles, columns, style, bbox_to_anchor=corner, borderpad=0.1, handlelength=2.2)


def line(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def cell_handles(names: Sequence[str], others: int, style: Style) -> list[Handle]:
    """An entry for each named cell, by the looks of `cell_look`, and one for those in grey.

    Where a name is too long for the figure, all pairs of positions stand without their construction.
    """
    if any(text_width(name, style.small) > _room(style) for name in names):
        names = [name.removeprefix("position ") for name in names]
    entries: list[Handle] = [
        line(fitting(name, style), linewidth=1.3, **cell_look(index)) for index, name in enumerate(names)
    ]
    return [*entries, line(f"other cells ({others})", color=GREY, linewidth=0.8)] if others else entries


def cell_look(index: int) -> dict[str, Any]:
    """Colour and dashes of the line of one cell among several."""
    return {"color": LINES[index % len(LINES)], "linestyle": DASHES[index % len(DASHES)]}


def fitting(text: str, style: Style) -> str:
    """A legend's text, cut where it is wider than the figure."""
    if text_width(text, style.small) <= _room(style):
        return text
    while text and text_width(text + "…", style.small) > _room(style):
        text = text[:-1]
    return text.rstrip() + "…"


def _room(style: Style) -> float:
    """Inches that a legend's text has beside its mark."""
    return style.width - 0.3 - 4.2 * style.small / POINTS


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as it takes for neighbours, in ascending order, to be `gap` apart; order is kept.

    Places that would overlap are spread about the mean of where they stood.
    """
    order = np.argsort(places, kind="stable")
    groups = [[float(places[i])] for i in order]
    merged = True
    while merged:
        merged = False
        for index, (one, other) in enumerate(pairwise(groups)):
            if _ends(one, gap)[1] + gap > _ends(other, gap)[0] + 1e-9 * max(1.0, abs(gap)):
                groups[index : index + 2] = [one + other]
                merged = True
                break
    spread = [_ends(group, gap)[0] + gap * step for group in groups for step in range(len(group))]
    found = np.empty(len(places))
    found[order] = spread
    return found.tolist()


def _ends(group: Sequence[float], gap: float) -> tuple[float, float]:
    """First and last place of a group whose members stand `gap` apart about their mean."""
    middle, half = sum(group) / len(group), gap * (len(group) - 1) / 2
    return middle - half, middle + half


def point(axes: Axes, x: float, y: float, low: float, high: float, *, style: Style, **look: Any) -> None:
    """A marker with its interval, which has no bar where it is not known."""
    if np.isfinite(low):
        axes.vlines([x], [low], [high], color=look.get("color", MUTED), linewidth=1.0, zorder=3)
    axes.plot([x], [y], linestyle="", markersize=3.5 if style.narrow else 5, zorder=4, **look)
