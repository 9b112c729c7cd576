"""Preference rows of one cell: projected out of the picks, checked, counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from harness import tables
from harness.candidates import is_static
from harness.choice import BOUNDARY, branch_of
from harness.keys import ADDED, digest_with_rows
from harness.stages import Context, Outcome
from harness.stages.select import nth
from harness.store import Artifact, Rows, Store

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The two positions that make a row, and which rows are kept."""

    chosen: str
    rejected: str
    pairs_per_prompt: int | None = field(default=None, metadata=ADDED)
    """The nearest responses to both positions, the second nearest, and so on; None: the nearest."""
    min_margin: float | None = field(default=None, metadata=ADDED)
    """Smallest difference of the rewards of a row that is kept; None: any."""


NO_RESPONSE = "no_response_at_position"
"""Why a pair is dropped for which there is no further response, or none within the tolerance."""


@dataclass(frozen=True, kw_only=True)
class MixedSpec(Spec):
    """The two positions of rows of which a share is made of static candidates.

    Picks and reference log-probabilities of both sources are inputs, the on-policy ones first.
    """

    static_share: float
    """Share of the prompts."""
    seed: int
    """Seed of their draw."""


SOURCES = ("on_policy", "static")


@dataclass(frozen=True, kw_only=True)
class ChosenSpec:
    """Rows that a boundary chooses, of those that are made in several ways."""

    between: tuple[str, ...]
    """Names of the inputs of which one is taken."""


def run(context: Context, spec: Spec | ChosenSpec) -> Outcome:
    """Join the picks with their tokens and log-probabilities by (prompt_id, sample_index); or take rows as they are.

    Of mixed rows each prompt has one source; a prompt that its source has no picks of has none of the other's instead.
    """
    if isinstance(spec, ChosenSpec):
        return _take(context, spec)
    if "relabelled" in context.inputs:
        return _under_goals(context, spec)
    picks = _of_source(context.inputs["picks"], "picks", spec)
    reference = _by_response(context.inputs["reference"], spec)
    initial = _by_response(context.inputs["initial"], spec) if "initial" in context.inputs else None
    places = [(nth(spec.chosen, k), nth(spec.rejected, k)) for k in range(1, (spec.pairs_per_prompt or 1) + 1)]
    sides: dict[str, dict[str, dict[str, Any]]] = {name: {} for pair in places for name in pair}
    for row in picks:
        if row["position"] in sides:
            sides[row["position"]][row["prompt_id"]] = row
    common = common_prompts(context.inputs.get("others", ()))
    dropped: Counter[str] = Counter()
    reasons: dict[str, str | None] = {}
    rows = []
    prompts = sorted({row["prompt_id"] for row in picks})
    for prompt_id in prompts:
        used: set[int] = set()
        for high, low in places:
            chosen, rejected = sides[high].get(prompt_id), sides[low].get(prompt_id)
            if chosen is None or rejected is None:
                dropped[NO_RESPONSE] += 1
                reasons.setdefault(prompt_id, NO_RESPONSE)
                continue
            pair = {chosen["sample_index"], rejected["sample_index"]}
            texts = [reference.get((prompt_id, side["sample_index"])) for side in (chosen, rejected)]
            reason = _why_dropped(chosen, rejected, texts, common, spec.min_margin)
            if not reason and pair & used:
                reason = "response_in_nearer_pair"
            if reason:
                dropped[reason] += 1
            else:
                rows.append({**_row(chosen, rejected, texts), **_initial(chosen, rejected, initial)})
                used |= pair
            # A prompt with a row was not dropped, whichever of its pairs made it.
            reasons[prompt_id] = reasons.get(prompt_id, reason) if reason else None
    schema = tables.PAIRS if initial is None else tables.PAIRS_OF_ROUND
    tables.write(tables.build(schema, rows), context.work / "pairs.parquet")
    mixed = _write_sources(context, spec, reasons, rows) if isinstance(spec, MixedSpec) else {}
    return Outcome(
        rows=Rows(taken=len(prompts) * len(places), kept=len(rows), dropped=dict(dropped)),
        measures={**_measures(rows), **mixed},
        content=_content(rows, context.inputs["reference"][0]),
    )


def _by_response(logps: tuple[Artifact, ...], spec: Spec) -> tables.Keyed:
    """Log-probabilities by (prompt_id, sample_index); of two sources those of the prompts that are drawn for each."""
    found = [artifact.table("reference") for artifact in logps]
    if isinstance(spec, MixedSpec):
        ids = [table.column("prompt_id").to_pylist() for table in found]
        drawn = [
            [is_static_row(spec, i) == static for i in own] for own, static in zip(ids, (False, True), strict=True)
        ]
        found = [table.filter(pa.array(own, pa.bool_())) for table, own in zip(found, drawn, strict=True)]
    return tables.Keyed(pa.concat_tables(found), ("prompt_id", "sample_index"))


