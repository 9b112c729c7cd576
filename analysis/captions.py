"""What must stand beside a figure's numbers: judge, reference, decoding, sample sizes, scope and caveats."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from analysis.schema import IMPORTED, PAIR, PATH, plain, was_imported
from analysis.statistics import CONSTRUCTION
from harness.positions import PAIRS

_SCOPES: Final = {CONSTRUCTION: f"{CONSTRUCTION}, over training seeds and instructions"}

STEPS_APART: Final = 1.1
"""Cells whose optimiser steps differ by more than this factor are not compared on equal terms."""


_SAID: Final = ("instructions", "excluded", "seeds", "scope", "method", "steps")

_NAMING: Final = ("construction.", "ranker.")
"""Beginnings of the settings that name a construction."""


def caption(cells: pd.DataFrame, detectable: float) -> str:
    """The caption of a figure over `cells` (of `estimates.estimate_cells`); `detectable` is a fraction."""
    # A cell has a hundred columns, of which the caption speaks about these.
    said = ["judge_label", "reference", "decoding", "reward_label", *_SAID, *IMPORTED]
    done = cells.loc[cells["status"] == "done", [name for name in said if name in cells.columns]]
    if done.empty:
        return "No cell is done yet."
    parts = [
        labels_sentence(done),
        f"{values_range(done, 'instructions')} instructions{failed_text(done)}; "
        f"training seeds: {values_range(done, 'seeds')}.",
        scope(done),
        methods(done),
        detectable_sentence(detectable),
        steps_sentence(done),
    ]
    return " ".join(part for part in parts if part)


def failed_text(done: pd.DataFrame) -> str:
    """How many instructions are in no number since a judgement failed; nothing where there are none."""
    if not (done["excluded"].astype(float) > 0).any():
        return ""
    return f" ({values_range(done, 'excluded')} more in no number: their judgement failed)"


def labels_sentence(done: pd.DataFrame) -> str:
    """The labels that stand beside every number."""
    return (
        f"Judge: {_judges(done)}. Against: {_values(done, 'reference')}. "
        f"Answers: {_values(done, 'decoding')}. Reward: {_values(done[~was_imported(done)], 'reward_label') or 'none'}."
    )


def _judges(done: pd.DataFrame) -> str:
    """The judges in words; what is remarked of one for some of the cells only stands once, after it."""
    labels = list(dict.fromkeys(plain(value) or "not stated" for value in done["judge_label"]))
    remarks = {label: [o.removeprefix(f"{label}; ") for o in labels if o.startswith(f"{label}; ")] for label in labels}
    remarked = {f"{label}; {remark}" for label, own in remarks.items() for remark in own}
    some = {label: f"; of some cells {' / '.join(own)}" if own else "" for label, own in remarks.items()}
    return " / ".join(f"{label}{some[label]}" for label in labels if label not in remarked)


def scope(done: pd.DataFrame) -> str:
    """What the 95 % intervals speak about."""
    scopes = list(dict.fromkeys(done["scope"].dropna()))
    if not scopes:
        return "No intervals: there are no verdicts."
    words = [_SCOPES.get(scope, scope) for scope in scopes]
    return f"95\N{NO-BREAK SPACE}% intervals: {' / '.join(words)}."


def methods(done: pd.DataFrame) -> str:
    """How the intervals were made, each way once."""
    text = " / ".join(dict.fromkeys(done["method"].dropna()))
    return f"Method: {text}." if text else ""


def detectable_sentence(detectable: float) -> str:
    """The smallest difference that one comparison can tell from noise; nothing when it is unknown."""
    if math.isnan(detectable):
        return ""
    points = f"{100 * detectable:.1f}\N{NO-BREAK SPACE}points"
    return f"Smallest difference one comparison can detect (80\N{NO-BREAK SPACE}% power): {points}."


def steps_sentence(done: pd.DataFrame) -> str:
    """A warning where cells were trained for unequal numbers of steps; else nothing."""
    steps = done["steps"].dropna()
    if steps.empty or steps.max() <= STEPS_APART * steps.min():
        return ""
    return f"Cells are compared at unequal steps: {values_range(done, 'steps')}."


def pair_text(chosen: object, rejected: object) -> str:
    """A pair as figures and tables write it, in Greek letters."""
    return f"({position_text(chosen)}, {position_text(rejected)})"


def position_text(position: object) -> str:
    """A position as figures write it: with Greek letters for mu and s."""
    name = plain(position)
    if not name.startswith("mu"):
        return name
    rest = name.removeprefix("mu").replace("-", "\N{MINUS SIGN}").replace("s", "\N{GREEK SMALL LETTER SIGMA}")
    return "\N{GREEK SMALL LETTER MU}" + rest


def construction_label(cell: "pd.Series[Any]", cells: pd.DataFrame) -> str:
    """Name, pair and those further settings of it and its ranker that differ among `cells` of its kind."""
    return _label(cell.to_dict(), _varying(cells[cells["construction.name"] == cell["construction.name"]]))


def construction_labels(cells: pd.DataFrame) -> list[str]:
    """`construction_label` of each of the cells, in their order."""
    said = [name for name in cells.columns if str(name).startswith(_NAMING) or name in (*PAIR, *IMPORTED, PATH)]
    rows = cells[said]
    varying = {plain(name): _varying(own) for name, own in rows.groupby("construction.name", sort=False)}
    return [_label(cell, varying.get(plain(cell["construction.name"]), [])) for cell in rows.to_dict("records")]


def _varying(cells: pd.DataFrame) -> list[str]:
    keys = [key for key in map(str, cells.columns) if key.startswith(_NAMING)]
    varying = [key for key in keys if len(set(map(plain, cells[key].tolist()))) > 1]
    # A ranker is known by its name, where that says which it is.
    return [
        key for key in varying if not key.startswith("ranker.") or key == "ranker.name" or "ranker.name" not in varying
    ]


def _label(cell: Mapping[Any, Any], varying: Sequence[str]) -> str:
    for column, what in zip(IMPORTED, ("model", "answers"), strict=True):
        if imported := plain(cell.get(column)):
            return f"imported {what} {imported}"
    pair = pair_text(cell[PAIR[0]], cell[PAIR[1]]) if plain(cell[PAIR[0]]) else ""
    rest = ", ".join(f"{key.removeprefix('construction.')}={plain(cell[key])}" for key in varying if plain(cell[key]))
    path = f"after {plain(cell[PATH])}" if plain(cell.get(PATH)) else ""
    return " ".join(part for part in (plain(cell["construction.name"]), pair, rest, path) if part)


def outside_grid(cells: pd.DataFrame) -> int:
    """How many of the cells with a pair stand outside the grid of 21."""
    pairs = zip(cells[PAIR[0]], cells[PAIR[1]], strict=True)
    return sum(plain(high) != "" and (high, low) not in PAIRS for high, low in pairs)


def provenance_text(provenance: Mapping[str, object] | None) -> str:
    """The small print: what made the numbers."""
    return " · ".join(f"{plain(name)} {plain(value)}" for name, value in (provenance or {}).items())


def _values(done: pd.DataFrame, column: str) -> str:
    return " / ".join(dict.fromkeys(plain(value) or "not stated" for value in done[column]))


def values_range(done: pd.DataFrame, column: str) -> str:
    """The one value of a column, or its least and its largest."""
    values = done[column].dropna()
    if values.empty:
        return "unknown"
    low, high = plain(round(float(values.min()), 1)), plain(round(float(values.max()), 1))
    return low if low == high else f"{low}\N{EN DASH}{high}"
