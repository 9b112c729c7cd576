"""Figures of what lies behind the cells: rewards, training, rounds and costs. Nothing is drawn that a store lacks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from analysis.estimates import comparison_columns
from analysis.figures import (
    normality_check,
    on_share_over_rounds,
    reward_positions,
    stage_costs,
    training_curves,
    unlearning_curve,
)
from analysis.normality import normality, quantiles, shape_histograms
from analysis.report.drawing import Analysed, Drawing, drawing_of
from analysis.report.frames import kinds, largest
from analysis.report.panels import Setting, heading, split
from analysis.schema import plain
from analysis.tables import cell_names
from analysis.training_curves import remarkable, training_curves_of
from analysis.unlearning import unlearning_curves


def reward_distributions(found: Analysed) -> Iterator[Drawing]:
    """The positions among the rewards, one per policy and reward; ranks are no rewards."""
    if found.frames is None or (picks := _scored(found.frames.picks)).empty:
        return
    for setting, part in by_kind(picks):
        rewards = found.frames.reward_z
        own = rewards[rewards["pool"].isin(largest(part)[:1])]
        draw = partial(reward_positions, part, own if len(own) else None, **_words(found, setting))
        yield drawing_of("rewards", "Rewards and the positions among them", setting, draw)


def normality_checks(found: Analysed) -> Iterator[Drawing]:
    """Whether rewards are normal, one per policy and reward of which some prompt was tested."""
    if found.frames is None or (spreads := _scored(found.frames.spreads)).empty:
        return
    labels = found.frames.picks.drop_duplicates("pool").set_index("pool")["reward_label"]
    for setting, part in by_kind(spreads):
        if part["normal_p"].notna().any():
            pool = part[part["pool"].isin(largest(part)[:1])]
            rewards = found.frames.reward_z
            points = quantiles(rewards[rewards["pool"].isin(pool["pool"])])
            drawn = normality(part), shape_histograms(pool), points
            reward = " / ".join(dict.fromkeys(plain(labels.get(key)) for key in dict.fromkeys(part["pool"])))
            draw = partial(normality_check, *drawn, reward=reward, **_words(found, setting))
            yield drawing_of("normality", "Are rewards normal within a prompt?", setting, draw)


def training(found: Analysed) -> Iterator[Drawing]:
    """Training curves, one per setting of which something was trained."""
    if found.frames is None or found.results is None or found.frames.training.empty:
        return
    for setting, part in split(found.cells[found.cells["status"] == "done"], comparison_columns(found.cells)):
        curves = training_curves_of(part, found.results, found.frames.training)
        if len(curves):
            names = cell_names(part)
            shown = {
                row: f"{names[row]} ({why})" if why else names[row] for row, why in remarkable(part, curves).items()
            }
            draw = partial(training_curves, curves, shown, cells=part, **_words(found, setting))
            yield drawing_of("training", "Training curves", setting, draw)


def unlearning(found: Analysed) -> Iterator[Drawing]:
    """The unlearning curve, one per setting of which changes were measured."""
    if found.changes is None or found.changes.empty:
        return
    for setting, part in split(found.cells[found.cells["status"] == "done"], comparison_columns(found.cells)):
        curves = unlearning_curves(part, found.changes)
        if len(curves):
            measured = part.loc[part.index.isin(curves["cell"])]
            reward = " / ".join(dict.fromkeys(plain(label) for label in measured["reward_label"]))
            words = _words(found, setting)
            draw = partial(unlearning_curve, curves, cell_names(part), reward=reward, **words)
            yield drawing_of("unlearning", "What training unlearns", setting, draw)


def boundaries(found: Analysed) -> Iterator[Drawing]:
    """The on-policy share over rounds, one per judge of the boundary."""
    if found.frames is None:
        return
    known = found.frames.on_share[found.frames.on_share["on_share"].notna()]
    judges = list(dict.fromkeys(known["label"].map(plain)))
    for judge in judges:
        setting = {"boundary.judge": judge} if len(judges) > 1 else {}
        draw = partial(on_share_over_rounds, known[known["label"].map(plain) == judge], **_words(found, setting))
        yield drawing_of("on_share", "On-policy share over rounds", setting, draw)


def costs(found: Analysed) -> Iterator[Drawing]:
    """What the stages cost, once for all."""
    if found.frames is not None and len(found.frames.costs):
        draw = partial(stage_costs, found.frames.costs, **_words(found, {}))
        yield drawing_of("costs", "Cost by stage, and what sharing saved", {}, draw)


def _scored(pools: pd.DataFrame) -> pd.DataFrame:
    """Those that a reward has scored: ranks stand evenly apart, so that there is nothing to see of them."""
    return pools[pools["scored_by"] == "reward"] if len(pools) else pools


def by_kind(pools: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Rows of pools apart by policy and reward, with those of the names that vary.

    Where several pools of a kind have one n, as those of two samplers have, each stands alone, under its key.
    """
    parts = [part for _, part in pools.groupby(kinds(pools), sort=False)]
    varying = [name for name in ("policy.name", "reward.name") if pools[name].nunique() > 1]
    sizes = {bool(part["n"].isna().all()) for part in parts}
    for part in parts:
        setting = {name: plain(part[name].iloc[0]) for name in varying}
        if len(sizes) > 1:
            setting["candidates"] = "static" if part["n"].isna().all() else "on-policy"
        one_each = part.drop_duplicates("pool")
        if one_each["n"].duplicated().any():
            yield from ((setting | {"pool": str(key)}, own) for key, own in part.groupby("pool", sort=False))
        else:
            yield setting, part


def _words(found: Analysed, setting: Setting) -> dict[str, Any]:
    return {"heading": heading(setting), "provenance": found.provenance}
