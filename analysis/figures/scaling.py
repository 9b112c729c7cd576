"""The scaling curve: win rate against the number of samples per prompt, a line per construction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.captions import caption, construction_labels, provenance_text
from analysis.comparability import check_comparable
from analysis.figures import scaling_multiples as multiples
from analysis.figures import underlay
from analysis.figures.canvas import (
    DASHES,
    GREY,
    INK,
    LINES,
    MARKERS,
    Style,
    figure_of,
    finish_win_rates,
    legend,
    legend_layout,
    name_sizes,
    new_axes,
    style_for,
)
from analysis.published import PublishedCurve
from analysis.schema import plain
from harness.errors import PrefsweepError

MOST_TOGETHER: Final = 6
"""Constructions up to which each has a colour and a band; more have a panel each, or nothing could be told apart."""


def scaling_curve(
    frame: pd.DataFrame,
    *,
    width: float = 7.0,
    detectable: float = math.nan,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
    published: Sequence[PublishedCurve] = (),
) -> Axes:
    """Win rate in % against n (log2 axis), a line per construction and pair, with the interval as its band.

    Only done cells are drawn. More than `MOST_TOGETHER` constructions are grey but for the highest and the lowest, and
    have a panel each below, with their intervals; the panels are the further axes of the figure. Cells that are one
    experiment at an n carry a ring, or a hollow marker in the panels. Curves of `published` lie under the lines in
    grey, on an axis of their own at the right, as they are of other judges. Raises PrefsweepError when a construction
    stands more than once at an n. `width` is in inches, `detectable` a fraction.
    """
    check_comparable(frame, "scaling curve")
    known = (frame["status"] == "done") & frame["n"].notna() & frame["win_rate"].notna()
    done = frame[known]
    lines = construction_lines(frame, known)
    style = style_for(width)
    if published:
        style = replace(style, right=style.left)
    ends = _ends(lines) if len(lines) > MOST_TOGETHER else {}
    entries = _many_entries(lines, ends, done) if ends else _few_entries(lines, done)
    columns, room = legend_layout(
        [*(str(each.get_label()) for each in entries), *map(underlay.label, published)], style
    )
    body = (0.48 if ends else 0.6) * (style.width - style.left - style.right)
    panelled = replace(style, right=style_for(width).right)  # the second axis is that of the first panel only
    layout = multiples.layout_of(list(lines), panelled) if ends and len(lines) <= multiples.MOST else None
    axes = new_axes(
        style,
        body=body + (style.bottom + layout.total if layout else 0.0),
        heading=heading,
        caption=_caption(frame, done, lines, ends, detectable, published),
        provenance=provenance_text(provenance),
        above=room,
    )
    bottom = _lift(axes, body)
    if ends:
        _draw_many(axes, lines, ends, style)
    else:
        _draw_few(axes, lines, done, style)
    _finish_axes(axes, done, style)
    if layout:
        same, colours = _shared_points(done).index, {name: colour for name, (colour, _) in ends.items()}
        multiples.draw_multiples(axes, layout, lines, same, colours, panelled, bottom=bottom)
    if published:
        entries = [*entries, *underlay.draw(axes, published, style)]
    legend(axes, entries, columns, style, bbox_to_anchor=(0, 1 + 0.02 / body), borderpad=0.1, handlelength=2.2)
    return axes


def construction_lines(frame: pd.DataFrame, known: "pd.Series[bool]") -> dict[str, pd.DataFrame]:
    """The known cells of each line, ascending in n, by the line's label, in the order in which the frame has these."""
    lines: dict[str, list[int]] = {}
    for place, label in enumerate(construction_labels(frame)):
        own = lines.setdefault(label, [])
        own += [place] if known.iloc[place] else []
    ordered = {label: frame.iloc[places].sort_values("n") for label, places in lines.items() if places}
    for label, line in ordered.items():
        if line["n"].duplicated().any():
            raise PrefsweepError(f"scaling curve: {label} stands more than once at one n")
    return ordered


def _shared_points(done: pd.DataFrame) -> pd.DataFrame:
    return done[done.duplicated(["n", "experiment"], keep=False)]


def _ends(lines: Mapping[str, pd.DataFrame]) -> dict[str, tuple[str, str]]:
    """Colour and reason of the highest and the lowest line, by its label, at the largest n that two or more have."""
    sizes = pd.concat([line["n"] for line in lines.values()])
    several = sizes[sizes.duplicated(keep=False)]
    n = float((several if len(several) else sizes).max())
    rates = {
        label: float(line.loc[line["n"] == n, "win_rate"].iloc[0])
        for label, line in lines.items()
        if (line["n"] == n).any()
    }
    where = f"at n = {plain(n)}"
    highest, lowest = max(rates, key=lambda label: rates[label]), min(rates, key=lambda label: rates[label])
    low = {lowest: (LINES[1], f"lowest {where}")} if lowest != highest else {}
    return {highest: (LINES[0], f"highest {where}"), **low}


