"""Figures of what lies behind the cells: rewards, training, rounds and costs. Nothing is drawn that a store lacks."""

from collections.abc import Collection, Iterator, Mapping
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
from analysis.frames import LEAST_FOR_NORMALITY
from analysis.normality import normality, quantiles, shape_histograms
from analysis.report.drawing import Analysed, Figures, NotDrawn, drawing_of
from analysis.report.frames import kinds, largest
from analysis.report.panels import Setting, heading, split
from analysis.schema import plain
from analysis.tables import cell_names
from analysis.training_curves import remarkable, training_curves_of
from analysis.unlearning import unlearning_curves


def reward_distributions(found: Analysed) -> Figures:
    """The positions among the rewards, one per policy and reward; ranks are no rewards.

    Selections from the same rewards that mean something else by one name, such as draws of two seeds, stand alone.
    """
    kind = "Rewards and the positions among them"
    if found.frames is None:
        return
    same = found.frames.same_rewards
    picks, alone = _together(_scored(found.frames.picks), same)
    for setting, part in by_kind(picks, alone):
        rewards = found.frames.reward_z
        own = rewards[rewards["pool"].isin([same[key] for key in largest(part)[:1]])]
        draw = partial(reward_positions, part, own if len(own) else None, **_words(found, setting))
        yield drawing_of("rewards", kind, setting, draw)
    if picks.empty:
        yield NotDrawn(kind=kind, reason="nothing was picked by a reward")


def normality_checks(found: Analysed) -> Figures:
    """Whether rewards are normal, one per policy and reward of which some prompt was tested."""
    kind = "Are rewards normal within a prompt?"
    if found.frames is None:
        return
    spreads, none = _scored(found.frames.spreads), True
    spreads = spreads[spreads["pool"].isin(found.frames.same_rewards.values())]
    labels = found.frames.picks.drop_duplicates("pool").set_index("pool")["reward_label"]
    for setting, part in by_kind(spreads):
        if part["normal_p"].notna().any():
            pool = part[part["pool"].isin(largest(part)[:1])]
            rewards = found.frames.reward_z
            points = quantiles(rewards[rewards["pool"].isin(pool["pool"])])
            drawn = normality(part), shape_histograms(pool), points
            reward = " / ".join(dict.fromkeys(plain(labels.get(key)) for key in dict.fromkeys(part["pool"])))
            draw = partial(normality_check, *drawn, reward=reward, **_words(found, setting))
            yield drawing_of("normality", kind, setting, draw)
            none = False
    if none:
        yield NotDrawn(kind=kind, reason=f"no prompt has the {LEAST_FOR_NORMALITY} rewards that its test needs")


def training(found: Analysed) -> Figures:
    """Training curves, one per setting of which something was trained."""
    kind = "Training curves"
    if found.frames is None or found.results is None:
        return
    none = True
    for setting, part in split(found.cells[found.cells["status"] == "done"], comparison_columns(found.cells)):
        curves = training_curves_of(part, found.results, found.frames.training)
        if len(curves):
            names = cell_names(part)
            shown = {
                row: f"{names[row]} ({why})" if why else names[row] for row, why in remarkable(part, curves).items()
            }
            draw = partial(training_curves, curves, shown, cells=part, **_words(found, setting))
            yield drawing_of("training", kind, setting, draw)
            none = False
    if none:
        yield NotDrawn(kind=kind, reason="no cell that is done was trained here")


def unlearning(found: Analysed) -> Figures:
    """The unlearning curve, one per setting of which changes were measured."""
    kind = "What training unlearns"
    if found.changes is None:
        return
    none = True
    for setting, part in split(found.cells[found.cells["status"] == "done"], comparison_columns(found.cells)):
        curves = unlearning_curves(part, found.changes)
        if len(curves):
            measured = part.loc[part.index.isin(curves["cell"])]
            reward = " / ".join(dict.fromkeys(plain(label) for label in measured["reward_label"]))
            words = _words(found, setting)
            draw = partial(unlearning_curve, curves, cell_names(part), reward=reward, **words)
            yield drawing_of("unlearning", kind, setting, draw)
            none = False
    if none:
        yield NotDrawn(kind=kind, reason="no change of held-out responses was measured (unlearning.samples)")


