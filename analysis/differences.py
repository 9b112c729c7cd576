"""The grids of two sweeps, or of two settings, against each other: the difference of each pair's two cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.captions import STEPS_APART
from analysis.comparability import differences
from analysis.estimates import APART, comparison_columns, estimate_cells, grid_of, preference_table
from analysis.load import load_results, load_verdicts
from analysis.schema import COMPARABLE, LABELS, PAIR, configuration_columns, plain, varying_columns
from analysis.statistics import Interval, matched_differences
from analysis.stores import Reading
from harness.errors import PrefsweepError

SAME: Final = "same"
"""Status of a pair whose two cells are one experiment."""

ABSENT: Final = "absent"
"""Status of a pair that only one side has."""

DIFFERENCES: Final[dict[str, str]] = {
    **dict.fromkeys(PAIR, "position of the pair"),
    "status": "done, same, absent, or why one of the two has no win rate: empty, failed, missing",
    "first": "win rate of the first cell on the shared instructions, 0 to 1",
    "second": "win rate of the second",
    "difference": "first less second",
    "low": "lower end of its 95 % interval; those of all pairs hold together",
    "high": "upper end",
    "method": "how the interval was made",
    "scope": "what it speaks about",
    "instructions": "instructions that all cells were judged on",
    "excluded": "instructions left out because some cell has no verdict",
    "note": "why there is no interval",
    "seeds": "training seeds of the side that has fewer",
    "unequal_steps": "whether the two trained for steps more than a tenth apart",
    **LABELS,
}
"""One row per pair that either side has."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two grids."""

    name: str
    cells: pd.DataFrame
    """At most one per pair."""
    table: pd.DataFrame
    """Preferences [instructions x results]; see `estimates.preference_table`."""


def pair_differences(first: Side, second: Side) -> pd.DataFrame:
    """The columns of `DIFFERENCES`, paired over instructions; training seeds of the two sides are independent.

    Raises PrefsweepError where the sides are not comparable, naming what differs, or a pair stands twice in one.
    """
    second = _own_names(first, second)
    ours, theirs = _by_pair(first), _by_pair(second)
    pairs = list(dict.fromkeys([*ours, *theirs]))
    status = {pair: _status(ours.get(pair), theirs.get(pair)) for pair in pairs}
    compared = [pair for pair in pairs if status[pair] == "done"]
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    if compared:
        known = second.table.columns.difference(first.table.columns)
        table = first.table.join(second.table[known], how="outer")
        matched = [side for pair in compared for side in (ours[pair], _apart(ours[pair], theirs[pair], table))]
        both = pd.DataFrame(matched).reset_index(drop=True)
        grid = grid_of(both, table)
        found = matched_differences(grid, {place: (2 * place, 2 * place + 1) for place in range(len(compared))})
        for place, pair in enumerate(compared):
            one, other = (grid.experiment[2 * place + side] for side in (0, 1))
            status[pair] = SAME if one == other else "done"
            rates = {"first": float(grid.rates[one]), "second": float(grid.rates[other])} if len(grid.means) else {}
            facts[pair] = {**rates, **_interval(found[place]), **_beside(ours[pair], theirs[pair])}
    rows = [{PAIR[0]: pair[0], PAIR[1]: pair[1], "status": status[pair], **facts.get(pair, {})} for pair in pairs]
    return pd.DataFrame(rows, columns=list(DIFFERENCES))


_Part = tuple[dict[str, str], pd.DataFrame]
"""A grid with the values of the settings that vary."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two grids that differ in one thing."""

    first: Side
    second: Side
    setting: dict[str, str]
    """What they share of what varies."""


def settings_to_compare(
    parts: Sequence[tuple[dict[str, str], pd.DataFrame]], table: pd.DataFrame
) -> tuple[list[Match], str]:
    """The grids that differ in one group of settings (such as all of `loss`) of two values; the reason where none do.

    The later one in the order of `parts` is the first of its match, so that what is new is less what was there.

    Args:
        parts: grids (one cell per pair each), with the values of the settings that vary among them.
        table: preferences [instructions x results].
    """
    groups = dict.fromkeys(name.split(".")[0] for setting, _ in parts for name in setting if _is_setting(name))
    if not groups:
        return [], "there is one setting only; `python -m analysis difference` compares two sweeps"
    matches: list[Match] = []
    reasons = []
    for group in groups:
        alike: dict[tuple[tuple[str, str], ...], dict[str, list[_Part]]] = {}
        for setting, part in parts:
            rest = tuple((k, v) for k, v in setting.items() if k not in COMPARABLE and k.split(".")[0] != group)
            alike.setdefault(rest, {}).setdefault(_value(setting, group), []).append((setting, part))
        values = list(dict.fromkeys(value for sides in alike.values() for value in sides))
        if len(values) != 2:
            reasons.append(f"{group} has {len(values)} values; `python -m analysis difference` draws any two")
            continue
        for rest, sides in alike.items():
            if len(sides) < 2:
                continue
            apart: dict[str, None] = {}
            fitting = []
            # One value may stand in several parts that are not comparable, such as by two versions.
            for (setting, one), (_, other) in product(*(sides[value] for value in values)):
                if differing := differences(pd.concat([one, other])):
                    apart |= dict.fromkeys(differing)
                    continue
                second, first = (
                    Side(name=value, cells=own, table=table) for value, own in zip(values, (one, other), strict=True)
                )
                shared = {name: value for name, value in setting.items() if name in COMPARABLE}
                fitting.append(Match(first=first, second=second, setting=dict(rest) | shared))
            if not fitting:
                reasons.append(f"those of {group} are not comparable: they differ in {', '.join(apart)}")
            matches += fitting
    return matches, "" if matches else "; ".join(dict.fromkeys(reasons)) or "no two settings differ in one thing"


