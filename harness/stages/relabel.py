"""Reward-augmented data: pairs relabelled by goals (arXiv 2410.08067).

A goal g is a score that the prompt asks for. Under R(x, y, g) = -(g - r(x, y))^2 each of two responses is the better
one where its own score is the goal: a pair (w, l) becomes one row under the score of w with w chosen, and one under
that of l with l chosen. Kept apart from faults of the published code: the second row is turned round, the goal's text
stands in a prompt once, and responses whose goals read the same make no rows.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness import chat, goals, tables
from harness.errors import ConfigError, PrefsweepError
from harness.keys import stream
from harness.stages import Context, Outcome
from harness.stages.pairs import KEPT, REVERSED, why_rewards_make_no_pair
from harness.store import Artifact, Rows

VERSION = 1

Pair = tuple[dict[str, Any], dict[str, Any]]
"""Picks of the higher and the lower position of a prompt."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What decides the rows."""

    chosen: str
    rejected: str
    n: int | None
    """The scale is that of the first so many samples; None: of all."""
    score: Literal["reward", "implicit"] | None
    """None with a constant goal, which needs no scores."""
    beta: float | None
    """Of the implicit reward."""
    attributes: tuple[str, ...]
    scale: goals.ScaleConfig | None
    decimals: int
    half: int | None
    """Seed of the half of the pairs that is taken; None: all of them."""
    constant: float | None
    wording: goals.Wording
    trust_remote_code: bool
    """Of the policy, whose chat template is used."""


@dataclass(frozen=True, kw_only=True)
class _Scores:
    """Scores of responses, each a list of one per name."""

    by_response: dict[tuple[str, int], list[float]]
    pool: npt.NDArray[np.float64]
    """[responses, names]"""


def run(context: Context, spec: Spec) -> Outcome:
    """Write the rows of every pair, under its goals; no tokens of a response are touched."""
    from harness.engines import models

    tokenizer, _ = models.load_tokenizer(context.input("policy").model_path, spec.trust_remote_code)
    names = goals.names_of(spec.attributes)
    sample = goals.goal_text(spec.wording, dict.fromkeys(names, goals.HIGHEST))
    placement = chat.place_goal(tokenizer, spec.wording.placement, sample)
    pairs = _pairs(context.input("picks"), spec)
    wanted, measures = _goals(context, spec, names, pairs)
    messages = {p["prompt_id"]: p["messages"] for p in context.input("prompts").table("prompts").to_pylist()}
    dropped = _why_dropped(spec, names, pairs, wanted)
    rows: list[dict[str, Any]] = []
    for prompt_id in sorted(pairs.keys() - dropped.keys()):
        own = _rows(spec, names, pairs[prompt_id], wanted)
        for row in own:
            row["prompt_ids"] = chat.encode_asked(tokenizer, messages[prompt_id], row["goal_text"], placement)
        if len(own) == 2 and own[0]["prompt_ids"] == own[1]["prompt_ids"]:
            raise PrefsweepError(f"prompt {prompt_id}: two goals have the same tokens")
        rows += own
    tables.write(tables.build(tables.RELABELLED, rows), context.work / "relabelled.parquet")
    each = 1 if spec.constant is not None else 2
    reasons = {reason: each * count for reason, count in Counter(dropped.values()).items()}
    return Outcome(
        rows=Rows(taken=each * len(pairs), kept=len(rows), dropped=reasons),
        measures={"placement": placement, **measures},
    )


def _pairs(picks: Artifact, spec: Spec) -> dict[str, Pair]:
    """The two picks of every prompt."""
    sides: dict[str, dict[str, dict[str, Any]]] = {spec.chosen: {}, spec.rejected: {}}
    for row in picks.table("picks").to_pylist():
        if row["position"] in sides:
            sides[row["position"]][row["prompt_id"]] = row
    return {prompt_id: (row, sides[spec.rejected][prompt_id]) for prompt_id, row in sides[spec.chosen].items()}


def _goals(
    context: Context, spec: Spec, names: list[str], pairs: dict[str, Pair]
) -> tuple[dict[tuple[str, int], list[float] | None], dict[str, Any]]:
    """The goal of every picked response, None where a score is missing; and the scale, to be recorded."""
    picked = [(pick["prompt_id"], pick["sample_index"]) for pair in pairs.values() for pick in pair]
    if spec.constant is not None:
        return dict.fromkeys(picked, [spec.constant] * len(names)), {}
    assert spec.scale is not None
    scores = _implicit(context, spec, spec.scale) if spec.score == "implicit" else _rewards(context, spec)
    bounds = [goals.bounds_of(scores.pool[:, i], spec.scale, name) for i, name in enumerate(names)]
    made: dict[tuple[str, int], list[float] | None] = {}
    for response in picked:
        own = scores.by_response.get(response)
        known = own is not None and bool(np.isfinite(own).all())
        made[response] = (
            [goals.goal_of(s, b, spec.decimals, n) for s, b, n in zip(own, bounds, names, strict=True)]
            if own is not None and known
            else None
        )
    return made, {"scale": {name: list(b) if b else None for name, b in zip(names, bounds, strict=True)}}


