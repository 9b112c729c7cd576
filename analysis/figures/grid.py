"""What all figures over the grid of position pairs share: places, colours, hatches and the text in a cell."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from analysis.captions import position_text
from analysis.figures.canvas import INK, Style, figure_of
from analysis.schema import PAIR, plain
from harness.errors import PrefsweepError
from harness.positions import PAIRS, POSITIONS

Pair = tuple[str, str]

CHOSEN: Final = tuple(reversed(POSITIONS[1:]))
"""Rows from the top; nothing stands below `min`, so it is never chosen."""

REJECTED: Final = POSITIONS[:-1]
"""Columns from the left; nothing stands above `max`, so it is never rejected."""

COLOURS: Final = colormaps["RdBu"]
ABSENT: Final = "#ececec"

NOT_DONE: Final = {
    "empty": ("////", "empty: no preference rows"),
    "failed": ("xxxx", "failed"),
    "missing": ("....", "missing: not run yet"),
}

SAME: Final = "\\\\"
"""Hatch of cells that are one experiment."""

LEAST_HALF_RANGE: Final = 10.0
"""Points either side of the middle that the colours span at least: a narrower scale would paint noise darkly."""


def by_pair(frame: pd.DataFrame, what: str) -> dict[Pair, "pd.Series[Any]"]:
    """The row of each grid pair that the frame has, from the top row, left to right.

    Rows without a pair or with one outside the grid are left out. Raises PrefsweepError for a pair that stands twice;
    `what` is drawn of it.
    """
    cells: dict[Pair, pd.Series[Any]] = {}
    for _, row in frame.iterrows():
        pair = (plain(row[PAIR[0]]), plain(row[PAIR[1]]))
        if pair in cells:
            raise PrefsweepError(f"{what}: pair {pair} stands more than once; draw one figure per setting")
        if pair in PAIRS:
            cells[pair] = row
    return {pair: cells[pair] for pair in sorted(cells, key=lambda pair: place(*pair))}


def half_range(values: Iterable[float], middle: float) -> float:
    """Half of the colour scale: to the next five points beyond the farthest value, and `LEAST_HALF_RANGE` at least."""
    far = max((abs(value - middle) for value in values if not math.isnan(value)), default=0.0)
    return max(LEAST_HALF_RANGE, 5 * math.ceil(far / 5))


def draw_colours(axes: Axes, values: Mapping[Pair, float], *, middle: float, half: float) -> QuadMesh:
    """The colours of all pairs; symmetric about `middle`, so that the neutral colour always means no difference."""
    table = np.full((len(CHOSEN), len(REJECTED)), np.nan)
    for pair, value in values.items():
        table[place(*pair)] = value
    limits = Normalize(middle - half, middle + half)
    mesh = axes.pcolormesh(np.ma.masked_invalid(table), cmap=COLOURS, norm=limits, zorder=1)
    axes.set(xlim=(0, len(REJECTED)), ylim=(len(CHOSEN), 0))
    axes.set_frame_on(False)
    return mesh


def draw_numbers(axes: Axes, pair: Pair, number: str, interval: str, colour: str, style: Style) -> None:
    """A number, bold, over its interval."""
    row, column = place(*pair)
    axes.add_patch(box(pair, facecolor="none", edgecolor="white"))
    size = style.text if style.narrow else style.text + 1
    # A little low, which leaves the upper corners to marks.
    x, y = column + 0.5, row + (0.57 if style.narrow else 0.54)
    axes.text(x, y - 0.02, number, size=size, color=colour, ha="center", va="bottom", weight="bold", zorder=4)
    axes.text(x, y + 0.06, interval, size=style.small, color=colour, ha="center", va="top", zorder=4)


def draw_undone(axes: Axes, pair: Pair, status: str, style: Style) -> None:
    """A hatched cell with the word for why it has no number."""
    row, column = place(*pair)
    axes.add_patch(box(pair, facecolor="white", edgecolor="#bbbbbb", hatch=NOT_DONE[status][0]))
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
    at = (column + 0.5, row + 0.5)
    axes.text(*at, status, size=style.small, color=INK, ha="center", va="center", bbox=behind, zorder=4)


def draw_absent(axes: Axes, found: Iterable[Pair]) -> None:
    """A grey box for each pair of the grid that is not among those found."""
    drawn = set(found)
    for pair in PAIRS:
        if pair not in drawn:
            axes.add_patch(box(pair, facecolor=ABSENT, edgecolor="white"))


def label_axes(axes: Axes, style: Style) -> None:
    """The positions at rows and columns."""
    axes.set_xticks(np.arange(len(REJECTED)) + 0.5, [position_text(name) for name in REJECTED])
    axes.set_yticks(np.arange(len(CHOSEN)) + 0.5, [position_text(name) for name in CHOSEN])
    axes.tick_params(length=0)
    axes.set_xlabel("rejected", size=style.text, color=INK)
    axes.set_ylabel("chosen", size=style.text, color=INK)


def status_key(statuses: Iterable[str], *, complete: bool) -> list[Patch | Line2D]:
    """Legend entries of the hatches that occur, and of absent pairs unless the grid is `complete`."""
    found = set(statuses)
    entries: list[Patch | Line2D] = [
        Patch(facecolor="white", edgecolor="#999999", hatch=hatch, label=label)
        for status, (hatch, label) in NOT_DONE.items()
        if status in found
    ]
    return entries if complete else [*entries, Patch(facecolor=ABSENT, label="not in these results")]


def draw_key(axes: Axes, entries: list[Patch | Line2D], style: Style) -> None:
    """The meaning of marks and hatches, in the half of the grid that has no pairs."""
    if entries:
        axes.legend(
            handles=entries,
            loc="lower right",
            bbox_to_anchor=(6.0, 5.05),
            bbox_transform=axes.transData,
            fontsize=style.small,
            frameon=False,
            borderaxespad=0,
            labelspacing=0.35,
            handlelength=1.6,
        )


def draw_colour_bar(bar: Axes, mesh: QuadMesh, title: str, size: float, *, signed: bool = False) -> None:
    """The colour scale on axes of its own, with its ends and middle."""
    colour_bar = figure_of(bar).colorbar(mesh, cax=bar, orientation="horizontal")
    low, high = mesh.get_clim()
    ticks = [low, (low + high) / 2, high]
    labels = [f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if signed and tick else f"{tick:g}" for tick in ticks]
    colour_bar.set_ticks(ticks, labels=labels)
    colour_bar.outline.set_visible(False)
    bar.tick_params(labelsize=size, length=2, width=0.5, pad=1, colors=INK)
    bar.set_title(title, size=size, color=INK, pad=2)


def place(chosen: str, rejected: str) -> tuple[int, int]:
    """Row and column of a pair in the grid."""
    return CHOSEN.index(chosen), REJECTED.index(rejected)


def box(pair: Pair, *, facecolor: str, edgecolor: str, hatch: str | None = None) -> Rectangle:
    """The outline of a pair's cell."""
    row, column = place(*pair)
    return Rectangle(
        (column, row), 1, 1, facecolor=facecolor, edgecolor=edgecolor, hatch=hatch, linewidth=0.8, zorder=2
    )


def readable(mesh: QuadMesh, value: float) -> str:
    """Dark or light text, whichever stands out from the colour of `value`."""
    if math.isnan(value):
        return INK
    red, green, blue, _ = mesh.to_rgba(np.array([value]))[0] ** 2.2
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # 0.18: where the contrast with white and that with black are equal (WCAG 2).
    return INK if luminance > 0.18 else "white"
