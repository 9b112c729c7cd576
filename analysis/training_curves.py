"""Curves of training for a figure: of every cell and training seed, in few enough points to be seen."""

from typing import Final

import numpy as np
import pandas as pd

QUANTITIES: Final = ("loss", "margin", "chosen_logp", "rejected_logp")
"""What is shown; of the log-probabilities their changes from the reference, where the trainings have them."""

CURVES: Final = ("cell", "seed", "step", *QUANTITIES, "steps", "changed")
"""One row per cell (row label), seed (their number, or NaN for the mean over seeds) and step, in this order.

`steps` says over how many steps each point is a mean, `changed` whether the log-probabilities are changes.
"""

MOST_POINTS: Final = 60
"""Points of a curve; more steps are averaged, so many at a time."""

MOST_SHOWN: Final = 7
"""Cells up to which each has a colour; of more, only those that are remarkable have one."""


def training_curves_of(cells: pd.DataFrame, results: pd.DataFrame, training: pd.DataFrame) -> pd.DataFrame:
    """The curves of the cells' trainings, with the columns `CURVES`.

    Args:
        cells: of `estimates.estimate_cells`, or some of them; those without a training have no rows.
        results: `schema.IDENTITY` and more, to find the trainings of a cell.
        training: `schema.TRAINING`.
    """
    keys = results.set_index("result")["cell"]
    labels = [(row, i, keys[name]) for row, names in cells["results"].items() for i, name in enumerate(names)]
    owners = pd.DataFrame(labels, columns=["cell", "seed", "training"])
    own = owners.merge(training.rename(columns={"cell": "training"}), on="training", how="inner")
    steps = max(1, int(np.ceil((own["step"].max() if len(own) else 1) / MOST_POINTS)))
    own["step"] = ((own["step"] - 1) // steps + 0.5) * steps + 0.5
    for name in ("chosen_logp", "rejected_logp"):
        if changed(training):
            own[name] = own[f"{name}_change"]
    each = own.groupby(["cell", "seed", "step"], as_index=False)[list(QUANTITIES)].mean()
    mean = each.groupby(["cell", "step"], as_index=False)[list(QUANTITIES)].mean().assign(seed=np.nan)
    frame = pd.concat([each, mean], ignore_index=True).assign(steps=steps, changed=changed(training))
    return frame[list(CURVES)].sort_values(["cell", "seed", "step"])


def changed(training: pd.DataFrame) -> bool:
    """Whether the trainings have recorded how log-probabilities change from the reference."""
    return bool(training[["chosen_logp_change", "rejected_logp_change"]].notna().all(axis=None)) and len(training) > 0


def remarkable(cells: pd.DataFrame, curves: pd.DataFrame) -> dict[int, str]:
    """The cells that a figure of many colours, by row label, with why: the ends of win rate and of the last loss.

    Up to `MOST_SHOWN` cells all are, without a reason.
    """
    shown = [int(row) for row in dict.fromkeys(curves["cell"])]
    if len(shown) <= MOST_SHOWN:
        return dict.fromkeys(shown, "")
    mean = curves[curves["seed"].isna()].dropna(subset=["loss"]).sort_values("step")
    loss, rate = mean.groupby("cell")["loss"].last(), cells["win_rate"].reindex(shown).dropna()
    ends = []
    for values, what in ((rate, "win rate"), (loss, "last loss")):
        if len(values):
            rows = values.index.to_numpy()
            ends += [(int(rows[values.argmax()]), f"highest {what}"), (int(rows[values.argmin()]), f"lowest {what}")]
    found: dict[int, list[str]] = {}
    for row, what in ends:
        found.setdefault(row, []).append(what)
    return {row: ", ".join(reasons) for row, reasons in found.items()}
