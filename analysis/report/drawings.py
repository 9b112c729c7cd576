"""The figures of a report: what is drawn, and the files and vector graphics that come of it."""

import hashlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from analysis.beside import near_constant
from analysis.estimates import comparison_columns, detectable_difference
from analysis.figures import figure_of, pair_heatmap, save, scaling_curve
from analysis.overoptimisation import overoptimisation, overoptimisation_points
from analysis.report.panels import Provenance, Setting, heading, split
from analysis.schema import PAIR, plain, was_imported

COLUMN: Final = 3.4
"""Width in inches of the figures on the page, which a phone can show; the files have a page's width."""

LONGEST_NAME: Final = 120
"""Characters of a figure's file name, well under what file systems allow."""


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """What figures are drawn from."""

    cells: pd.DataFrame
    table: pd.DataFrame
    beside: pd.DataFrame
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure, drawn when it is asked for."""

    kind: str
    """What the figure is, as a title."""
    setting: Setting
    stem: str
    """File name without suffix."""
    draw: "partial[Axes]"
    """The axes, at a `width` in inches."""

    def save(self, out: Path) -> list[Path]:
        """Write PNG and SVG at a page's width into `out`, each at once."""
        with TemporaryDirectory(dir=out, prefix=".") as waiting:
            written = save(figure_of(self.draw(width=7.0)), Path(waiting) / self.stem)
            return [path.replace(out / path.name) for path in written]

    def svg(self) -> str:
        """The figure at one column's width, its text as text."""
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": self.stem, "svg.fonttype": "none"}):
            figure_of(self.draw(width=COLUMN)).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def heatmaps(found: Analysed) -> Iterator[Drawing]:
    """One per setting and n that has pairs."""
    pairs = found.cells[found.cells[PAIR[0]].map(plain) != ""]
    fixed = [str(name) for name in pairs.columns if str(name).startswith(("construction.", "ranker.", "rounds."))]
    for setting, part in split(pairs, [*comparison_columns(found.cells), *fixed, "n"]):
        draw = partial(pair_heatmap, part, **_shared(found, setting, part))
        yield _drawing("heatmap", "Win rate by chosen and rejected position", setting, draw)


def scaling_curves(found: Analysed) -> Iterator[Drawing]:
    """One per setting that has two or more n."""
    for setting, part in split(found.cells[~was_imported(found.cells)], comparison_columns(found.cells)):
        if part.loc[part["status"] == "done", "n"].nunique() > 1:
            draw = partial(scaling_curve, part, **_shared(found, setting, part))
            yield _drawing("scaling", "Win rate against samples per prompt", setting, draw)


def overoptimisations(found: Analysed) -> Iterator[Drawing]:
    """Win rate against KL, one per setting that has two or more cells with both."""
    flagged = near_constant(found.beside)
    for setting, part in split(overoptimisation_points(found.cells, found.beside), comparison_columns(found.cells)):
        if len(part) > 1:
            draw = partial(overoptimisation, part, flagged, **_shared(found, setting, part))
            yield _drawing("overoptimisation", "Win rate against divergence from the policy", setting, draw)


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


FIGURES: Final[Sequence[Callable[[Analysed], Iterator[Drawing]]]] = (heatmaps, scaling_curves, overoptimisations)
"""Every kind of figure of a report, in its order; another one is added here."""


def drawings(found: Analysed) -> list[Drawing]:
    """All figures of a report."""
    return [drawing for kind in FIGURES for drawing in kind(found)]


def _shared(found: Analysed, setting: Setting, part: pd.DataFrame) -> dict[str, Any]:
    """What every figure says beside its numbers."""
    detectable = detectable_difference(part, found.table)
    return {"detectable": detectable, "heading": heading(setting), "provenance": found.provenance}


def _drawing(name: str, kind: str, setting: Setting, draw: "partial[Axes]") -> Drawing:
    return Drawing(kind=kind, setting=setting, stem=_stem(name, setting), draw=draw)


def _stem(kind: str, setting: Setting) -> str:
    """File name without suffix: kind and varying settings; a hash stands in for what does not fit."""
    words = [kind, *(f"{name}={value or 'none'}" for name, value in setting.items())]
    whole = "-".join(words)
    safe = re.sub(r"[^A-Za-z0-9._=+-]", "_", whole)
    if safe == whole and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
