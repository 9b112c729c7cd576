"""Small multiples of the heatmap: lines of panels for each policy, a panel per n, one colour scale, on one page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.captions import caption, outside_grid, position_text, provenance_text
from analysis.comparability import check_comparable, differences
from analysis.figures import grid
from analysis.figures.canvas import INK, POINTS, Style, new_axes, style_for, text_width
from analysis.figures.grid import CHOSEN, REJECTED, Pair
from analysis.figures.heatmap import mark_standing, standing_key, standing_sentence, standings, win_rates
from analysis.schema import PAIR, plain
from harness.errors import PrefsweepError
from harness.positions import PAIRS

OF_THE_POLICY: Final = {"references_hash": "reference answers", "decoding_settings": "decoding"}
"""What policies may differ in: each is judged against its own untrained answers, in its own type."""

MOST_ACROSS: Final = 6
"""Panels side by side; further n go on to the next line."""

MOST_ACROSS_ALONE: Final = 3
"""The same for one policy, which has room for larger panels."""

HIGHEST: Final = 7.6
"""Inches that the panels take at most: with heading and caption the figure stays on one page."""

ALL: Final = "all candidates"
"""Title in place of n, where rows are made of static candidates."""

NUMBERS_FROM: Final = 12.0
"""Width of a cell in points from which its win rate is written into it."""

Panel = Mapping[Pair, "pd.Series[Any]"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Panels side by side, each with its title."""

    policy: str
    """Stands over the line; empty where a line above, or nothing, says it."""
    top: float
    """Inches from the top of all to the top of the panels."""
    panels: Sequence[tuple[str, Panel]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the panels stand, in inches."""

    lines: Sequence[Line]
    width: float
    """Of a panel."""
    height: float
    gap: float
    """Between panels."""
    total: float
    """Height of all."""


def pair_heatmaps(
    frame: pd.DataFrame,
    *,
    width: float = 7.0,
    detectable: float = math.nan,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Win rate in % of the 21 pairs for each policy and n, as colours; the panels are child axes of what is returned.

    `frame` has at most one row per policy, n and pair (else PrefsweepError). With the column `standing` (of
    `estimates.with_standing`, of each panel by itself) the best cells are marked. Results of one policy must be
    comparable, those of several in all but `OF_THE_POLICY`, of which the caption says so. `width` is in inches.
    """
    policies = by_policy(frame)
    check_comparable(frame.assign(**dict.fromkeys(OF_THE_POLICY)), "heatmaps")
    for name, own in policies.items():
        check_comparable(own, f"heatmaps of {name or 'one policy'}")
    style = style_for(width)
    layout = _layout(policies, style)
    panels = [panel for line in layout.lines for _, panel in line.panels]
    entries = _key(panels, style)
    above = max(3, len(entries)) * 1.4 * style.small / POINTS + 0.08
    axes = new_axes(
        style,
        body=layout.total,
        heading=heading,
        caption=_caption(frame, panels, detectable, several=len(policies) > 1),
        provenance=provenance_text(provenance),
        above=above,
    )
    axes.set(xticks=[], yticks=[], frame_on=False)
    size, upright = _ticks(layout, style)
    axes.set_xlabel("rejected", size=style.text, color=INK, labelpad=3 + (1.6 if upright else 3.3) * size)
    mesh = _draw_panels(axes, layout, style)
    key = max((text_width(str(entry.get_label()), style.small) for entry in entries), default=0.0)
    # The last number of the scale ends half its width beyond it, and an entry of the legend begins with its mark.
    room = style.width - style.left - style.right - key - 5.5 * style.small / POINTS
    bar = _inset(axes, style, layout, (0.05, -0.55 * above, min(0.36 * style.width, room), 0.07))
    grid.draw_colour_bar(bar, mesh, "win rate (%)", style.small)
    axes.legend(
        handles=entries,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0 + 0.04 / layout.total),
        fontsize=style.small,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        labelspacing=0.3,
        handlelength=1.6,
    )
    return axes


