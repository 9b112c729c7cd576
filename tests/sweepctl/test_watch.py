"""`sweepctl status --watch` and the machine time that `status` shows."""

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
from rich.console import Console

from harness.sweepctl.watch import watch
from tests.sweepctl.conftest import Desk


@dataclass
class Moment:
    """How things stand."""

    lines: list[str]
    alive: bool = True
    code: int = 0


@dataclass
class Course:
    """One moment after the other."""

    moments: list[Moment]
    pauses: list[float] = field(default_factory=list)

    def look(self) -> Moment:
        return self.moments.pop(0)


@pytest.fixture
def course(monkeypatch: pytest.MonkeyPatch) -> Course:
    course = Course([Moment(["1 done"]), Moment(["1 done"]), Moment(["2 done", "\x1b[2J"], alive=False, code=1)])
    monkeypatch.setattr("harness.sweepctl.watch.time.sleep", course.pauses.append)
    return course


def test_plain_text_comes_where_something_has_changed(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(course.look, 7.0) == 1
    assert course.pauses == [7.0, 7.0]
    said = capsys.readouterr().out
    assert said.count("1 done") == 1
    assert "2 done\n\\x1b[2J\n" in said


def test_a_terminal_is_written_over_until_nothing_is_alive(course: Course) -> None:
    output = io.StringIO()
    assert watch(course.look, 7.0, Console(file=output, force_terminal=True, width=80)) == 1
    assert course.pauses == [7.0, 7.0]
    said = output.getvalue()
    assert said.count("1 done") == 2
    assert "\x1b[2J" not in said.replace("\\x1b[2J", "")


def test_what_is_running_is_watched_until_it_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.record()
    with desk.held("sample") as holder:

        def end(_: float) -> None:
            holder.kill()
            holder.wait()

        monkeypatch.setattr("harness.sweepctl.watch.time.sleep", end)
        result = desk.ctl("status", "both", "--watch", "5")
    assert result.code == 0
    assert result.out.count("both: 2 points") == 2


@pytest.mark.parametrize("given", [["--watch", "0"], ["both", "--watch", "nan"]])
def test_an_interval_is_a_second_or_more(desk: Desk, given: list[str]) -> None:
    desk.record()
    with pytest.raises(SystemExit) as ended:
        desk.ctl("status", *given)
    assert ended.value.code == 2


def test_options_that_go_together_with_none(desk: Desk) -> None:
    desk.record()
    assert desk.ctl("status", "both", "--watch", "--json").err.startswith("error: --watch: ")
    assert desk.ctl("status", "--cells").err.startswith("error: --cells: ")


def hours(desk: Desk, name: str, seconds: float, **made: Any) -> None:
    """Let a node's manifest say so."""
    path = desk.folder(name) / "manifest.json"
    facts = json.loads(path.read_text())
    facts["provenance"] |= {"seconds": seconds, "device": "NVIDIA H100", "threads": 2, **made}
    path.write_text(json.dumps(facts))


def test_machine_time_by_stage_and_by_cell(desk: Desk) -> None:
    desk.run()
    for name in desk.nodes:
        hours(desk, name, 0.0)
    hours(desk, "sample", 3600.0)
    hours(desk, "train_a", 7200.0, gpus=4)
    hours(desk, "pairs_a", 0.03)
    spent = json.loads(desk.ctl("status", "both", "--json").out)["spent"]
    assert spent["stages"]["sample"] == {"artifacts": 1, "hours": 1.0, "gpu_hours": 1.0, "core_hours": 2.0}
    assert spent["stages"]["train"] == {"artifacts": 2, "hours": 2.0, "gpu_hours": 8.0, "core_hours": 4.0}
    cells = {one["slug"]: one["gpu_hours"] for one in spent["cells"].values()}
    assert cells == pytest.approx({"train_a": 8.5, "train_b": 0.5}, abs=1e-4)
    shown = desk.ctl("status", "both", "--cells").out
    assert "gpu hours" in shown
    assert re.search(r"^ *pairs .* <0\.001 +<0\.001 +<0\.001$", shown, re.MULTILINE)
    assert f"train_a-{desk.key('train_a')}" in shown


def test_what_was_found_equal_counts_once(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    for name in desk.nodes:
        hours(desk, name, 0.0)
    for name in ("train_a", "train_b"):
        hours(desk, name, 3600.0)
    spent = json.loads(desk.ctl("status", "both", "--json").out)["spent"]
    assert spent["stages"]["train"]["gpu_hours"] == 1.0
    assert [one["gpu_hours"] for one in spent["cells"].values()] == [0.5, 0.5]
