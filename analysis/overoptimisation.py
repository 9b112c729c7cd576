"""The over-optimisation figure: win rate against the divergence from the reference policy, a point per cell.

Training moves a model away from where it began. A win rate that rises and then falls with that distance is what
over-optimisation looks like (Gao et al., arXiv 2210.10760, whose axis, the square root of KL, is used here).
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.captions import caption, pair_text, position_text, provenance_text
from analysis.figures.canvas import INK, MUTED, Style, finish_win_rates, new_axes, style_for
from analysis.figures.scaling import LINES, MARKERS
from analysis.schema import PAIR, plain
from harness.positions import POSITIONS

FLAGGED: Final = "near-constant answers"


def overoptimisation_points(cells: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """The done cells with a win rate and a KL: both with their intervals, `kl`, `kl_low`, `kl_high` among them."""
    kl = beside[(beside["measure"] == "kl") & beside["estimate"].notna()].set_index("cell")
    done = cells[(cells["status"] == "done") & cells["win_rate"].notna() & cells.index.isin(kl.index)]
    columns = {"kl": "estimate", "kl_low": "low", "kl_high": "high"}
    return done.assign(**{name: kl[column].reindex(done.index).astype(float) for name, column in columns.items()})


def overoptimisation(
    points: pd.DataFrame,
    flagged: Mapping[int, float],
    *,
    width: float = 7.0,
    detectable: float = float("nan"),
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Win rate in % against KL in nats, square-root axis, with the intervals of both.

    Args:
        points: of `overoptimisation_points`; colour is the rejected position, the marker the chosen one.
        flagged: row labels of cells whose answers are near-constant; they carry a ring.
        width: in inches; `detectable` is a fraction.
    """
    style = style_for(width)
    text = caption(points, detectable)
    text += " Bars: 95\N{NO-BREAK SPACE}% intervals of win rate and KL."
    if points["n"].map(plain).nunique() > 1:
        text += " Numbers: samples per prompt, n."
    others = _others(points)
    handles = _handles(points, others, ringed=any(label in flagged for label in points.index))
    columns = 2 if style.narrow else 4
    axes = new_axes(
        style,
        body=0.62 * (style.width - style.left - style.right),
        heading=heading,
        caption=text,
        provenance=provenance_text(provenance),
        above=(-(-len(handles) // columns) * 1.45 * style.small + 6) / 72,
    )
    for label, cell in points.iterrows():
        _draw_point(axes, cell, style, _look(cell, others), ring=label in flagged)
    _label_sizes(axes, points, style)
    _finish_axes(axes, points, style)
    _draw_legend(axes, handles, columns, style)
    return axes


def _others(points: pd.DataFrame) -> list[str]:
    """Constructions without a pair of their own."""
    without = points[points[PAIR[0]].map(plain) == ""]
    return list(dict.fromkeys(_construction(cell) for _, cell in without.iterrows()))


def _construction(cell: "pd.Series[Any]") -> str:
    imported = [f"imported {plain(cell[name])}" for name in ("train.imported", "evaluate.answers") if name in cell]
    return next((name for name in imported if name != "imported "), plain(cell["construction.name"]))


def _look(cell: "pd.Series[Any]", others: list[str]) -> tuple[str, str]:
    """Colour and marker: of a pair by its positions, else black and by the construction."""
    chosen, rejected = (plain(cell[name]) for name in PAIR)
    if not chosen:
        return INK, MARKERS[others.index(_construction(cell)) % len(MARKERS)]
    return _colour(rejected), _marker(chosen)


def _colour(rejected: str) -> str:
    return LINES[POSITIONS.index(rejected) if rejected in POSITIONS else -1]


def _marker(chosen: str) -> str:
    return MARKERS[POSITIONS.index(chosen) - 1 if chosen in POSITIONS else -1]


def _draw_point(axes: Axes, cell: "pd.Series[Any]", style: Style, look: tuple[str, str], *, ring: bool) -> None:
    colour, marker = look
    rate = 100 * float(cell["win_rate"])
    spread = [[rate - 100 * float(cell["low"])], [100 * float(cell["high"]) - rate]]
    beside = [[cell["kl"] - cell["kl_low"]], [cell["kl_high"] - cell["kl"]]]
    axes.errorbar(
        [cell["kl"]],
        [rate],
        # A bound that is not known has no bar; the table says why.
        xerr=None if np.isnan(beside).any() else beside,
        yerr=None if np.isnan(spread).any() else spread,
        color=colour,
        marker=marker,
        markersize=4 if style.narrow else 6,
        elinewidth=0.6,
        alpha=0.9,
        clip_on=False,
        zorder=3,
    )
    if ring:
        size = 70 if style.narrow else 140
        axes.scatter([cell["kl"]], [rate], s=size, facecolors="none", edgecolors=INK, linewidths=1.0, zorder=4)


def _label_sizes(axes: Axes, points: pd.DataFrame, style: Style) -> None:
    if points["n"].map(plain).nunique() < 2:
        return
    for _, cell in points.iterrows():
        axes.annotate(
            plain(cell["n"]),
            (cell["kl"], 100 * cell["win_rate"]),
            xytext=(3, 3),
            textcoords="offset points",
            size=style.small - 1,
            color=MUTED,
            parse_math=False,
        )


def _finish_axes(axes: Axes, points: pd.DataFrame, style: Style) -> None:
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    largest = float(points[["kl", "kl_high"]].max().max())
    axes.set_xlim(0, 1.1 * largest if largest > 0 else 1.0)
    unit = "nats" if style.narrow else "nats per answer, square-root axis"
    axes.set_xlabel(f"KL from the reference policy ({unit})", size=style.text, color=INK)
    finish_win_rates(axes, style)


def _handles(points: pd.DataFrame, others: list[str], *, ringed: bool) -> list[Line2D | Patch]:
    """A colour per rejected position, a marker per chosen one, and what else there is."""
    pairs = points[points[PAIR[0]].map(plain) != ""]
    handles: list[Line2D | Patch] = []
    if pairs[list(PAIR)].map(plain).drop_duplicates().shape[0] == 1:
        chosen, rejected = (plain(pairs.iloc[0][name]) for name in PAIR)
        handles.append(_handle(pair_text(chosen, rejected), _colour(rejected), _marker(chosen)))
    else:
        rejected_ones = _by_position(pairs[PAIR[1]])
        chosen_ones = _by_position(pairs[PAIR[0]])
        handles += [Patch(color=_colour(p), label=f"rejected {position_text(p)}") for p in rejected_ones]
        handles += [_handle(f"chosen {position_text(p)}", MUTED, _marker(p)) for p in chosen_ones]
    handles += [_handle(name, INK, MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)]
    if ringed:
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=8, mfc="none", mec=INK, label=FLAGGED))
    return handles


def _draw_legend(axes: Axes, handles: list[Line2D | Patch], columns: int, style: Style) -> None:
    """Above the axes, where it hides nothing."""
    legend = axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.01),
        ncols=columns,
        fontsize=style.small,
        frameon=False,
        borderaxespad=0,
        labelspacing=0.3,
        columnspacing=1.2,
        handlelength=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _by_position(values: "pd.Series[Any]") -> list[str]:
    """Positions from the lowest; those that are not of the seven at the end."""
    found = list(dict.fromkeys(values.map(plain)))
    return sorted(found, key=lambda p: (POSITIONS.index(p) if p in POSITIONS else len(POSITIONS), p))


def _handle(label: str, colour: str, marker: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=6, label=label)
