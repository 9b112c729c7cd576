"""Win rate against what training changes besides: the divergence from the reference policy, and the answers' length.

Training moves a model away from where it began. A win rate that rises and then falls with that distance is what
over-optimisation looks like (Gao et al., arXiv 2210.10760, whose axis, the square root of KL, is used here). One that
rises with length may be the judge's liking for long answers (Dubois et al., arXiv 2404.04475).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.captions import caption, construction_labels, pair_text, position_text, provenance_text
from analysis.figures.canvas import (
    INK,
    LINES,
    MARKERS,
    MUTED,
    Style,
    finish_win_rates,
    legend,
    legend_layout,
    new_axes,
    style_for,
    text_width,
)
from analysis.figures.labels import Label, label_points
from analysis.schema import PAIR, plain
from harness.positions import POSITIONS

POSITION: Final = "position"
"""The construction whose pairs are told apart by colour and marker."""

FLAGGED: Final = "near-constant answers"

MOST_LABELLED: Final = 24
"""Points up to which n is written beside each; of more the marker's size shows it."""

Handles = list[Line2D | Patch]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What win rates are set against."""

    measure: str
    """A measure of `beside.MEASURES`; a column of the points, with its interval in `_low` and `_high`."""
    name: str
    axis: str
    narrow_axis: str
    root: bool = False
    """Whether the axis is a square root."""


KL: Final = Measured(
    measure="kl",
    name="KL",
    axis="KL from the reference policy (nats per answer, square-root axis)",
    narrow_axis="KL from the reference policy (nats)",
    root=True,
)
LENGTH: Final = Measured(
    measure="characters",
    name="mean length",
    axis="mean length of an answer (characters)",
    narrow_axis="mean length of an answer (characters)",
)


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
        points: of `beside.beside_points` with `kl`; colour is the rejected position, the marker the chosen one.
        flagged: row labels of cells whose answers are near-constant; they carry a ring.
        width: in inches; `detectable` is a fraction.
    """
    shared: dict[str, Any] = {"width": width, "detectable": detectable, "heading": heading, "provenance": provenance}
    return _scatter(points, flagged, KL, **shared)


