"""The unlearning curve: how the log-probability of held-out responses has changed, against their reward."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.captions import provenance_text
from analysis.figures.canvas import GREY, MARKERS, MUTED, Style, new_axes, style_for
from analysis.figures.panels import cell_handles, cell_look, check_some, draw_legend, finish, label, legend_room
from analysis.schema import plain

MOST_SHOWN: Final = 6
"""Cells up to which each has a colour; of more, those that change most differently with the reward have one."""


def unlearning_curve(
    curves: pd.DataFrame,
    names: Mapping[int, str],
    *,
    width: float = 7.0,
    heading: str = "",
    reward: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Mean change of log-probability against reward, a line per cell, with 95 % intervals.

    Args:
        curves: of `analysis.unlearning.unlearning_curves`.
        names: of the cells, by row label.
        width: in inches.
        heading: over the figure.
        reward: the reward in words.
        provenance: the figure's small print.
    """
    check_some(curves, "unlearning curve")
    style = style_for(width)
    shown = shown_cells(curves)
    others = curves["cell"].nunique() - len(shown)
    handles = cell_handles([names[cell] for cell in shown], others, style)
    columns, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=0.62 * (style.width - style.left - style.right),
        heading=heading,
        caption=_caption(curves, reward),
        provenance=provenance_text(provenance),
        above=room,
    )
    finish(axes, style)
    for cell, own in curves.groupby("cell", sort=False):
        if cell not in shown:
            axes.plot(own["reward"], own["change"], color=GREY, linewidth=0.6, zorder=2)
    # Apart by a hundredth of the axis, so that bars do not hide each other.
    step = 0.01 * float(np.ptp(curves["reward"])) if len(curves) else 0.0
    for index, cell in enumerate(shown):
        own = curves[curves["cell"] == cell]
        _draw(axes, own.assign(reward=own["reward"] + step * (index - (len(shown) - 1) / 2)), index, style)
    axes.axhline(0, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    label(axes, style, x="reward, less the mean of its prompt", y="change of log-prob., nats per response")
    draw_legend(axes, handles, columns, style, over=0.02)
    return axes


def shown_cells(curves: pd.DataFrame) -> list[int]:
    """Row labels of the cells in colour: all, or those whose change from the lowest rank to the highest is extreme."""
    cells = [int(cell) for cell in dict.fromkeys(curves["cell"])]
    if len(cells) <= MOST_SHOWN:
        return cells
    ordered = curves.sort_values("rank").groupby("cell")["change"]
    rise = (ordered.last() - ordered.first()).dropna().sort_values()
    half = MOST_SHOWN // 2
    ends = [int(cell) for cell in (*rise.index[:half], *rise.index[half:][-half:])]
    return [cell for cell in cells if cell in ends]


def _draw(axes: Axes, own: pd.DataFrame, index: int, style: Style) -> None:
    look = cell_look(index)
    size = 3 if style.narrow else 4.5
    marker = MARKERS[index % len(MARKERS)]
    axes.plot(own["reward"], own["change"], marker=marker, markersize=size, linewidth=1.2, zorder=4, **look)
    known = own[np.isfinite(own["low"].astype(float))]
    # Bars rather than bands, which would hide each other.
    axes.vlines(known["reward"], known["low"], known["high"], color=look["color"], linewidth=0.8, zorder=3)


def _caption(curves: pd.DataFrame, reward: str) -> str:
    known = curves[curves["low"].notna()]
    methods = " / ".join(dict.fromkeys(known["method"])).replace("instructions", "prompts")
    scopes = " / ".join(dict.fromkeys(known["scope"]))
    low, high = int(curves["prompts"].min()), int(curves["prompts"].max())
    count = f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
    bars = f"Bars: 95\N{NO-BREAK SPACE}% intervals ({methods}; {scopes})." if len(known) else ""
    without = " / ".join(dict.fromkeys(curves.loc[curves["low"].isna(), "note"]))
    return (
        "Responses of the untrained policy to held-out instructions, in groups by the rank of their reward among those "
        "to one prompt; change from the policy to the cell's model. A line that rises unlearns good responses less "
        f"than bad ones. Reward: {plain(reward) or 'not stated'}. {count} prompts. {bars}"
        + (f" Points without a bar have {without}." if without else "")
    )
