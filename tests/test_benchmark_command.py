"""`python -m tests.benchmarks`: what is measured is kept, and measured again only where something is different."""

import json
import sys
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import bench_store


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return command.main()


def test_a_finished_benchmark_is_kept_until_its_code_or_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("planning", "--out", str(tmp_path), "--", "1")
    typed(monkeypatch, *asked)  # whether it is fast enough is no matter here
    path = tmp_path / "planning.json"
    record = json.loads(path.read_text())
    assert [run["points"] for run in record["figures"]["runs"]] == [84]
    assert record["settings"]["arguments"] == ["1"]
    assert record["machine"]["cores"] > 0
    assert "kept, measured" not in capsys.readouterr().out
    path.write_text(json.dumps({**record, "met": True}))
    assert typed(monkeypatch, *asked) == 0
    said = capsys.readouterr().out
    assert record["said"] in said
    assert "kept, measured" in said
    settings = record["settings"]
    assert command.kept(path, settings) is not None
    assert command.kept(path, {**settings, "code": "other"}) is None
    assert command.kept(tmp_path / "none.json", settings) is None


def test_a_benchmark_that_breaks_off_leaves_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed(monkeypatch, "planning", "--out", str(tmp_path), "--", "no number") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "no benchmark 'nothing'; there are sampling"), (["--", "1"], "for one benchmark; name it")],
)
def test_what_cannot_be_run_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "missing", lambda _: "")
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, "--out", str(tmp_path), *arguments)
    assert message in f"{ended.value}{capsys.readouterr().err}"


def test_every_benchmark_of_the_folder_is_one_of_the_command() -> None:
    folder = Path(command.__file__).parent
    assert sorted(command.BENCHMARKS) == sorted(p.stem.removeprefix("bench_") for p in folder.glob("bench_*.py"))


def test_every_step_of_the_store_benchmark_can_be_done(tmp_path: Path) -> None:
    """Its full size takes a quarter of an hour, so that nobody would notice for long that it no longer runs."""
    store = bench_store.prepare(tmp_path)
    for start in (0, 4):
        bench_store.write_block(store, 0, 6, range(start, start + 4), 20)
    rows = {name: step(store, 8) for name, step in bench_store.STEPS.items()}
    assert rows.pop("reference, no model") <= 6 * 7
    assert rows == {"read all": 48, "select": 48, "pairs, one cell": 6}
