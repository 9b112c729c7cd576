"""The figures of a report: what is drawn, what is not and why, and what comes of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from analysis.report.cell_drawings import (
    difference_heatmaps,
    heatmap_multiples,
    heatmaps,
    lengths,
    overlaps,
    overoptimisations,
    scaling_curves,
)
from analysis.report.data_drawings import (
    boundaries,
    costs,
    normality_checks,
    reward_distributions,
    training,
    unlearning,
)
from analysis.report.drawing import Analysed, Drawing, Figures, NotDrawn
from analysis.report.panels import Setting, heading

__all__ = ["FIGURES", "Analysed", "Drawing", "Drawn", "NotDrawn", "draw", "plan_figures", "plan_kinds", "reasons"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure that is written."""

    drawing: Drawing
    paths: list[Path]
    svg: str
    """At one column's width, its text as text."""


def draw(out: Path, drawing: Drawing) -> Drawn:
    """Write a figure's files into `out`, and draw it for the page."""
    svg = drawing.svg()
    return Drawn(drawing=drawing, paths=drawing.save(out, svg), svg=svg)


FIGURES: Final[Sequence[Callable[[Analysed], Figures]]] = (
    heatmaps,
    heatmap_multiples,
    difference_heatmaps,
    scaling_curves,
    overlaps,
    overoptimisations,
    lengths,
    reward_distributions,
    normality_checks,
    training,
    unlearning,
    boundaries,
    costs,
)
"""Every kind of figure of a report, in its order; another one is added here.

A kind yields its drawings, and where data are wanting for one the reason; nothing is drawn for data that do not exist.
"""


def plan_kinds(found: Analysed) -> Iterator[tuple[list[Drawing], list[NotDrawn]]]:
    """The figures of each kind, and those that a report has not."""
    for kind in FIGURES:
        planned = list(kind(found))
        drawn = [figure for figure in planned if isinstance(figure, Drawing)]
        yield drawn, [figure for figure in planned if isinstance(figure, NotDrawn)]


def plan_figures(found: Analysed) -> tuple[list[Drawing], list[NotDrawn]]:
    """All figures of a report, and those that it has not."""
    drawn, left_out = zip(*plan_kinds(found), strict=True)
    return [*chain.from_iterable(drawn)], [*chain.from_iterable(left_out)]


def reasons(left_out: Sequence[NotDrawn]) -> list[str]:
    """One sentence for each kind and reason, with the setting, or how many, where not all lack it."""
    settings: dict[tuple[str, str], list[Setting]] = {}
    for figure in left_out:
        settings.setdefault((figure.kind, figure.reason), []).append(figure.setting)
    return [f"{kind}{_where(found)}: {reason}." for (kind, reason), found in settings.items()]


def _where(settings: Sequence[Setting]) -> str:
    if len(settings) > 1:
        return f" ({len(settings)} settings)"
    return f" ({heading(settings[0])})" if settings[0] else ""