def _initial(chosen: dict[str, Any], rejected: dict[str, Any], initial: tables.Keyed | None) -> dict[str, float]:
    """Log-probabilities under the policy that training starts from, where that is not the reference."""
    if initial is None:
        return {}
    row: dict[str, float] = {}
    for side, pick in (("chosen", chosen), ("rejected", rejected)):
        found = initial.get((pick["prompt_id"], pick["sample_index"]))
        assert found is not None  # a pick that has a reference has this, too: both are of the same prompt and response
        row[f"initial_{side}_logp"] = found["logp"]
    return row


def _take(context: Context, spec: ChosenSpec) -> Outcome:
    """The rows of the branch that the boundary says, of prompts that all other cells have."""
    boundary = context.input(BOUNDARY)
    data = branch_of(boundary)
    taken = context.input(data)
    table, common = taken.table("pairs"), common_prompts(context.inputs.get("others", ()))
    kept = table
    if common is not None:
        kept = table.filter(pa.array([i in common for i in table.column("prompt_id").to_pylist()], pa.bool_()))
    tables.write(kept, context.work / "pairs.parquet")
    rows, left_out, own = taken.manifest.rows, table.num_rows - kept.num_rows, kept.to_pylist()
    dropped = {**rows["dropped"], **({"not_common": left_out} if left_out else {})}
    said = {name: boundary.manifest.measures.get(name) for name in ("on_share", "low", "high", "stage")}
    return Outcome(
        rows=Rows(taken=rows["taken"], kept=kept.num_rows, dropped=dropped),
        measures={**_measures(own), "data": data, **{f"boundary_{n}": value for n, value in said.items()}},
        # As if the data had been named: what is trained on these rows is the same experiment.
        content=_content_of_fewer(context, taken, own) if left_out else taken.manifest.content_id,
    )


def _content_of_fewer(context: Context, taken: Artifact, rows: list[dict[str, Any]]) -> str | None:
    """What the content of fewer rows would be had the stage that made them left the others out itself.

    None where the log-probabilities that they were made from have left the store: equal rows are then trained again.
    """
    (reference,) = taken.manifest.inputs["reference"]
    found = Store(context.store).find("reference", reference)
    return None if found is None else _content(rows, found)


def _of_source(artifacts: tuple[Artifact, ...], name: str, spec: Spec) -> list[dict[str, Any]]:
    """Rows of a table; of two sources those of the prompts that are drawn for each."""
    tables_of: list[list[dict[str, Any]]] = [artifact.table(name).to_pylist() for artifact in artifacts]
    if not isinstance(spec, MixedSpec):
        (only,) = tables_of
        return only
    both = zip(tables_of, (False, True), strict=True)
    return [row for rows, static in both for row in rows if is_static_row(spec, row["prompt_id"]) == static]


def is_static_row(spec: MixedSpec, prompt_id: str) -> bool:
    """Whether a prompt's row is made of static candidates."""
    return is_static(spec.static_share, spec.seed, prompt_id)


def _write_sources(
    context: Context, spec: MixedSpec, reasons: dict[str, str | None], rows: list[dict[str, Any]]
) -> dict[str, int]:
    """Say of every prompt where its row comes from and why it has none; returns the rows of each source."""
    said = [{"prompt_id": i, "source": SOURCES[is_static_row(spec, i)], "dropped": r} for i, r in reasons.items()]
    tables.write(tables.build(tables.SOURCES, said), context.work / "sources.parquet")
    kept = Counter(SOURCES[is_static_row(spec, row["prompt_id"])] for row in rows)
    return {f"{source}_rows": kept[source] for source in SOURCES}


def _under_goals(context: Context, spec: Spec) -> Outcome:
    """Rows of relabelled pairs, joined by (prompt_id, goal, sample_index)."""
    picks = {
        (r["prompt_id"], r["sample_index"]): r
        for r in context.input("picks").table("picks").to_pylist()
        if r["position"] in (spec.chosen, spec.rejected)
    }
    keys = ("prompt_id", "goal_text", "sample_index")
    reference = tables.Keyed(context.input("reference").table("reference"), keys)
    relabelled = context.input("relabelled").table("relabelled").to_pylist()
    common = common_prompts(context.inputs.get("others", ()))
    dropped: Counter[str] = Counter()
    rows = []
    for r in relabelled:
        prompt_id, indices = r["prompt_id"], (r["chosen_index"], r["rejected_index"])
        texts = [reference.get((prompt_id, r["goal_text"], index)) for index in indices]
        if reason := why_texts_make_no_row(texts) or ("" if common is None or prompt_id in common else "not_common"):
            dropped[reason] += 1
        else:
            chosen, rejected = (picks[prompt_id, index] for index in indices)
            rows.append({**_row(chosen, rejected, texts), **{name: r[name] for name in ("goal", "goal_text", "order")}})
    tables.write(tables.build(tables.GOAL_PAIRS, rows), context.work / "pairs.parquet")
    return Outcome(
        rows=Rows(taken=len(relabelled), kept=len(rows), dropped=dict(dropped)),
        measures=_measures(rows),
        content=_content(rows, context.input("reference")),
    )