def _is_setting(name: str) -> bool:
    """Whether grids are compared across it: not n, which has a curve, nor what makes results not comparable."""
    return name != "n" and name not in COMPARABLE


def _value(setting: dict[str, str], group: str) -> str:
    """What a setting has of a group, by the group's name where that varies."""
    own = {name: value for name, value in setting.items() if name.split(".")[0] == group}
    name = f"{group}.name"
    shown = {name: own[name]} if name in own else own
    return ", ".join(f"{name}={value or 'none'}" for name, value in shown.items())


def read_side(store: Path | str | Reading, text: str) -> Side:
    """The grid that `text` names: a sweep, or `SWEEP:key=value,key=value` for those of its cells that have the values.

    Raises PrefsweepError for a sweep, key or value that is not there, and where a pair stands twice; it lists what
    there is.
    """
    sweep, _, settings = text.partition(":")
    results = load_results(store, sweep)
    for setting in filter(None, settings.split(",")):
        results = _with(results, setting, text)
    verdicts = load_verdicts(store, sweep)
    table = preference_table(results, verdicts[verdicts["result"].isin(results["result"])])
    cells = estimate_cells(results, table)
    pairs = cells[cells[PAIR[0]].map(plain) != ""]
    if pairs.empty:
        raise PrefsweepError(f"{text}: no cell there has a pair of positions")
    if pairs.duplicated(list(PAIR)).any():
        raise PrefsweepError(f"{text}: its pairs stand more than once; name one value of each: {_choices(pairs)}")
    return Side(name=text, cells=pairs, table=table)


def _with(results: pd.DataFrame, setting: str, text: str) -> pd.DataFrame:
    """The results that have one setting."""
    key, equals, value = setting.partition("=")
    known = configuration_columns(results)
    if not equals or key not in known:
        varying = ", ".join(varying_columns(results, known)) or "none"
        what = f"there is no key {key!r}" if equals else f"expected key=value, got {setting!r}"
        raise PrefsweepError(f"{text}: {what}; keys that vary here: {varying}")
    values = results[key].map(plain)
    if value not in set(values):
        raise PrefsweepError(
            f"{text}: {key} is never {value!r} here; it is {', '.join(sorted(set(values) - {''})) or 'not used'}"
        )
    return results[values == value]


def _choices(pairs: pd.DataFrame) -> str:
    own = [str(name) for name in pairs.columns if str(name).startswith(APART)]
    varying = varying_columns(pairs, [*comparison_columns(pairs), *own, "n"])
    # What has a short name is told apart by it.
    short = {name.split(".")[0] for name in varying if name.endswith(".name")}
    shown = [name for name in varying if name.endswith(".name") or name.split(".")[0] not in short]
    return "; ".join(f"{name} ({', '.join(sorted(set(pairs[name].map(plain))))})" for name in shown)


def _own_names(first: Side, second: Side) -> Side:
    """The second side, with names of their own for results of which the first has other verdicts.

    Equal configurations have equal results in two stores, where they may be other models, or were judged anew.
    """
    if second.table is first.table:
        return second
    shared = second.table.columns.intersection(first.table.columns)
    renamed = {
        str(name): f"{name} of the second side"
        for name in shared
        if not first.table[name].dropna().equals(second.table[name].dropna())
    }
    names = second.cells["results"].map(lambda own: tuple(renamed.get(name, name) for name in own))
    return Side(name=second.name, cells=second.cells.assign(results=names), table=second.table.rename(columns=renamed))


def _apart(ours: "pd.Series[Any]", theirs: "pd.Series[Any]", table: pd.DataFrame) -> "pd.Series[Any]":
    """The second of two cells; one experiment that has two sets of verdicts is no longer one."""
    one, other = (table[[name for name in cell["results"] if name in table.columns]] for cell in (ours, theirs))
    if ours["experiment"] != theirs["experiment"] or np.array_equal(one, other, equal_nan=True):
        return theirs
    anew = theirs.copy()
    anew["experiment"] = f"{theirs['experiment']}, judged anew"
    return anew


def _by_pair(side: Side) -> dict[tuple[str, str], "pd.Series[Any]"]:
    cells: dict[tuple[str, str], pd.Series[Any]] = {}
    for _, cell in side.cells.iterrows():
        pair = (plain(cell[PAIR[0]]), plain(cell[PAIR[1]]))
        if not pair[0]:
            continue
        if pair in cells:
            raise PrefsweepError(f"{side.name}: pair {pair} stands more than once; compare one setting with another")
        cells[pair] = cell
    return cells


def _status(first: "pd.Series[Any] | None", second: "pd.Series[Any] | None") -> str:
    """Done where both have verdicts, else what keeps one of them from it."""
    if first is None or second is None:
        return ABSENT
    for cell in (first, second):
        if cell["status"] != "done" or pd.isna(cell["win_rate"]):
            return "missing" if cell["status"] == "done" else str(cell["status"])
    return "done"


def _interval(interval: Interval) -> dict[str, Any]:
    """The columns of an interval."""
    own = {name: getattr(interval, name) for name in ("low", "high", "method", "scope", "excluded", "note")}
    return own | {"difference": interval.estimate, "instructions": interval.n}


def _beside(first: "pd.Series[Any]", second: "pd.Series[Any]") -> dict[str, Any]:
    """What is said beside a difference: labels of both cells, their seeds, and whether their steps are far apart."""
    labels = {name: " / ".join(dict.fromkeys(plain(cell[name]) for cell in (first, second))) for name in LABELS}
    steps = sorted((float(first["steps"]), float(second["steps"])))
    unequal = steps[1] > STEPS_APART * steps[0]
    return {**labels, "seeds": min(first["seeds"], second["seeds"]), "unequal_steps": unequal}
