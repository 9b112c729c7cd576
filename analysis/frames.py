"""Further tidy frames of a sweep: training curves, reward distributions, picks and costs.

The columns are those of `analysis.schema`. What is not done yet has no rows, and `attrs["missing"]` says so.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy import stats

from analysis import schema
from analysis.exported import exported
from analysis.statistics import mean_interval
from analysis.stores import Points, Stores, ancestry, points_of, say_missing
from harness import choice, cost, record
from harness.errors import ConfigError
from harness.plan import STAGES
from harness.positions import POSITIONS
from harness.selection import pick
from harness.stages import select
from harness.store import Artifact, Store

LEAST_FOR_NORMALITY = 8
"""Rewards of a prompt below which a test of their normality could hardly reject anything."""

_DRAWS = 20_000
"""Simulated prompts behind an expected z: its standard error is below 0.01."""

POOL_TEXT = ("pool", "policy.name", "reward.name", "scored_by")


def load_training(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per trained cell and optimiser step, with the columns of `schema.TRAINING`.

    Cells of equal content share one training, whose curve stands under each of their keys.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("training", schema.TRAINING, sweep)
    curves: list[pa.Table] = []
    cells: list[str] = []
    found: dict[str, bool] = {}
    for opened, points in points_of(store, sweep):
        read: dict[Path, pa.Table] = {}  # cells of equal content have one folder
        for key in dict.fromkeys(p["nodes"]["train"] for p in points.values() if "train" in p["nodes"]):
            artifact = opened.find("train", key)
            found[key] = artifact is not None
            if artifact is None:
                continue
            if artifact.folder not in read:
                read[artifact.folder] = artifact.table("training", [name for name in schema.TRAINING if name != "cell"])
            curves.append(read[artifact.folder])
            cells += [key] * len(curves[-1])
    frame = pa.concat_tables(curves, promote_options="default").to_pandas() if curves else pd.DataFrame()
    frame = typed([frame.assign(cell=cells)], schema.TRAINING, ("cell",))
    return say_missing(
        frame, (key for key, is_done in found.items() if not is_done), len(found), "cells are not trained"
    )


def load_spreads(store: Stores, sweep: str | None = None, *, shapes: int | None = None) -> pd.DataFrame:
    """One row per pool (policy, reward and n) and prompt, with the columns of `schema.SPREADS`.

    Args:
        store: a store, or several.
        sweep: one sweep only.
        shapes: prompts of each pool whose skewness, kurtosis and test of normality are computed, the first by id; an id
            is a hash, so they are a random sample. None: all, a tenth of a millisecond each.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return _with_shapes(folder.frame("spreads", schema.SPREADS, sweep), shapes)
    frames = []
    parts: Parts = {}
    missing = Missing()
    for opened, pool, facts in pools(store, sweep, missing):
        frame = pool.table("spreads").to_pandas()
        if (scored := scores(opened, pool)) is not None:
            ids = frame["prompt_id"].sort_values().head(shapes) if shapes is not None else frame["prompt_id"]
            rewards = _rewards(scored, list(ids), facts["n"], parts if shapes is not None else {})
            measured = pd.DataFrame({"prompt_id": list(ids), **_shape(rewards)})
            frame = frame.merge(measured, on="prompt_id", how="left", validate="one_to_one")
        frames.append(frame.assign(**facts))
    return missing.say(typed(frames, schema.SPREADS, (*POOL_TEXT, "prompt_id", "dropped")))


def _with_shapes(frame: pd.DataFrame, shapes: int | None) -> pd.DataFrame:
    """The frame of spreads with the shapes of so many prompts of each pool only."""
    if shapes is not None:
        kept = frame.sort_values("prompt_id").groupby("pool").head(shapes).index
        frame.loc[~frame.index.isin(kept), ["skewness", "excess_kurtosis", "normal_p"]] = np.nan
    return frame


