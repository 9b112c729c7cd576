"""From the tidy frames to one estimate per cell: training seeds joined, aliases recognised."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.comparability import check_comparable, comparable_parts
from analysis.schema import COMPARABLE, IMPORTED, LABELS, MEASURES, PAIR, ROUND, SEED, configuration_columns, plain
from analysis.statistics import (
    Floats,
    Grid,
    Interval,
    compare_with_best,
    make_grid,
    seeds_interval,
    simultaneous_intervals,
    smallest_detectable_difference,
    win_rate_interval,
)
from harness.errors import PrefsweepError
from harness.positions import PAIRS, POSITIONS

Row = Mapping[Any, Any]
"""One result by column."""

INTERVAL: Final = ("low", "high", "method", "scope", "excluded", "note")

APART: Final = ("construction.", "ranker.", "candidates.", "rounds.", "boundary.")
"""How settings begin that say how rows were made: what cells are compared across."""

STANDING: Final = "standing"
"""Column of `with_standing`: `BEST`, `RIVAL`, `LOWER`, or None for a cell that was not compared."""

BEST: Final = "best"
RIVAL: Final = "not told apart from the best"
LOWER: Final = "not the best"


def preference_table(results: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Preferences [instructions x done results]; NaN where a judgement failed or there was none.

    Raises PrefsweepError where the verdicts of a result do not give its win rate: they are not its own then.
    """
    done = results[results["status"] == "done"].set_index("result")
    own = verdicts[verdicts["result"].isin(done.index)]
    table = own.pivot(index="prompt_id", columns="result", values="preference").astype(float)
    recorded = done["win_rate"].astype(float).reindex(table.columns)
    apart = (table.mean() - recorded).abs() > 1e-6
    if bool(apart.any()):
        name = table.columns[apart.to_numpy()][0]
        raise PrefsweepError(
            f"verdicts of result {name}: their mean is {table[name].mean():.6f}, "
            f"but its recorded win rate is {recorded[name]:.6f}"
        )
    return table


