"""Two cells against each other, or two grids: the differences of their win rates with intervals, or a refusal."""

from pathlib import Path

import pandas as pd

from analysis.comparability import check_comparable
from analysis.differences import pair_differences, read_side
from analysis.estimates import estimate_cells, preference_table
from analysis.figures import difference_heatmap, figure_of, save
from analysis.load import load_results, load_verdicts
from analysis.statistics import Interval, seeds_difference
from analysis.tables import cell_name, points_text, spreadsheet_safe
from harness.errors import PrefsweepError

_LISTED = 10
"""Cells that an error names one by one."""


def compare(store: Path, first: str, second: str, sweep: str | None = None) -> str:
    """The difference in words; each cell is named by how the id of one of its results, or its key, begins.

    Raises PrefsweepError where a name fits no cell or several, a cell has no verdicts, or the two are not comparable.
    """
    results = load_results(store, sweep)
    table = preference_table(results, load_verdicts(store, sweep))
    cells = estimate_cells(results, table)
    rows = [find_cell(results, cells, name) for name in (first, second)]
    if rows[0] == rows[1]:
        raise PrefsweepError(f"{first} and {second} are one and the same cell")
    both = cells.loc[rows]
    check_comparable(both, f"{first} against {second}")
    names = [cell_name(cell, both) for _, cell in both.iterrows()]
    if both["experiment"].nunique() == 1:
        return f"{names[0]} and {names[1]} are one experiment: they trained the same models; nothing is to be compared"
    interval = cell_difference(both, table)
    if interval.n == 0:
        raise PrefsweepError(f"{first} against {second}: {interval.note}")
    note = f" {interval.note}." if interval.note else ""
    return (
        f"{names[0]}, less {names[1]}: {points_text(interval)} points (95 % interval over {interval.n} instructions: "
        f"{interval.scope}). Method: {interval.method}.{note}"
    )


def compare_grids(store: Path, first: str, second: str, out: Path, *, second_store: Path | None = None) -> str:
    """Write the difference of two grids as heatmap and table into `out`; returns in words which pairs differ.

    `first` and `second` are sweeps, or `SWEEP:key=value,key=value`. Raises PrefsweepError as
    `differences.read_side` and `differences.pair_differences` do.
    """
    sides = read_side(store, first), read_side(second_store or store, second)
    if first == second and second_store is not None:
        first, second = f"{first} in {store}", f"{second} in {second_store}"
    frame = pair_differences(*sides)
    axes = difference_heatmap(frame, first=first, second=second)
    out.mkdir(parents=True, exist_ok=True)
    paths = save(figure_of(axes), out / "difference")
    table = out / "difference.csv"
    table.write_text(spreadsheet_safe(frame).to_csv(index=False), encoding="utf-8")
    compared = frame[frame["status"] == "done"]
    apart = int(((compared["low"] > 0) | (compared["high"] < 0)).sum())
    return (
        f"{first} less {second}: {apart} of {len(compared)} pairs are told apart from no difference (95 % intervals "
        f"that hold together); wrote {', '.join(path.name for path in (*paths, table))} to {out}"
    )


def cell_difference(both: pd.DataFrame, table: pd.DataFrame) -> Interval:
    """Win rate of the first of two cells less that of the second, over instructions and training seeds."""
    first, second = (table[[name for name in names if name in table.columns]] for names in both["results"])
    return seeds_difference(first, second)


def find_cell(results: pd.DataFrame, cells: pd.DataFrame, name: str) -> int:
    """Row label of the one judged cell that has a result, or a trained model, whose id begins with `name`."""
    begins = results["result"].str.startswith(name) | results["cell"].str.startswith(name)
    found = set(results.loc[begins & (results["status"] == "done"), "result"])
    rows = [int(str(row)) for row, names in cells["results"].items() if found & set(names)]
    if len(rows) != 1:
        ids = sorted(results.loc[results["status"] == "done" if not rows else results["result"].isin(found), "cell"])
        listed = f"{', '.join(ids[:_LISTED])}{f', and {len(ids) - _LISTED} more' if len(ids) > _LISTED else ''}"
        raise PrefsweepError(
            f"{name}: {len(rows) or 'no'} judged cells whose result or cell begins so; "
            f"{'among' if rows else 'there are'} {listed or 'none yet'} (columns `result` and `cell` of results.csv)"
        )
    return rows[0]
