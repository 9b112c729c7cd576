"""One figure of a report: what it is drawn from, its files, and its vector graphics."""

import hashlib
import io
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from analysis.estimates import detectable_difference
from analysis.figures import figure_of, save
from analysis.report.frames import Frames
from analysis.report.panels import Provenance, Setting, heading

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
    results: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    """Of `analysis.unlearning`, where they were measured."""
    frames: Frames | None = None
    """What else the store has; without it only the cells are drawn."""


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


def shared(found: Analysed, setting: Setting, part: pd.DataFrame) -> dict[str, Any]:
    """What every figure says beside its numbers."""
    detectable = detectable_difference(part, found.table)
    return {"detectable": detectable, "heading": heading(setting), "provenance": found.provenance}


def drawing_of(name: str, kind: str, setting: Setting, draw: "partial[Axes]") -> Drawing:
    return Drawing(kind=kind, setting=setting, stem=_stem(name, setting), draw=draw)


def _stem(kind: str, setting: Setting) -> str:
    """File name without suffix: kind and varying settings; a hash stands in for what does not fit."""
    words = [kind, *(f"{name}={value or 'none'}" for name, value in setting.items())]
    whole = "-".join(words)
    safe = re.sub(r"[^A-Za-z0-9._=+-]", "_", whole)
    if safe == whole and len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
