"""How realised z lies, response by response, beside what as many normal rewards would give.

A prompt's own mean and deviation bind the z of its m rewards: they stand within (m - 1)^0.5 of zero. The normal rewards
that they are compared with are bound likewise, by the distribution of Thompson (1935), which a standard normal is the
limit of.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy import stats

from analysis import schema
from analysis.exported import exported
from analysis.frames import POOL_TEXT, Missing, pools, scores, typed
from analysis.stores import Stores
from harness import tables
from harness.store import Artifact

BIN: Final = 0.05
EDGES: Final = np.linspace(-8.0, 8.0, 321)
"""Of the bins of z."""

Floats = npt.NDArray[np.float64]


def load_reward_z(store: Stores, sweep: str | None = None, *, only: Collection[str] | None = None) -> pd.DataFrame:
    """One row per pool and bin of realised z, with the columns of `schema.REWARD_Z`.

    Rewards are read and counted part by part, so that no pool has to fit in memory.

    Args:
        store: a store, or several.
        sweep: one sweep only.
        only: keys of the pools that are wanted, since reading all rewards of a large pool takes seconds. None: all.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        frame = folder.frame("reward_z", schema.REWARD_Z, sweep)
        return frame if only is None else frame[frame["pool"].isin(list(only))].reset_index(drop=True)
    frames = []
    missing = Missing()
    for opened, pool, facts in pools(store, sweep, missing):
        scored = scores(opened, pool) if only is None or facts["pool"] in only else None
        if scored is not None:
            spreads = pool.table("spreads").to_pandas()
            kept = spreads[spreads["dropped"].isna()].set_index("prompt_id")
            counts = sum((_counts(part, kept, facts["n"]) for part in _parts(scored)), np.zeros(len(EDGES) - 1))
            expected = normal_counts(kept["valid"].value_counts().to_dict(), pool.manifest.spec["ddof"])
            middles = (EDGES[:-1] + EDGES[1:]) / 2
            frames.append(pd.DataFrame({**facts, "z": middles, "responses": counts, "expected": expected}))
    return missing.say(typed(frames, schema.REWARD_Z, POOL_TEXT))


def normal_counts(prompts: Mapping[int, int], ddof: int) -> Floats:
    """How many rewards of each bin there would be if all were normal, [bins].

    Args:
        prompts: how many prompts there are with so many rewards (two or more).
        ddof: of the deviation that z is made with.
    """
    counts = np.zeros(len(EDGES) - 1)
    for rewards, number in prompts.items():
        below = normal_share(EDGES[1:-1], int(rewards), ddof)
        counts += rewards * number * np.diff(below, prepend=0.0, append=1.0)
    return counts


def normal_share(z: Floats, rewards: int, ddof: int) -> Floats:
    """Share of normal rewards whose realised z is at most this, where each prompt has so many, of the shape of `z`."""
    population = z * np.sqrt(rewards / (rewards - 1)) if ddof else z
    if rewards == 2:  # one is the higher and one the lower
        return np.where(population >= 1, 1.0, np.where(population >= -1, 0.5, 0.0))
    bound = np.sqrt(rewards - 1)
    inside = np.clip(population, -bound, bound)
    with np.errstate(divide="ignore"):
        student = inside * np.sqrt(rewards - 2) / np.sqrt(np.maximum(rewards - 1 - inside**2, 0.0))
    return np.asarray(stats.t.cdf(student, rewards - 2))


def _parts(scored: Sequence[Artifact]) -> Iterator[pa.Table]:
    for artifact in scored:
        yield from tables.parts(artifact.table_path("rewards"), ["prompt_id", "sample_index", "reward"])


def _counts(table: pa.Table, kept: pd.DataFrame, n: int | None) -> Floats:
    """How many of some rewards, of the kept prompts' first n, are in each bin, [bins]."""
    rows = kept.index.get_indexer(table.column("prompt_id").to_pandas())
    rewards = table.column("reward").to_numpy()
    own = (rows >= 0) & np.isfinite(rewards)
    if n is not None:
        own &= table.column("sample_index").to_numpy() < n
    mu, sigma = (kept[name].to_numpy(float)[rows[own]] for name in ("mu", "sigma"))
    places = np.searchsorted(EDGES, (rewards[own] - mu) / sigma, side="right") - 1
    return np.bincount(np.clip(places, 0, len(EDGES) - 2), minlength=len(EDGES) - 1).astype(np.float64)