def boundaries(found: Analysed) -> Figures:
    """The on-policy share over rounds, one per judge of the boundary."""
    kind = "On-policy share over rounds"
    if found.frames is None:
        return
    known = found.frames.on_share[found.frames.on_share["on_share"].notna()]
    judges = list(dict.fromkeys(known["label"].map(plain)))
    for judge in judges:
        setting = {"boundary.judge": judge} if len(judges) > 1 else {}
        draw = partial(on_share_over_rounds, known[known["label"].map(plain) == judge], **_words(found, setting))
        yield drawing_of("on_share", kind, setting, draw)
    if not judges:
        yield NotDrawn(kind=kind, reason="no boundary was measured (boundary=measured)")


def costs(found: Analysed) -> Figures:
    """What the stages cost, once for all."""
    kind = "Cost by stage, and what sharing saved"
    if found.frames is None:
        return
    if len(found.frames.costs):
        draw = partial(stage_costs, found.frames.costs, **_words(found, {}))
        yield drawing_of("costs", kind, {}, draw)
    else:
        yield NotDrawn(kind=kind, reason="nothing is done yet")


def _scored(pools: pd.DataFrame) -> pd.DataFrame:
    """Those that a reward has scored: ranks stand evenly apart, so that there is nothing to see of them."""
    return pools[pools["scored_by"] == "reward"]


def _together(picks: pd.DataFrame, same: Mapping[str, str]) -> tuple[pd.DataFrame, set[str]]:
    """Picks from the same rewards under one pool, each position once; and the pools that have to stand alone.

    Selections that pick differently at a position of one name, as draws of two seeds do, stay pools of their own.
    """
    picks = picks.reset_index(drop=True)
    numbers = [picks[name] for name in ("n", "prompts", "z_mean", "z_low", "z_high", "z_expected")]
    rewards, position = picks["pool"].map(same), picks["position"]
    meant = picks.groupby([rewards, position, *numbers], sort=False, dropna=False).ngroup()
    several = meant.groupby([rewards, position]).transform("nunique") > 1
    first: dict[tuple[str, frozenset[int]], str] = {}
    pool, alone = dict[str, str](), set[str]()
    for key in dict.fromkeys(picks["pool"]):
        apart = frozenset(meant[several & (picks["pool"] == key)])
        pool[key] = first.setdefault((same[key], apart), key)
        alone |= {pool[key]} if apart else set()
    return picks.assign(pool=picks["pool"].map(pool)).drop_duplicates(["pool", "position"]), alone


def by_kind(pools: pd.DataFrame, alone: Collection[str] = ()) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Rows of pools apart by policy and reward, with those of the names that vary.

    Where several pools of a kind have one n, as those of two samplers have, each stands alone, under its key. So do
    the pools of `alone`.
    """
    parts = [part for _, part in pools.groupby(kinds(pools), sort=False)] if len(pools) else []
    varying = [name for name in ("policy.name", "reward.name") if pools[name].nunique() > 1]
    sizes = {bool(part["n"].isna().all()) for part in parts}
    for part in parts:
        setting = {name: plain(part[name].iloc[0]) for name in varying}
        if len(sizes) > 1:
            setting["candidates"] = "static" if part["n"].isna().all() else "on-policy"
        apart = part["pool"].isin(list(alone))
        if part[~apart].drop_duplicates("pool")["n"].duplicated().any():
            apart = pd.Series(True, index=part.index)
        if not apart.all():
            yield setting, part[~apart]
        yield from ((setting | {"pool": str(key)}, own) for key, own in part[apart].groupby("pool", sort=False))


def _words(found: Analysed, setting: Setting) -> dict[str, Any]:
    return {"heading": heading(setting), "provenance": found.provenance}
