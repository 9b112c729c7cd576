"""A figure of exact size: heading, axes and wrapped caption each get their own inches, so nothing overlaps.

Figures are made without pyplot: no display, no global state, nothing to close.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

POINTS: Final = 72.0
LEADING: Final = 1.3
INK: Final = "#222222"
MUTED: Final = "#555555"
GREY: Final = "#c4c4c4"
"""Of what stands behind the lines that are looked at."""

LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, which stay apart under colour blindness; markers and dashes differ as well."""

ROW: Final = 1.33
"""Height of a row of a legend, in sizes of its text."""

MARKERS: Final = "osD^vPX"
DASHES: Final = ("-", "--", ":")


@dataclass(frozen=True, kw_only=True)
class Style:
    """Font sizes in points and margins in inches for one width of figure."""

    width: float
    text: float
    small: float
    print: float
    """Size of the provenance line."""
    left: float
    right: float
    bottom: float
    """Room under the axes for tick and axis labels."""

    @property
    def narrow(self) -> bool:
        """Whether the figure is for one column of a two-column page."""
        return self.width < 5


def style_for(width: float) -> Style:
    """The style of a figure `width` inches wide: one column (3.4) or a page (7)."""
    if width < 5:
        return Style(width=width, text=7, small=6, print=5, left=0.6, right=0.08, bottom=0.42)
    return Style(width=width, text=9, small=8, print=6.5, left=0.8, right=0.12, bottom=0.52)


def new_axes(
    style: Style,
    body: float,
    *,
    heading: str = "",
    caption: str = "",
    provenance: str = "",
    above: float = 0.0,
) -> Axes:
    """Axes `body` inches high, under a heading and `above` inches of room, over caption and print."""
    figure = Figure(dpi=200)
    FigureCanvasAgg(figure)
    inner = style.width - 0.12
    blocks = [
        (wrap(heading, style.text, inner, weight="bold"), style.text, "bold", INK),
        (wrap(caption, style.small, inner), style.small, "normal", MUTED),
        (wrap(provenance, style.print, inner), style.print, "normal", MUTED),
    ]
    heights = [len(lines) * size * LEADING / POINTS for lines, size, _, _ in blocks]
    top, below = 0.08 + heights[0] + above, style.bottom + heights[1] + heights[2] + 0.1
    height = top + body + below
    figure.set_size_inches(style.width, height)
    starts = [height - 0.04, height - top - body - style.bottom, 0.06 + heights[2]]
    for (lines, size, weight, colour), start in zip(blocks, starts, strict=True):
        _write_lines(figure, lines, start, size=size, weight=weight, colour=colour)
    frame = (
        style.left / style.width,
        below / height,
        1 - (style.left + style.right) / style.width,
        body / height,
    )
    axes = figure.add_axes(frame)
    axes.tick_params(labelsize=style.text, length=2.5, width=0.6, colors=INK)
    return axes


