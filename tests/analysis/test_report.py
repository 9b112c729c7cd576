"""The report: files, table, what it says about unfinished sweeps, and texts that must not be executed."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from analysis.answers import ANSWERS
from analysis.captions import labels_sentence
from analysis.estimates import cell_intervals, estimate_cells, not_told_apart, preference_table, sort_cells
from analysis.report import Sources, write_report
from analysis.report.drawings import NotDrawn, reasons
from analysis.report.panels import panels
from analysis.report.sections import MOST_SENTENCES, details
from analysis.schema import VERDICTS
from analysis.statistics import CONSTRUCTION, THESE_MODELS
from analysis.stores import Reading
from analysis.tables import markdown_safe, spreadsheet_safe
from harness.errors import PrefsweepError
from harness.positions import PAIRS
from tests.analysis.synthetic import JUDGE, alias, join, make_frames, renamed, undo


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn but written as empty files: rendering takes a second each, and has its own tests."""
    monkeypatch.setattr("analysis.report.drawing.save_png", lambda _, path: path.touch())
    monkeypatch.setattr("analysis.report.drawing.Drawing.svg", lambda _: '<svg xmlns="http://www.w3.org/2000/svg"/>')


def report(results: pd.DataFrame, verdicts: pd.DataFrame, out: Path, **options: Any) -> tuple[list[str], str, str]:
    """File names, Markdown and terminal output of a report."""
    console = Console(file=io.StringIO(), width=200)
    paths = write_report(results, verdicts, out, console=console, provenance={"commit": "1a2b3c4"}, **options)
    assert all(path.is_file() for path in paths)
    assert isinstance(console.file, io.StringIO)
    return [path.name for path in paths], (out / "report.md").read_text(), console.file.getvalue()


def test_report_of_a_grid_has_one_heatmap_table_and_page(tmp_path: Path) -> None:
    names, page, printed = report(*make_frames(), tmp_path / "new" / "out")
    assert names == ["heatmap.png", "heatmap.svg", "results.csv", "report.md", "report.html"]
    assert "![heatmap](heatmap.png)" in page
    assert page.count("| position (") == 2 * 21
    assert "## Against the best" in page
    assert "Highest win rate" in page
    assert "1a2b3c4" in page
    for text in (page, printed):
        assert JUDGE in text
        assert THESE_MODELS in text
        assert "win rate %" in text
    assert "Cells: 21 (21 done)." in printed


@pytest.mark.usefixtures("quick_figures")
def test_failed_judgements_are_counted_beside_the_win_rates(tmp_path: Path) -> None:
    results, verdicts = make_frames(PAIRS[:3])
    failed = verdicts.index[(verdicts["result"] == results.at[0, "result"]) & (verdicts["prompt_id"] < "prompt007")]
    verdicts.loc[failed, "preference"] = float("nan")
    own = verdicts[verdicts["result"] == results.at[0, "result"]]["preference"]
    results.loc[0, ["win_rate", "instructions"]] = [own.mean(), len(own) - 7]
    _, page, printed = report(results, verdicts, tmp_path)
    for text in (page, printed):
        assert "53 of 60" in text
        assert "60 of 60" in text
    assert "over the 53 instructions that all were judged on" in page
    assert " of 60" not in report(*make_frames(PAIRS[:3]), tmp_path / "complete")[1]


def test_figures_are_named_by_what_varies_only(tmp_path: Path) -> None:
    frames = join(
        make_frames(PAIRS[:2], sizes=(8, 64)), make_frames(PAIRS[:2], sizes=(8, 64), settings={"loss.beta": 0.5})
    )
    names, page, _ = report(*frames, tmp_path)
    stems = {name.removesuffix(".png") for name in names if name.endswith(".png")}
    betas = ("0.1", "0.5")
    heatmaps = {f"heatmap-loss.beta={beta}-n={n}" for beta in betas for n in (8, 64)}
    differences = {f"difference-first=loss.beta=0.5-second=loss.beta=0.1-n={n}" for n in (8, 64)}
    assert stems == heatmaps | {f"scaling-loss.beta={beta}" for beta in betas} | differences
    assert page.count("Highest win rate") == 2


