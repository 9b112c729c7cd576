"""`sweepctl gc`: what nobody needs is listed and removed, and nothing else."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness import record
from harness.store import Store
from harness.sweepctl import gc
from tests.artifacts import manifest
from tests.sweepctl.conftest import Desk
from tests.test_execute import fail
from tests.test_store import KEY

NOTHING = "nothing to clear away\n"


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def age(path: Path, days: float) -> None:
    for one in (path, *path.rglob("*")):
        os.utime(one, (time.time() - days * 86400,) * 2)


def test_a_store_in_which_all_is_needed_has_nothing_to_clear(desk: Desk) -> None:
    desk.run()
    before = everything(desk.store.root)
    result = desk.ctl("gc", "--yes")
    assert (result.code, result.out) == (0, NOTHING)
    assert everything(desk.store.root) == before


def test_it_lists_with_sizes_and_removes_only_when_told(desk: Desk) -> None:
    desk.run()
    desk.run("only_a", "a")
    desk.ctl("forget", "both")
    before = everything(desk.store.root)
    result = desk.ctl("gc")
    assert everything(desk.store.root) == before
    for name in ("pairs_b", "train_b", "respond_b", "judge_b"):
        assert f"/{desk.folder(name).name}" in result.out
    assert result.out.count("no recorded sweep needs it") == 4
    assert "kB: not removed; --yes removes it" in result.out
    result = desk.ctl("gc", "--yes")
    assert "removed" in result.out
    assert not desk.folder("train_b").exists()
    assert desk.ctl("gc").out == NOTHING
    assert desk.run("only_a", "a").computed == []
    assert desk.ctl("verify").code == 0


def test_only_what_is_old_enough_goes(desk: Desk) -> None:
    desk.run()
    desk.run("only_a", "a")
    desk.ctl("forget", "both")
    age(desk.folder("train_b"), days=10)
    result = desk.ctl("gc", "--yes", "--older-than", "9.5")
    assert "1 item, " in result.out
    assert "10 d old" in result.out
    assert not desk.folder("train_b").exists()
    assert desk.folder("pairs_b").exists()
    assert desk.ctl("gc", "--older-than", "-1").code == 2


def test_the_original_of_a_needed_alias_stays(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    desk.run("only_b", "b")
    desk.ctl("forget", "both")
    desk.ctl("gc", "--yes")
    assert desk.folder("train_a").exists()
    assert not desk.folder("pairs_a").exists()
    assert desk.run("only_b", "b").computed == []


def test_what_a_needed_artifact_points_to_stays(desk: Desk) -> None:
    desk.run()
    policy = desk.folder("model").parent / f"other-{KEY}"
    policy.mkdir()
    pointer = os.path.relpath(policy / "weights", desk.folder("train_a"))
    (desk.folder("train_a") / "model.json").write_text(json.dumps({"path": pointer}))
    assert desk.ctl("gc").out == NOTHING
    (desk.folder("train_a") / "model.json").write_text("[]")
    assert policy.name in desk.ctl("gc").out


def test_what_was_set_aside_as_damaged_goes_though_its_node_is_needed(desk: Desk) -> None:
    desk.run()
    (desk.folder("sample") / "table.parquet").unlink()
    desk.ctl("verify")
    assert "set aside as damaged" in desk.ctl("gc").out
    desk.ctl("gc", "--yes")
    assert not desk.folder("sample").exists()
    assert desk.run().computed == desk.keys("sample")


@pytest.mark.parametrize("imports", [False, True])
def test_imported_artifacts_stay_unless_told(desk: Desk, imports: bool) -> None:
    desk.run()
    with desk.store.claim(KEY) as work:
        (work / "rows").write_text("mine")
        folder = desk.store.publish(work, manifest("imported", KEY), "mine").folder
    desk.ctl("gc", "--yes", *(["--imports"] if imports else []))
    assert folder.exists() is not imports


def test_work_in_hand_of_nobody_goes_and_of_a_node_to_do_stays(desk: Desk) -> None:
    desk.record()
    kept, lost = desk.key("model"), "f" * 16
    for name in (kept, lost):
        with desk.store.claim(name) as work:
            (work / "shard").write_text("half")
    result = desk.ctl("gc", "--yes")
    assert "work in hand of no recorded sweep" in result.out
    assert not (desk.store.root / "work" / lost).exists()
    assert list((desk.store.root / "work" / kept).glob("*/shard"))
    desk.run()
    with desk.store.claim(kept) as work:
        (work / "shard").write_text("late")
    assert "work in hand of a node that is done" in desk.ctl("gc", "--yes").out
    assert os.listdir(desk.store.root / "work") == []


def test_what_a_living_process_holds_is_never_touched(desk: Desk) -> None:
    desk.run()
    desk.ctl("forget", "both")
    with desk.held("sample") as holder:
        result = desk.ctl("gc", "--yes")
        assert "no sweep is recorded here" in result.out
        assert desk.folder("sample").exists()
        assert list((desk.store.root / "work" / desk.key("sample")).glob("*/shard"))
        assert not desk.folder("model").exists()
        holder.kill()
        holder.wait()
    desk.ctl("gc", "--yes")
    assert not desk.folder("sample").exists()
    assert os.listdir(desk.store.root / "work") == []


def test_logs_of_done_nodes_go_and_of_failures_stay(desk: Desk) -> None:
    for name in ("pairs_a", "pairs_b"):
        desk.fake.actions[name] = fail(RuntimeError("no"))
    desk.run()
    del desk.fake.actions["pairs_a"]
    desk.run()
    assert "log of a node that is done" in desk.ctl("gc", "--yes").out
    assert os.listdir(desk.store.root / "logs") == [f"pairs-{desk.key('pairs_b')}.log"]
    desk.ctl("forget", "both")
    assert "log of no recorded sweep" in desk.ctl("gc").out


def test_pointers_to_nothing_go(desk: Desk) -> None:
    desk.run()
    content = desk.store.root / "content"
    kept = sorted(os.listdir(content))
    (content / "decaf").write_text("sample/nothing-0000000000000000\n")
    assert "points to nothing" in desk.ctl("gc", "--yes").out
    assert sorted(os.listdir(content)) == kept


def test_half_written_files_go_once_they_are_old(desk: Desk) -> None:
    desk.run()
    root = desk.store.root
    paths = [root / "store.json.1.partial", root / "work" / "probe.1.partial", desk.folder("sample") / "m.partial"]
    for path in paths:
        path.write_text("")
    assert desk.ctl("gc", "--yes").out == NOTHING
    for path in paths:
        age(path, days=1)
    assert "3 items, 0 B: removed" in desk.ctl("gc", "--yes").out
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("moment", ["measured", "claimed", "aside"])
def test_what_a_sweep_needs_that_is_recorded_meanwhile_stays(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    desk.run()
    desk.run("only_a", "a")
    desk.ctl("forget", "both")
    owner, name = {
        "measured": (gc, "_measure"),
        "claimed": (Store, "claim"),
        "aside": (Store, "set_aside"),
    }[moment]
    before: Any = getattr(owner, name)

    def meanwhile(*arguments: Any) -> Any:
        if "late" not in record.names(desk.store):
            done = before(*arguments)  # the artifact itself, where it is already set aside
            desk.record("late", "b")
            return done
        return before(*arguments)

    monkeypatch.setattr(owner, name, meanwhile)
    assert desk.ctl("gc", "--yes").out == NOTHING
    assert desk.run("late", "b").computed == []
    assert desk.ctl("verify").code == 0


def test_what_was_made_again_meanwhile_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    desk.store.set_aside(desk.folder("train_a"))
    before = gc._measure

    def meanwhile(path: Path) -> tuple[int, float]:
        desk.run()
        return before(path)

    monkeypatch.setattr(gc, "_measure", meanwhile)
    assert desk.ctl("gc", "--yes").out == NOTHING
    assert desk.folder("train_a").exists()


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_an_age_that_is_none_is_refused(desk: Desk, days: str) -> None:
    result = desk.ctl("gc", f"--older-than={days}")
    assert (result.code, result.err) == (2, f"error: --older-than: expected 0 or more days, got {days}\n")
