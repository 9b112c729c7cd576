"""Further frames of a sweep, each loaded when a figure first asks for it."""

from functools import cached_property
from typing import Final

import pandas as pd

from analysis.frames import load_costs, load_picks, load_spreads, load_training
from analysis.reward_z import load_reward_z
from analysis.rounds import load_on_share
from analysis.stores import Stores

SHAPES: Final = 1_000
"""Prompts of each pool whose normality is tested: their share is known to 1.4 points then."""


class Frames:
    """The frames of one sweep, or of all in a store."""

    def __init__(self, store: Stores, sweep: str | None = None) -> None:
        self._store, self._sweep = store, sweep

    def load(self) -> None:
        """Load all of them now, as when this process would only wait for others."""
        for name, found in vars(type(self)).items():
            if isinstance(found, cached_property):
                getattr(self, name)

    @cached_property
    def training(self) -> pd.DataFrame:
        """`schema.TRAINING`."""
        return load_training(self._store, self._sweep)

    @cached_property
    def spreads(self) -> pd.DataFrame:
        """`schema.SPREADS`, the shapes of `SHAPES` prompts of each pool among them."""
        return load_spreads(self._store, self._sweep, shapes=SHAPES)

    @cached_property
    def picks(self) -> pd.DataFrame:
        """`schema.PICKS`."""
        return load_picks(self._store, self._sweep)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """`schema.COSTS`."""
        return load_costs(self._store, self._sweep)

    @cached_property
    def on_share(self) -> pd.DataFrame:
        """`schema.ON_SHARE`."""
        return load_on_share(self._store, self._sweep)

    @cached_property
    def same_rewards(self) -> dict[str, str]:
        """Of each pool the first one that has the same rewards: what was selected from them may differ."""
        return same_rewards(self.spreads)

    @cached_property
    def reward_z(self) -> pd.DataFrame:
        """`schema.REWARD_Z` of the pools with the largest n of their kind."""
        pools = self.picks[self.picks["pool"].isin(self.same_rewards.values())]
        return load_reward_z(self._store, self._sweep, only=largest(pools))


def same_rewards(spreads: pd.DataFrame) -> dict[str, str]:
    """Key of each pool of `schema.SPREADS`, with that of the first one of the same rewards.

    They are the same where policy and reward are, and every prompt has as many of them, of one mean and deviation.
    """
    names, numbers = ["policy.name", "reward.name", "scored_by", "prompt_id"], ["n", "valid", "mu", "sigma"]
    first: dict[tuple[str, bytes], str] = {}
    found = {}
    for key, own in spreads.groupby("pool", sort=False):
        ordered = own.sort_values("prompt_id")
        content = ordered[names].to_json(orient="values"), ordered[numbers].to_numpy(float).tobytes()
        found[str(key)] = first.setdefault(content, str(key))
    return found


def kinds(pools: pd.DataFrame) -> "pd.Series[int]":
    """A number for each row of a frame of pools, equal where policy and reward are, and both or neither has an n."""
    names = ["policy.name", "reward.name", "scored_by"]
    return pools.groupby([*(pools[name] for name in names), pools["n"].isna()], sort=False, dropna=False).ngroup()


def largest(pools: pd.DataFrame) -> list[str]:
    """Keys of the pools that no other one of their kind exceeds in n."""
    size = pools["n"].fillna(0)
    return list(dict.fromkeys(pools.loc[size == size.groupby(kinds(pools)).transform("max"), "pool"]))