def length_scatter(
    points: pd.DataFrame,
    flagged: Mapping[int, float],
    *,
    width: float = 7.0,
    detectable: float = float("nan"),
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Win rate in % against the answers' mean length in characters, with the intervals of both.

    Args:
        points: of `beside.beside_points` with `characters`; where it has `length_ratio` a line shows the mean length of
            the reference answers.
        flagged: row labels of cells whose answers are near-constant; they carry a ring.
        width: in inches; `detectable` is a fraction.
    """
    shared: dict[str, Any] = {"width": width, "detectable": detectable, "heading": heading, "provenance": provenance}
    reference = reference_length(points)
    if np.isnan(reference):
        return _scatter(points, flagged, LENGTH, **shared)
    more = f"Dotted: mean length of the reference answers, {reference:.0f} characters."
    axes = _scatter(points, flagged, LENGTH, more=more, least=reference, most=reference, **shared)
    axes.axvline(reference, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    return axes


def reference_length(points: pd.DataFrame) -> float:
    """Mean length of the reference answers, of which the length ratios are; NaN where these do not agree on one."""
    if "length_ratio" not in points.columns:
        return float("nan")
    lengths = (points["characters"] / points["length_ratio"]).dropna()
    # Cells judged on other instructions, where some have no answer, have other references.
    return float(lengths.median()) if len(lengths) and lengths.max() <= 1.01 * lengths.min() else float("nan")


def _scatter(
    points: pd.DataFrame,
    flagged: Mapping[int, float],
    measured: Measured,
    *,
    width: float,
    detectable: float,
    heading: str,
    provenance: Mapping[str, object] | None,
    more: str = "",
    least: float = float("inf"),
    most: float = float("-inf"),
) -> Axes:
    """The points in a frame that reaches from `least` to `most` at least; `more` goes into the caption."""
    style = style_for(width)
    # The largest markers first: smaller ones stay visible upon them.
    drawn = points[~points["experiment"].duplicated()].sort_values("n", ascending=False, kind="stable")
    sizes = marker_sizes(drawn, style)
    several = points["n"].nunique() > 1
    labelled = several and len(drawn) <= MOST_LABELLED
    names = {row: name for row, name in _names(points).items() if row in drawn.index}
    every = len(drawn) > 0 and set(drawn.index) <= set(flagged)
    flagged = {} if every else flagged
    handles = _handles(drawn, names, style, ringed=any(label in flagged for label in drawn.index))
    if several and not labelled:
        handles += [_handle(f"n = {n}", MUTED, "o", size=size) for n, size in sizes.items() if n]
    parts = [caption(points, detectable), f"Bars: 95\N{NO-BREAK SPACE}% intervals of win rate and {measured.name}."]
    parts.append("Numbers: samples per prompt, n." if labelled else "")
    parts.append("The answers of all cells are near-constant." if every else "")
    if hidden := len(points) - len(drawn):
        parts.append(f"Not drawn, as the same experiment is: {hidden} of {len(points)} cells.")
    if under := int(drawn.duplicated([measured.measure, "win_rate"]).sum()):
        parts.append(f"Points exactly upon another: {under}.")

    columns, room = legend_layout([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=0.62 * (style.width - style.left - style.right),
        heading=heading,
        caption=" ".join(part for part in (*parts, more) if part),
        provenance=provenance_text(provenance),
        above=room,
    )
    fixed = 5.0 if style.narrow else 6.5
    looks = {int(str(label)): _look(int(str(label)), cell, names, len(drawn)) for label, cell in drawn.iterrows()}
    _draw_bars(axes, drawn, measured.measure, [colour for colour, _ in looks.values()])
    for label, (_, cell) in zip(looks, drawn.iterrows(), strict=True):
        size = sizes[plain(cell["n"])] if several and not labelled else fixed
        _draw_point(axes, cell, measured.measure, looks[label], size=size)
        if label in flagged:
            _draw_ring(axes, cell, measured.measure, size)
    _finish_axes(axes, drawn, measured, style, least=least, most=most)
    if labelled:
        _label_sizes(axes, points, flagged, measured.measure, style)
    legend(axes, handles, columns, style, bbox_to_anchor=(0, 1.01), handlelength=1.2)
    return axes


def marker_sizes(points: pd.DataFrame, style: Style) -> dict[str, float]:
    """Diameter in points of the marker of each n, the larger the larger; an import, which has no n, has the middle."""
    sizes = sorted(set(points["n"].astype(float).dropna()))
    smallest, largest = (3.0, 6.5) if style.narrow else (4.0, 9.0)
    steps = np.linspace(smallest, largest, len(sizes)) if len(sizes) > 1 else [(smallest + largest) / 2] * len(sizes)
    found = {plain(n): float(step) for n, step in zip(sizes, steps, strict=True)}
    if points["n"].isna().any():
        found[""] = (smallest + largest) / 2
    return found


def _names(points: pd.DataFrame) -> dict[int, str]:
    """By row label the cells that no colour and marker of positions tells apart: those without a pair, and of several
    constructions with pairs all but `position`, or else the first."""
    labels = dict(zip(points.index, construction_labels(points), strict=True))
    pairs = points[points[PAIR[0]].map(plain) != ""]
    constructions = list(dict.fromkeys(pairs["construction.name"].map(plain)))
    shown = POSITION if POSITION in constructions else next(iter(constructions), "")
    told = set(pairs.index[pairs["construction.name"].map(plain) == shown])
    return {int(row): label for row, label in labels.items() if row not in told}


def _look(label: int, cell: "pd.Series[Any]", names: Mapping[int, str], count: int) -> tuple[str, str]:
    """Colour and marker: of a pair by its positions, else by the name."""
    if label in names:
        return _named_look(list(dict.fromkeys(names.values())).index(names[label]), alone=len(names) == count)
    chosen, rejected = (plain(cell[name]) for name in PAIR)
    return _colour(rejected), _marker(chosen)


def _named_look(index: int, *, alone: bool) -> tuple[str, str]:
    """Colour and marker of a name: black beside pairs, whose colours are those of positions."""
    return LINES[index % len(LINES)] if alone else INK, MARKERS[index % len(MARKERS)]


def _colour(rejected: str) -> str:
    return LINES[POSITIONS.index(rejected) if rejected in POSITIONS else -1]


def _marker(chosen: str) -> str:
    return MARKERS[POSITIONS.index(chosen) - 1 if chosen in POSITIONS else -1]


def _draw_bars(axes: Axes, points: pd.DataFrame, measure: str, colours: list[str]) -> None:
    """Both intervals of every point; a bound that is not known has no bar, and the table says why."""
    look: dict[str, Any] = {
        "colors": colours,
        "linewidths": 0.6,
        "alpha": 1.0 if len(points) <= MOST_LABELLED else 0.3,
        "zorder": 2.9,
    }
    rate, low, high = (100 * points[name].astype(float) for name in ("win_rate", "low", "high"))
    axes.hlines(rate, points[f"{measure}_low"], points[f"{measure}_high"], clip_on=False, **look)
    axes.vlines(points[measure], low, high, clip_on=False, **look)


def _draw_point(axes: Axes, cell: "pd.Series[Any]", measure: str, look: tuple[str, str], *, size: float) -> None:
    colour, marker = look
    axes.plot(
        [float(cell[measure])],
        [100 * float(cell["win_rate"])],
        color=colour,
        linestyle="",
        marker=marker,
        markersize=size,
        markeredgecolor="white",
        markeredgewidth=0.4,
        clip_on=False,
        zorder=3,
    )


def _draw_ring(axes: Axes, cell: "pd.Series[Any]", measure: str, size: float) -> None:
    at = ([cell[measure]], [100 * cell["win_rate"]])
    axes.scatter(*at, s=(2.2 * size) ** 2, facecolors="none", edgecolors=INK, linewidths=1.0, zorder=4)


def _label_sizes(axes: Axes, points: pd.DataFrame, flagged: Mapping[int, float], measure: str, style: Style) -> None:
    """n beside each point; those of cells at one place, as one experiment's are, stand together."""
    marker = 2.0 if style.narrow else 3.0
    labels = []
    for _, same in points.groupby([measure, "win_rate"], sort=False):
        sizes = sorted(set(same["n"].astype(float).dropna()))
        at = {"x": float(same[measure].iloc[0]), "y": 100 * float(same["win_rate"].iloc[0])}
        # A ring is 2.2 times as wide as its marker.
        clear = 2.4 * marker if any(row in flagged for row in same.index) else marker
        labels.append(Label(**at, text=", ".join(map(plain, sizes)), clear=clear))
    label_points(axes, [label for label in labels if label.text], size=style.small - 1)


def _finish_axes(
    axes: Axes, points: pd.DataFrame, measured: Measured, style: Style, *, least: float, most: float
) -> None:
    reach = points[[measured.measure, f"{measured.measure}_low", f"{measured.measure}_high"]].astype(float)
    low, high = min(least, float(reach.min().min())), max(most, float(reach.max().max()))
    if measured.root:
        axes.set_xscale("function", functions=(lambda value: np.sqrt(np.maximum(value, 0)), np.square))
        end = 1.1 * high if high > 0 else 1.0
        axes.set_xlim(0, end)
        widest = max(text_width(f"{tick:g}", style.text) for tick in root_ticks(end, 0.1))
        ticks = root_ticks(end, max(0.1, (widest + 0.06) / (style.width - style.left - style.right)))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    else:
        margin = 0.06 * (high - low) or 1.0
        axes.set_xlim(max(0.0, low - margin), high + margin)
    axes.set_xlabel(measured.narrow_axis if style.narrow else measured.axis, size=style.text, color=INK)
    finish_win_rates(axes, style)


def root_ticks(end: float, apart: float) -> list[float]:
    """0, a round number near `end`, and below it those of 1, 2, 5 whose square roots are `apart` of the axis."""
    power = int(np.floor(np.log10(end)))
    ticks = [max(tick for step in (1, 2, 3, 4, 6, 8) if (tick := float(f"{step}e{power}")) <= end)]
    for tick in (float(f"{step}e{exponent}") for exponent in range(power, power - 4, -1) for step in (5, 2, 1)):
        if min(np.sqrt(ticks[-1]) - np.sqrt(tick), np.sqrt(tick)) >= apart * np.sqrt(end):
            ticks.append(tick)
    return [0.0, *reversed(ticks)]


def _handles(points: pd.DataFrame, names: Mapping[int, str], style: Style, *, ringed: bool) -> Handles:
    """A colour per rejected position, a marker per chosen one, and what else there is."""
    pairs = points[~points.index.isin(list(names))]
    handles: Handles = []
    if pairs[list(PAIR)].map(plain).drop_duplicates().shape[0] == 1:
        chosen, rejected = (plain(pairs.iloc[0][name]) for name in PAIR)
        construction = plain(pairs["construction.name"].iloc[0])
        name = " ".join([construction] * (construction != POSITION) + [pair_text(chosen, rejected)])
        handles.append(_handle(name, _colour(rejected), _marker(chosen)))
    else:
        rejected_ones = _by_position(pairs[PAIR[1]])
        chosen_ones = _by_position(pairs[PAIR[0]])
        handles += [Patch(color=_colour(p), label=f"rejected {position_text(p)}") for p in rejected_ones]
        handles += [_handle(f"chosen {position_text(p)}", MUTED, _marker(p)) for p in chosen_ones]
    looks = [_named_look(i, alone=pairs.empty) for i in range(len(set(names.values())))]
    handles += [_handle(name, *look) for name, look in zip(dict.fromkeys(names.values()), looks, strict=True)]
    if ringed:
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=8, mfc="none", mec=INK, label=FLAGGED))
    for handle in handles:
        if isinstance(handle, Line2D):
            handle.set_markersize(min(handle.get_markersize(), 0.85 * style.small))
    return handles


def _by_position(values: "pd.Series[Any]") -> list[str]:
    """Positions from the lowest; those that are not of the seven at the end."""
    found = list(dict.fromkeys(values.map(plain)))
    return sorted(found, key=lambda p: (POSITIONS.index(p) if p in POSITIONS else len(POSITIONS), p))


def _handle(label: str, colour: str, marker: str, *, size: float = 6) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, markersize=size, label=label)