def load_picks(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per pool and position, with the columns of `schema.PICKS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("picks", schema.PICKS, sweep)
    rows = []
    missing = Missing()
    for opened, pool, facts in pools(store, sweep, missing):
        frame, said = pool.table("picks", ["prompt_id", "position", "z"]).to_pandas(), _labels(opened, pool)
        usable = pool.table("spreads", ["prompt_id", "valid"]).to_pandas().set_index("prompt_id")["valid"]
        for position, own in frame.groupby("position", sort=False):
            name = str(position)
            expected = _expected_of(name, usable.loc[own["prompt_id"]], pool.manifest.spec)
            mean = mean_interval(own["z"].to_numpy())
            realised = {"prompts": mean.n, "z_mean": mean.estimate, "z_low": mean.low, "z_high": mean.high}
            rows.append({**facts, "position": name, **realised, "z_expected": expected, **said})
    return missing.say(typed([pd.DataFrame(rows)], schema.PICKS, (*POOL_TEXT, "position", "reward_label", "decoding")))


def load_costs(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per stage of which anything is done, in the order of the data, with the columns of `schema.COSTS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("costs", schema.COSTS, sweep)
    rows: dict[str, Counter[str]] = {}
    undone: dict[str, bool] = {}
    for opened, points in points_of(store, sweep):
        users, stages = _users(points)
        counted: set[str] = set()
        for key, count in users.items():
            artifact = opened.find(stages[key], key)
            undone[key] = artifact is None
            if artifact is None:
                continue
            row, spent = rows.setdefault(stages[key], Counter()), cost.of(artifact.manifest.provenance)
            row.update(nodes=1, unshared=count * spent.seconds, unshared_gpu=count * spent.gpu_seconds)  # type: ignore[call-overload]
            if str(artifact.folder) not in counted:  # an alias has its original's
                counted.add(str(artifact.folder))
                row.update(seconds=spent.seconds, gpu=spent.gpu_seconds, **_paid(artifact))  # type: ignore[call-overload]
    frame = typed([pd.DataFrame([_cost(s, rows[s]) for s in STAGES if s in rows])], schema.COSTS, ("stage",))
    return say_missing(frame, (key for key, none in undone.items() if none), len(undone), "units of work are not done")


def _expected_of(position: str, usable: "pd.Series[int]", spec: Mapping[str, Any]) -> float:
    """Expected z of one position of a selection, whose prompts have so many usable rewards."""
    if spec["n"] is None:  # candidates of various origins are no sample of one distribution
        return math.nan
    counts = dict(zip(*(column.tolist() for column in np.unique(usable, return_counts=True)), strict=True))
    if position != select.LOW_DRAW:
        return expected_z(position, counts, spec["ddof"])
    return expected_low_draw(counts, spec["n"], spec["draws"]["draws"], spec["ddof"])


def expected_z(position: str, prompts: Mapping[int, int], ddof: int = 0) -> float:
    """Mean realised z of a position if a prompt's rewards are normal, by simulation; NaN for what is no position.

    Prompts of fewer than two usable rewards do not count, since nothing is picked from them; NaN where there are no
    others.

    Args:
        position: a name of `harness.positions`.
        prompts: how many prompts there are with so many usable rewards, which may be fewer than n.
        ddof: of the deviation that picks and z are made with.
    """
    asked = POSITIONS if position in POSITIONS else (position,)
    counted = _picked_from(prompts)
    return _expected(asked, counted, ddof).get(position, math.nan) if counted else math.nan


def expected_low_draw(prompts: Mapping[int, int], n: int, draws: int, ddof: int = 0) -> float:
    """Mean realised z of the lowest of some draws of n rewards, if these are normal and unusable ones fall at random.

    As `expected_z`; a prompt of which no usable reward is drawn does not count either.
    """
    if not (counted := _picked_from(prompts)):
        return math.nan
    normal, counts = _normal(counted)
    usable = np.arange(normal.shape[1]) < counts[:, None]
    picks = pick(normal, usable, positions=("mu",), ddof=ddof)
    # Which of a prompt's rewards are drawn does not matter, only how many of them are usable.
    drawn = np.random.default_rng(1).hypergeometric(counts, n - counts, draws)
    lowest = np.where(np.arange(normal.shape[1]) < drawn[:, None], normal, np.inf).min(axis=1)
    return float(((lowest - picks.mu) / picks.sigma)[drawn > 0].mean())


def _picked_from(prompts: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """How many prompts have so many usable rewards, of the prompts that something is picked from."""
    return tuple(sorted((rewards, number) for rewards, number in prompts.items() if rewards >= 2 and number))


@lru_cache(maxsize=512)
def _expected(positions: tuple[str, ...], prompts: tuple[tuple[int, int], ...], ddof: int) -> dict[str, float]:
    """Of several positions at once, since drawing takes longer than picking."""
    normal, counts = _normal(prompts)
    usable, streams = np.arange(normal.shape[1]) < counts[:, None], np.arange(_DRAWS, dtype=np.uint64)
    try:
        picks = pick(normal, usable, positions=positions, ddof=ddof, streams=streams)
    except ConfigError:
        return {}
    return dict(zip(positions, np.nanmean(picks.z, axis=0).tolist(), strict=True))


def _normal(prompts: tuple[tuple[int, int], ...]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Normal rewards of `_DRAWS` simulated prompts [prompts x rewards], and how many of each prompt's are usable.

    The numbers of usable rewards are as frequent among them as among the prompts that are given.
    """
    counts, number = (np.array(column) for column in zip(*prompts, strict=True))
    ends = np.cumsum(number) / number.sum()
    each = counts[np.searchsorted(ends, (np.arange(_DRAWS) + 0.5) / _DRAWS)]
    return np.random.default_rng(0).standard_normal((_DRAWS, counts.max())), each


def scores(store: Store, pool: Artifact) -> list[Artifact] | None:
    """The rewards, or the ranks, that a selection is made from; None where some are not there any more."""
    keys = pool.manifest.inputs["rewards"]
    found = [a for key in keys if (a := store.find("score", key) or store.find("rank", key)) is not None]
    return found if len(found) == len(keys) else None


def _labels(store: Store, pool: Artifact) -> dict[str, str | None]:
    """Who has scored a pool, and how it was sampled, in words."""
    scored = scores(store, pool) or []
    labels = dict.fromkeys(label for a in scored if (label := a.manifest.measures.get("label")))
    keys = dict.fromkeys(key for a in scored for key in a.manifest.inputs.get("responses", ()))
    sampled = [a for key in keys if (a := store.find("sample", key)) is not None]
    decodings = dict.fromkeys(text for a in sampled if (text := a.manifest.measures.get("decoding")))
    return {"reward_label": "; ".join(labels) or None, "decoding": "; ".join(decodings) or None}


Parts = dict[tuple[Path, tuple[str, ...]], tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]]
"""Rows, sample indices and rewards that were read, by folder and prompts."""


def _rewards(scored: Sequence[Artifact], ids: Sequence[str], n: int | None, parts: Parts) -> npt.NDArray[np.float64]:
    """Rewards of these prompts' first n samples, [prompts x n], read part by part; NaN where there is none.

    Args:
        scored: what holds the rewards.
        ids: of the prompts.
        n: None for all samples.
        parts: what was read before: pools of a smaller n have the same parts. It is added to.
    """
    if n is None:
        given, every = select.matrix(tuple(scored), "rewards", "reward", n)
        return np.asarray(every[pd.Index(given).get_indexer(pd.Index(ids))])
    rewards = np.full((len(ids), n), np.nan)
    places, asked = pd.Index(ids), tuple(ids)
    for artifact in scored:
        if (known := (artifact.folder, asked)) not in parts:
            table = artifact.table("rewards", ["prompt_id", "sample_index", "reward"])
            rows = places.get_indexer(pd.Index(table.column("prompt_id").to_pandas()))
            own = rows >= 0
            samples, values = (table.column(name).to_numpy()[own] for name in ("sample_index", "reward"))
            parts[known] = rows[own], samples.astype(np.intp), values.astype(np.float64)
        rows, samples, values = parts[known]
        first = samples < n
        rewards[rows[first], samples[first]] = values[first]
    return rewards


@dataclass
class Missing:
    """Results whose pool is not there yet."""

    results: list[str] = field(default_factory=list)
    asked: int = 0

    def say(self, frame: pd.DataFrame) -> pd.DataFrame:
        return say_missing(frame, self.results, self.asked, "results have no pool that is selected from yet")


def pools(store: Stores, sweep: str | None, missing: Missing) -> Iterator[tuple[Store, Artifact, dict[str, Any]]]:
    """Every selection of a sweep, once, with the columns that name it; results without one are noted in `missing`."""
    for opened, points in points_of(store, sweep):
        seen: set[str] = set()
        for result, point in points.items():
            if "pairs" not in point["nodes"]:
                continue  # imported: it was selected from no pool
            own = {key: opened.find("select", key) for key in _selections(opened, point["nodes"]["pairs"])}
            missing.asked += 1
            missing.results += [] if any(own.values()) else [result]
            for key, pool in own.items():
                if pool is not None and key not in seen:
                    seen.add(key)
                    yield opened, pool, {"pool": key, **_names(opened, pool, point["config"])}


def _selections(store: Store, key: str) -> Sequence[str]:
    """Keys of the selections that rows are made of: of rows that a boundary chooses, those that it has chosen."""
    pairs = store.find("pairs", key)
    if pairs is None:
        return ()
    inputs = pairs.manifest.inputs
    if choice.BOUNDARY not in inputs:
        return list(inputs.get("picks", ()))
    boundary = store.find("boundary", inputs[choice.BOUNDARY][0])
    return () if boundary is None else _selections(store, inputs[choice.branch_of(boundary)][0])


def _names(store: Store, pool: Artifact, config: Mapping[str, Any]) -> dict[str, Any]:
    """Whose responses a pool has, who has scored or ranked them, and how many of each prompt; None: all."""
    ranked = store.find("rank", pool.manifest.inputs["rewards"][0]) is not None
    scorer = config["ranker.name" if ranked else "reward.name"]
    names = {"policy.name": config["policy.name"], "reward.name": scorer, "n": pool.manifest.spec["n"]}
    return {**names, "scored_by": "ranker" if ranked else "reward"}


def _users(points: Points) -> tuple[Counter[str], dict[str, str]]:
    """How many points need each node, and its stage."""
    users: Counter[str] = Counter()
    stages: dict[str, str] = {}
    known: dict[str, frozenset[str]] = {}
    for point in points.values():
        keys = ancestry(point["sweep"], [*point["nodes"].values(), *record.beside(point)], known)
        users.update(keys)
        stages |= {key: point["sweep"].nodes[key]["stage"] for key in keys if key not in stages}
    return users, stages


def _paid(artifact: Artifact) -> dict[str, float]:
    """Tokens and dollars of one artifact, where it counts them."""
    measures, stage = artifact.manifest.measures, artifact.manifest.stage
    counts: dict[str, float] = {}
    if stage == "sample" and "tokens" in measures:
        counts["tokens"] = float(measures["tokens"])
    if stage == "respond" and measures.get("tokens") is not None:
        counts["tokens"] = float(measures["tokens"]) * int(artifact.manifest.rows["kept"])
    if measures.get("prompt_tokens") is not None:
        counts["tokens"] = float(measures["prompt_tokens"]) + float(measures["completion_tokens"] or 0)
    if measures.get("cost_usd") is not None:
        counts["money"] = float(measures["cost_usd"])
    return counts


def _cost(stage: str, row: Mapping[str, float]) -> dict[str, Any]:
    return {
        "stage": stage,
        "nodes": row["nodes"],
        "seconds": row["seconds"],
        "gpu_hours": row["gpu"] / 3600,
        "tokens": row.get("tokens", math.nan),
        "money": row.get("money", math.nan),
        "unshared_seconds": row["unshared"],
        "unshared_gpu_hours": row["unshared_gpu"] / 3600,
    }


def _shape(rewards: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Skewness, excess kurtosis and the test of normality of each prompt's finite rewards, [prompts] each."""
    columns = {name: np.full(len(rewards), np.nan) for name in ("skewness", "excess_kurtosis", "normal_p")}
    for row, given in enumerate(rewards):
        values = given[np.isfinite(given)]
        if len(values) < 2 or values.max() == values.min():
            continue
        standard = (values - values.mean()) / values.std()
        columns["skewness"][row] = (standard**3).mean()
        columns["excess_kurtosis"][row] = (standard**4).mean() - 3.0
        if len(values) >= LEAST_FOR_NORMALITY:
            columns["normal_p"][row] = stats.shapiro(standard).pvalue
    return columns


def typed(frames: Sequence[pd.DataFrame], columns: Mapping[str, str], text: Sequence[str]) -> pd.DataFrame:
    """The frames as one with these columns: the named ones text, the others float64."""
    given = [frame.reindex(columns=list(columns)) for frame in frames if len(frame)]
    frame = pd.concat(given, ignore_index=True) if given else pd.DataFrame(columns=list(columns))
    kinds = {name: "object" if name in text else "float64" for name in columns}
    frame = frame.astype(kinds)
    return frame.where(frame.notna() | ~frame.columns.isin(text), None)
