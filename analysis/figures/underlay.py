"""Published curves under a scaling curve: in grey, on an axis of their own, since they are of another judge."""

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures.canvas import Style, from_ends, per_octave, with_room
from analysis.published import PublishedCurve, PublishedPoint
from analysis.schema import plain

GREY: Final = "#8a8a8a"
GREY_TEXT: Final = "#666666"
MARKERS: Final = "ovs^"
DASHES: Final = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (2, 2)))


def label(curve: PublishedCurve) -> str:
    """What the legend calls a published curve."""
    return f"{curve.construction}, published"


def sentence(curves: Sequence[PublishedCurve]) -> str:
    """Where the grey numbers come from, and that they are no comparison of levels."""
    sources = "; ".join(dict.fromkeys(curve.provenance for curve in curves))
    table = any(point.read == "table" for curve in curves for point in curve.points)
    marks = " (filled: off the figure, to about a point; hollow: from the table)" if table else ""
    return (
        f"Grey, right axis: published, {sources}{marks}. Another policy, judge and reference, and no intervals: the "
        "shapes may be compared, not the levels. Both axes have the same points to the inch."
    )


def draw(axes: Axes, curves: Sequence[PublishedCurve], style: Style) -> list[Artist]:
    """The curves, and their entries of the legend. The limits of `axes` are widened where that is needed."""
    rates = [point.win_rate for curve in curves for point in curve.points]
    low, high = axes.get_ylim()
    span = max(high - low, 1.15 * (max(rates) - min(rates)))
    middle, own = (max(rates) + min(rates)) / 2, (low + high) / 2
    axes.set_ylim(own - span / 2, own + span / 2)
    beside = axes.twinx()
    # The same span, so that equal slopes are equal; another middle, since levels are not to be compared.
    beside.set_ylim(middle - span / 2, middle + span / 2)
    axes.set_zorder(beside.get_zorder() + 1)
    axes.patch.set_visible(False)
    # The grid, too, lies under the grey curves.
    axes.grid(visible=False)
    for tick in axes.get_yticks():
        beside.axhline(tick - own + middle, color="#e5e5e5", linewidth=0.6, zorder=0)
    entries: list[Artist] = []
    for index, curve in enumerate(curves):
        look: dict[str, Any] = {
            "color": GREY,
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": DASHES[index % len(DASHES)],
        }
        look |= {"markersize": 2.5 if style.narrow else 4, "linewidth": 0.9}
        for kind in ("figure", "table"):
            read = sorted((point for point in curve.points if point.read == kind), key=_n)
            x, y = [point.n for point in read], [point.win_rate for point in read]
            beside.plot(x, y, label=kind, **(look if kind == "figure" else look | {"markerfacecolor": "white"}))
        entries.append(Line2D([], [], label=label(curve), **look))
    _finish(axes, beside, curves, style)
    return entries


def _n(point: PublishedPoint) -> int:
    return point.n


def _finish(axes: Axes, beside: Axes, curves: Sequence[PublishedCurve], style: Style) -> None:
    """Both axes' ends and ticks; the sweep's own n are named first, of the published those that have room."""
    low, high = axes.get_xlim()
    sizes = sorted({point.n for curve in curves for point in curve.points})
    margin = max(sizes[-1] / sizes[0], 2) ** 0.06
    axes.set_xlim(min(low, sizes[0] / margin), max(high, sizes[-1] * margin))
    own = [float(tick) for tick in axes.get_xticks()]
    octave = per_octave(axes)
    shown = with_room(from_ends(own), [], per_octave=octave, size=style.text)
    shown = with_room([sizes[0], sizes[-1], *sizes], shown, per_octave=octave, size=style.text)
    ticks = sorted({*own, *shown})
    axes.set_xticks(ticks, [plain(tick) if tick in shown else "" for tick in ticks])
    axes.minorticks_off()
    beside.set_ylabel("published win rate (%)", size=style.text, color=GREY_TEXT)
    beside.tick_params(labelsize=style.text, length=2.5, width=0.6, colors=GREY_TEXT)
    beside.spines[["top", "left", "bottom"]].set_visible(False)
    beside.spines["right"].set(linewidth=0.6, color=GREY)
