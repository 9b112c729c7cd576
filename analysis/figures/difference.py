"""The difference heatmap: how much better each pair does in one sweep or setting than in another."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.captions import failed_text, labels_sentence, methods, provenance_text, scope, values_range
from analysis.differences import SAME
from analysis.figures import grid
from analysis.figures.canvas import INK, Style, new_axes, style_for
from analysis.figures.grid import CHOSEN, REJECTED, Pair
from analysis.schema import PAIR
from harness.positions import PAIRS


def difference_heatmap(
    frame: pd.DataFrame,
    *,
    first: str,
    second: str,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Win rate of `first` less that of `second` in points for each of the 21 pairs, with its interval under it.

    `frame` is of `differences.pair_differences`; pairs outside the grid are counted in the caption. Cells whose
    interval does not hold 0 have a border, those that are one experiment on both sides a hatch. `width` is in inches.
    """
    cells = grid.by_pair(frame, "difference heatmap")
    cells = {pair: cell for pair, cell in cells.items() if cell["status"] != "absent"}
    style = style_for(width)
    side = (style.width - style.left - style.right) / len(REJECTED)
    axes = new_axes(
        style,
        body=len(CHOSEN) * side * (0.9 if style.narrow else 0.62),
        heading=heading,
        caption=_caption(frame, first, second),
        provenance=provenance_text(provenance),
    )
    points = {pair: 100 * float(cell["difference"]) for pair, cell in cells.items() if cell["status"] == "done"}
    same = {pair for pair, cell in cells.items() if cell["status"] == SAME}
    half = grid.half_range(points.values(), 0)
    mesh = grid.draw_colours(axes, {**points, **dict.fromkeys(same, 0.0)}, middle=0, half=half)
    for pair, cell in cells.items():
        _draw_cell(axes, pair, cell, style, mesh)
    apart = [pair for pair in points if excludes_zero(cells[pair])]
    for pair in apart:
        axes.add_patch(_border(pair))
    grid.draw_absent(axes, cells)
    grid.label_axes(axes, style)
    _draw_key(axes, cells, style, apart=bool(apart), same=bool(same))
    bar = axes.inset_axes((2.2, 5.45, 3.6, 0.16), transform=axes.transData)
    grid.draw_colour_bar(bar, mesh, "difference (points)", style.small, signed=True)
    return axes


def excludes_zero(cell: "pd.Series[Any]") -> bool:
    """Whether a difference is told apart from nothing."""
    return float(cell["low"]) > 0 or float(cell["high"]) < 0


def _draw_cell(axes: Axes, pair: Pair, cell: "pd.Series[Any]", style: Style, mesh: QuadMesh) -> None:
    status = str(cell["status"])
    if status == SAME:
        axes.add_patch(grid.box(pair, facecolor="none", edgecolor="#00000028", hatch=grid.SAME))
        grid.draw_numbers(axes, pair, "0", "same", INK, style)
        return
    if status != "done":
        grid.draw_undone(axes, pair, status, style)
        return
    value, low, high = (100 * float(cell[name]) for name in ("difference", "low", "high"))
    decimals = 0 if style.narrow else 1
    interval = "no interval" if math.isnan(low) else f"[{_signed(low, decimals)}, {_signed(high, decimals)}]"
    number = "no verdict" if math.isnan(value) else _signed(value, 1, plus=True)
    grid.draw_numbers(axes, pair, number, interval, grid.readable(mesh, value), style)


def _signed(value: float, decimals: int, *, plus: bool = False) -> str:
    """A number with a minus sign that is as wide as a plus."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return ("\N{MINUS SIGN}" if value < 0 else "+" if plus else "") + text


def _border(pair: Pair) -> Rectangle:
    patch = grid.box(pair, facecolor="none", edgecolor=INK)
    # Inside the cell, so that neighbours' borders stay apart.
    patch.set_bounds(patch.get_x() + 0.025, patch.get_y() + 0.035, 0.95, 0.93)
    patch.set(linewidth=1.3, zorder=5)
    return patch


def _draw_key(axes: Axes, cells: Mapping[Pair, "pd.Series[Any]"], style: Style, *, apart: bool, same: bool) -> None:
    border = Patch(facecolor="white", edgecolor=INK, linewidth=1.3, label="interval without 0")
    entries: list[Patch | Line2D] = [border] if apart else []
    entries += grid.status_key((str(cell["status"]) for cell in cells.values()), complete=len(cells) == len(PAIRS))
    if same:
        entries.append(Patch(facecolor="white", edgecolor="#bbbbbb", hatch=grid.SAME, label="same experiment"))
    grid.draw_key(axes, entries, style)


def _caption(frame: pd.DataFrame, first: str, second: str) -> str:
    """What is subtracted from what, on what the numbers rest, and what they may be taken for."""
    parts = [f"Win rate of {first} less that of {second}, in points."]
    done = frame[frame["status"] == "done"]
    if done.empty:
        return f"{parts[0]} No pair is done on both sides."
    parts += [
        labels_sentence(done),
        f"{values_range(done, 'instructions')} instructions{failed_text(done)}, paired; training seeds: "
        f"{values_range(done, 'seeds')}.",
        f"{scope(done)} They hold together.",
        methods(done),
    ]
    if unequal := int(done["unequal_steps"].astype(bool).sum()):
        parts.append(f"Pairs that are compared at unequal steps: {unequal}.")
    if others := sum(pair not in PAIRS for pair in zip(frame[PAIR[0]], frame[PAIR[1]], strict=True)):
        parts.append(f"Pairs outside the grid, in the table only: {others}.")
    return " ".join(part for part in parts if part)