@pytest.mark.usefixtures("quick_figures")
def test_every_kind_of_figure_is_drawn_or_says_why_not(tmp_path: Path) -> None:
    results, verdicts = make_frames(sizes=(8, 16, 64))
    overlap = pd.DataFrame(0.5, index=results["cell"], columns=results["cell"])
    names, page, _ = report(results, verdicts, tmp_path, sources=Sources(overlap=overlap))
    stems = {name.removesuffix(".png") for name in names if name.endswith(".png")}
    assert stems == {"heatmap-n=8", "heatmap-n=16", "heatmap-n=64", "heatmaps", "scaling", "overlap-n=8"}
    told = page.split("## Figures that are not drawn")[1].strip().splitlines()
    assert told[:3] == [
        "- Difference of two settings by position: there is one setting only; \\`python -m analysis difference\\` "
        "compares two sweeps.",
        "- Win rate against divergence from the policy: no cell has both numbers.",
        "- Win rate against the answers' length: no cell has both numbers.",
    ]
    _, page, _ = report(*make_frames([(None, None)], construction="sweet_spot"), tmp_path / "single")
    assert "- Win rate by chosen and rejected position: no setting has 2 pairs of positions or more." in page
    assert "- Win rate against samples per prompt: fewer than two n are done." in page
    assert "- Difference of two settings by position: no heatmap." in page
    assert "- Preference rows in common: no preference rows were found." in page


@pytest.mark.usefixtures("quick_figures")
def test_heatmaps_of_static_candidates_are_apart_and_stand_together(tmp_path: Path) -> None:
    frames = [
        renamed(kind, make_frames(PAIRS[:2], settings={"n": None, "candidates.mode": kind})) for kind in ("a", "b", "c")
    ]
    names, _, _ = report(*join(*frames), tmp_path)
    assert {f"heatmap-candidates.mode={kind}.png" for kind in "abc"} < set(names)


def test_reasons_name_a_setting_or_count_them() -> None:
    left_out = [NotDrawn(kind="A", reason="none", setting={"n": "8"}), NotDrawn(kind="B", reason="few")]
    left_out += [NotDrawn(kind="B", reason="many", setting={"n": str(n)}) for n in (8, 16)]
    assert reasons(left_out) == ["A (n = 8): none.", "B: few.", "B (2 settings): many."]


def test_the_best_cells_of_many_settings_are_a_table(tmp_path: Path) -> None:
    betas = [0.01 * (1 + place) for place in range(MOST_SENTENCES + 1)]
    own = [make_frames(PAIRS[:3], settings={"loss.beta": beta}) for beta in betas]
    results, verdicts = (
        pd.concat([f.assign(result=f["result"] + f" {beta}") for f, beta in zip(kind, betas, strict=True)])
        for kind in zip(*own, strict=True)
    )
    _, page, _ = report(results.reset_index(drop=True), verdicts.reset_index(drop=True), tmp_path)
    assert "Highest win rate" not in page
    (header,) = [line for line in page.splitlines() if line.startswith("| loss.beta | highest win rate")]
    rows = page[page.index(header) :].splitlines()[2 : 2 + len(betas)]
    assert [row.split(" | ")[0] for row in rows] == [f"| {beta:g}" for beta in betas]
    sentence = re.search(r"Highest win rate ([\d.]+)\s%.* ([\d.]+) to ([\d.]+);", alone(tmp_path / "alone"))
    assert sentence
    assert "{} [{}, {}]".format(*sentence.groups()) in rows[0].replace("\\", "")


def alone(out: Path) -> str:
    """The report of one setting."""
    return report(*make_frames(PAIRS[:3], settings={"loss.beta": 0.01}), out)[1]


@pytest.mark.usefixtures("quick_figures")
def test_hostile_setting_names_no_file_outside_the_folder(tmp_path: Path) -> None:
    frames = join(make_frames(PAIRS[:1]), make_frames(PAIRS[:1], settings={"policy.name": "../../etc/x" + "y" * 200}))
    names, _, _ = report(*frames, tmp_path / "out")
    assert all("/" not in name and len(name) < 200 for name in names)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


@pytest.mark.usefixtures("quick_figures")
def test_results_csv_keeps_every_result_with_its_interval(tmp_path: Path) -> None:
    results, verdicts = make_frames(PAIRS[:4], seeds=(0, 1))
    report(undo(results, [3], "failed", "=HYPERLINK(1)"), verdicts, tmp_path)
    written = pd.read_csv(tmp_path / "results.csv")
    assert list(written["result"]) == list(results["result"])
    assert (written["low"] <= written["win_rate"])[written["status"] == "done"].all()
    assert written.loc[3, "reason"] == "'=HYPERLINK(1)"
    assert written["low"].isna()[3]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1", "\uff1d1", "\x00=1"])
