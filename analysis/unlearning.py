"""What training unlearns: how the log-probability of held-out responses changes with their reward.

The responses are the untrained policy's own, so that cells are measured on the same ones. Plain DPO lowers what was
rejected however good it was; a construction that unlearns less has changes that go more with the reward.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from math import hypot, isnan
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.beside import mean_interval
from analysis.columns import CHANGES
from analysis.estimates import comparison_columns
from analysis.exported import exported
from analysis.recorded import read_beside
from analysis.schema import PAIR, plain
from analysis.statistics import (
    CONSTRUCTION,
    TWO_SEEDS,
    Contrast,
    Interval,
    crossed_contrast,
    slope_shares,
    within_slope,
)
from analysis.stores import Reading, reading, say_missing
from analysis.tables import cell_name, markdown_safe, markdown_table
from harness.config import ConstructionConfig

COLUMNS: Final = tuple(CHANGES)
"""Of the frame of changes."""

MEASURES: Final[Mapping[str, str]] = {
    "change": "mean change of log-probability, nats per response",
    "slope": "change per unit of reward, among the responses to one prompt, nats per response",
    "slope_per_token": "the same of the change per token",
    "slope_less_plain": "slope less that of the same pairs without goals",
}

CURVES: Final = ("cell", "rank", "reward", "change", "low", "high", "prompts", "scope", "method", "note")
"""`rank` counts groups of responses from the lowest reward; `reward` is their mean less that of their prompt."""

MOST_RANKS: Final = 5

EXPLANATION: Final = (
    "Change of the log-probability of the untrained policy's own responses to the held-out instructions, from the "
    "policy to the cell's model, both asked as the cell's answers are. A slope above 0 means that better responses "
    "lost less, or won more. In brackets: 95 % intervals over prompts."
)


def load_changes(store: Path | str | Reading, sweep: str | None = None) -> pd.DataFrame:
    """The changes that were measured (`unlearning.samples`), with the columns `COLUMNS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("changes", COLUMNS, sweep)
    opened = reading(store)
    absent: dict[str, bool] = {}
    frames = [pd.DataFrame(columns=list(COLUMNS))]
    for result, beside in read_beside(opened, sweep).items():
        if "change" not in beside:
            continue
        found = opened.find("change", beside["change"])
        absent[result] = found is None
        if found is not None:
            frame = found.table("changes").to_pandas()
            change = frame["model_logp"] - frame["policy_logp"]
            frames.append(frame.assign(result=result, change=change)[list(COLUMNS)])
    frame = pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)
    return say_missing(frame, (key for key, none in absent.items() if none), len(absent), "results have no changes yet")


def unlearning_cells(cells: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """One row per cell with changes and measure: `cell` (row label), `measure`, and the fields of an Interval."""
    tables = _tables(cells, changes)
    rows = []
    for label, table in tables.items():
        intervals = _measures(table)
        baseline = _plain(cells, label)
        if baseline in tables:
            intervals["slope_less_plain"] = _slope(_less(table, tables[baseline]))
        rows += [{"cell": label, "measure": name, **asdict(found)} for name, found in intervals.items()]
    return pd.DataFrame(rows, columns=["cell", "measure", *Interval.__dataclass_fields__])


def unlearning_curves(cells: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The mean change at each rank of reward, one row per cell and rank, with the columns `CURVES`.

    The responses to one prompt are ranked by their reward, and fall into `MOST_RANKS` groups, or as many as there are
    responses, so that every prompt counts in every group. Prompts whose rewards are all equal are left out, as they say
    nothing of the reward; equal rewards stand in the order of their samples.
    """
    known = {str(name): frame for name, frame in changes.groupby("result", sort=False)}
    rows = []
    for label, names in cells["results"].items():
        if own := [known[name] for name in names if name in known]:
            table = _table(own)
            rows += [{"cell": label, **row} for row in _ranks(table[table["reward"].notna()])]
    return pd.DataFrame(rows, columns=list(CURVES))


def _ranks(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Reward and mean change of each group of ranks, from the lowest."""
    prompts = table["reward"].groupby(level="prompt_id")
    table = table[(prompts.transform("max") > prompts.transform("min")).to_numpy()].sort_index()
    if table.empty:
        return []
    prompts = table["reward"].groupby(level="prompt_id")
    groups = int(min(MOST_RANKS, prompts.size().min()))
    group = ((prompts.rank(method="first") - 1) * groups // prompts.transform("size")).astype(int)
    apart = (table["reward"] - prompts.transform("mean")).groupby(group.to_numpy())
    found = []
    for number, reward in enumerate(apart.mean()):
        own = table.loc[(group == number).to_numpy(), _seeds(table)].groupby(level="prompt_id").mean()
        interval = mean_interval(own.to_numpy(float).T)
        facts = {"change": interval.estimate, "low": interval.low, "high": interval.high}
        found.append({"rank": number + 1, "reward": reward, **facts, "prompts": interval.n, **_said(interval)})
    return found


def _said(interval: Interval) -> dict[str, str]:
    return {"scope": interval.scope, "method": interval.method, "note": interval.note}


def less_plain(cells: pd.DataFrame, changes: pd.DataFrame) -> dict[tuple[int, int], pd.DataFrame]:
    """Changes of each reward-augmented cell less those of the same pairs without goals, by both row labels.

    Of each as many seeds as both have, so that the spread between seeds is that of the differences.
    """
    tables = _tables(cells, changes)
    both = {(label, plain): tables[plain] for label in tables if (plain := _plain(cells, label)) in tables}
    found = {}
    for (label, plain), other in both.items():
        seeds = min(len(_seeds(tables[label])), len(_seeds(other)))
        found[label, plain] = _less(_first(tables[label], seeds), _first(other, seeds))
    return found


def _first(table: pd.DataFrame, seeds: int) -> pd.DataFrame:
    return table.drop(columns=_seeds(table)[seeds:])


def unlearning_frame(cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows for a spreadsheet, with each cell in words."""
    frame = rows.copy()
    frame.insert(0, "name", [_name(cells, label) for label in frame["cell"]])
    return frame.drop(columns="cell")


def unlearning_section(cells: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing without changes."""
    if rows.empty:
        return []
    lines = []
    for label in dict.fromkeys(rows["cell"]):
        own = rows[rows["cell"] == label].set_index("measure")
        shown = {text: _shown(own.loc[name]) if name in own.index else "" for name, text in MEASURES.items()}
        lines.append({"cell": _name(cells, label), **shown})
    return ["## Unlearning", markdown_safe(EXPLANATION), markdown_table(pd.DataFrame(lines))]


def _tables(cells: pd.DataFrame, changes: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """Changes of each cell that has any, by its row label."""
    known = {str(name): frame for name, frame in changes.groupby("result", sort=False)}
    return {
        int(str(label)): _table([known[name] for name in names if name in known])
        for label, names in zip(cells.index, cells["results"], strict=True)
        if any(name in known for name in names)
    }


def _table(seeds: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Responses with one column of changes for each training seed, joined by response."""
    key = ["prompt_id", "sample_index"]
    changes = pd.concat([one.set_index(key)["change"] for one in seeds], axis=1, keys=range(len(seeds)), join="inner")
    return changes.join(seeds[0].set_index(key)[["reward", "tokens"]])


def _less(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Changes less the other cell's; of different numbers of seeds their means'."""
    mine, theirs = _seeds(table), _seeds(other)
    if len(mine) != len(theirs):
        mine, theirs = [0], [0]
        table, other = _mean(table), _mean(other)
    both = table.index.intersection(other.index)
    difference = table.loc[both, mine] - other.loc[both, theirs].set_axis(mine, axis=1)
    return difference.join(table.loc[both, ["reward", "tokens"]])


def _seeds(table: pd.DataFrame) -> list[Any]:
    return [name for name in table.columns if name not in ("reward", "tokens")]


def _mean(table: pd.DataFrame) -> pd.DataFrame:
    return table[["reward", "tokens"]].assign(mean=table[_seeds(table)].mean(axis=1)).rename(columns={"mean": 0})


def _measures(table: pd.DataFrame) -> dict[str, Interval]:
    by_prompt = table[_seeds(table)].groupby(level="prompt_id").mean()
    per_token = table.copy()
    per_token[_seeds(table)] = table[_seeds(table)].div(table["tokens"].clip(lower=1), axis=0)
    return {
        "change": mean_interval(by_prompt.to_numpy(float).T),
        "slope": _slope(table),
        "slope_per_token": _slope(per_token),
    }


def _slope(table: pd.DataFrame) -> Interval:
    """Slope of the seeds' mean change; several seeds add Student's t over their own slopes, in squares."""
    reward, prompts = table["reward"].to_numpy(float), table.index.get_level_values("prompt_id").to_numpy()
    seeds = [table[name].to_numpy(float) for name in _seeds(table)]
    interval = within_slope(reward, np.mean(seeds, axis=0), prompts)
    if len(seeds) == 1 or isnan(interval.low):
        return interval
    slopes = np.array([[within_slope(reward, one, prompts).estimate for one in seeds]])
    over = mean_interval(slopes)  # the seeds as what is drawn
    scope = CONSTRUCTION if len(seeds) >= 3 else TWO_SEEDS
    half = hypot(interval.high - interval.estimate, 0.0 if isnan(over.low) else over.high - over.estimate)
    method = f"{interval.method}, joined with Student t over training seeds"
    low, high = interval.estimate - half, interval.estimate + half
    return replace(interval, low=low, high=high, scope=scope, method=method)


def slope_contrast(table: pd.DataFrame, *, level: float = 0.95) -> Contrast:
    """The slope of differences (`less_plain`), with prompts and training seeds crossed; `n` counts prompts.

    Every prompt's share in the slope is one value for each seed, so that the error is the cluster-robust one, with what
    the seeds add to it. `_slope` of the same adds up both without taking their common part out, and is longer.
    """
    reward, prompts = table["reward"].to_numpy(float), table.index.get_level_values("prompt_id").to_numpy()
    shares = slope_shares(reward, table[_seeds(table)].to_numpy(float).T, prompts)
    return crossed_contrast(shares, level=level)


def _plain(cells: pd.DataFrame, label: int) -> int | None:
    """The cell of the same pairs without goals, where there is one."""
    cell = cells.loc[label]
    if "construction.pairs.name" not in cells.columns or not plain(cell["construction.pairs.name"]):
        return None
    same = {name: name for name in (*comparison_columns(cells), "n", *PAIR)}
    # A plain cell's own settings of the pairs, such as which of them are static, stand a level higher.
    same |= {f"construction.pairs.{one.name}": f"construction.{one.name}" for one in fields(ConstructionConfig)}
    fitting = [
        int(str(other))
        for other, row in cells.iterrows()
        if all(plain(cell.get(mine)) == plain(row.get(theirs)) for mine, theirs in same.items())
    ]
    return fitting[0] if len(fitting) == 1 else None


def _name(cells: pd.DataFrame, label: int) -> str:
    return cell_name(cells.loc[cells.index == label].iloc[0], cells)


def _shown(row: "pd.Series[Any]") -> str:
    if isnan(row["estimate"]):
        return str(row["note"])
    bracket = f" ({row['note']})" if isnan(row["low"]) else f" [{row['low']:.3g}, {row['high']:.3g}]"
    return f"{row['estimate']:.3g}{bracket}"