def result_intervals(results: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The `INTERVAL` columns of each result on its own, in their order; nothing without verdicts."""
    rows = [
        asdict(win_rate_interval(table[name].to_numpy(float))) if name in table.columns else {}
        for name in results["result"]
    ]
    return pd.DataFrame(rows, columns=list(INTERVAL), index=results.index)


def estimate_cells(results: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and evaluation, its training seeds joined, sorted for reading.

    Seeds whose results are not comparable are rows of their own. Columns: the configuration without the seed, the
    labels, what results must share, the measures (means over the seeds that are
    done), and `status`, `reason`, `results` (keys, one per distinct trained model), `seeds` (their number),
    `planned` (results asked for), `asked` (all of these, done or not), `experiment` (equal for cells that trained the
    same models), `win_rate`, `instructions` and the `INTERVAL` columns. Win rates are fractions. `table` is a
    `preference_table`.
    """
    settings = [column for column in configuration_columns(results) if column != SEED]
    keys = zip(*(map(plain, results[column].tolist()) for column in settings), strict=True)
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    preferences = {str(name): column for name, column in zip(table.columns, table.to_numpy(float).T, strict=True)}
    # Rows as mappings: a group is two or three of them, and a frame of so few costs as much as one of thousands.
    given = results.to_dict("records")
    rows = []
    for places in groups.values():
        for number, part in enumerate(_comparable([given[place] for place in places], results, places)):
            # What is not done stands in every part; it is one cell's all the same.
            own = part if number == 0 else [row for row in part if row["status"] == "done"]
            rows.append(_estimate(own, settings, preferences))
    return sort_cells(pd.DataFrame(rows))


def sort_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows by policy and other settings, then n, construction and pair (max, min first)."""
    rank = {pair: (-POSITIONS.index(pair[0]), POSITIONS.index(pair[1])) for pair in PAIRS}
    settings = comparison_columns(cells)
    used = cells[list(dict.fromkeys([*settings, "n", "construction.name", *PAIR]))].to_dict("records")

    def key(row: int) -> tuple[object, ...]:
        cell = used[row]
        size = float(cell["n"]) if pd.notna(cell["n"]) else 0.0
        pair = (cell[PAIR[0]], cell[PAIR[1]])
        place = rank.get(pair, (len(POSITIONS), 0))
        return (
            *(plain(cell[name]) for name in settings),
            size,
            plain(cell["construction.name"]),
            place,
            str(pair),
        )

    return cells.iloc[sorted(range(len(cells)), key=key)].reset_index(drop=True)


def comparison_columns(cells: pd.DataFrame) -> list[str]:
    """Settings that must agree for two cells to be compared: all but construction, ranker, pair, rounds, n and imports.

    Which static candidates rows are made of belongs to the construction.
    """
    own = {"results", "asked", "seeds", "planned", "experiment", "n", ROUND, STANDING, *INTERVAL, *PAIR, *IMPORTED}
    settings = [name for name in configuration_columns(cells) if name not in own]
    return [name for name in settings if not name.startswith(APART)]


def grid_of(cells: pd.DataFrame, table: pd.DataFrame) -> Grid:
    """The judged cells, by their row labels, as the statistics compare them; identical ones are one experiment.

    Raises PrefsweepError where they are not comparable, naming the field that differs.
    """
    check_comparable(cells, "comparison")
    place = {name: number for number, name in enumerate(table.columns)}
    judged = {
        row: [place[name] for name in names if name in place]
        for row, names in zip(cells.index, cells["results"], strict=True)
    }
    # Columns by their place in an array: a selection by name from a thousand columns takes a millisecond.
    values = table.to_numpy(float)
    tables: dict[Hashable, pd.DataFrame] = {
        row: pd.DataFrame(values[:, places], index=table.index) for row, places in judged.items() if places
    }
    return make_grid(tables, dict(cells["experiment"].items()))


def cell_intervals(cells: pd.DataFrame, table: pd.DataFrame) -> dict[int, Interval]:
    """Interval of each judged cell, by its row label, such that all hold together."""
    return _by_row(simultaneous_intervals(grid_of(cells, table)))


def best_comparisons(cells: pd.DataFrame, table: pd.DataFrame) -> dict[int, Interval]:
    """Each judged cell less the best of the others, by its row label, such that all hold together."""
    return _by_row(compare_with_best(grid_of(cells, table)))


def not_told_apart(cells: pd.DataFrame, table: pd.DataFrame, best: int) -> list[int]:
    """Row labels of the distinct cells, other than row `best`, that may be the best for all that is known."""
    grid = grid_of(cells, table)
    against = _by_row(compare_with_best(grid))
    others = [int(str(row)) for row in grid.names if grid.experiment[row] != grid.experiment[best]]
    return [row for row in others if not against[row].high <= 0]


def with_standing(cells: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The cells with a further column `STANDING`: which is the best of them, and which may be for all that is known.

    The best is the one with the highest win rate on the instructions that all were judged on, with the cells of its
    experiment; the others by `best_comparisons`. None is the best of fewer than two experiments.
    """
    grid = grid_of(cells, table)
    found: dict[int, str] = {}
    if len(grid.names) > 1 and len(grid.means):
        best = int(grid.rates.argmax())
        for cell, interval in compare_with_best(grid).items():
            own = grid.experiment[cell] == best
            found[int(str(cell))] = BEST if own else RIVAL if interval.high > 0 else LOWER
    standing = np.array([found.get(int(row)) for row in cells.index], dtype=object)
    return cells.assign(**{STANDING: standing})


def detectable_difference(cells: pd.DataFrame, table: pd.DataFrame) -> float:
    """Smallest difference that one comparison of two of these cells can tell from noise, as a fraction.

    From the median over all pairs of distinct cells; NaN with fewer than two, or where they do not differ at
    all.
    """
    return grid_detectable(grid_of(cells, table))


def grid_detectable(grid: Grid) -> float:
    """`detectable_difference` of the cells of a grid."""
    if len(grid.names) < 2 or len(grid.means) < 2:
        return nan
    covariance = np.cov(grid.means, rowvar=False)
    variances = np.diag(covariance)
    pairs = np.triu_indices(len(variances), k=1)
    variance = float(np.median((variances[:, None] + variances[None, :] - 2 * covariance)[pairs]))
    if variance <= 0:
        return nan
    return smallest_detectable_difference(
        len(grid.means),
        variance**0.5,
        seed_deviation=grid.seed_variance**0.5,
        seeds=int(grid.seeds.min()),
        seed_degrees=grid.degrees,
    )


def _by_row(intervals: dict[Hashable, Interval]) -> dict[int, Interval]:
    return {int(str(row)): interval for row, interval in intervals.items()}


def _comparable(group: Sequence[Row], results: pd.DataFrame, places: Sequence[int]) -> Iterator[Sequence[Row]]:
    """Rows of a group apart by what results must share; `places` are theirs in `results`."""
    stated = ({plain(row[name]) for row in group if row["status"] == "done"} - {""} for name in COMPARABLE)
    if all(len(values) < 2 for values in stated):
        yield group
        return
    for _, part in comparable_parts(results.iloc[list(places)].set_axis(range(len(group)))):
        yield [group[place] for place in part.index]


def _estimate(group: Sequence[Row], settings: list[str], preferences: Mapping[str, Floats]) -> dict[str, object]:
    done = [row for row in group if row["status"] == "done"]
    # Two seeds that trained the same model are one repeat, not two.
    own = [row for place, row in enumerate(done) if _trained(row) not in map(_trained, done[:place])]
    names = [str(row["result"]) for row in own]
    if len({plain(row[SEED]) for row in own}) < len(own):
        raise PrefsweepError(
            f"results {', '.join(names)}: equal configurations and training seeds, but different models; they "
            "come from different sweeps or an edited input file: report one sweep (--sweep NAME)"
        )
    _check_labels(own)
    status = _status(group)
    judged = [preferences[name] for name in names if name in preferences]
    interval = seeds_interval(np.stack(judged)) if judged else None
    first = (own or group)[0]
    row: dict[str, object] = {name: first[name] for name in [*settings, *LABELS, *COMPARABLE]}
    row |= {name: _mean([one[name] for one in own]) for name in MEASURES}
    row |= {"status": status, "reason": _reason(group, status), "planned": len(group)}
    row["asked"] = tuple(one["result"] for one in group)
    row |= {"results": tuple(one["result"] for one in own), "seeds": len(own), "experiment": _experiment(own)}
    if interval is None:
        return row | dict.fromkeys(INTERVAL) | {"low": nan, "high": nan, "note": "no verdicts" if own else ""}
    facts = {name: getattr(interval, name) for name in INTERVAL}
    return row | facts | {"win_rate": interval.estimate, "instructions": interval.n}


def _trained(row: Row) -> str:
    """What a result's model is known by: its content, or where that is not known the result."""
    return str(row["trained_id"]) if pd.notna(row["trained_id"]) else str(row["result"])


def _mean(values: Sequence[Any]) -> float:
    """Of the values that are known; NaN where none is."""
    known = [float(value) for value in values if pd.notna(value)]
    return sum(known) / len(known) if known else nan


def _status(group: Sequence[Row]) -> str:
    """The status that says most: done when any seed is, else what keeps the cell from being done."""
    found = {row["status"] for row in group}
    return next(status for status in ("done", "failed", "missing", "empty") if status in found)


def _reason(group: Sequence[Row], status: str) -> str | None:
    reasons = (row["reason"] for row in group if row["status"] == status and pd.notna(row["reason"]))
    return next(map(str, reasons), None)


def _experiment(own: Sequence[Row]) -> str | None:
    return " ".join(sorted(map(_trained, own))) if own else None


def _check_labels(own: Sequence[Row]) -> None:
    """Results that are averaged must also say the same in words, which a changed file need not do."""
    for label in ("judge_label", "decoding", "reference"):
        if len(found := dict.fromkeys(plain(row[label]) for row in own)) > 1:
            names = ", ".join(str(row["result"]) for row in own)
            values = " / ".join(found)
            raise PrefsweepError(f"results {names}: {label} differs ({values}); they cannot be averaged")
