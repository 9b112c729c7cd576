"""Length-controlled rates in a report: for AlpacaEval 2's results only, with the reason for the others."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.length_control import length_controlled_win_rate
from analysis.length_report import BENCHMARK, COLUMNS, REFERENCES, length_controlled_columns
from analysis.report import Sources, write_report
from harness.positions import PAIRS
from tests.analysis.alpaca_eval import make_inputs, make_verdicts
from tests.analysis.synthetic import make_frames


@pytest.fixture(scope="module")
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two results of AlpacaEval 2 and one of another set, each with 450 verdicts."""
    results, verdicts = make_frames(PAIRS[:3], instructions=450)
    difficulty, _ = make_inputs(450)
    made = make_verdicts(difficulty)
    for name in ("index", "len_reference", "len_model"):
        verdicts[name] = pd.concat([made[name]] * 3, ignore_index=True)
    results["evaluate.benchmark"] = [BENCHMARK, BENCHMARK, None]
    results["evaluate.references"] = [REFERENCES, "mine.json", None]
    return results, verdicts


def test_only_the_benchmarks_own_results_have_one(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    results, verdicts = frames
    difficulty, gamed = make_inputs(450)
    columns = length_controlled_columns(results, verdicts, difficulty=difficulty, gamed=gamed)
    own = verdicts[verdicts["result"] == results.at[0, "result"]]
    expected = length_controlled_win_rate(
        own.assign(preference=own["preference"] + 1), difficulty=difficulty, gamed=gamed
    )
    assert columns.loc[0, COLUMNS[0]] == pytest.approx(expected.value / 100)
    assert columns[COLUMNS[0]].notna().tolist() == [True, False, False]
    assert "evaluate.references is mine.json" in str(columns.loc[1, COLUMNS[-1]])
    assert "evaluate.benchmark is none" in str(columns.loc[2, COLUMNS[-1]])


def test_a_refusal_is_the_reason(frames: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    results, verdicts = frames
    difficulty, gamed = make_inputs(450)
    few = verdicts[verdicts["index"] < 300]
    columns = length_controlled_columns(results, few, difficulty=difficulty, gamed=gamed)
    assert "300 judged rows" in str(columns.loc[0, COLUMNS[-1]])
    bare = length_controlled_columns(results, verdicts.drop(columns="len_model"), difficulty=difficulty, gamed=gamed)
    assert "no len_model" in str(bare.loc[0, COLUMNS[-1]])


def test_the_report_shows_them(
    frames: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.drawing.save_png", lambda _, path: path.touch())
    monkeypatch.setattr("analysis.report.drawing.Drawing.svg", lambda _: '<svg xmlns="http://www.w3.org/2000/svg"/>')
    write_report(*frames, tmp_path, Sources(length_control=make_inputs(450)))
    page = (tmp_path / "report.md").read_text()
    assert "## Length-controlled win rates" in page
    assert "refitted in each of 2000 draws" in page
    assert COLUMNS[0] in pd.read_csv(tmp_path / "results.csv").columns
