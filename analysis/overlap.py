"""Which preference rows the cells of one setting have in common, by their names."""

from collections.abc import Mapping

import pandas as pd

from analysis.captions import construction_labels
from analysis.figures.overlap import MOST
from analysis.schema import plain
from harness.errors import PrefsweepError


def overlap_of(
    cells: pd.DataFrame, overlap: pd.DataFrame, keys: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Shares of rows in common [cells x cells] at the smallest n that has two cells with rows, by the cells' names.

    Of several training seeds the first stands for all: rows are made before them. Also returns what was chosen, as a
    setting: n, where there are several.

    Args:
        cells: of `estimates.estimate_cells`, of one setting.
        overlap: of `load.load_overlap`, by the cells' keys.
        keys: key of the cell of each result.

    Raises PrefsweepError, with the reason, where there are not two cells with rows, or too many.
    """
    if overlap.empty:
        raise PrefsweepError("no preference rows were found")
    chosen = {row: keys[asked[0]] for row, asked in cells["asked"].items() if keys.get(asked[0]) in overlap.index}
    known = cells.loc[list(chosen)]
    sizes = known["n"].map(plain)
    for n in sorted(set(sizes), key=lambda n: float(n or "inf")):
        part = known[sizes == n]
        names = [chosen[row] for row in part.index]
        shares = overlap.loc[names, names]
        if len(part) - int(shares.isna().all(axis=1).sum()) < 2:
            continue
        if len(part) > MOST:
            raise PrefsweepError(f"{len(part)} cells at one n, of which {MOST} could be named; overlap.csv has all")
        labels = _names(part)
        named = shares.set_axis(labels, axis=0).set_axis(labels, axis=1)
        return named, {"n": n or "none"} if sizes.nunique() > 1 else {}
    raise PrefsweepError("fewer than two cells of one n have preference rows")


def _names(cells: pd.DataFrame) -> list[str]:
    """The cells' constructions, of pairs of positions the pair alone; numbered where two have one name."""
    names = [label.removeprefix("position ") for label in construction_labels(cells)]
    return [
        f"{name} #{names[:place].count(name) + 1}" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
