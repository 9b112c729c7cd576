"""The scaling curve: win rate against the number of samples per prompt, a line per construction."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import pandas as pd
from matplotlib.axes import Axes

from analysis.captions import caption, construction_labels, provenance_text
from analysis.comparability import check_comparable
from analysis.figures import underlay
from analysis.figures.canvas import INK, Style, finish_win_rates, legend, legend_layout, new_axes, style_for
from analysis.published import PublishedCurve
from analysis.schema import plain
from harness.errors import PrefsweepError

LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which stay apart under colour blindness; markers and dashes differ as well."""

MARKERS: Final = "osD^vPX"
DASHES: Final = ("-", "--", ":")

SAME: Final = "same experiment"

MOST_BANDS: Final = 6
"""With more lines than this their bands would hide each other; the table has the intervals."""


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

    Only done cells are drawn. Cells that are one experiment at an n carry a ring. Curves of `published` lie under them
    in grey, on an axis of their own at the right, as they are of other judges. Raises PrefsweepError when a
    construction stands more than once at an n. `width` is in inches, `detectable` a fraction.
    """
    check_comparable(frame, "scaling curve")
    done = frame[(frame["status"] == "done") & frame["n"].notna() & frame["win_rate"].notna()]
    lines = construction_lines(done)
    style = style_for(width)
    if published:
        style = replace(style, right=style.left)
    same = _shared_points(done)
    labels = [*lines, *([SAME] if len(same) else []), *map(underlay.label, published)]
    columns, room = legend_layout(labels, style)
    text = caption(done, detectable)
    if undone := len(frame) - len(done):
        text += f" Not done, so not drawn: {undone}."
    if len(lines) > MOST_BANDS:
        text += " Interval bands are left out: too many lines; the table has them."
    if published:
        text += f" {underlay.sentence(published)}"
    axes = new_axes(
        style,
        body=0.6 * (style.width - style.left - style.right),
        heading=heading,
        caption=text,
        provenance=provenance_text(provenance),
        above=room,
    )
    for index, (label, line) in enumerate(lines.items()):
        _draw_line(axes, index, label, line, style, band=len(lines) <= MOST_BANDS)
    if len(same):
        axes.scatter(
            same["n"],
            100 * same["win_rate"],
            s=60 if style.narrow else 100,
            facecolors="none",
            edgecolors=INK,
            linewidths=0.8,
            zorder=5,
            label=SAME,
        )
    _finish_axes(axes, done, style)
    handles, _ = axes.get_legend_handles_labels()
    if published:
        handles += underlay.draw(axes, published, style)
    legend(axes, handles, columns, style, bbox_to_anchor=(0, 1.01), borderpad=0.1, handlelength=2.2)
    return axes


def construction_lines(done: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The cells of each line, ascending in n, by the line's label."""
    lines: dict[str, list[int]] = {}
    for place, label in enumerate(construction_labels(done)):
        lines.setdefault(label, []).append(place)
    ordered = {label: done.iloc[places].sort_values("n") for label, places in lines.items()}
    for label, line in ordered.items():
        if line["n"].duplicated().any():
            raise PrefsweepError(f"scaling curve: {label} stands more than once at one n")
    return ordered


def _shared_points(done: pd.DataFrame) -> pd.DataFrame:
    return done[done.duplicated(["n", "experiment"], keep=False)]


def _draw_line(axes: Axes, index: int, label: str, line: pd.DataFrame, style: Style, *, band: bool) -> None:
    colour = LINES[index % len(LINES)]
    # Where lines coincide, the gaps of the upper one and the larger markers below let each be seen.
    axes.plot(
        line["n"],
        100 * line["win_rate"],
        color=colour,
        linestyle=DASHES[index % len(DASHES)],
        marker=MARKERS[index % len(MARKERS)],
        markersize=(3.0 if style.narrow else 4.5) + max(0, 4 - 2 * index),
        linewidth=1.2 if style.narrow else 1.6,
        label=label,
        zorder=4,
    )
    if band:
        low, high = (100 * line[name].astype(float) for name in ("low", "high"))
        if len(line) > 1:
            axes.fill_between(line["n"], low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
        else:  # a single point has no band to stand in
            axes.vlines(line["n"], low, high, color=colour, linewidth=1.0, zorder=3)


def _finish_axes(axes: Axes, done: pd.DataFrame, style: Style) -> None:
    sizes = sorted({float(n) for n in done["n"]})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [plain(n) for n in sizes])
    axes.minorticks_off()
    if sizes:
        # A tenth of the axis either side, so that the first and last markers stand clear.
        margin = max(sizes[-1] / sizes[0], 2) ** 0.06
        axes.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    axes.set_xlabel("samples per prompt, n", size=style.text, color=INK)
    finish_win_rates(axes, style)
