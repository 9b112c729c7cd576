"""`python -m tests.benchmarks`: what is measured is kept, and measured again only where something is different."""

import json
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import bench_grid, bench_store


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


def test_a_step_of_the_grid_goes_on_where_it_was_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(name: str, work: str, seconds: float) -> dict[str, float]:
        steps = bench_grid.Steps(tmp_path / "steps.json")  # as a new command finds it
        steps.time(name, ["timeit", "-n1", "-r1", work], bench_grid.Clock(time.monotonic() + seconds))
        return steps.found[name]

    with pytest.raises(SystemExit) as ended:
        step("grid", "import time; time.sleep(60)", 0.5)
    assert ended.value.code == 3
    assert "the same command goes on from here" in capsys.readouterr().out
    before = json.loads((tmp_path / "steps.json").read_text())["grid"]["wall"]
    assert before >= 0.5
    with pytest.raises(SystemExit, match="ended with 1"):
        step("other", "1 / 0", 60)
    done = step("grid", "pass", 60)
    assert (done["calls"], done["done"]) == (2, True)
    assert done["wall"] > before
    assert step("grid", "1 / 0", 60) == done  # it has come to its end
    with pytest.raises(SystemExit) as late:
        step("other", "pass", 0)
    assert late.value.code == 3


def test_training_and_answering_pay_for_the_start_of_one_engine(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = {"sample": 300.0, "reference": 7.0, "train": 200.0, "respond": 203.0}
    plain = {"stock": {"seconds": 50.0}, "tuned": {"seconds": 30.0}, "answers": {"ready": 60.0, "seconds": 10.0}}
    grid = bench_grid.Work(seconds, {"sample": 90.0, "respond": 0.0})
    ratios = bench_grid.training_and_answering(grid, plain, "GPU-seconds")
    assert ratios == {
        "training and answering, stock": 21 * 120 / 500,
        "one engine, stock": (21 * 60 + 60) / 500,
        "training and answering, tuned": 21 * 100 / 500,
        "one engine, tuned": (21 * 40 + 60) / 500,
    }
    again = bench_grid.Work(seconds, {"sample": 90.0, "respond": 80.0})  # it is in the answers' seconds already
    assert bench_grid.training_and_answering(again, plain, "s")["one engine, stock"] == (21 * 60 + 60) / 410
    alone = bench_grid.training_and_answering(grid, {**plain, "answers": None}, "s")
    assert alone == {"training, stock": 21 * 50 / 207, "training, tuned": 21 * 30 / 207}
    found = {"ratios": {"pipelines": 5.0, **ratios}, "wall": {"grid": 960.0}}
    assert bench_grid.missed(found) == ["pipelines: 5.0, not 6.0", "the grid: 16.0 minutes, not 15"]
