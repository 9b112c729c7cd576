"""Scores of lm-evaluation-harness beside the cells: paired by question, and what is not comparable apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.estimates import estimate_cells, preference_table
from analysis.export import export
from analysis.regressions import (
    Regressions,
    load_regressions,
    regression_cells,
    regression_section,
)
from analysis.report import Sources, write_report
from analysis.statistics import CONSTRUCTION, THESE_MODELS
from harness import tables
from harness.errors import PrefsweepError
from harness.store import Artifact
from tests.analysis.exported import check_same
from tests.analysis.synthetic import make_frames
from tests.artifacts import Shelf

NAME = ("quiz", "acc", "none", 0, "1.5", "0.4.13", None)


def put(
    shelf: Shelf, values: Sequence[float], *, version: str = "1.5", hashes: str = "q", questions: bool = True
) -> Artifact:
    """What a task gave on one model."""
    own = {"task": "quiz", "metric": "acc", "filter": "none"}
    error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
    score = own | {"value": float(np.mean(values)), "stderr": error, "higher_is_better": True}
    rows = [own | {"value": v, "question": i, "hash": f"{hashes}{i}"} for i, v in enumerate(values) if questions]
    return shelf.put(
        "lm_eval",
        {
            "scores": (tables.LM_EVAL_SCORES, [score | {"shots": 0, "version": version}]),
            "questions": (tables.LM_EVAL_QUESTIONS, rows),
        },
        spec={"limit": None},
        measures={"task": "quiz", "versions": {"lm_eval": "0.4.13"}},
    )


def loaded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, beside: Mapping[str, Mapping[str, Artifact]]) -> Regressions:
    keys = {result: {name: a.manifest.key for name, a in found.items()} for result, found in beside.items()}
    monkeypatch.setattr("analysis.regressions.read_beside", lambda *_: keys)
    return load_regressions(shelf.store.root)


def cells(*results: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame({"results": list(results)})


def only(found: Regressions, *names: str) -> "pd.Series[Any]":
    rows = regression_cells(cells(names), found)
    assert len(rows) == 1
    return rows.iloc[0]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_an_export_has_scores_and_differences(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own, policy = put(shelf, [0.0, 1.0] * 4), put(shelf, [1.0, 0.0] * 4)
    beside = {
        "a": {"lm_eval quiz": own, "lm_eval_policy quiz": policy},
        "b": {"lm_eval quiz": policy, "lm_eval_policy quiz": policy},
    }
    found = loaded(shelf, monkeypatch, beside)
    export(shelf.store.root, tmp_path / "export")
    again = load_regressions(tmp_path / "export")
    check_same(found, again, "regressions")
    assert len(found.differences) == 2
    pd.testing.assert_frame_equal(
        regression_cells(cells(("a",), ("b",)), found), regression_cells(cells(("a",), ("b",)), again)
    )


def test_tasks_that_have_not_been_run_are_said(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    own = put(shelf, [0.0, 1.0])
    keys = {"a": {"lm_eval quiz": own.manifest.key, "lm_eval arc": "0" * 16}}
    monkeypatch.setattr("analysis.regressions.read_beside", lambda *_: keys)
    assert load_regressions(shelf.store.root).scores.attrs["missing"] == "1 of 2 tasks have not been run yet (a arc)"


def test_a_difference_is_paired_by_question(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    base = [1.0, 0.0] * 20
    worse = [0.0, 0.0, *base[2:]]
    own, policy = put(shelf, worse), put(shelf, base)
    row = only(loaded(shelf, monkeypatch, {"a": {"lm_eval quiz": own, "lm_eval_policy quiz": policy}}), "a")
    assert (row["value"], row["difference"], row["n"]) == pytest.approx((0.475, -0.025, 40))
    assert row["paired"]
    assert row["scope"] == THESE_MODELS
    error = np.std(worse, ddof=1) / np.sqrt(40)
    assert row["value_high"] - row["value"] == pytest.approx(1.959964 * error, rel=1e-6)
    assert row["difference_high"] - row["difference_low"] < (row["value_high"] - row["value_low"]) / 2


def test_scores_without_questions_have_an_unpaired_difference(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    own, policy = (put(shelf, values, questions=False) for values in ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0]))
    row = only(loaded(shelf, monkeypatch, {"a": {"lm_eval quiz": own, "lm_eval_policy quiz": policy}}), "a")
    assert not row["paired"]
    assert row["difference"] == pytest.approx(-1 / 3)
    assert row["difference_high"] - row["difference"] == pytest.approx(1.959964 * np.hypot(1 / 3, 1 / 3), rel=1e-6)
    assert "not paired" in row["note"]


def test_other_questions_under_the_same_number_are_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    own, policy = put(shelf, [1.0, 0.0]), put(shelf, [1.0, 0.0], hashes="other")
    with pytest.raises(PrefsweepError, match="different questions"):
        loaded(shelf, monkeypatch, {"a": {"lm_eval quiz": own, "lm_eval_policy quiz": policy}})


def test_a_policy_that_has_no_score_leaves_the_score_alone(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    row = only(loaded(shelf, monkeypatch, {"a": {"lm_eval quiz": put(shelf, [1.0, 0.0])}}), "a")
    assert row["value"] == 0.5
    assert np.isnan(row["difference"])
    assert "the policy has no score" in row["note"]


def test_seeds_are_joined_and_make_a_claim_about_the_construction(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = put(shelf, [1.0, 0.0] * 10)
    seeds = {
        name: {"lm_eval quiz": put(shelf, [0.0] * k + ([1.0, 0.0] * 10)[k:]), "lm_eval_policy quiz": policy}
        for name, k in (("a", 0), ("b", 2), ("c", 4))
    }
    row = only(loaded(shelf, monkeypatch, seeds), "a", "b", "c")
    assert row["difference"] == pytest.approx(np.mean([0, -0.05, -0.1]))
    assert (row["seeds"], row["scope"]) == (3, CONSTRUCTION)
    # t(2) at 97.5 % is 4.303; the seeds' half-width alone.
    assert row["difference_high"] - row["difference"] > 4.302 * 0.05 / np.sqrt(3)


def test_equal_scores_of_all_questions_have_no_interval(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    own, policy = put(shelf, [0.0] * 5), put(shelf, [0.0] * 5)
    row = only(loaded(shelf, monkeypatch, {"a": {"lm_eval quiz": own, "lm_eval_policy quiz": policy}}), "a")
    assert np.isnan([row["value_low"], row["difference_low"]]).all()
    assert "every question scored the same" in row["note"]
    assert "all values are equal" in row["note"]


def test_other_versions_of_a_task_stand_apart(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results, verdicts = make_frames([("max", "min"), ("max", "mu-2s")], instructions=20)
    names = results["result"].tolist()
    policy = put(shelf, [1.0, 0.0, 1.0])
    beside = {
        names[0]: {"lm_eval quiz": put(shelf, [1.0, 0.0, 0.0]), "lm_eval_policy quiz": policy},
        names[1]: {"lm_eval quiz": put(shelf, [1.0, 1.0, 0.0], version="<b>2|"), "lm_eval_policy quiz": policy},
    }
    found = loaded(shelf, monkeypatch, beside)
    measured = estimate_cells(results, preference_table(results, verdicts))
    rows = regression_cells(measured, found)
    assert rows["version"].tolist() == ["1.5", "<b>2|"]
    # Against a policy's score of another version there is no difference.
    assert np.isnan(rows["difference"].iloc[1])
    page = "\n".join(regression_section(measured, rows))
    assert "version 1.5" in page
    assert "<b>" not in page
    paths = write_report(results, verdicts, tmp_path / "out", Sources(regressions=found), console=Console(quiet=True))
    assert "regressions.csv" in {path.name for path in paths}
    assert "## Regressions" in (tmp_path / "out" / "report.md").read_text()
