"""Scores of lm-evaluation-harness beside the cells: what a model scores, and how far that is from its policy.

Standard errors of scores are lm_eval's own. A difference to the policy is paired by question wherever a metric has a
value for each, which makes its interval much shorter than the two scores' own.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import hypot, isnan, nan, sqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import special

from analysis.beside import mean_interval
from analysis.columns import SCORE_DIFFERENCES, SCORE_NAME, SCORES
from analysis.exported import exported
from analysis.recorded import read_beside
from analysis.statistics import Interval
from analysis.stores import Reading, reading, say_missing
from analysis.tables import cell_names, markdown_safe, markdown_table
from harness.errors import PrefsweepError
from harness.store import Artifact, Store

NAME: Final = tuple(SCORE_NAME)

_QUESTION: Final = ["task", "metric", "filter", "question"]

EXPLANATION: Final = (
    "Scores of lm-evaluation-harness in its own scale. In brackets: 95 % intervals; those of scores from lm_eval's own "
    "standard errors, those of differences to the untrained policy paired by question. Scores of other versions, other "
    "numbers of examples or parts of a task stand in columns of their own: they are not comparable."
)


@dataclass(frozen=True, kw_only=True)
class Regressions:
    """Scores of a store or a sweep."""

    scores: pd.DataFrame
    """One row per result and score, with the columns of `analysis.columns.SCORES`."""
    differences: Mapping[tuple[Any, ...], "pd.Series[float]"]
    """By (result, *NAME): difference to the policy of every question that both were asked, by its number."""


def load_regressions(store: Path | str | Reading, sweep: str | None = None) -> Regressions:
    """All scores that are there, each beside that of its policy.

    Raises:
        StoreError: no store there, or no such sweep.
        PrefsweepError: model and policy were asked different questions under the same number.
    """
    if (folder := exported(store)) is not None:
        apart = folder.frame("score_differences", SCORE_DIFFERENCES, sweep)
        return Regressions(scores=folder.frame("scores", SCORES, sweep), differences=_by_name(apart))
    opened = reading(store)
    absent: dict[str, bool] = {}
    rows: list[dict[str, Any]] = []
    differences: dict[tuple[Any, ...], pd.Series[float]] = {}
    for result, beside in read_beside(opened, sweep).items():
        for key, own, policy in _measured(opened, beside):
            absent[f"{result} {key}"] = own is None
            if own is None:
                continue
            for name, row in _scores(own, policy):
                rows.append({"result": result, **dict(zip(NAME, name, strict=True)), **row})
            for name, difference in _differences(own, policy):
                differences[result, *name] = difference
    frame = pd.DataFrame(rows, columns=list(SCORES))
    say_missing(frame, (name for name, none in absent.items() if none), len(absent), "tasks have not been run yet")
    return Regressions(scores=frame, differences=differences)


def differences_frame(found: Regressions) -> pd.DataFrame:
    """The differences as one frame, with the columns of `analysis.columns.SCORE_DIFFERENCES`."""
    frames = [pd.DataFrame(columns=list(SCORE_DIFFERENCES))]
    for name, difference in found.differences.items():
        own = pd.DataFrame({"question": difference.index, "difference": difference.to_numpy()})
        # As objects: a name that is None stays so.
        frames.append(
            own.assign(
                **{c: pd.Series([v] * len(own), dtype=object) for c, v in zip(("result", *NAME), name, strict=True)}
            )
        )
    return pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)[list(SCORE_DIFFERENCES)]


def _by_name(frame: pd.DataFrame) -> dict[tuple[Any, ...], "pd.Series[float]"]:
    """`differences_frame` turned back."""
    groups = frame.groupby(["result", *NAME], sort=False, dropna=False).indices
    parts = (frame.iloc[rows] for rows in groups.values())
    return {
        tuple(part.iloc[0][["result", *NAME]]): pd.Series(
            part["difference"].to_numpy(), index=pd.Index(part["question"], name="question")
        )
        for part in parts
    }


def regression_cells(cells: pd.DataFrame, found: Regressions) -> pd.DataFrame:
    """One row per cell and score: `cell` (row label), `NAME`, value and difference, each with `_low` and `_high`.

    `paired` says whether the difference is, `n` how many questions it rests on, `note` why an interval is missing.
    """
    rows = []
    for cell, names in zip(cells.index, cells["results"], strict=True):
        own = found.scores[found.scores["result"].isin(names)]
        for name, seeds in own.groupby(list(NAME), sort=False, dropna=False):
            rows.append({"cell": cell, **dict(zip(NAME, name, strict=True)), **_cell(seeds, found.differences)})
    measures = ("value", "value_low", "value_high", "difference", "difference_low", "difference_high")
    return pd.DataFrame(rows, columns=["cell", *NAME, *measures, "paired", "n", "seeds", "scope", "note"])


def regression_section(cells: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing without scores."""
    if rows.empty:
        return []
    titles = {name: _title(name) for name in dict.fromkeys(_names(rows))}
    names, lines = cell_names(cells), []
    for label in dict.fromkeys(rows["cell"]):
        own = rows[rows["cell"] == label]
        shown = dict(zip(_names(own), map(_shown, own.to_dict("records")), strict=True))
        lines.append({"cell": names[label]} | {title: shown.get(key, "") for key, title in titles.items()})
    versions = ", ".join(dict.fromkeys(rows["lm_eval"].map(str)))
    text = markdown_safe(f"{EXPLANATION} lm_eval {versions}.")
    return ["## Regressions", text, markdown_table(pd.DataFrame(lines))]