def wrap(text: str, size: float, inches: float, *, weight: str = "normal") -> list[str]:
    """`text` in lines that are at most `inches` wide at `size` points; a longer word stands alone."""
    lines: list[str] = []
    # At plain spaces only: a no-break space keeps a number and its unit together.
    for word in text.split(" ") if text else []:
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= inches:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@lru_cache(maxsize=8192)  # captions of many figures begin alike, and each line is measured word by word
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of one line of `text` in inches."""
    font = FontProperties(size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / POINTS


def figure_of(axes: Axes) -> Figure:
    """The whole figure that `axes` stand on; TypeError when that is only a part of one."""
    if not isinstance(axes.figure, Figure):
        raise TypeError("the axes stand on a sub-figure")
    return axes.figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as PNG (200 dpi); the same figure gives the same bytes."""
    # Little compression: a fifth of the time, for files that are a twentieth larger.
    figure.savefig(path, dpi=200, metadata={"Software": None}, pil_kwargs={"compress_level": 1})


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png (200 dpi) and `stem`.svg; the same figure gives the same bytes.

    The directory must exist. Returns the two paths.
    """
    # Not with_suffix: a stem may hold a dot, as in "loss.beta=0.1".
    png, svg = stem.parent / f"{stem.name}.png", stem.parent / f"{stem.name}.svg"
    save_png(figure, png)
    with mpl.rc_context({"svg.hashsalt": "prefsweep"}):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def _write_lines(figure: Figure, lines: list[str], start: float, *, size: float, weight: str, colour: str) -> None:
    """Lines of text from `start` inches down. A dollar sign in them starts no formula: they are data."""
    width, height = figure.get_size_inches()
    for index, line in enumerate(lines):
        y = (start - index * size * LEADING / POINTS) / height
        figure.text(0.06 / width, y, line, size=size, weight=weight, color=colour, va="top", parse_math=False)


def legend(owner: Axes | Figure, handles: Sequence[Artist], columns: int, style: Style, **look: Any) -> None:
    """A legend without a frame whose lower left corner is at `bbox_to_anchor`. Its texts are data, and no formulas."""
    made = owner.legend(
        handles=list(handles),
        loc="lower left",
        ncols=columns,
        fontsize=style.small,
        frameon=False,
        borderaxespad=0,
        labelspacing=0.3,
        columnspacing=1.2,
        **look,
    )
    for text in made.get_texts():
        text.set_parse_math(False)


def legend_layout(labels: Sequence[str], style: Style) -> tuple[int, float]:
    """Columns of a legend over the axes, and the inches it takes above them."""
    handle = 4 * style.small / POINTS
    widest = max((text_width(label, style.small) for label in labels), default=0.0) + handle
    columns = max(1, int((style.width - style.left) / widest)) if labels else 1
    rows = -(-len(labels) // columns)
    return columns, (ROW * rows * style.small + 4) / POINTS


def with_room(wanted: Sequence[float], shown: Sequence[float], *, per_octave: float, size: float) -> list[float]:
    """Ticks of a log2 axis whose names stand clear: those shown already, and of the wanted, in their order, those that
    have room beside them. An octave is `per_octave` inches wide, and names are of `size` points.
    """
    found = list(shown)
    for tick in wanted:
        half = text_width(f"{tick:g}", size) / 2
        apart = ((math.log2(tick / other), text_width(f"{other:g}", size) / 2) for other in found)
        if all(abs(octaves) * per_octave >= half + other + 0.06 for octaves, other in apart):
            found.append(tick)
    return sorted(found)


def per_octave(axes: Axes) -> float:
    """Inches of a log2 axis that an octave takes."""
    low, high = axes.get_xlim()
    inches = axes.get_position().width * float(figure_of(axes).get_size_inches()[0])
    return inches / math.log2(high / low)


def from_ends(sizes: Sequence[float]) -> list[float]:
    """Ascending sizes in the order in which their names are given room: the last, the first, the others downwards."""
    return [*sizes[:-2:-1], *sizes[:1], *sizes[-2:0:-1]] if len(sizes) > 1 else list(sizes)


def name_sizes(axes: Axes, sizes: Sequence[float], points: float) -> None:
    """A tick at each of some sample sizes of a log2 axis, named where there is room: the largest and the least first.

    The limits of the axis and the place of `axes` must be final; names are of `points`.
    """
    ordered = sorted(set(sizes))
    shown = with_room(from_ends(ordered), [], per_octave=per_octave(axes), size=points)
    axes.set_xticks(ordered, [f"{size:g}" if size in shown else "" for size in ordered])
    axes.minorticks_off()


def finish_win_rates(axes: Axes, style: Style) -> None:
    """The axis of win rates, the line at 50 % where it is near what is shown, and a quiet frame."""
    low, high = axes.get_ylim()
    if low - 5 <= 50 <= high + 5:
        axes.axhline(50, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylabel("win rate (%)", size=style.text, color=INK)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
