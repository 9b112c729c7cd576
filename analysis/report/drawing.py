"""One figure of a report: what it is drawn from, its files, and its vector graphics."""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from analysis.estimates import APART, comparison_columns, detectable_difference, with_standing
from analysis.figures import figure_of
from analysis.figures.canvas import save_png
from analysis.report.frames import Frames
from analysis.report.panels import Provenance, Setting, heading, split
from analysis.schema import PAIR, plain

COLUMN: Final = 3.4
"""Width in inches of the figures on the page, which a phone can show; the files have a page's width."""

LEAST_PAIRS: Final = 2
"""Pairs from which cells make a heatmap: one alone is a number, and stands in the table."""

LONGEST_NAME: Final = 120
"""Characters of a figure's file name, well under what file systems allow."""


@dataclass(frozen=True, kw_only=True)
class Analysed:
    """What figures are drawn from."""

    cells: pd.DataFrame
    table: pd.DataFrame
    beside: pd.DataFrame
    provenance: Provenance
    results: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    """Of `analysis.unlearning`, where they were measured."""
    frames: Frames | None = None
    """What else the store has; without it only the cells are drawn."""
    overlap: pd.DataFrame | None = None
    """Of `load.load_overlap`."""
    published: bool = False
    """Whether published curves are drawn under our own."""

    @cached_property
    def heatmaps(self) -> list[tuple[Setting, pd.DataFrame]]:
        """The cells of each heatmap of `LEAST_PAIRS` pairs, with how they stand, by its settings."""
        pairs = self.cells[self.cells[PAIR[0]].map(plain) != ""]
        fixed = [str(name) for name in pairs.columns if str(name).startswith(APART)]
        parts = split(pairs, [*comparison_columns(self.cells), *fixed, "n"])
        return [(setting, with_standing(part, self.table)) for setting, part in parts if len(part) >= LEAST_PAIRS]


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

    def save(self, out: Path, svg: str) -> list[Path]:
        """Write a PNG at a page's width, and what `svg` has given, into `out`, each at once."""
        with TemporaryDirectory(dir=out, prefix=".") as waiting:
            png, vector = Path(waiting) / f"{self.stem}.png", Path(waiting) / f"{self.stem}.svg"
            save_png(figure_of(self.draw(width=7.0)), png)
            vector.write_text(svg, encoding="utf-8")
            return [path.replace(out / path.name) for path in (png, vector)]

    def svg(self) -> str:
        """The figure at one column's width, its text as text."""
        buffer = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": self.stem, "svg.fonttype": "none"}):
            figure_of(self.draw(width=COLUMN)).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


@dataclass(frozen=True, kw_only=True)
class NotDrawn:
    """A figure that a report has not, and why."""

    kind: str
    reason: str
    setting: Setting = field(default_factory=dict)


Figures = Iterator[Drawing | NotDrawn]
"""What one kind of figure yields: its drawings, and where data are wanting for one the reason."""


def shared(found: Analysed, setting: Setting, part: pd.DataFrame) -> dict[str, Any]:
    """What every figure says beside its numbers."""
    detectable = detectable_difference(part, found.table)
    return {"detectable": detectable, "heading": heading(setting), "provenance": found.provenance}


def drawing_of(name: str, kind: str, setting: Setting, draw: "partial[Axes]") -> Drawing:
    """A drawing whose file is named by `name` and the setting."""
    return Drawing(kind=kind, setting=setting, stem=_stem(name, setting), draw=draw)


def _stem(kind: str, setting: Setting) -> str:
    """File name without suffix: kind and varying settings; a hash stands in for what does not fit."""
    words = [kind, *(f"{name}={value or 'none'}" for name, value in setting.items())]
    whole = "-".join(words)
    safe = re.sub(r"[^A-Za-z0-9._=+-]", "_", whole)
    if safe == whole and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
