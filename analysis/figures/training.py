"""Training curves: loss, margin and log-probabilities against the optimiser step."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.captions import labels_sentence, provenance_text
from analysis.figures.canvas import GREY, POINTS, Style, new_axes, style_for
from analysis.figures.panels import (
    cell_handles,
    cell_look,
    check_some,
    divide,
    draw_legend,
    label,
    legend_room,
    title,
)
from analysis.statistics import Floats
from analysis.training_curves import QUANTITIES

TITLES: Final = {"loss": "Loss", "margin": "Reward margin", "chosen_logp": "Chosen", "rejected_logp": "Rejected"}


def training_curves(
    curves: pd.DataFrame,
    names: Mapping[int, str],
    *,
    cells: pd.DataFrame,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Four quantities against the step: named cells in colour, their seeds as thin lines, the others in grey behind.

    Args:
        curves: of `analysis.training_curves.training_curves_of`.
        names: of the cells in colour, by row label.
        cells: of `estimates.estimate_cells`; the caption says what judged them.
        width: in inches.
        heading: over the figure.
        provenance: its small print.

    Raises PrefsweepError where there is no curve.

    Returns:
        The axes of the loss; those of margin, chosen and rejected log-probability follow on the same figure.
    """
    check_some(curves, "training curves")
    style = style_for(width)
    others = curves.loc[~curves["cell"].isin(list(names)), "cell"].nunique()
    handles = cell_handles(list(names.values()), others, style)
    columns, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=(0.95 if style.narrow else 0.66) * (style.width - style.left),
        heading=heading,
        caption=_caption(curves, cells, others),
        provenance=provenance_text(provenance),
        above=room + 1.6 * style.text / POINTS,
    )
    panels = divide(axes, style, widths=(1, 1), heights=(1, 1))
    for panel, quantity in zip(panels, QUANTITIES, strict=True):
        _draw(panel, curves, quantity, list(names), style)
        title(panel, TITLES[quantity], style)
        logp = "log-prob. change, nats" if curves["changed"].all() else "log-probability, nats"
        unit = {"loss": "", "margin": "chosen less rejected"}.get(quantity, logp)
        label(panel, style, x="step" if quantity.endswith("logp") else "", y=unit)
    # One scale: how much further the rejected falls is what is looked for.
    low, high = (f(panel.get_ylim()[end] for panel in panels[2:]) for f, end in ((min, 0), (max, 1)))
    for panel in panels[2:]:
        panel.set_ylim(low, high)
    draw_legend(panels[0], handles, columns, style, over=1.8 * style.text / POINTS)
    return panels[0]


def _draw(axes: Axes, curves: pd.DataFrame, quantity: str, named: list[int], style: Style) -> None:
    mean = curves["seed"].isna()
    axes.plot(*_joined(curves[mean & ~curves["cell"].isin(named)], quantity), color=GREY, linewidth=0.5, zorder=2)
    for index, cell in enumerate(named):
        look = cell_look(index)
        own = curves["cell"] == cell
        seeds = curves[own & ~mean]
        if seeds["seed"].nunique() > 1:
            axes.plot(*_joined(seeds, quantity), color=look["color"], linewidth=0.4, alpha=0.6, zorder=3)
        width = 1.1 if style.narrow else 1.5
        axes.plot(*_joined(curves[own & mean], quantity), linewidth=width, zorder=4, **look)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _joined(curves: pd.DataFrame, quantity: str) -> list[Floats]:
    """Steps and values of several curves as one line with gaps between them, which is drawn many times faster.

    A step without a value is left out.
    """
    known = curves[curves[quantity].notna()]
    owners = known[["cell", "seed"]].fillna(-1).to_numpy(float)
    starts = np.flatnonzero((owners[1:] != owners[:-1]).any(axis=1)) + 1
    return [np.insert(known[name].to_numpy(float), starts, np.nan) for name in ("step", quantity)]


def _caption(curves: pd.DataFrame, cells: pd.DataFrame, others: int) -> str:
    seeds = curves.groupby("cell")["seed"].nunique()
    parts = ["Of the training batches, not of held-out data; batches differ, so single steps are noisy."]
    if (steps := int(curves["steps"].max())) > 1:
        parts.append(f"Points are means over {steps} steps.")
    if seeds.max() > 1:
        parts.append("Bold: mean over training seeds. Thin: each seed; no interval is drawn.")
    else:
        parts.append("One training seed, so no interval.")
    if curves["changed"].all():
        parts.append("Log-probabilities: mean change from the reference, nats per response.")
    else:
        parts.append("Log-probabilities: nats per response.")
    if others:
        parts.append(labels_sentence(cells[cells["status"] == "done"]))
    return " ".join(parts)
