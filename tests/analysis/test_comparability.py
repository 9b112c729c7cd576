"""Results that differ in what gives a number its meaning never share a figure or a comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import __main__, compare
from analysis.comparability import check_comparable, comparable_parts, differences
from analysis.estimates import cell_intervals, detectable_difference, estimate_cells, preference_table
from analysis.figures import pair_heatmap, scaling_curve
from analysis.load import load_results
from analysis.schema import COMPARABLE
from analysis.statistics import Interval
from analysis.tables import points_text
from harness import record
from harness.errors import PrefsweepError
from harness.plan import make_plan
from harness.positions import PAIRS
from harness.store import Store
from tests.analysis.synthetic import alias, make_frames, undo
from tests.analysis.test_report import report
from tests.configs import point

Frames = tuple[pd.DataFrame, pd.DataFrame]


def mixed(field: str, value: str | None = "other") -> Frames:
    """Four cells, the last of which differs from the others in one field."""
    results, verdicts = make_frames(PAIRS[:4])
    results.loc[3, field] = value
    return results, verdicts


def estimated(frames: Frames) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = preference_table(*frames)
    return estimate_cells(frames[0], table), table


@pytest.mark.parametrize("field", COMPARABLE)
def test_each_field_is_refused_by_its_name(field: str) -> None:
    results, verdicts = make_frames(PAIRS[:4])
    results[field] = "same"
    results.loc[3, field] = "other"
    cells, table = estimated((results, verdicts))
    users: list[Callable[[], Any]] = [
        lambda: pair_heatmap(cells),
        lambda: scaling_curve(cells),
        lambda: cell_intervals(cells, table),
        lambda: detectable_difference(cells, table),
    ]
    for use in users:
        with pytest.raises(
            PrefsweepError, match=rf"not comparable: {field} \(.*\) differs: (same / other|other / same)"
        ):
            use()


def test_what_states_nothing_is_no_difference() -> None:
    results, _ = mixed("decoding_settings", None)
    check_comparable(results, "x")
    assert [len(part) for _, part in comparable_parts(results)] == [4]


def test_unfinished_cells_stand_in_every_panel() -> None:
    results, _ = mixed("judge_prompt")
    parts = list(comparable_parts(undo(results, [1], "missing")))
    assert [facts for facts, _ in parts] == [{"judge_prompt": "same"}, {"judge_prompt": "other"}]
    assert [list(part.index) for _, part in parts] == [[0, 1, 2], [1, 3]]


def test_a_partly_stated_result_joins_those_it_agrees_with() -> None:
    results, _ = make_frames(PAIRS[:3])
    results["judge_revision"], results["judge_served"] = ["a", "b", None], ["x", "y", "y"]
    parts = [list(part.index) for _, part in comparable_parts(results)]
    assert parts == [[0], [1, 2]]


def test_versions_are_told_apart_by_the_packages_that_differ() -> None:
    results, _ = mixed("versions", "torch 2.13.0, trl 1.17.0")
    assert [facts["versions"] for facts, _ in comparable_parts(results)] == ["trl 1.16.0", "trl 1.17.0"]
    assert list(differences(results)) == ["versions"]


def test_long_values_that_begin_alike_stay_apart() -> None:
    results, _ = mixed("judge_settings", "x" * 90 + "b")
    results["judge_settings"] = results["judge_settings"].replace("same", "x" * 90 + "a")
    shown = [facts["judge_settings"] for facts, _ in comparable_parts(results)]
    assert len(set(shown)) == 2
    assert all(len(text) <= 60 for text in shown)


def test_a_report_over_a_mixed_store_has_separate_panels(tmp_path: Path) -> None:
    results, verdicts = mixed("judge_revision")
    results.loc[2, "judge_revision"] = "other"
    names, page, _ = report(results, verdicts, tmp_path)
    assert {name for name in names if name.endswith(".png")} == {
        "heatmap-judge_revision=same.png",
        "heatmap-judge_revision=other.png",
    }
    assert "judge\\_revision = same: Highest win rate" in page


def test_seeds_that_are_not_comparable_are_not_averaged() -> None:
    results, verdicts = make_frames(PAIRS[:1], seeds=(0, 1, 2))
    results.loc[2, "versions"] = "torch 2.14.0"
    cells, _ = estimated((results, verdicts))
    assert sorted(cells["seeds"]) == [1, 2]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Frames], None]:
    """Lets the commands find these frames in any store."""

    def use(frames: Frames) -> None:
        for module in (compare, __main__):
            monkeypatch.setattr(module, "load_results", lambda *_, **__: frames[0])
            monkeypatch.setattr(module, "load_verdicts", lambda *_: frames[1])

    return use


def run(*arguments: str) -> int:
    return __main__.main([*arguments])


def test_compare_gives_the_difference_with_its_interval(
    loaded: Callable[[Frames], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, verdicts = make_frames(PAIRS[:2], seeds=(0, 1, 2))
    loaded((results, verdicts))
    first, second = results.loc[[0, 3], "result"]
    assert run("compare", first, second, "--store", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "points (95 % interval over 60 instructions: construction)" in printed
    difference = results["win_rate"][:3].mean() - results["win_rate"][3:].mean()
    assert f"{100 * difference:+.1f} [" in printed


def test_compare_of_one_experiment_has_no_difference(
    loaded: Callable[[Frames], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results, verdicts = alias(*make_frames(PAIRS[:2]), row=1, of=0)
    loaded((results, verdicts))
    assert run("compare", *results["result"], "--store", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "are one experiment: they trained the same models" in printed
    assert "[" not in printed


def test_a_difference_of_nothing_has_no_sign() -> None:
    interval = Interval(estimate=-0.0004, low=-0.02, high=0.0002, method="", n=1, scope="")
    assert points_text(interval) == "0 [-2.0, 0]"


@pytest.mark.parametrize(
    ("field", "names", "message"),
    [
        ("judge_prompt", (0, 3), "not comparable: judge_prompt"),
        ("judge_prompt", (0, 0), "one and the same cell"),
        (None, ("position", 0), "4 judged cells"),
        (None, ("nothing", 0), "no judged cell"),
    ],
)
def test_compare_refuses_in_one_line(
    field: str | None,
    names: tuple[int | str, int],
    message: str,
    loaded: Callable[[Frames], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = mixed(field) if field else make_frames(PAIRS[:4])
    loaded(frames)
    ids = [str(frames[0].at[name, "result"]) if isinstance(name, int) else name for name in names]
    assert run("compare", *ids, "--store", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_report_asked_for_together_is_refused(
    loaded: Callable[[Frames], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(mixed("references_hash"))
    store = Store(tmp_path / "store").prepare()
    assert run("report", "--store", str(store.root), "--together", "--out", str(tmp_path / "out")) == 2
    assert "--together: the results are not comparable: references_hash" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_result_that_is_not_done_states_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").prepare()
    record.write(make_plan([point()]), "mine", "the command", store)
    assert load_results(store.root)[list(COMPARABLE)].isna().all(axis=None)