def _few_entries(lines: Mapping[str, pd.DataFrame], done: pd.DataFrame) -> list[Artist]:
    """Entries of the legend where each line has a look of its own."""
    entries: list[Artist] = [
        Line2D([], [], label=label, **_look(index), markersize=4) for index, label in enumerate(lines)
    ]
    if len(_shared_points(done)):
        look: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 7, "linestyle": ""}
        entries.append(Line2D([], [], marker="o", label=multiples.SAME, **look))
    return entries


def _many_entries(
    lines: Mapping[str, pd.DataFrame], ends: Mapping[str, tuple[str, str]], done: pd.DataFrame
) -> list[Artist]:
    """Entries of the legend where only the ends are in colour."""
    colours, why = ({label: each[part] for label, each in ends.items()} for part in (0, 1))
    shared = len(lines) <= multiples.MOST and len(_shared_points(done)) > 0
    return [*multiples.handles(colours, why, len(lines) - len(ends), shared=shared)]


def _caption(
    frame: pd.DataFrame,
    done: pd.DataFrame,
    lines: Mapping[str, pd.DataFrame],
    ends: Mapping[str, tuple[str, str]],
    detectable: float,
    published: Sequence[PublishedCurve],
) -> str:
    parts = [caption(done, detectable)]
    if undone := len(frame) - len(done):
        parts.append(f"Not done, so not drawn: {undone}.")
    if ends and len(lines) <= multiples.MOST:
        parts.append("Panels: each construction, or pair (chosen, rejected), with its interval, the others in grey.")
    elif ends:
        parts.append(f"The table has the intervals: more than {multiples.MOST} constructions have no panels.")
    if ends:
        parts.append("Colour says which estimates are highest and lowest, not that they stand apart from the others.")
    if published:
        parts.append(underlay.sentence(published))
    return " ".join(parts)


def _lift(axes: Axes, body: float) -> float:
    """Keep the upper `body` inches of the axes; returns where they ended, in inches from the ground."""
    height, box = figure_of(axes).get_size_inches()[1], axes.get_position()
    axes.set_position((box.x0, box.y1 - body / height, box.width, body / height))
    return float(box.y0 * height)


def _look(index: int) -> dict[str, Any]:
    return {
        "color": LINES[index % len(LINES)],
        "linestyle": DASHES[index % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _draw_few(axes: Axes, lines: Mapping[str, pd.DataFrame], done: pd.DataFrame, style: Style) -> None:
    """Each line in its colour, over its band; a ring where several are one experiment."""
    for index, (label, line) in enumerate(lines.items()):
        # Where lines coincide, the gaps of the upper one and the larger markers below let each be seen.
        size = (3.0 if style.narrow else 4.5) + max(0, 4 - 2 * index)
        _draw_line(axes, label, line, _look(index), size=size, style=style)
    if len(same := _shared_points(done)):
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8, "zorder": 5}
        size = 60 if style.narrow else 100
        axes.scatter(same["n"], 100 * same["win_rate"], s=size, label=multiples.SAME, **look)


def _draw_many(
    axes: Axes, lines: Mapping[str, pd.DataFrame], ends: Mapping[str, tuple[str, str]], style: Style
) -> None:
    """The ends in colour, over their bands; the others as grey lines, and a point where there is one only."""
    for label, line in lines.items():
        if label in ends:
            look = {"color": ends[label][0], "marker": "o"}
            _draw_line(axes, label, line, look, size=3.0 if style.narrow else 4.5, style=style)
        else:
            marker = "o" if len(line) == 1 else ""
            axes.plot(
                line["n"], 100 * line["win_rate"], color=GREY, linewidth=0.7, marker=marker, markersize=2, zorder=3
            )


def _draw_line(
    axes: Axes, label: str, line: pd.DataFrame, look: Mapping[str, Any], *, size: float, style: Style
) -> None:
    width = 1.2 if style.narrow else 1.6
    axes.plot(line["n"], 100 * line["win_rate"], markersize=size, linewidth=width, label=label, zorder=4, **look)
    low, high = (100 * line[name].astype(float) for name in ("low", "high"))
    if len(line) > 1:
        axes.fill_between(line["n"], low, high, color=look["color"], alpha=0.15, linewidth=0, zorder=2)
    else:  # a single point has no band to stand in
        axes.vlines(line["n"], low, high, color=look["color"], linewidth=1.0, zorder=3)


def _finish_axes(axes: Axes, done: pd.DataFrame, style: Style) -> None:
    sizes = sorted({float(n) for n in done["n"]})
    axes.set_xscale("log", base=2)
    if sizes:
        # A tenth of the axis either side, so that the first and last markers stand clear.
        margin = max(sizes[-1] / sizes[0], 2) ** 0.06
        axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
        name_sizes(axes, sizes, style.text)
    axes.set_xlabel("samples per prompt, n", size=style.text, color=INK)
    finish_win_rates(axes, style)
