"""`sweepctl status` and `logs`: every state a node can be in."""

import json
import os
import time
from typing import Any

import pytest

from harness.perform import log_failure
from harness.sweepctl.logs import reason
from harness.sweepctl.status import _warning_lines
from tests.sweepctl.conftest import COMMAND, Desk
from tests.test_execute import fail


def counts(desk: Desk, sweep: str = "both") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(desk.ctl("status", sweep, "--json").out)
    return facts


def test_a_store_without_sweeps(desk: Desk) -> None:
    assert desk.ctl("status").out == "no sweep is recorded\n"


def test_a_finished_sweep_has_everything_done(desk: Desk) -> None:
    desk.run()
    facts = counts(desk)
    assert (facts["needed"], facts["done"], facts["failed"], facts["to_do"]) == (12, 12, 0, 0)
    assert (facts["points"], facts["command"]) == (2, COMMAND)
    assert list(facts["stages"]) == ["model", "prompts", "sample", "pairs", "train", "respond", "judge"]
    result = desk.ctl("status", "both")
    assert result.code == 0
    assert "to continue" not in result.out


def test_a_failure_is_shown_with_its_reason_its_log_and_what_it_holds_back(desk: Desk) -> None:
    desk.fake.actions["pairs_a"] = fail(RuntimeError("the rows are wrong\nsecond line"))
    desk.run()
    facts = counts(desk)
    assert (facts["done"], facts["failed"], facts["blocked"]) == (8, 1, 3)
    (failed,) = facts["failed_nodes"]
    assert failed["key"] == desk.key("pairs_a")
    assert failed["reason"] == "RuntimeError: the rows are wrong"
    assert failed["blocks"] == 3
    result = desk.ctl("status", "both")
    assert result.code == 1
    assert failed["log"] in result.out
    assert "holds back 3 nodes" in result.out
    assert result.out.endswith(f"to continue: {COMMAND}\n")
    assert desk.ctl("status").code == 1


def test_what_two_failures_hold_back_counts_for_both(desk: Desk) -> None:
    for name in ("pairs_a", "base"):
        desk.fake.actions[name] = fail(RuntimeError("no"))
    desk.run()
    facts = counts(desk)
    assert facts["blocked"] == 4
    assert {n["slug"]: n["blocks"] for n in facts["failed_nodes"]} == {"pairs_a": 3, "base": 2}


def test_a_log_of_a_node_that_is_done_since_is_no_failure(desk: Desk) -> None:
    desk.fake.actions["pairs_a"] = fail(RuntimeError("no"))
    desk.run()
    desk.fake.actions.clear()
    desk.run()
    assert desk.ctl("status", "both").code == 0
    assert "done since" in desk.ctl("logs").out


