"""Small multiples under a scaling curve of many constructions: each with its interval, the others in grey behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.canvas import (
    GREY,
    INK,
    MUTED,
    POINTS,
    Style,
    figure_of,
    finish_win_rates,
    name_sizes,
    text_width,
    wrap,
)

MOST: Final = 30
"""Constructions that have a panel each; of more a page could not hold them."""

SAME: Final = "same experiment"

OTHERS: Final = "the others"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the panels stand, in inches."""

    across: int
    """Panels side by side."""
    width: float
    """Of a panel."""
    height: float
    gap: float
    """Between panels side by side."""
    titles: Sequence[Sequence[str]]
    """Lines of the title of each panel."""
    over: float
    """Room for a title."""

    @property
    def total(self) -> float:
        """Height of all."""
        return -(-len(self.titles) // self.across) * (self.over + self.height)


def short_name(label: str) -> str:
    """A construction's label as a panel has room for it: of pairs of positions the pair alone."""
    return label.removeprefix("position ")


def layout_of(labels: Sequence[str], style: Style) -> Layout:
    """As many panels side by side as have room for the longest word of their titles."""
    names, inner, gap = [short_name(label) for label in labels], style.width - style.left - style.right, 0.1
    # A pair is one word: it reads badly over two lines.
    names = [name.replace(", ", ",\N{NO-BREAK SPACE}") for name in names]
    word = max(text_width(part, style.small) for name in names for part in name.split(" "))
    across = max(1, min(len(names), int((inner + gap) / (max(word, 0.5) + gap))))
    width = (inner - gap * (across - 1)) / across
    titles = [wrap(name, style.small, width) for name in names]
    lines = max(map(len, titles))
    return Layout(
        across=across,
        width=width,
        height=0.5 if style.narrow else 0.72,
        gap=gap,
        titles=titles,
        over=(1.3 * lines * style.small + 5) / POINTS,
    )


def draw_multiples(
    axes: Axes,
    layout: Layout,
    lines: Mapping[str, pd.DataFrame],
    same: "pd.Index[int]",
    colours: Mapping[str, str],
    style: Style,
    *,
    bottom: float,
) -> list[Axes]:
    """The panels, row by row, on the figure of `axes`, with its n; the lowest ends `bottom` inches from the ground.

    `same` are row labels of cells that are one experiment with another one at their n: their markers are hollow.
    """
    figure = figure_of(axes)
    width, height = figure.get_size_inches()
    rows = -(-len(lines) // layout.across)
    drawn = []
    for place, (label, line) in enumerate(lines.items()):
        row, column = divmod(place, layout.across)
        left = style.left + column * (layout.width + layout.gap)
        low = bottom + (rows - 1 - row) * (layout.over + layout.height)
        small = figure.add_axes((left / width, low / height, layout.width / width, layout.height / height))
        _draw_panel(small, label, lines, line.index.isin(same), colours.get(label, MUTED), style)
        title = "\n".join(layout.titles[place])
        small.text(0, 1.05, title, transform=small.transAxes, size=style.small, color=INK, parse_math=False)
        drawn.append(small)
    ends = [small.get_ylim() for small in drawn]
    for place, small in enumerate(drawn):
        small.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
        lowest = place + layout.across >= len(drawn)
        _finish_panel(small, axes, style, left=place % layout.across == 0, lowest=lowest)
    left, middle = style.left - 4.2 * style.small / POINTS, bottom + layout.total / 2
    look: dict[str, Any] = {"size": style.text, "color": INK}
    figure.text(left / width, middle / height, "win rate (%)", rotation=90, ha="center", va="center", **look)
    centre, under = (style.left + width - style.right) / 2, bottom - 2.6 * style.small / POINTS
    figure.text(centre / width, under / height, "samples per prompt, n", ha="center", va="center", **look)
    return drawn


def _draw_panel(
    axes: Axes,
    label: str,
    lines: Mapping[str, pd.DataFrame],
    hollow: "np.ndarray[tuple[int], np.dtype[np.bool_]]",
    colour: str,
    style: Style,
) -> None:
    for other, line in lines.items():
        if other != label:
            axes.plot(line["n"], 100 * line["win_rate"], color=GREY, linewidth=0.4, zorder=2)
    own = lines[label]
    rate, low, high = (100 * own[name].astype(float) for name in ("win_rate", "low", "high"))
    if len(own) > 1:
        axes.fill_between(own["n"], low, high, color=colour, alpha=0.25, linewidth=0, zorder=3)
    else:
        axes.vlines(own["n"], low, high, color=colour, linewidth=0.8, zorder=3)
    axes.plot(own["n"], rate, color=colour, linewidth=0.9 if style.narrow else 1.2, zorder=4)
    for shared, filling in ((False, colour), (True, "white")):
        part = hollow == shared
        size = 2.2 if style.narrow else 3.2
        look: dict[str, Any] = {"markeredgecolor": colour, "markerfacecolor": filling, "markeredgewidth": 0.7}
        axes.plot(own["n"][part], rate[part], "o", markersize=size, zorder=5, clip_on=False, **look)


def _finish_panel(small: Axes, whole: Axes, style: Style, *, left: bool, lowest: bool) -> None:
    """The n and limits of the figure's first axes; names of ticks only at the left and under the lowest."""
    small.set_xscale("log", base=2)
    small.set_xlim(*whole.get_xlim())
    finish_win_rates(small, style)
    small.set_ylabel("")
    name_sizes(small, [float(tick) for tick in whole.get_xticks()], style.small)
    small.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    small.tick_params(labelsize=style.small, length=1.5, width=0.5, pad=1.5, labelleft=left, labelbottom=lowest)


def handles(colours: Mapping[str, str], why: Mapping[str, str], others: int, *, shared: bool) -> list[Line2D]:
    """Entries of the legend: the constructions in colour with why they are, those in grey, and hollow markers."""
    entries = [
        Line2D(
            [], [], color=colour, marker="o", markersize=3, linewidth=1.2, label=f"{short_name(label)}: {why[label]}"
        )
        for label, colour in colours.items()
    ]
    entries.append(Line2D([], [], color=GREY, linewidth=0.8, label=f"{OTHERS} ({others})"))
    if shared:
        look: dict[str, Any] = {"markeredgecolor": MUTED, "markerfacecolor": "white", "markersize": 4, "linestyle": ""}
        entries.append(Line2D([], [], marker="o", label=SAME, **look))
    return entries
