"""The heatmap of position pairs: chosen against rejected, each cell with its win rate and interval."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.captions import caption, outside_grid, provenance_text
from analysis.comparability import check_comparable
from analysis.estimates import BEST, RIVAL, STANDING
from analysis.figures import grid
from analysis.figures.canvas import INK, Style, new_axes, style_for
from analysis.figures.grid import CHOSEN, REJECTED, Pair
from analysis.schema import PAIR
from harness.positions import PAIRS

MARKS: Final = {
    BEST: ("*", INK, "highest win rate"),
    RIVAL: ("o", "white", "not told apart from it"),
}
"""Marker, its filling and its meaning, by standing."""


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
    grid, are not drawn, and the latter are counted in the caption. Where it has the column `standing` (of
    `estimates.with_standing`), the best cell and those not told apart from it are marked. `width` is in inches,
    `detectable` a fraction.
    """
    check_comparable(frame, "heatmap")
    cells = grid.by_pair(frame, "heatmap")
    style = style_for(width)
    side = (style.width - style.left - style.right) / len(REJECTED)
    text = caption(frame[frame[PAIR[0]].notna()], detectable)
    if others := outside_grid(frame):
        text += f" Pairs outside the grid, in the table only: {others}."
    if marks := standings(cells):
        text += f" {standing_sentence(cells.values())}"
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
    rates = win_rates(cells)
    mesh = grid.draw_colours(axes, rates, middle=50, half=grid.half_range(rates.values(), 50))
    for pair, cell in cells.items():
        _draw_cell(axes, pair, cell, style, mesh)
    for pair, letter in letters.items():
        _mark_shared(axes, pair, letter, rate=rates[pair], style=style, mesh=mesh)
    for pair, standing in marks.items():
        mark_standing(axes, pair, standing, size=4.5 if style.narrow else 7)
    grid.draw_absent(axes, cells)
    grid.label_axes(axes, style)
    _draw_key(axes, cells, style, shared=bool(letters))
    bar = axes.inset_axes((2.2, 5.45, 3.6, 0.16), transform=axes.transData)
    grid.draw_colour_bar(bar, mesh, "win rate (%)", style.small)
    return axes


def win_rates(cells: Mapping[Pair, "pd.Series[Any]"]) -> dict[Pair, float]:
    """Win rates in % of the cells that are done."""
    return {pair: 100 * float(cell["win_rate"]) for pair, cell in cells.items() if cell["status"] == "done"}


def standings(cells: Mapping[Pair, "pd.Series[Any]"]) -> dict[Pair, str]:
    """How the best cells and their rivals stand; nothing where no comparison was made."""
    found = {pair: str(cell.get(STANDING)) for pair, cell in cells.items()}
    return {pair: standing for pair, standing in found.items() if standing in MARKS}


def standing_sentence(cells: Iterable["pd.Series[Any]"]) -> str:
    """How the marked cells were compared."""
    failed = any(float(cell["excluded"] or 0) > 0 for cell in cells)
    where = ", on the instructions that all were judged on" if failed else ""
    return f"Marks: Hsu's multiple comparisons with the best, 95\N{NO-BREAK SPACE}% for all together{where}."


def mark_standing(axes: Axes, pair: Pair, standing: str, *, size: float, centre: bool = False) -> None:
    """A star in the best cell, a ring in one not told apart from it: in its corner, or its centre; `size` in points."""
    row, column = grid.place(*pair)
    at = (column + 0.5, row + 0.5) if centre else (column + 0.13, row + 0.15)
    axes.add_line(_marker(standing, size, at=at))


def standing_key(found: Iterable[str], size: float) -> list[Line2D]:
    """Legend entries of the marks that occur."""
    occur = set(found)
    return [_marker(standing, size, label=MARKS[standing][2]) for standing in MARKS if standing in occur]


def shared_letters(cells: Mapping[Pair, "pd.Series[Any]"]) -> dict[Pair, str]:
    """A letter for each done cell whose experiment another one shares: A for the first such experiment."""
    experiments = {pair: cell["experiment"] for pair, cell in cells.items() if cell["status"] == "done"}
    values = list(experiments.values())
    shared = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    names = {value: chr(ord("A") + index) for index, value in enumerate(shared)}
    return {pair: names[value] for pair, value in experiments.items() if value in names}


def percent_range(low: float, high: float, decimals: int) -> str:
    """An interval of fractions in percent, such as 51.2-58.9 with an en dash."""
    return f"{100 * low:.{decimals}f}\N{EN DASH}{100 * high:.{decimals}f}"


def _marker(standing: str, size: float, *, at: tuple[float, float] | None = None, label: str = "") -> Line2D:
    marker, filling, _ = MARKS[standing]
    return Line2D(
        [at[0]] if at else [],
        [at[1]] if at else [],
        linestyle="",
        marker=marker,
        markersize=size * (1.2 if marker == "*" else 0.8),
        markerfacecolor=filling,
        markeredgecolor="white" if standing == BEST else INK,
        markeredgewidth=0.5,
        label=label,
        zorder=5,
    )


def _draw_cell(axes: Axes, pair: Pair, cell: "pd.Series[Any]", style: Style, mesh: QuadMesh) -> None:
    if cell["status"] != "done":
        grid.draw_undone(axes, pair, str(cell["status"]), style)
        return
    rate, low, high = (float(cell[name]) for name in ("win_rate", "low", "high"))
    number = "no verdict" if math.isnan(rate) else f"{100 * rate:.1f}"
    interval = "no interval" if math.isnan(low) else percent_range(low, high, 0 if style.narrow else 1)
    grid.draw_numbers(axes, pair, number, interval, grid.readable(mesh, 100 * rate), style)


def _mark_shared(axes: Axes, pair: Pair, letter: str, *, rate: float, style: Style, mesh: QuadMesh) -> None:
    with mpl.rc_context({"hatch.linewidth": 0.5}):
        axes.add_patch(grid.box(pair, facecolor="none", edgecolor="#00000028", hatch=grid.SAME))
    row, column = grid.place(*pair)
    colour = grid.readable(mesh, rate)
    at = (column + 0.96, row + 0.06)
    axes.text(*at, f"={letter}", size=style.small, color=colour, ha="right", va="top", zorder=4)


def _draw_key(axes: Axes, cells: Mapping[Pair, "pd.Series[Any]"], style: Style, *, shared: bool) -> None:
    """The meaning of the marks and hatches that occur, in the half of the grid that has no pairs."""
    entries: list[Patch | Line2D] = [*standing_key(standings(cells).values(), 4.5 if style.narrow else 7)]
    entries += grid.status_key((str(cell["status"]) for cell in cells.values()), complete=len(cells) == len(PAIRS))
    if shared:
        entries.append(Patch(facecolor="white", edgecolor="#bbbbbb", hatch=grid.SAME, label="same experiment"))
    grid.draw_key(axes, entries, style)