def test_aliases_and_released_ones_are_among_the_done(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    trained = desk.fake.find(desk.nodes["train_a"])
    (trained.folder / "weights").mkdir()
    desk.store.release(trained, "weights")
    assert counts(desk)["stages"]["train"]["released"] == 0
    manifest = trained.folder / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["released"] = {"weights/w": {"bytes": 1, "sha256": "0"}}
    manifest.write_text(json.dumps(facts))
    stages = counts(desk)["stages"]
    assert stages["train"] == {**dict.fromkeys(stages["train"], 0), "needed": 2, "done": 2, "aliases": 1, "released": 2}
    assert stages["judge"]["aliases"] == 1


def test_empty_cells_are_shown_with_their_reason(desk: Desk) -> None:
    desk.fake.dropped["pairs_a"] = 2
    desk.run()
    facts = counts(desk)
    assert (facts["empty"], facts["done"], facts["to_do"]) == (3, 9, 0)
    assert facts["empty_cells"] == [
        {"key": desk.key("train_a"), "stage": "train", "slug": "train_a", "reason": "no preference rows: 2 equal_text"}
    ]
    result = desk.ctl("status", "both")
    assert result.code == 0
    assert "to continue" not in result.out


def test_a_sweep_that_has_not_begun_is_to_do(desk: Desk) -> None:
    desk.record()
    facts = counts(desk)
    assert (facts["to_do"], facts["done"]) == (12, 0)
    assert "to continue" in desk.ctl("status", "both").out


def test_a_node_is_running_while_its_process_lives(desk: Desk) -> None:
    desk.record()
    with desk.held("sample") as holder:
        (running,) = counts(desk)["running_nodes"]
        assert (running["key"], running["pid"], running["files"]) == (desk.key("sample"), holder.pid, 1)
        assert 0 <= time.time() - running["newest"] < 60
        said = desk.ctl("status", "both").out
        assert f"process {holder.pid} on " in said
        assert "1 file in hand, the newest " in said
        holder.kill()
        holder.wait()
        facts = counts(desk)
        assert (facts["running"], facts["running_nodes"], facts["to_do"]) == (0, [], 12)


def test_a_damaged_artifact_is_named_and_to_do(desk: Desk) -> None:
    desk.run()
    (desk.folder("train_b") / "table.parquet").write_bytes(b"")
    facts = counts(desk)
    assert facts["to_do"] == 1
    assert [n["key"] for n in facts["damaged_nodes"]] == desk.keys("train_b")


def test_an_unknown_sweep_lists_those_there_are(desk: Desk) -> None:
    desk.run()
    result = desk.ctl("status", "grid")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: store: {desk.store.root} has no sweep 'grid'; it has both\n"


def test_control_characters_are_written_out(desk: Desk) -> None:
    desk.fake.actions["model"] = fail(RuntimeError("\x1b[31mred\x07\u202e"))
    desk.run()
    for arguments in (["status", "both"], ["logs"], ["logs", desk.key("model")], ["status", "both", "--json"]):
        out = desk.ctl(*arguments).out
        assert "red" in out
        assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_all_logs_are_listed_and_one_is_shown(desk: Desk) -> None:
    assert desk.ctl("logs").out == "no failure is known\n"
    desk.fake.actions["pairs_a"] = fail(RuntimeError("the rows are wrong"))
    desk.run()
    log = next((desk.store.root / "logs").iterdir())
    os.utime(log, (time.time() - 7200,) * 2)
    listed = desk.ctl("logs")
    assert f"pairs pairs_a-{desk.key('pairs_a')}" in listed.out
    assert "2 h" in listed.out
    assert "RuntimeError: the rows are wrong" in listed.out
    shown = desk.ctl("logs", desk.key("pairs_a")[:8])
    assert "Traceback" in shown.out
    without = desk.ctl("logs", desk.key("model"))
    assert (without.code, without.out) == (2, "")
    assert "has no log" in without.err


def fail_while_handling() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second\nmore") from error


def test_the_reason_is_the_line_that_says_why(desk: Desk) -> None:
    def of(error: BaseException | str) -> str:
        log = log_failure(desk.store, desk.nodes["model"], error)
        assert log is not None
        return reason(log)

    with pytest.raises(ValueError, match="second") as caught:
        fail_while_handling()
    assert of(caught.value) == "ValueError: second"
    assert of("policy.id: no such model\nsecond line") == "policy.id: no such model"
    died = "the worker died (SIGKILL; the system kills what takes too much memory)"
    assert of(f"Traceback (most recent call last):\n  here\nError: x\n{died}") == died
    assert of("") == ""


@pytest.mark.parametrize("gone", [True, False])
def test_a_log_that_vanishes_is_no_error(desk: Desk, gone: bool) -> None:
    log = desk.store.root / "logs" / "x.log"
    if not gone:
        log.write_text("header\n")
    assert reason(log) == ""


def test_a_warning_of_several_nodes_is_said_once() -> None:
    warned = [{"stage": "judge", "slug": name, "key": name * 16, "warning": "it says nothing"} for name in "ab"]
    alone = {"stage": "rank", "slug": "c", "key": "c" * 16, "warning": "so does this"}
    together, apart = _warning_lines([*warned, alone])
    assert together.startswith("it says nothing: 2 nodes, judge a")
    assert "judge b" in together
    assert apart.startswith("so does this: rank c")
