"""The candidates behind a sweep's cells: how diverse and how good the on-policy and the static ones are, and the
boundary between the stages of alignment (arXiv 2508.10530).

What a measure means is defined in docs/static-data.md.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from analysis.columns import BOUNDARY_MEASUREMENTS, CANDIDATE_SETS, SET_DIFFERENCES
from analysis.exported import exported
from analysis.recorded import read_beside, read_measured, read_nodes, read_settings
from analysis.statistics import mean_interval
from analysis.stores import Reading, reading, say_missing
from analysis.tables import markdown_safe, markdown_table
from harness.stages.boundary import in_words
from harness.stages.diversity import MEASURES
from harness.store import Artifact

SETS: Final[Mapping[str, str]] = {"on_policy_set": "on-policy", "static_set": "static"}
"""Names beside a result, with what they are called."""

EXPLANATION: Final = (
    "Distinct n-grams and spread (1 - cosine of sentence embeddings) are means over pairs of a prompt's responses, in "
    "which sets of different sizes can be compared; longer responses repeat more. In brackets: 95 % intervals, "
    "clustered by prompt. Rewards of different labels are not comparable."
)


_MOST_DECIMALS: Final = 6


def load_candidate_sets(store: Path | str | Reading, sweep: str | None = None) -> pd.DataFrame:
    """One row per result and set of candidates: each measure with its `_low` and `_high`, and what scored it.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("candidate_sets", CANDIDATE_SETS, sweep)
    rows, whose = [], _policies(store, sweep)
    found, absent = _found(store, sweep)
    for result, name, artifact in found:
        said = artifact.manifest.measures
        measures = {f"{measure}{end}": said[f"{measure}{end}"] for measure in MEASURES for end in ("", "_low", "_high")}
        rows.append(
            {
                "result": result,
                "policy": whose[result],
                "set": SETS[name],
                "artifact": artifact.manifest.content_id,
                "prompts": artifact.manifest.rows["kept"],
                **{column: said[column] for column in ("responses", "reward_label", "spread_note")},
                **measures,
            }
        )
    ends = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=list(CANDIDATE_SETS))
    frame[ends] = frame[ends].astype("float64")
    return say_missing(frame, absent, len(found) + len(absent), "sets are not described yet")


def load_boundary_measurements(store: Path | str | Reading, sweep: str | None = None) -> pd.DataFrame:
    """One row per result whose policy was compared with the static candidates, and measurement of it, the last first.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("boundary_measurements", BOUNDARY_MEASUREMENTS, sweep)
    opened, whose = reading(store), _policies(store, sweep)
    rows, absent, asked = [], [], 0
    for result, keys in read_measured(opened, "boundary", sweep).items():
        for key in keys:
            asked += 1
            if (artifact := opened.find("boundary", key)) is None:
                absent.append(result)
                continue
            said = {name: artifact.manifest.measures[name] for name in list(BOUNDARY_MEASUREMENTS)[3:]}
            rows.append({"result": result, "policy": whose[result], "artifact": artifact.manifest.content_id, **said})
    frame = pd.DataFrame(rows, columns=list(BOUNDARY_MEASUREMENTS))
    return say_missing(frame, absent, asked, "results have no measured boundary yet")


def load_set_differences(store: Path | str | Reading, sweep: str | None = None) -> pd.DataFrame:
    """On-policy less static, paired by prompt: one row per measure and two sets of one policy and the same prompts.

    A difference of rewards of two kinds is none: `note` says so.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("set_differences", SET_DIFFERENCES, sweep)
    whose, nodes = _policies(store, sweep), read_nodes(reading(store), sweep)
    sets: dict[str, dict[str, tuple[Artifact, str]]] = {name: {} for name in SETS}
    found, absent = _found(store, sweep)
    for result, name, artifact in found:
        sets[name].setdefault(artifact.manifest.key, (artifact, whose[result]))
    rows = [
        {"policy": policy, **row}
        for key, (own, policy) in sets["on_policy_set"].items()
        for other, (static, _) in sets["static_set"].items()
        if _candidates_of(nodes, key) == _candidates_of(nodes, other)
        for row in _differences(own, static)
    ]
    frame = pd.DataFrame(rows, columns=list(SET_DIFFERENCES))
    return say_missing(frame, absent, len(found) + len(absent), "sets are not described yet")


