"""Two cells of a store against each other: the difference of their win rates with its interval, or a refusal."""

from pathlib import Path

import pandas as pd

from analysis.comparability import check_comparable
from analysis.estimates import estimate_cells, preference_table
from analysis.load import load_results, load_verdicts
from analysis.statistics import Interval, seeds_difference
from analysis.tables import cell_name, points_text
from harness.errors import PrefsweepError


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
    interval = cell_difference(both, table)
    if interval.n == 0:
        raise PrefsweepError(f"{first} against {second}: {interval.note}")
    names = [cell_name(cell, both) for _, cell in both.iterrows()]
    note = f" {interval.note}." if interval.note else ""
    return (
        f"{names[0]}, less {names[1]}: {points_text(interval)} points (95 % interval over {interval.n} instructions: "
        f"{interval.scope}). Method: {interval.method}.{note}"
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
        what = "no judged cell" if not rows else f"{len(rows)} judged cells"
        raise PrefsweepError(
            f"{name}: {what} whose result or cell begins so; the columns `result` and `cell` of results.csv name them"
        )
    return rows[0]
