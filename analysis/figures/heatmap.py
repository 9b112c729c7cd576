"""The heatmap of position pairs: chosen against rejected, each cell with its win rate and interval."""

import math
from collections.abc import Mapping
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.patches import Patch, Rectangle

from analysis.captions import caption, outside_grid, position_text, provenance_text
from analysis.comparability import check_comparable
from analysis.figures.canvas import INK, Style, figure_of, new_axes, style_for
from analysis.schema import PAIR, plain
from harness.errors import PrefsweepError
from harness.positions import PAIRS, POSITIONS

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


LEAST_HALF_RANGE: Final = 10.0
"""Points either side of 50 % that the colours span at least: a narrower scale would paint noise in full colour."""


def pair_heatmap(
    frame: pd.DataFrame,
    *,
    width: float = 7.0,
    detectable: float = math.nan,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Win rate in % of the 21 pairs, chosen (rows) against rejected (columns), with its interval under it.

    `frame` has at most one row per pair (else PrefsweepError); rows without a pair, or with one outside the
    grid, are not drawn, and the latter are counted in the caption. `width` is in inches, `detectable` a
    fraction.
    """
    check_comparable(frame, "heatmap")
    cells = _grid(frame)
    style = style_for(width)
    side = (style.width - style.left - style.right) / len(REJECTED)
    text = caption(frame[frame[PAIR[0]].notna()], detectable)
    if others := outside_grid(frame):
        text += f" {others} pair(s) outside the grid are in the table only."
    letters = shared_letters(cells)
    if letters:
        text += " Cells with the same letter (=A) are one and the same experiment."
    axes = new_axes(
        style,
        body=len(CHOSEN) * side * (0.9 if style.narrow else 0.62),
        heading=heading,
        caption=text,
        provenance=provenance_text(provenance),
    )
    mesh = _draw_colours(axes, cells)
    for (chosen, rejected), cell in cells.items():
        _draw_cell(axes, _place(chosen, rejected), cell, style, mesh)
    for pair, letter in letters.items():
        _mark_shared(axes, _place(*pair), letter, rate=cells[pair]["win_rate"], style=style, mesh=mesh)
    _draw_absent(axes, cells)
    _label_axes(axes, style)
    _draw_key(axes, cells, style, shared=bool(letters))
    _draw_colour_bar(axes, mesh, style)
    return axes


def shared_letters(cells: Mapping[tuple[str, str], "pd.Series[Any]"]) -> dict[tuple[str, str], str]:
    """A letter for each done cell whose experiment another one shares: A for the first such experiment."""
    experiments = {pair: cell["experiment"] for pair, cell in cells.items() if cell["status"] == "done"}
    values = list(experiments.values())
    shared = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    names = {value: chr(ord("A") + index) for index, value in enumerate(shared)}
    return {pair: names[value] for pair, value in experiments.items() if value in names}


def percent_range(low: float, high: float, decimals: int) -> str:
    """An interval of fractions in percent, such as 51.2-58.9 with an en dash."""
    return f"{100 * low:.{decimals}f}\N{EN DASH}{100 * high:.{decimals}f}"


def _grid(frame: pd.DataFrame) -> dict[tuple[str, str], "pd.Series[Any]"]:
    """The cell of each grid pair that the frame has, from the top row, left to right."""
    cells: dict[tuple[str, str], pd.Series[Any]] = {}
    for _, row in frame.iterrows():
        pair = (plain(row[PAIR[0]]), plain(row[PAIR[1]]))
        if pair in cells:
            raise PrefsweepError(f"heatmap: pair {pair} stands more than once; draw one figure per setting")
        if pair in PAIRS:
            cells[pair] = row
    order = sorted(cells, key=lambda pair: _place(*pair))
    return {pair: cells[pair] for pair in order}


def _draw_colours(axes: Axes, cells: Mapping[tuple[str, str], "pd.Series[Any]"]) -> QuadMesh:
    rates = np.full((len(CHOSEN), len(REJECTED)), np.nan)
    for (chosen, rejected), cell in cells.items():
        if cell["status"] == "done":
            rates[_place(chosen, rejected)] = 100 * cell["win_rate"]
    far = np.nanmax(np.abs(rates - 50)) if np.isfinite(rates).any() else 0.0
    # Symmetric about 50 %, so that the neutral colour always means a draw; at least 5 points, so noise stays
    # pale.
    half = max(LEAST_HALF_RANGE, 5 * math.ceil(far / 5))
    mesh = axes.pcolormesh(np.ma.masked_invalid(rates), cmap=COLOURS, norm=Normalize(50 - half, 50 + half), zorder=1)
    axes.set(xlim=(0, len(REJECTED)), ylim=(len(CHOSEN), 0))
    axes.set_frame_on(False)
    return mesh


def _draw_cell(axes: Axes, place: tuple[int, int], cell: "pd.Series[Any]", style: Style, mesh: QuadMesh) -> None:
    status = str(cell["status"])
    x, y = place[1] + 0.5, place[0] + 0.5
    if status != "done":
        hatch = NOT_DONE[status][0]
        axes.add_patch(_box(place, facecolor="white", edgecolor="#bbbbbb", hatch=hatch))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2}
        axes.text(x, y, status, size=style.small, color=INK, ha="center", va="center", bbox=box, zorder=4)
        return
    rate, low, high = (float(cell[name]) for name in ("win_rate", "low", "high"))
    colour = _readable(mesh, 100 * rate)
    decimals = 0 if style.narrow else 1
    number = "no verdict" if math.isnan(rate) else f"{100 * rate:.1f}"
    interval = "no interval" if math.isnan(low) else percent_range(low, high, decimals)
    axes.add_patch(_box(place, facecolor="none", edgecolor="white"))
    size = style.text if style.narrow else style.text + 1
    # A little low, which leaves the upper corner to the letter of a shared experiment.
    y += 0.07 if style.narrow else 0.04
    axes.text(x, y - 0.02, number, size=size, color=colour, ha="center", va="bottom", weight="bold", zorder=4)
    axes.text(x, y + 0.06, interval, size=style.small, color=colour, ha="center", va="top", zorder=4)


def _mark_shared(axes: Axes, place: tuple[int, int], letter: str, *, rate: float, style: Style, mesh: QuadMesh) -> None:
    with mpl.rc_context({"hatch.linewidth": 0.5}):
        axes.add_patch(_box(place, facecolor="none", edgecolor="#00000028", hatch="\\\\"))
    row, column = place
    colour = _readable(mesh, 100 * rate)
    axes.text(
        column + 0.96,
        row + 0.06,
        f"={letter}",
        size=style.small,
        color=colour,
        ha="right",
        va="top",
        zorder=4,
    )


def _draw_absent(axes: Axes, cells: Mapping[tuple[str, str], "pd.Series[Any]"]) -> None:
    for chosen, rejected in PAIRS:
        if (chosen, rejected) not in cells:
            axes.add_patch(_box(_place(chosen, rejected), facecolor=ABSENT, edgecolor="white"))


def _label_axes(axes: Axes, style: Style) -> None:
    axes.set_xticks(np.arange(len(REJECTED)) + 0.5, [position_text(name) for name in REJECTED])
    axes.set_yticks(np.arange(len(CHOSEN)) + 0.5, [position_text(name) for name in CHOSEN])
    axes.tick_params(length=0)
    axes.set_xlabel("rejected", size=style.text, color=INK)
    axes.set_ylabel("chosen", size=style.text, color=INK)


def _draw_key(axes: Axes, cells: Mapping[tuple[str, str], "pd.Series[Any]"], style: Style, *, shared: bool) -> None:
    """The meaning of the hatches that occur, in the half of the grid that has no pairs."""
    found = {str(cell["status"]) for cell in cells.values()}
    entries = [
        Patch(facecolor="white", edgecolor="#999999", hatch=hatch, label=label)
        for status, (hatch, label) in NOT_DONE.items()
        if status in found
    ]
    if len(cells) < len(PAIRS):
        entries.append(Patch(facecolor=ABSENT, label="not in these results"))
    if shared:
        entries.append(Patch(facecolor="white", edgecolor="#bbbbbb", hatch="\\\\", label="same experiment"))
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


def _draw_colour_bar(axes: Axes, mesh: QuadMesh, style: Style) -> None:
    bar = axes.inset_axes((2.2, 5.45, 3.6, 0.16), transform=axes.transData)
    colour_bar = figure_of(axes).colorbar(mesh, cax=bar, orientation="horizontal")
    low, high = mesh.get_clim()
    colour_bar.set_ticks([low, 50, high], labels=[f"{low:g}", "50", f"{high:g}"])
    colour_bar.outline.set_visible(False)
    bar.tick_params(labelsize=style.small, length=2, width=0.5, pad=1, colors=INK)
    bar.set_title("win rate (%)", size=style.small, color=INK, pad=2)


def _place(chosen: str, rejected: str) -> tuple[int, int]:
    """Row and column of a pair in the grid."""
    return CHOSEN.index(chosen), REJECTED.index(rejected)


def _box(place: tuple[int, int], *, facecolor: str, edgecolor: str, hatch: str | None = None) -> Rectangle:
    row, column = place
    return Rectangle(
        (column, row), 1, 1, facecolor=facecolor, edgecolor=edgecolor, hatch=hatch, linewidth=0.8, zorder=2
    )


def _readable(mesh: QuadMesh, value: float) -> str:
    """Dark or light text, whichever stands out from the colour of `value`."""
    if math.isnan(value):
        return INK
    red, green, blue, _ = mesh.to_rgba(np.array([value]))[0] ** 2.2
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    # 0.18: where the contrast with white and that with black are equal (WCAG 2).
    return INK if luminance > 0.18 else "white"
