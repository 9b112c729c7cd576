"""The journal of answers: whole lines only, shared by nodes, failures of one's own."""

import re
from pathlib import Path

import pytest

from harness.errors import PrefsweepError
from harness.judges import journal as journal_module
from harness.judges.journal import FOLDER, Entry, Journal
from harness.store import Store
from harness.sweepctl import main


def entry(answer: str = "m", failure: str | None = None) -> Entry:
    return Entry(
        answer=answer,
        logprobs={"m": -0.5},
        model="judge",
        prompt_tokens=10,
        completion_tokens=1,
        estimated=False,
        failure=failure,
    )


def test_what_was_added_is_found_by_the_next_and_counted(tmp_path: Path) -> None:
    Journal(tmp_path, "a").add("q1", entry())
    again = Journal(tmp_path, "b")
    assert again.get("q1") == entry()
    again.add("q2", entry("ü \n \u2028"))
    assert Journal(tmp_path, "a").get("q2") == entry("ü \n \u2028")
    assert (again.prompt_tokens, again.completion_tokens) == (20, 2)


def test_failures_are_taken_over_by_their_own_node_alone_until_forgotten(tmp_path: Path) -> None:
    own = Journal(tmp_path, "a")
    own.add("q1", entry(failure="no_choice"))
    assert Journal(tmp_path, "a").get("q1") is not None
    other = Journal(tmp_path, "b")
    assert other.get("q1") is None
    assert other.prompt_tokens == 10  # paid for all the same
    own.forget_failures()
    assert own.get("q1") is None
    assert Journal(tmp_path, "a").get("q1") is None
    own.add("q1", entry())
    assert Journal(tmp_path, "a").get("q1") == entry()


def test_what_a_killed_process_left_of_its_last_line_is_dropped(tmp_path: Path) -> None:
    Journal(tmp_path, "a").add("q1", entry())
    path = tmp_path / "a.jsonl"
    path.write_bytes(path.read_bytes() + b'{"request": "q2", "answ')
    assert Journal(tmp_path, "b").get("q2") is None  # perhaps its writer is still at it
    own = Journal(tmp_path, "a")
    own.add("q2", entry())
    assert Journal(tmp_path, "b").get("q2") == entry()


def test_others_answers_are_seen_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Journal(tmp_path, "a"), Journal(tmp_path, "b")
    other.add("q1", entry())
    monkeypatch.setattr(journal_module, "_LOOK", 0.0)
    one.add("q2", entry())
    assert one.get("q1") == entry()
    assert one.prompt_tokens == 20


def test_no_command_takes_answers_that_were_paid_for_for_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").prepare()
    Journal(store.root / FOLDER / "judge", "a").add("q1", entry())
    for command in (["verify"], ["gc", "--yes"], ["status"]):
        assert main([*command, "--store", str(store.root)]) == 0
    assert Journal(store.root / FOLDER / "judge", "b").get("q1") == entry()


@pytest.mark.parametrize("line", ["garbage", "[]", "5", "{}"])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(f"{line}\n")
    with pytest.raises(PrefsweepError, match=rf"a\.jsonl: holds a line that is none .* \(b'{re.escape(line)}'\)"):
        Journal(tmp_path, "b")