def test_spreadsheet_formulas_are_neutralised(text: str) -> None:
    safe = spreadsheet_safe(pd.DataFrame({text: [text], "number": [-1.5]}))
    assert str(safe.iloc[0, 0]).startswith("'")
    assert str(safe.columns[0]).startswith("'")
    assert safe.loc[0, "number"] == -1.5


def test_markdown_is_escaped() -> None:
    assert markdown_safe("<b>|[a](b)\n`c`") == "&lt;b&gt;\\|\\[a\\](b) \\`c\\`"


@pytest.mark.usefixtures("quick_figures")
def test_terminal_gets_no_control_characters_and_no_markup(tmp_path: Path) -> None:
    results, verdicts = make_frames(PAIRS[:2])
    results["judge_label"] = "judge \x1b[31m[red]loud[/red]\u202e"
    _, page, printed = report(undo(results, [1], "failed", "boom \x1b]0;title\x07"), verdicts, tmp_path)
    assert "\x1b" not in printed + page
    assert "\x07" not in printed + page
    assert "\u202e" not in printed + page
    assert "[red]loud[/red]" in printed


@pytest.mark.usefixtures("quick_figures")
def test_partial_sweep_reports_and_says_what_is_missing(tmp_path: Path) -> None:
    results, verdicts = make_frames(PAIRS[:5], seeds=(0, 1, 2))
    results = undo(results, [0, 1, 2], "missing")
    results = undo(results, [5], "failed", "out of memory")
    names, page, printed = report(results, verdicts, tmp_path)
    assert "heatmap.png" in names
    assert "## Not complete" in page
    assert ": missing" in page
    assert "2/3 seeds" in page
    assert "2/3 seeds" in printed


@pytest.mark.usefixtures("quick_figures")
def test_nothing_done_still_reports(tmp_path: Path) -> None:
    results, _ = make_frames(PAIRS[:2])
    names, page, _ = report(undo(results, [0, 1], "missing"), pd.DataFrame(columns=list(VERDICTS)), tmp_path)
    assert "report.md" in names
    assert "2 missing" in page


def test_cells_are_sorted_for_reading() -> None:
    results, _ = make_frames(sizes=(64, 8))
    cells = sort_cells(results.sample(frac=1, random_state=0))
    assert list(cells["n"]) == [8] * 21 + [64] * 21
    assert list(cells["pair.rejected"][:3]) == ["min", "mu-2s", "mu-1s"]
    assert list(cells["pair.chosen"][:7]) == ["max"] * 6 + ["mu+2s"]


def test_seeds_of_one_trained_model_are_one_repeat() -> None:
    frames = make_frames(PAIRS[:1], seeds=(0, 1, 2))
    table = preference_table(*frames)
    assert estimate_cells(frames[0], table).loc[0, "scope"] == CONSTRUCTION
    same = frames[0].assign(trained_id="one")
    cell = estimate_cells(same, table).loc[0]
    assert (cell["scope"], cell["seeds"], cell["planned"]) == (THESE_MODELS, 1, 3)


def test_the_best_cell_pays_for_being_chosen() -> None:
    frames = alias(*make_frames(PAIRS[::2]), row=1, of=0)
    table = preference_table(*frames)
    cells = estimate_cells(frames[0], table)
    intervals = cell_intervals(cells, table)
    best = max(intervals, key=lambda row: intervals[row].estimate)
    assert intervals[best].low < cells["low"][best]
    rivals = not_told_apart(cells, table, best)
    assert best not in rivals
    assert cells["win_rate"].to_numpy().argmin() not in rivals


def test_verdicts_that_do_not_give_the_win_rate_are_refused() -> None:
    results, verdicts = make_frames(PAIRS[:1])
    results["win_rate"] += 0.01
    with pytest.raises(PrefsweepError, match="recorded win rate"):
        preference_table(results, verdicts)


