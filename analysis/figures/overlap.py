"""The overlap matrix: which share of its preference rows a cell has in common with every other one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from analysis.captions import provenance_text
from analysis.figures import grid
from analysis.figures.canvas import INK, POINTS, new_axes, style_for, text_width
from harness.errors import PrefsweepError

NUMBERS_FROM = 15.0
"""Width of a square in points from which its share is written into it."""

MOST = 42
"""Cells of one matrix at most: the names of more could not be read."""


def overlap_matrix(
    shares: pd.DataFrame,
    *,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Share in % of the row's preference rows that the column's cell has too.

    `shares` [cells x cells] holds fractions, with the same names as index and columns; NaN for cells without rows. It
    needs two cells and takes `MOST` (else PrefsweepError). `width` is in inches.
    """
    if list(shares.index) != list(shares.columns) or not shares.index.is_unique:
        raise PrefsweepError("overlap matrix: expected each cell once, in the same order in rows and columns")
    count = len(shares)
    if not 2 <= count <= MOST:
        raise PrefsweepError(f"overlap matrix: expected 2 to {MOST} cells, got {count}")
    plain_style = style_for(width)
    room = 0.72 * (width - plain_style.left - plain_style.right)
    size = max(3.5, min(plain_style.small, 0.8 * room * POINTS / count))
    longest = max(text_width(str(name), size) for name in shares.index)
    named = longest + 0.1
    style = replace(plain_style, left=named + 0.24, bottom=named + 0.14)
    # A few cells need no more than a square that their share is legible in.
    body = min(style.width - style.left - style.right, count * (0.32 if style.narrow else 0.42))
    style = replace(style, right=style.width - style.left - body)
    axes = new_axes(
        style,
        body=body,
        heading=heading,
        caption=_caption(shares),
        provenance=provenance_text(provenance),
        above=0.42 if style.narrow else 0.5,
    )
    table = 100 * shares.to_numpy(float)
    mesh = axes.pcolormesh(np.ma.masked_invalid(table), cmap=colormaps["Blues"], norm=Normalize(0, 100), zorder=1)
    axes.set(xlim=(0, count), ylim=(count, 0))
    axes.set_frame_on(False)
    square, empty = body * POINTS / count, np.isnan(table).all(axis=1)
    for row, column in np.argwhere(np.isfinite(table)):
        if square >= NUMBERS_FROM and not empty[column]:
            at, value = (column + 0.5, row + 0.52), float(table[row, column])
            colour = grid.readable(mesh, value)
            axes.text(
                *at, f"{value:.0f}", size=min(7.5, 0.36 * square), color=colour, ha="center", va="center", zorder=4
            )
    for place in np.flatnonzero(empty):
        _hatch(axes, int(place), count)
    ticks = np.arange(count) + 0.5
    axes.set_xticks(ticks, list(shares.columns), rotation=90)
    axes.set_yticks(ticks, list(shares.index))
    axes.tick_params(length=0, pad=2, labelsize=size, labelcolor=INK)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
    axes.set_ylabel("of the rows of", size=style.small, color=INK, labelpad=2)
    axes.set_xlabel("stand also in", size=style.small, color=INK, labelpad=2)
    bar = axes.inset_axes((0, 1 + 0.17 / body, min(0.5, 1.6 / body), 0.07 / body))
    grid.draw_colour_bar(bar, mesh, "rows in common (%)", style.small)
    return axes


def _hatch(axes: Axes, place: int, count: int) -> None:
    """Row and column of a cell without rows."""
    for corner, across, down in (((0, place), count, 1), ((place, 0), 1, count)):
        hatch = grid.NOT_DONE["empty"][0]
        axes.add_patch(
            Rectangle(corner, across, down, facecolor="white", edgecolor="#cccccc", hatch=hatch, linewidth=0)
        )


def _caption(shares: pd.DataFrame) -> str:
    parts = [
        "Share of the preference rows of the cell at the left that the cell below has too: the same prompt, chosen and "
        "rejected tokens. 100 both ways: the same rows. Counted before training, without a judge; counts have no "
        "interval.",
    ]
    if bool(shares.isna().all(axis=1).any()):
        parts.append("Hatched: no rows.")
    return " ".join(parts)
