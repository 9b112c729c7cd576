"""What stands on a drawn figure, and whether all of it can be read."""

from collections.abc import Iterator
from itertools import combinations
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from analysis.figures import figure_of
from analysis.figures.grid import CHOSEN, REJECTED
from analysis.statistics import Floats


def caption_of(axes: Axes) -> str:
    """Heading, caption and small print."""
    texts = figure_of(axes).texts
    return " ".join(text.get_text() for text in texts).replace("\N{NO-BREAK SPACE}", " ")


def boxes(axes: Axes, hatch: str | None) -> set[tuple[str, str]]:
    """Pairs whose box has this hatch."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch() == hatch]
    return {(CHOSEN[int(box.get_y())], REJECTED[int(box.get_x())]) for box in found}


def marked(axes: Axes, marker: str) -> set[tuple[str, str]]:
    """Pairs whose box has this marker."""
    found = [coordinates(line) for line in axes.lines if line.get_marker() == marker]
    return {(CHOSEN[int(y[0])], REJECTED[int(x[0])]) for x, y in found}


def coordinates(line: Line2D) -> tuple[Floats, Floats]:
    """x and y of a line."""
    return np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def legend_of(axes: Axes) -> list[str]:
    """The texts of the legend."""
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def check_legible(axes: Axes) -> None:
    """No text is clipped by the figure, and none stands on another."""
    figure = figure_of(axes)
    figure.draw_without_rendering()
    texts = [*figure.texts, *(text for each in figure.axes for text in _texts(each))]
    # Of an annotation the text alone: its line may lead past others.
    extents = [(text.get_text(), Text.get_window_extent(text)) for text in texts if text.get_text()]
    for name, box in extents:
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= figure.bbox.width + 0.5, name
        assert box.y1 <= figure.bbox.height, name
    # A pixel or two of shared leading is no overlap.
    tight = [(name, box.padded(-2)) for name, box in extents]
    assert [(one, other) for (one, a), (other, b) in combinations(tight, 2) if a.overlaps(b)] == []


def _texts(axes: Axes) -> Iterator[Text]:
    """Every text of axes and of those inside them."""
    yield from (*axes.texts, axes.title)
    if (legend := axes.get_legend()) is not None:
        yield from legend.get_texts()
    for axis in (axes.xaxis, axes.yaxis):
        if not axis.get_visible():
            continue
        yield axis.label
        low, high = sorted(axis.get_view_interval())
        # Ticks beyond the limits exist but are not drawn.
        for tick in axis.get_major_ticks():
            if low <= tick.get_loc() <= high:
                yield from (label for label in (tick.label1, tick.label2) if label.get_visible())
    for child in axes.child_axes:
        yield from _texts(cast(Axes, child))
