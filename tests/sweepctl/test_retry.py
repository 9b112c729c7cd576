"""`sweepctl retry`: what is removed, what is refused, and what the next run then makes."""

from harness import record
from harness.store import Store
from tests.artifacts import manifest
from tests.sweepctl.conftest import COMMAND, Desk
from tests.test_execute import fail
from tests.test_store import KEY


def fail_with_work(desk: Desk, name: str) -> None:
    """A node that fails and leaves a file in hand."""

    def action(context: object) -> None:
        work = next((desk.store.root / "work" / desk.key(name)).glob("*/"))
        (work / "shard").write_text("half")
        raise RuntimeError("no")

    desk.fake.actions[name] = action


def test_a_failed_node_loses_its_log_and_its_work(desk: Desk) -> None:
    fail_with_work(desk, "pairs_a")
    desk.run()
    work = desk.store.root / "work" / desk.key("pairs_a")
    assert list(work.glob("*/shard"))
    result = desk.ctl("retry", desk.key("pairs_a"))
    assert result.code == 0
    assert f"pairs pairs_a-{desk.key('pairs_a')}: removed work in hand, log" in result.out
    assert f"to make them anew (both): {COMMAND}" in result.out
    assert not work.exists()
    assert not list((desk.store.root / "logs").iterdir())
    assert desk.ctl("status", "both").code == 0


def test_all_failures_or_those_of_a_sweep(desk: Desk) -> None:
    for name in ("pairs_a", "pairs_b"):
        desk.fake.actions[name] = fail(RuntimeError("no"))
    desk.run()
    desk.run("only_a", "a")
    assert desk.ctl("retry", "--failed", "--sweep", "only_a").out.count("removed log") == 1
    assert desk.ctl("retry", "--failed").out.count("removed log") == 1
    result = desk.ctl("retry", "--failed")
    assert (result.code, result.out) == (0, "nothing has failed\n")


def test_a_done_node_is_made_anew_and_what_was_made_of_it_stays(desk: Desk) -> None:
    desk.run()
    result = desk.ctl("retry", desk.key("pairs_a")[:9])
    assert f"pairs pairs_a-{desk.key('pairs_a')}: removed artifact" in result.out
    assert "3 artifacts made of these stay" in result.out
    assert not desk.folder("pairs_a").exists()
    assert desk.run().computed == desk.keys("pairs_a")


def test_dependents_go_along_in_every_sweep(desk: Desk) -> None:
    desk.run("only_a", "a")
    desk.run("only_b", "b")
    result = desk.ctl("retry", "--dependents", desk.key("sample"))
    assert result.out.count("removed artifact") == 9
    assert "(only_a)" in result.out
    assert "(only_b)" in result.out
    assert desk.run().computed == [key for key in desk.plan().nodes if key not in desk.keys("model", "prompts", "base")]


def test_dependents_of_no_sweep_go_along_too(desk: Desk) -> None:
    desk.run()
    (desk.store.root / "sweeps" / "both.json").unlink()
    assert desk.ctl("retry", "--dependents", desk.key("pairs_a")).out.count("removed artifact") == 4


def test_an_alias_and_its_original_go_together(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    for asked in ("train_a", "train_b"):
        result = desk.ctl("retry", desk.key(asked))
        assert result.out.count("removed artifact") == 2
        assert "1 artifact of these shared the content of those asked for" in result.out
        summary = desk.run()
        assert (summary.computed, summary.aliased) == (desk.keys("train_a"), desk.keys("train_b"))


def test_an_alias_goes_with_an_original_that_is_damaged(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    (desk.folder("train_a") / "table.parquet").unlink()
    assert desk.ctl("retry", desk.key("train_b")).out.count("removed artifact") == 2


def test_dependents_that_are_aliases_leave_their_originals(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    result = desk.ctl("retry", "--dependents", desk.key("pairs_b"))
    assert result.out.count("removed artifact") == 4
    assert desk.folder("train_a").exists()
    summary = desk.run()
    assert (summary.computed, summary.aliased) == (desk.keys("pairs_b"), desk.keys("train_b", "respond_b", "judge_b"))


def test_aliases_of_dependents_go_along(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    result = desk.ctl("retry", "--dependents", desk.key("pairs_a"))
    assert result.out.count("removed artifact") == 7
    assert desk.folder("pairs_b").exists()
    assert desk.run().ok
    assert desk.ctl("verify").code == 0


def test_a_running_node_is_refused_and_nothing_is_done(desk: Desk) -> None:
    desk.run()
    desk.store.remove(desk.folder("train_a"))
    with desk.held("train_a") as holder:
        for arguments in (["--dependents", desk.key("pairs_a")], [desk.key("pairs_b"), desk.key("train_a")]):
            result = desk.ctl("retry", *arguments)
            assert (result.code, result.out) == (2, "")
            assert f"train_a-{desk.key('train_a')} is being worked on by process {holder.pid} on " in result.err
        assert desk.folder("pairs_a").exists()
        assert desk.folder("pairs_b").exists()
        holder.kill()
        holder.wait()
        assert "removed work in hand" in desk.ctl("retry", desk.key("train_a")).out


def test_a_node_of_which_there_is_nothing(desk: Desk) -> None:
    desk.record()
    assert "removed nothing, there was nothing" in desk.ctl("retry", desk.key("model")).out


def test_what_was_imported_is_refused(desk: Desk) -> None:
    with desk.store.claim(KEY) as work:
        desk.store.publish(work, manifest("imported", KEY), "mine")
    result = desk.ctl("retry", KEY)
    assert result.code == 2
    assert f"imported mine-{KEY} was imported, and nothing can make it anew" in result.err


def test_keys_or_all_failed_but_not_both(desk: Desk) -> None:
    for arguments in ([], ["--failed", "ab"]):
        result = desk.ctl("retry", *arguments)
        assert (result.code, result.err) == (2, "error: retry: expected either keys or --failed\n")
    assert "--sweep: expected together with --failed" in desk.ctl("retry", "ab", "--sweep", "x").err


def test_forget_removes_the_record_only(desk: Desk) -> None:
    desk.run()
    desk.run("only_a", "a")
    result = desk.ctl("forget", "both")
    assert result.out == "forgot both; 4 artifacts that only it needed can be cleared by `sweepctl gc`\n"
    assert record.names(desk.store) == ["only_a"]
    assert desk.folder("train_b").exists()
    assert desk.ctl("forget", "both").code == 2


def test_a_sweep_that_is_worked_on_is_not_forgotten(desk: Desk) -> None:
    desk.record()
    with desk.held("model"):
        result = desk.ctl("forget", "both")
        assert result.code == 2
        assert "both is being worked on: model model-" in result.err
    assert record.names(Store(desk.store.root)) == ["both"]


def test_a_retried_plan_of_nothing_else_is_whole(desk: Desk) -> None:
    desk.run()
    desk.ctl("retry", desk.key("sample"), desk.key("train_a"))
    assert desk.run().ok
    assert desk.ctl("verify").code == 0