KEPT, REVERSED = "kept", "reversed"
"""Order of a relabelled pair: that of its rewards, or turned round."""


def why_empty(pairs: Artifact) -> str:
    """Why a cell has nothing to train on; an empty text where it has."""
    rows = pairs.manifest.rows
    if rows["kept"]:
        return ""
    dropped = ", ".join(f"{count} {reason}" for reason, count in rows["dropped"].items())
    return f"no preference rows: {dropped or 'no prompt was kept'}"


def common_prompts(others: tuple[Artifact, ...]) -> set[str] | None:
    """Prompts that every one of the other cells kept; None where there are no others to agree with.

    A cell without any rows, as (mu-2s, min) at n = 8, is no experiment, and has no say.
    """
    kept = [set(a.table("pairs", ["prompt_id"]).column("prompt_id").to_pylist()) for a in others]
    kept = [prompts for prompts in kept if prompts]
    return set.intersection(*kept) if kept else None


def _why_dropped(
    chosen: dict[str, Any],
    rejected: dict[str, Any],
    texts: list[Any],
    common: set[str] | None,
    min_margin: float | None,
) -> str:
    if chosen["sample_index"] == rejected["sample_index"]:
        return "same_response"
    if reason := why_texts_make_no_row(texts) or why_rewards_make_no_pair(chosen, rejected, min_margin):
        return reason
    return "not_common" if common is not None and chosen["prompt_id"] not in common else ""


def why_texts_make_no_row(texts: list[Any]) -> str:
    """Why two responses, each None where its prompt leaves it no room, make no row; an empty text where they do."""
    if None in texts:
        return "prompt_fills_max_length"
    if texts[0]["text"] == texts[1]["text"] or texts[0]["response_ids"] == texts[1]["response_ids"]:
        return "equal_text"
    return ""


def why_rewards_make_no_pair(chosen: dict[str, Any], rejected: dict[str, Any], min_margin: float | None = None) -> str:
    """Why two picks make no pair; an empty text where they do."""
    if chosen["reward"] == rejected["reward"]:
        return "equal_reward"
    # A sigma position against a quantile can stand the wrong way round, as can a random one, a further one of several,
    # and one that was taken for its length: their order depends on the rewards.
    if chosen["reward"] < rejected["reward"]:
        return "chosen_below_rejected"
    return "below_min_margin" if min_margin is not None and chosen["reward"] - rejected["reward"] < min_margin else ""


def _row(chosen: dict[str, Any], rejected: dict[str, Any], texts: list[Any]) -> dict[str, Any]:
    row = {"prompt_id": chosen["prompt_id"], "prompt_ids": texts[0]["prompt_ids"]}
    for side, pick, text in zip(("chosen", "rejected"), (chosen, rejected), texts, strict=True):
        row[f"{side}_index"] = pick["sample_index"]
        row[f"{side}_text"] = text["text"]
        row[f"{side}_ids"] = text["response_ids"]
        row[f"{side}_reward"] = pick["reward"]
        row[f"{side}_z"] = pick["z"]
        row[f"ref_{side}_logp"] = text["logp"]
    return row


def _measures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    if "order" in rows[0]:
        # What positions, lengths and margins a cell has is that of its pairs, each once, not of their mirror images.
        kept = [row for row in rows if row["order"] == KEPT]
        return {**_measures_of_pairs(kept), "prompts": len({row["prompt_id"] for row in rows})}
    return _measures_of_pairs(rows)


def _measures_of_pairs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    if not rows:
        return {}
    mean = {
        f"{side}_{name}": float(np.mean([r[f"{side}_{name}"] for r in rows]))
        for side in ("chosen", "rejected")
        for name in ("z", "reward")
    }
    lengths = {
        f"{side}_tokens": float(np.mean([len(r[f"{side}_ids"]) for r in rows])) for side in ("chosen", "rejected")
    }
    prompts = len({r["prompt_id"] for r in rows})
    several = {"prompts": prompts} if prompts < len(rows) else {}
    return {**mean, **lengths, "margin": mean["chosen_reward"] - mean["rejected_reward"], **several}


def _content(rows: list[dict[str, Any]], reference: Artifact) -> str:
    """Hash of what training sees: the tokens, and which model and truncation the log-probabilities belong to.

    The log-probabilities themselves stay out: they are a function of these, up to the rounding of a batch.
    """
    tokens = ([r["prompt_id"], r["prompt_ids"], r["chosen_ids"], r["rejected_ids"]] for r in rows)
    manifest = reference.manifest
    # A policy that was trained may be equal to another of another key; of any other policy the content is the key.
    policy = manifest.measures.get("policy", manifest.inputs["policy"])
    reference_of = {"version": manifest.stage_version, "spec": dict(manifest.spec), "policy": policy}
    return digest_with_rows({"reference": reference_of}, "rows", tokens)