def regression_frame(cells: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows for a spreadsheet, with each cell in words."""
    frame = rows.copy()
    names = cell_names(cells)
    frame.insert(0, "name", [names[label] for label in frame["cell"]])
    return frame.drop(columns="cell")


def _measured(store: Store, beside: Mapping[str, str]) -> Iterator[tuple[str, Artifact | None, Artifact | None]]:
    """The tasks that are to be run on a point's model, with its artifact and that of its policy."""
    for name, key in beside.items():
        stage, _, task = name.partition(" ")
        if stage == "lm_eval":
            policy = beside.get(f"lm_eval_policy {task}")
            yield task, store.find("lm_eval", key), store.find("lm_eval", policy) if policy is not None else None


def _scores(own: Artifact, policy: Artifact | None) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    base = {} if policy is None else dict(_named(policy))
    for name, row in _named(own):
        other = base.get(name, {"value": nan, "stderr": nan})
        yield (
            name,
            {
                "value": row["value"],
                "standard_error": row["stderr"],
                "policy_value": other["value"],
                "policy_standard_error": other["stderr"],
                "higher_is_better": row["higher_is_better"],
            },
        )


def _named(artifact: Artifact) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Score rows of an artifact under their names."""
    version, limit = artifact.manifest.measures["versions"]["lm_eval"], artifact.manifest.spec["limit"]
    for row in artifact.table("scores").to_pylist():
        yield (*(row[column] for column in NAME[:5]), version, limit), row


def _differences(own: Artifact, policy: Artifact | None) -> Iterator[tuple[tuple[Any, ...], "pd.Series[float]"]]:
    if policy is None:
        return
    both = pd.merge(
        _questions(own), _questions(policy), left_index=True, right_index=True, suffixes=("_own", "_policy")
    ).sort_index()
    if bool((both["hash_own"] != both["hash_policy"]).any()):
        raise PrefsweepError(
            f"lm_eval {own.manifest.measures['task']}: model and policy were asked different questions; run the task "
            f"anew: sweepctl retry {own.manifest.key} {policy.manifest.key}"
        )
    named = {name[:3]: name for name, _ in _named(own)}
    same = {name for name, _ in _named(policy)}
    difference = both["value_own"] - both["value_policy"]
    for key, name in named.items():
        if name in same and key in difference.index:
            yield name, difference.loc[key]


def _questions(artifact: Artifact) -> pd.DataFrame:
    frame: pd.DataFrame = artifact.table("questions").to_pandas()
    return frame.set_index(_QUESTION)[["value", "hash"]]


def _cell(seeds: pd.DataFrame, differences: Mapping[tuple[Any, ...], "pd.Series[float]"]) -> dict[str, Any]:
    """One score of a cell over its training seeds."""
    value = _over_seeds(seeds["value"].astype(float).tolist(), seeds["standard_error"].astype(float).tolist())
    keys = [tuple(row) for row in seeds[["result", *NAME]].astype(object).itertuples(index=False)]
    # NaN of a missing limit is None again, as in the keys.
    keys = [tuple(None if isinstance(v, float) and isnan(v) else v for v in key) for key in keys]
    paired = [differences[key] for key in keys if key in differences]
    if len(paired) == len(keys):
        difference = mean_interval(pd.concat(paired, axis=1, keys=range(len(paired))).to_numpy(float).T)
    else:
        difference = _unpaired(seeds)
    return {
        "value": value.estimate,
        "value_low": value.low,
        "value_high": value.high,
        "difference": difference.estimate,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "paired": len(paired) == len(keys),
        "n": difference.n,
        "seeds": len(seeds),
        "scope": difference.scope,
        "note": "; ".join(note for note in dict.fromkeys((value.note, difference.note)) if note),
    }


def _over_seeds(values: Sequence[float], errors: Sequence[float]) -> Interval:
    """Mean of a score over seeds: lm_eval's standard error, joined with Student's t on the scores of several seeds."""
    mean = float(np.mean(values))
    facts: dict[str, Any] = {"n": len(values), "scope": mean_interval(np.array([values]).T).scope}
    error = float(np.mean(errors))
    if isnan(error) or error == 0:
        note = "lm_eval gives no standard error" if isnan(error) else "no interval: every question scored the same"
        return Interval(estimate=mean, low=nan, high=nan, method="none", note=note, **facts)
    half = float(special.ndtri(0.975)) * error
    if len(values) > 1:
        spread = float(np.std(values, ddof=1)) / sqrt(len(values))
        half = hypot(half, float(special.stdtrit(len(values) - 1, 0.975)) * spread)
    return Interval(estimate=mean, low=mean - half, high=mean + half, method="lm_eval", **facts)


def _unpaired(seeds: pd.DataFrame) -> Interval:
    """Difference of two scores that are not known question by question: their errors are added in squares."""
    differences = (seeds["value"] - seeds["policy_value"]).astype(float)
    errors = np.hypot(seeds["standard_error"].astype(float), seeds["policy_standard_error"].astype(float))
    interval = _over_seeds(differences.tolist(), errors.tolist())
    reason = "the policy has no score" if isnan(interval.estimate) else "difference not paired: no value per question"
    return replace(interval, note="; ".join(part for part in (reason, interval.note) if part))


def _names(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    values = rows[list(NAME)].astype(object)
    return list(values.where(values.notna(), None).itertuples(index=False, name=None))


def _title(name: Sequence[Any]) -> str:
    """A score in words: `arc_challenge acc_norm (25 shots, version 1.0)`."""
    task, metric, kind, shots, version, _, limit = name
    facts = [f"{int(shots)} shots"] if shots is not None else []
    facts += [f"version {version}"] if version not in (None, "None") else []
    facts += [f"first {int(limit)}"] if limit is not None else []
    return f"{task} {metric}{'' if kind == 'none' else f' {kind}'}" + (f" ({', '.join(facts)})" if facts else "")


def _shown(row: Mapping[Any, Any]) -> str:
    score = f"{row['value']:.3f}" + _bracket(row["value_low"], row["value_high"], "")
    if isnan(row["difference"]):
        return score
    return f"{score}; {row['difference']:+.3f}" + _bracket(row["difference_low"], row["difference_high"], "+")


def _bracket(low: float, high: float, sign: str) -> str:
    return "" if isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