def by_policy(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The cells of each policy by what names it: its short name, with further settings where two share that.

    One policy alone needs no name.
    """
    columns = [str(name) for name in frame.columns if str(name).startswith("policy.")]
    keys = frame[columns].map(plain)
    varying = [name for name in columns if keys[name].nunique() > 1]
    if not varying:
        return {"": frame}
    if "policy.name" in varying and not keys[varying].drop_duplicates()["policy.name"].duplicated().any():
        varying = ["policy.name"]
    return {str(name): own for name, own in frame.groupby(keys[varying].agg(" ".join, axis=1), sort=False)}


def _layout(policies: Mapping[str, pd.DataFrame], style: Style) -> Layout:
    panels = {policy: _panels(own, policy) for policy, own in policies.items()}
    most = max(map(len, panels.values()), default=0)
    if not most:
        raise PrefsweepError("heatmaps: there are no cells")
    across = min(most, MOST_ACROSS if len(panels) > 1 else MOST_ACROSS_ALONE)
    rows = [
        (policy if start == 0 else "", own[start : start + across])
        for policy, own in panels.items()
        for start in range(0, len(own), across)
    ]
    title = 1.7 * style.small / POINTS
    over = [title + (1.4 * style.text / POINTS if policy else 0) for policy, _ in rows]
    gap = 0.05 if style.narrow else 0.12
    width = (style.width - style.left - style.right - gap * (across - 1)) / across
    height = min(0.85 * width, 0.62 * width + 0.3, (HIGHEST - sum(over)) / len(rows))
    tops = [sum(over[: number + 1]) + number * height for number in range(len(rows))]
    lines = [Line(policy=policy, top=top, panels=own) for (policy, own), top in zip(rows, tops, strict=True)]
    return Layout(lines=lines, width=width, height=height, gap=gap, total=tops[-1] + height)


def _panels(own: pd.DataFrame, policy: str) -> list[tuple[str, Panel]]:
    """The panels of one policy by ascending n; static candidates, of which all are taken, come last."""
    titles = own["n"].map(plain).map(lambda n: f"n = {n}" if n else ALL)
    ordered = titles[own["n"].astype(float).sort_values(kind="stable").index]
    what = f"heatmaps, {policy}" if policy else "heatmaps"
    return [(title, grid.by_pair(own[titles == title], f"{what}, {title}")) for title in dict.fromkeys(ordered)]


def _draw_panels(axes: Axes, layout: Layout, style: Style) -> QuadMesh:
    rates = [win_rates(panel) for line in layout.lines for _, panel in line.panels]
    half = grid.half_range((rate for each in rates for rate in each.values()), 50)
    for number, line in enumerate(layout.lines):
        if line.policy:
            y = 1 - (line.top - 1.6 * style.small / POINTS) / layout.total
            name = axes.text(0, y, line.policy, size=style.text, color=INK, weight="bold", transform=axes.transAxes)
            name.set(va="bottom", parse_math=False)
        for place, (title, panel) in enumerate(line.panels):
            across = place * (layout.width + layout.gap)
            small = _inset(axes, style, layout, (across, line.top, layout.width, layout.height))
            mesh = _draw_panel(small, panel, layout.width, half)
            small.set_title(title, size=style.small, color=INK, pad=1.5)
            below = layout.lines[number + 1].panels if number + 1 < len(layout.lines) else ()
            _label_panel(small, layout, style, left=place == 0, lowest=place >= len(below))
    return mesh


def _inset(axes: Axes, style: Style, layout: Layout, bounds: tuple[float, float, float, float]) -> Axes:
    """Axes at `bounds`: inches from the left and from the top, width and height."""
    left, top, width, height = bounds
    room = style.width - style.left - style.right
    total = layout.total
    return axes.inset_axes((left / room, 1 - (top + height) / total, width / room, height / total))


def _draw_panel(small: Axes, panel: Panel, width: float, half: float) -> QuadMesh:
    """One heatmap without words: colours, hatches and marks, and the win rates where they are legible."""
    rates = win_rates(panel)
    mesh = grid.draw_colours(small, rates, middle=50, half=half)
    points = width * POINTS / len(REJECTED)
    for pair, cell in panel.items():
        if (status := str(cell["status"])) != "done":
            hatch = 2 * grid.NOT_DONE[status][0]
            small.add_patch(grid.box(pair, facecolor="white", edgecolor="#bbbbbb", hatch=hatch))
            continue
        small.add_patch(grid.box(pair, facecolor="none", edgecolor="white"))
        if points >= NUMBERS_FROM and not math.isnan(rates[pair]):
            _write_rate(small, pair, rates[pair], mesh, points)
    for pair, standing in standings(panel).items():
        centre = points < NUMBERS_FROM
        mark_standing(small, pair, standing, size=min(5.0, (0.6 if centre else 0.26) * points), centre=centre)
    grid.draw_absent(small, panel)
    return mesh


def _write_rate(small: Axes, pair: Pair, rate: float, mesh: QuadMesh, points: float) -> None:
    row, column = grid.place(*pair)
    colour = grid.readable(mesh, rate)
    at = (column + 0.55, row + 0.58)
    small.text(*at, f"{rate:.0f}", size=min(8.0, 0.42 * points), color=colour, ha="center", va="center", zorder=4)


def _label_panel(small: Axes, layout: Layout, style: Style, *, left: bool, lowest: bool) -> None:
    """Positions at the left of each line and under each column; every second one where they would touch."""
    size, upright = _ticks(layout, style)
    every = 1 if layout.height * POINTS / len(CHOSEN) >= size else 2
    chosen, rejected = range(0, len(CHOSEN), every), range(len(REJECTED))
    small.set_yticks([row + 0.5 for row in chosen], [position_text(CHOSEN[row]) for row in chosen])
    small.set_xticks([column + 0.5 for column in rejected], [position_text(REJECTED[column]) for column in rejected])
    small.tick_params(length=0, pad=1.5, labelsize=size, labelcolor=INK, labelleft=left, labelbottom=lowest)
    if not upright:
        small.tick_params(axis="x", labelrotation=90)
    if left:
        small.set_ylabel("chosen", size=size, color=INK, labelpad=2)


def _ticks(layout: Layout, style: Style) -> tuple[float, bool]:
    """Size of the positions' names in points, and whether they have room side by side under a panel."""
    size = min(style.small, 5.5 if style.narrow else 7.0)
    return size, layout.width * POINTS / len(REJECTED) >= 2.9 * size


def _key(panels: Sequence[Panel], style: Style) -> list[Patch | Line2D]:
    """Legend entries of the marks and hatches that occur in any panel."""
    marks = [standing for panel in panels for standing in standings(panel).values()]
    statuses = (str(cell["status"]) for panel in panels for cell in panel.values())
    size = 4.5 if style.narrow else 6
    found: list[Patch | Line2D] = [*standing_key(marks, size)]
    return found + grid.status_key(statuses, complete=all(len(panel) == len(PAIRS) for panel in panels))


def _caption(frame: pd.DataFrame, panels: Sequence[Panel], detectable: float, *, several: bool) -> str:
    """What the numbers rest on, and what may be compared across panels."""
    parts = [caption(frame[frame[PAIR[0]].map(plain) != ""], detectable)]
    parts.append("Intervals stand in the heatmap of each policy and n, and in the table.")
    if others := outside_grid(frame):
        parts.append(f"Pairs outside the grid, in the table only: {others}.")
    if any(standings(panel) for panel in panels):
        cells = [cell for panel in panels for cell in panel.values()]
        parts.append(f"{standing_sentence(cells)} Each panel by itself.")
    if several and (apart := [name for name in OF_THE_POLICY if name in differences(frame)]):
        what = " and ".join(OF_THE_POLICY[name] for name in apart)
        parts.append(f"Levels of policies are not comparable: they differ in {what}.")
    return " ".join(parts)
