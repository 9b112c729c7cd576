"""Small texts beside points, where no other text and no point stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from analysis.figures.canvas import MUTED, POINTS, figure_of, text_width

_DIRECTIONS: Final = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Tried in this order; upright and level last, where error bars are."""

_DISTANCES: Final = 6
"""Distances tried; a text that is not among the nearest gets a line to its point."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text for a point in data coordinates."""

    x: float
    y: float
    text: str
    clear: float
    """Points around the point that its marker takes."""


def label_points(axes: Axes, labels: Sequence[Label], *, size: float) -> None:
    """Write each text beside its point, at `size` points. The limits of the axes must be final.

    A text that would hide another one, or a marker, moves away from its point, tied to it by a line; where there is no
    room at all it stands where it hides least.
    """
    if not labels:
        return
    scale = figure_of(axes).dpi / POINTS
    places = axes.transData.transform(np.array([(label.x, label.y) for label in labels])) / scale
    taken = [Bbox([place - own.clear, place + own.clear]) for place, own in zip(places, labels, strict=True)]
    frame = Bbox(axes.get_window_extent().get_points() / scale)
    for place, label in sorted(zip(places, labels, strict=True), key=lambda entry: -entry[1].y):
        shape = (text_width(label.text, size) * POINTS, 0.8 * size)
        tried = [
            (distance, _box(place, direction, label.clear + 0.5 + 0.8 * size * distance, shape))
            for distance in range(_DISTANCES)
            for direction in _DIRECTIONS
        ]
        distance, box = min(tried, key=lambda one: (_hidden(one[1], taken, frame), one[0]))
        taken.append(box)
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.4, "shrinkA": 0, "shrinkB": label.clear}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(box.x0 - place[0], box.y0 - place[1]),
            textcoords="offset points",
            size=size,
            color=MUTED,
            va="baseline",
            parse_math=False,
            arrowprops=line if distance > 1 else None,
            zorder=6,
        )


def _box(
    place: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    direction: tuple[int, int],
    distance: float,
    shape: tuple[float, float],
) -> Bbox:
    """A text's box whose nearest edge or corner is so far from its point, all in points."""
    corner = [
        at + side * distance - {1: 0.0, 0: extent / 2, -1: extent}[side]
        for at, side, extent in zip(place, direction, shape, strict=True)
    ]
    return Bbox.from_bounds(corner[0], corner[1], *shape)


def _hidden(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """How much of what is there a box would hide, and how much of it would be outside, in square points."""
    shared = [Bbox.intersection(box, other) for other in taken]
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside is not None else 0.0)
    return round(sum(part.width * part.height for part in shared if part is not None) + outside, 6)
