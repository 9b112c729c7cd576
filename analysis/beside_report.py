"""What stands beside the win rates, for readers: a table in the report, `beside.csv`, and warnings."""

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from analysis.beside import MEASURES, near_constant
from analysis.tables import cell_names, markdown_safe, markdown_table

_PERCENT: Final = {
    "empty": "empty %",
    "truncated": "truncated %",
    "repetitive": "repetitive %",
    "refusal": "refusals %",
    "same_as_reference": "= reference %",
    "same_as_another": "= another %",
    "near_copies": "near-copies %",
}
_PLAIN: Final = {"characters": ("characters", 0), "length_ratio": ("length ratio", 2)}
_LAST: Final = {"reward": ("reward", 3), "reward_gain": ("reward gain", 3), "kl": ("KL", 2)}

MOST_WARNED: Final = 10
"""Cells that the warning names: where all answers are alike, there may be hundreds."""

MOST_FLAGGED: Final = 3
"""Cells that the small print of a figure names."""

EXPLANATION: Final = (
    "In brackets: 95 % intervals, where there are any; beside.csv has the reason where there is none. Length ratio "
    "and reward gain are against the reference answers; the reward is the one that selected the training pairs. "
    "Near-copies: the largest share of answers that are nearly the same text. Refusals are found by how an answer "
    "begins, a heuristic."
)


def beside_table(cells: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """The cells with answers and their measures as text for a reader."""
    names, rows = cell_names(cells), []
    measured: dict[int, dict[str, Mapping[Any, Any]]] = {}
    for row in beside[["cell", "measure", "estimate", "low", "high"]].to_dict("records"):
        measured.setdefault(int(row["cell"]), {})[row["measure"]] = row
    for label, found in measured.items():
        row = {"cell": names[label]}
        row |= {title: _shown(found[name], decimals) for name, (title, decimals) in _PLAIN.items()}
        row |= {title: _shown(found[name], 1, scale=100) for name, title in _PERCENT.items()}
        row |= {title: _shown(found[name], decimals) for name, (title, decimals) in _LAST.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def beside_section(cells: pd.DataFrame, beside: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing without answers."""
    if beside.empty:
        return []
    return ["## Beside the win rates", EXPLANATION, markdown_table(beside_table(cells, beside))]


def beside_frame(cells: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """`beside` for a spreadsheet: the cell in words and by its results, and what each measure means."""
    frame = beside.copy()
    names, results = cell_names(cells), cells["results"].to_dict()
    frame.insert(0, "name", [names[label] for label in frame["cell"]])
    frame.insert(1, "results", [" ".join(results[label]) for label in frame["cell"]])
    frame.insert(3, "meaning", [MEASURES[measure] for measure in frame["measure"]])
    return frame.drop(columns="cell")


def warnings(cells: pd.DataFrame, beside: pd.DataFrame) -> list[str]:
    """One sentence on the cells whose answers are near-constant: their win rates say little about instructions.

    It names the first `MOST_WARNED` of them and counts the others.
    """
    names, flagged = cell_names(cells), near_constant(beside)
    if not flagged:
        return []
    said = [f"{names[label]} ({100 * share:.0f} %)" for label, share in list(flagged.items())[:MOST_WARNED]]
    if len(flagged) > MOST_WARNED:
        said.append(f"and {len(flagged) - MOST_WARNED} more (beside.csv)")
    return [
        "WARNING: answers that are near-copies of one text, so that a win rate says little about how instructions are "
        f"answered: {'; '.join(said)}."
    ]


def flags(cells: pd.DataFrame, beside: pd.DataFrame) -> dict[str, str]:
    """The flagged cells as an entry of the small print, the first by name; nothing where there are none."""
    names = cell_names(cells)
    flagged = [names[label] for label in near_constant(beside)]
    more = [f"{len(flagged) - MOST_FLAGGED} more"] if len(flagged) > MOST_FLAGGED else []
    return {"WARNING, near-constant answers:": "; ".join(flagged[:MOST_FLAGGED] + more)} if flagged else {}


def warnings_section(cells: pd.DataFrame, beside: pd.DataFrame) -> list[str]:
    """The warnings as Markdown."""
    return [f"**{markdown_safe(text)}**" for text in warnings(cells, beside)]


def _shown(row: Mapping[Any, Any], decimals: int, scale: float = 1.0) -> str:
    value, low, high = (scale * float(row[name]) for name in ("estimate", "low", "high"))
    if math.isnan(value):
        return ""
    if math.isnan(low):
        return f"{value:.{decimals}f}"
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
