"""The figures of a report: what is drawn, and the files and vector graphics that come of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from analysis.beside import near_constant
from analysis.estimates import comparison_columns
from analysis.figures import pair_heatmap, scaling_curve
from analysis.overoptimisation import overoptimisation, overoptimisation_points
from analysis.report.data_drawings import (
    boundaries,
    costs,
    normality_checks,
    reward_distributions,
    training,
    unlearning,
)
from analysis.report.drawing import Analysed, Drawing, drawing_of, shared
from analysis.report.panels import split
from analysis.schema import PAIR, plain, was_imported

__all__ = ["FIGURES", "Analysed", "Drawing", "Drawn", "draw", "drawings"]


def heatmaps(found: Analysed) -> Iterator[Drawing]:
    """One per setting and n that has pairs."""
    pairs = found.cells[found.cells[PAIR[0]].map(plain) != ""]
    fixed = [str(name) for name in pairs.columns if str(name).startswith(("construction.", "ranker.", "rounds."))]
    for setting, part in split(pairs, [*comparison_columns(found.cells), *fixed, "n"]):
        draw = partial(pair_heatmap, part, **shared(found, setting, part))
        yield drawing_of("heatmap", "Win rate by chosen and rejected position", setting, draw)


def scaling_curves(found: Analysed) -> Iterator[Drawing]:
    """One per setting that has two or more n."""
    for setting, part in split(found.cells[~was_imported(found.cells)], comparison_columns(found.cells)):
        if part.loc[part["status"] == "done", "n"].nunique() > 1:
            draw = partial(scaling_curve, part, **shared(found, setting, part))
            yield drawing_of("scaling", "Win rate against samples per prompt", setting, draw)


def overoptimisations(found: Analysed) -> Iterator[Drawing]:
    """Win rate against KL, one per setting that has two or more cells with both."""
    flagged = near_constant(found.beside)
    for setting, part in split(overoptimisation_points(found.cells, found.beside), comparison_columns(found.cells)):
        if len(part) > 1:
            draw = partial(overoptimisation, part, flagged, **shared(found, setting, part))
            yield drawing_of("overoptimisation", "Win rate against divergence from the policy", setting, draw)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure that is written."""

    drawing: Drawing
    paths: list[Path]
    svg: str
    """At one column's width, its text as text."""


def draw(out: Path, drawing: Drawing) -> Drawn:
    """Write a figure's files into `out`, and draw it for the page."""
    return Drawn(drawing=drawing, paths=drawing.save(out), svg=drawing.svg())


FIGURES: Final[Sequence[Callable[[Analysed], Iterator[Drawing]]]] = (
    heatmaps,
    scaling_curves,
    overoptimisations,
    reward_distributions,
    normality_checks,
    training,
    unlearning,
    boundaries,
    costs,
)
"""Every kind of figure of a report, in its order; another one is added here."""


def drawings(found: Analysed) -> list[Drawing]:
    """All figures of a report."""
    return [drawing for kind in FIGURES for drawing in kind(found)]