def test_results_of_two_judges_are_never_averaged() -> None:
    results, verdicts = make_frames(PAIRS[:1], seeds=(0, 1))
    results.loc[1, "judge_label"] = "another judge"
    with pytest.raises(PrefsweepError, match="judge_label differs"):
        estimate_cells(results, preference_table(results, verdicts))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda results: results.drop(columns="kl"), "no column kl"),
        (lambda results: results.assign(status="fine"), "'fine' is not one of"),
        (lambda results: pd.concat([results, results]), "more than once"),
        (lambda results: results.iloc[:0], "no results"),
    ],
)
def test_frames_that_break_the_contract_are_refused(
    damage: Callable[[pd.DataFrame], pd.DataFrame], message: str, tmp_path: Path
) -> None:
    results, verdicts = make_frames(PAIRS[:2])
    with pytest.raises(PrefsweepError, match=message):
        write_report(damage(results), verdicts, tmp_path)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed store for the command, in place of the real one."""
    results, verdicts = make_frames(PAIRS[:2])

    def load_results(store: Reading, sweep: str | None = None) -> pd.DataFrame:
        assert store.root.is_dir()
        if sweep == "absent":
            raise PrefsweepError("no sweep 'absent'; there are: grid")
        return results.iloc[:0] if sweep == "empty" else results

    overlap = pd.DataFrame([[1.0]], index=["cell"], columns=["cell"])
    fixed: dict[str, Callable[..., object]] = {
        "load_results": load_results,
        "load_verdicts": lambda *_: verdicts,
        "begin_answers": lambda *_: lambda: pd.DataFrame(columns=list(ANSWERS)),
        "load_overlap": lambda *_: overlap,
        "load_regressions": lambda *_: None,
        "load_rankings": lambda *_: None,
        "load_candidate_sets": lambda *_: pd.DataFrame(),
        "load_boundary_measurements": lambda *_: pd.DataFrame(),
        "load_changes": lambda *_: None,
        "load_details": lambda *_: {},
        "load_on_share": lambda *_: None,
        "Frames": lambda *_: None,
    }
    for name, function in fixed.items():
        monkeypatch.setattr(f"analysis.__main__.{name}", function)


@pytest.mark.parametrize("inside", ["", "x", "x/y"])
@pytest.mark.parametrize("command", [["report"], ["findings"], ["difference", "one", "two"]])
def test_what_cannot_be_a_folder_is_refused_before_the_work(
    command: list[str], inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.__main__ import main

    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(file / inside)])
    assert ended.value.code == 2
    assert f"--out: {file} is a file; expected a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("loader", "quick_figures")
def test_command_writes_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.__main__ import main

    out = tmp_path / "out"
    assert main(["report", "--store", str(tmp_path), "--sweep", "grid", "--out", str(out)]) == 0
    assert (out / "report.md").is_file()
    assert "sweep grid" in (out / "report.md").read_text()
    assert "wrote 8 files" in capsys.readouterr().out


@pytest.mark.usefixtures("loader", "quick_figures")
def test_command_watches_until_nothing_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.__main__ import main

    (tmp_path / "store" / "train").mkdir(parents=True)
    command = [
        "report",
        "--store",
        str(tmp_path / "store"),
        "--sweep",
        "grid",
        "--out",
        str(tmp_path / "out"),
        "--watch",
    ]
    assert main([*command, "1"]) == 0
    told = capsys.readouterr().out
    assert "results missing: 0" in told
    assert "written 1 times" in told
    assert 'http-equiv="refresh"' not in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SystemExit):
        main([*command, "0"])


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("store", "sweep", "message"),
    [
        ("nowhere", "grid", "there is no such folder"),
        ("", "absent", "there are: grid"),
        ("", "empty", "sweep empty has no results yet"),
    ],
)
def test_command_without_results_fails_with_one_line(
    store: str, sweep: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.__main__ import main

    assert main(["report", "--store", str(tmp_path / store), "--sweep", sweep]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_remark_about_the_judge_of_some_cells_stands_once() -> None:
    results, verdicts = make_frames(PAIRS[:2])
    results["judge_label"] = ["a judge", "a judge; it ranked the data"]
    table = preference_table(results, verdicts)
    said = labels_sentence(estimate_cells(results, table))
    assert said.startswith("Judge: a judge; of some cells it ranked the data. Against")
    results["judge_label"] = ["a judge", "another; it ranked the data"]
    said = labels_sentence(estimate_cells(results, table))
    assert said.startswith("Judge: another; it ranked the data / a judge. Against")


def test_cells_under_a_setting_do_not_repeat_it() -> None:
    betas = [make_frames(PAIRS[:2], settings={"loss.beta": beta}) for beta in (0.1, 0.5)]
    results, verdicts = join(betas[0], renamed("b", betas[1]))
    table = preference_table(results, verdicts)
    cells = estimate_cells(results, table)
    text = " ".join(section.body for section in details(cells, panels(cells, table), pd.DataFrame()))
    assert "loss.beta" not in text
    assert "n=" in text