def _rewards(context: Context, spec: Spec) -> _Scores:
    """Rewards, or their attributes, of the first n samples.

    Raises:
        ConfigError: an attribute that the rewards do not have.
    """
    columns = [f"attribute_{name}" for name in spec.attributes] or ["reward"]
    frames = []
    for artifact in context.inputs["rewards"]:
        table = artifact.table("rewards")
        if missing := [name for name in columns if name not in table.column_names]:
            valid = [n.removeprefix("attribute_") for n in table.column_names if n.startswith("attribute_")]
            raise ConfigError(
                f"construction.attributes: the rewards have no {missing[0].removeprefix('attribute_')!r}; they have "
                f"{', '.join(valid) or 'no attributes'}"
            )
        frames.append(table.select(["prompt_id", "sample_index", *columns]).to_pandas())
    frame = pd.concat(frames, ignore_index=True)
    frame = frame if spec.n is None else frame[frame["sample_index"] < spec.n]
    return _scores(frame, frame[columns].to_numpy(np.float64))


def _implicit(context: Context, spec: Spec, scale: goals.ScaleConfig) -> _Scores:
    """Implicit rewards of the picks: beta (log p - log p of the policy).

    Raises:
        PrefsweepError: the changes are those of rounding, so that goals would be drawn by it.
    """
    from harness.engines.logprobs import rounding

    changes = context.input("changes")
    frame = changes.table("changes").to_pandas()
    assert spec.beta is not None
    change = frame["model_logp"].to_numpy(np.float64) - frame["policy_logp"].to_numpy(np.float64)
    finite, computed = change[np.isfinite(change)], changes.manifest.spec
    limit = rounding(computed["dtype"], computed["autocast"])
    if scale.rule == "quantiles" and len(finite) and (spread := float(np.ptp(finite))) < limit:
        raise PrefsweepError(
            "construction.score=implicit: the model that plain DPO trains on these pairs has hardly moved; its changes "
            f"of log-probability differ by {spread:.2g} nats, and less than {limit:g} is rounding, of which no goal "
            "can be made; train longer (train.epochs, train.max_steps, train.learning_rate), or set "
            "construction.score=reward"
        )
    return _scores(frame, spec.beta * change[:, None])


def _scores(frame: pd.DataFrame, values: npt.NDArray[np.float64]) -> _Scores:
    ids = zip(frame["prompt_id"], frame["sample_index"], strict=True)
    by_response = {(str(p), int(i)): row.tolist() for (p, i), row in zip(ids, values, strict=True)}
    if len(by_response) < len(values):
        raise PrefsweepError("a response has two scores")
    return _Scores(by_response=by_response, pool=values)


def _why_dropped(
    spec: Spec, names: list[str], pairs: dict[str, Pair], wanted: dict[tuple[str, int], list[float] | None]
) -> dict[str, str]:
    """Reasons by prompt id of the pairs that make no rows."""
    reasons = {prompt_id: _why_no_rows(spec, names, pair, wanted) for prompt_id, pair in pairs.items()}
    if spec.half is not None:
        usable = [prompt_id for prompt_id, reason in reasons.items() if not reason]
        # By hash, so that a further prompt moves no more than one over the line; of an odd number the larger half.
        usable.sort(key=lambda prompt_id: (stream(spec.half, prompt_id), prompt_id))
        reasons |= dict.fromkeys(usable[-(-len(usable) // 2) :], "other_half")
    return {prompt_id: reason for prompt_id, reason in reasons.items() if reason}


def _why_no_rows(spec: Spec, names: list[str], pair: Pair, wanted: dict[tuple[str, int], list[float] | None]) -> str:
    high, low = pair
    if high["sample_index"] == low["sample_index"]:
        return "same_response"
    if reason := why_rewards_make_no_pair(high, low):
        return reason
    texts = [_text(spec, names, wanted[pick["prompt_id"], pick["sample_index"]]) for pick in pair]
    if None in texts:
        return "no_score"
    # Two rows under one prompt with opposite labels would teach nothing: a tie of what the text shows is a tie.
    return "equal_goal" if spec.constant is None and texts[0] == texts[1] else ""


def _text(spec: Spec, names: list[str], goal: list[float] | None) -> str | None:
    return None if goal is None else goals.goal_text(spec.wording, dict(zip(names, goal, strict=True)))


def _rows(
    spec: Spec, names: list[str], pair: Pair, wanted: dict[tuple[str, int], list[float] | None]
) -> list[dict[str, Any]]:
    """A pair's rows: under the goal of each response this is the chosen one; with a constant goal the better alone."""
    orders = [(KEPT, *pair), (REVERSED, *pair[::-1])][: 1 if spec.constant is not None else 2]
    return [
        {
            "prompt_id": chosen["prompt_id"],
            "goal": wanted[chosen["prompt_id"], chosen["sample_index"]],
            "goal_text": _text(spec, names, wanted[chosen["prompt_id"], chosen["sample_index"]]),
            "order": order,
            "chosen_index": chosen["sample_index"],
            "rejected_index": rejected["sample_index"],
            "rejected_goal": wanted[rejected["prompt_id"], rejected["sample_index"]],
        }
        for order, chosen, rejected in orders
    ]