def _candidates_of(nodes: Mapping[str, Mapping[str, Any]], key: str) -> set[tuple[str, ...]]:
    """The policy and the prompts of a set of candidates, by the keys of their nodes."""
    responses = [nodes[sampled] for sampled in nodes[key]["inputs"]["responses"]]
    return {(*sampled["inputs"]["policy"], *sampled["uses"]["prompts"]) for sampled in responses}


def _differences(own: Artifact, static: Artifact) -> Iterator[dict[str, Any]]:
    frames = [a.table("candidate_sets").to_pandas().set_index("prompt_id") for a in (own, static)]
    labels = {a.manifest.measures["reward_label"] for a in (own, static)}
    for measure in MEASURES:
        row = {"on_policy": own.manifest.content_id, "static": static.manifest.content_id, "measure": measure}
        if measure == "reward" and len(labels) > 1:
            yield {**row, "difference": math.nan, "low": math.nan, "high": math.nan, "note": "scored by two rewards"}
            continue
        # By prompt id; a prompt that only one of them holds has no difference.
        difference = frames[0][measure].astype(float) - frames[1][measure].astype(float)
        interval = mean_interval(difference.to_numpy())
        yield row | {
            "difference": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "prompts": interval.n,
            "method": interval.method,
            "note": interval.note,
        }


def _found(store: Path | str | Reading, sweep: str | None) -> tuple[list[tuple[str, str, Artifact]], list[str]]:
    """Result, name and artifact of the sets that stand beside results, and in words which are not there yet."""
    opened = reading(store)
    found, absent = [], []
    for result, beside in read_beside(opened, sweep).items():
        for name, said in SETS.items():
            if name not in beside:
                continue
            if (artifact := opened.find("diversity", beside[name])) is not None:
                found.append((result, name, artifact))
            else:
                absent.append(f"{result} {said}")
    return found, absent


def _policies(store: Path | str | Reading, sweep: str | None) -> dict[str, str]:
    """Whose responses a result's candidates are, in words: of a later round, the policy after the rounds before it."""
    found = {}
    for result, settings in read_settings(reading(store), sweep).items():
        (*before, _) = settings.get("rounds.path") or [None]
        found[result] = str(settings["policy.name"]) + (f" after {' > '.join(before)}" if before else "")
    return found


def candidate_sets_section(sets: pd.DataFrame, boundaries: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown, each set once; nothing where no static candidates were used."""
    if sets.empty and boundaries.empty:
        return []
    lines = [_line(row) for row in sets.drop_duplicates("artifact").to_dict("records")]
    said = [
        f"Boundary of {row['policy']}: {in_words({str(name): value for name, value in row.items()})}. "
        f"Judge: {row['label']}; {row['prompts']} prompts, {row['comparisons']} pairs, each in both orders, which "
        f"disagreed in {_percent(row['order_disagreement_share'])}."
        for row in boundaries.drop_duplicates("artifact").to_dict("records")
    ]
    table = [markdown_safe(EXPLANATION), markdown_table(pd.DataFrame(lines))] if lines else []
    return ["## Candidate sets", *map(markdown_safe, said), *table]


def _line(row: Mapping[Any, Any]) -> dict[str, str]:
    shown = {
        measure.replace("_", "-"): _interval(*(row[f"{measure}{end}"] for end in ("", "_low", "_high")))
        for measure in MEASURES
    }
    counted = {name: str(row[name]) for name in ("prompts", "responses")}
    return {
        "policy": str(row["policy"]),
        "candidates": str(row["set"]),
        **counted,
        **shown,
        "scored by": str(row["reward_label"] or ""),
    }


def _interval(estimate: float, low: float, high: float) -> str:
    """Three digits of the largest of the three, at most `_MOST_DECIMALS`, and the others to as many.

    Nothing without a finite estimate, and no ends that are not finite.
    """
    if not math.isfinite(estimate):
        return ""
    shown = [estimate, low, high] if math.isfinite(low) and math.isfinite(high) else [estimate]
    largest = max(map(abs, shown))
    decimals = min(max(0, 2 - math.floor(math.log10(largest))), _MOST_DECIMALS) if largest else 2
    first, *ends = (f"{value:z.{decimals}f}" for value in shown)
    return f"{first} [{', '.join(ends)}]" if ends else first


def _percent(share: float | None) -> str:
    return "none that differ" if share is None or math.isnan(share) else f"{100 * share:.0f} %"
