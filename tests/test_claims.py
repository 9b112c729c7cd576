"""Claims: one living owner at a time, taken over from a dead one, and nothing that a late writer could spoil."""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness import claims
from harness.claims import DEAD_AFTER, BusyError, Claim, LostClaimError, Owner, alive, hold
from harness.errors import PrefsweepError
from harness.store import Store
from tests.artifacts import manifest
from tests.processes import kill, running, start, wait_until

KEY = "00000000000000aa"

HOLDER = """
import sys, time
from pathlib import Path
from harness.claims import hold
with hold(Path(sys.argv[1])) as claim:
    (claim.work / "shard").write_text("kept")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "work" / KEY


def put(folder: Path, generation: int, *, shard: str = "", age: float = 0.0, **changes: object) -> Owner:
    """Leave the record of an owner as a process would have; by default of one that has ended."""
    owner = replace(claims._myself(), **{"nonce": f"n{generation}", "born": "1", **changes})  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{generation}.json"
    file.write_text(json.dumps(asdict(owner)))
    os.utime(file, (time.time() - age, time.time() - age))
    if shard:
        work = folder / f"{generation}-{owner.nonce}"
        work.mkdir()
        (work / "shard").write_text(shard)
    return owner


def records(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json"))


def test_a_claim_has_an_owner_until_its_block_ends(folder: Path) -> None:
    assert alive(folder) is None
    with hold(folder) as claim:
        owner = alive(folder)
        assert owner is not None
        assert (owner.pid, owner.nonce) == (os.getpid(), claim.owner.nonce)
        with pytest.raises(BusyError, match=f"node {KEY} is being worked on by process {os.getpid()}"), hold(folder):
            pytest.fail("held twice")
        claim.check()
    assert alive(folder) is None
    assert not folder.exists()


def test_a_claim_is_released_after_an_exception_and_its_work_stays(folder: Path) -> None:
    def work_and_raise(error: type[BaseException]) -> None:
        with hold(folder) as claim:
            (claim.work / error.__name__).touch()
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            work_and_raise(error)
        assert alive(folder) is None
    with hold(folder) as claim:
        assert sorted(path.name for path in claim.work.iterdir()) == ["KeyboardInterrupt", "ValueError"]


def test_a_dead_process_loses_its_claim_at_once_and_its_work_is_inherited(folder: Path) -> None:
    with running(["-c", HOLDER, str(folder)], folder.parents[1], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError), hold(folder):
            pytest.fail("held twice")
        kill(holder)
        assert alive(folder) is None
        with hold(folder) as claim:
            assert (claim.work / "shard").read_text() == "kept"
            assert records(folder) == ["2.json"]


def test_an_owner_that_nobody_has_waited_for_is_dead(folder: Path) -> None:
    with running(["-c", HOLDER, str(folder)], folder.parents[1], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        stat = Path(f"/proc/{holder.pid}/stat")
        wait_until(lambda: ") Z " in stat.read_text(), 5, "it is a zombie")
        with hold(folder) as claim:
            assert (claim.work / "shard").exists()


def test_another_process_with_the_id_of_the_owner_is_not_the_owner(folder: Path) -> None:
    put(folder, 1, pid=os.getpid(), born="1", shard="kept")
    assert alive(folder) is None
    with hold(folder) as claim:
        assert (claim.work / "shard").read_text() == "kept"


@pytest.mark.parametrize("changes", [{"namespace": "another boot"}, {"host": "another"}])
def test_an_owner_elsewhere_is_dead_only_after_its_last_sign_of_life(folder: Path, changes: dict[str, str]) -> None:
    """A machine made from the same snapshot has the same boot, and numbers its processes alike."""
    put(folder, 1, age=DEAD_AFTER - 30, shard="kept", **changes)
    assert alive(folder) is not None
    with pytest.raises(BusyError), hold(folder):
        pytest.fail("taken from a living owner")
    os.utime(folder / "1.json", (time.time() - DEAD_AFTER - 1,) * 2)
    assert alive(folder) is None
    with hold(folder) as claim:
        assert (claim.work / "shard").read_text() == "kept"


def test_age_is_told_by_the_clock_of_the_file_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, 1, host="another")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert alive(folder) is not None
    os.utime(folder / "1.json", (1.0, 1.0))
    assert alive(folder) is None
    assert records(folder) == ["1.json"]
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("hours", [-6.0, 6.0])
def test_an_owner_whose_clock_is_wrong_is_judged_like_any_other(folder: Path, hours: float) -> None:
    put(folder, 1, host="another", since=time.time() + 3600 * hours)
    assert alive(folder) is not None
    os.utime(folder / "1.json", (time.time() - DEAD_AFTER - 1,) * 2)
    assert alive(folder) is None


@pytest.mark.parametrize("hours", [-6.0, 6.0])
def test_a_heart_beats_by_the_clock_of_the_file_system(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hours: float
) -> None:
    true = time.time
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    monkeypatch.setattr(claims, "_HEART", claims._Heart())
    monkeypatch.setattr(time, "time", lambda: true() + 3600 * hours)
    with hold(folder) as claim:
        os.utime(claim.file, (1.0, 1.0))
        wait_until(lambda: claim.file.stat().st_mtime > 1, 5, "the record is renewed")
        assert abs(claims.now(folder) - claim.file.stat().st_mtime) < 60
        assert abs(true() - claim.file.stat().st_mtime) < 60


def test_a_record_that_was_made_although_the_answer_got_lost_is_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system sends a request again, and is told that the name is taken, by itself."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    with hold(folder) as claim:
        assert records(folder) == ["1.json"]
        claim.check()
    assert not folder.exists()


def test_a_file_system_without_hard_links_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PrefsweepError, match=rf"^store: the file system of {folder} has no hard links"), hold(folder):
        pytest.fail("held without a record")


def test_who_may_only_look_can_still_ask_who_is_at_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, 1, host="another")
    real = Path.open

    def read_only(path: Path, mode: str = "r") -> object:
        if mode == "w":
            raise OSError(30, "Read-only file system")
        return real(path, mode)

    monkeypatch.setattr(Path, "open", read_only)
    assert alive(folder) is not None


def test_a_heart_beats_for_as_long_as_a_claim_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT", 0.05)
    monkeypatch.setattr(claims, "_HEART", claims._Heart())
    with hold(folder) as claim:
        os.utime(claim.file, (1.0, 1.0))
        wait_until(lambda: claim.file.stat().st_mtime > 1, 5, "the record is renewed")
    with hold(folder) as claim:
        wait_until(lambda: claim.file.stat().st_mtime > 1, 5, "the next one is, too")


def test_a_process_that_the_system_hides_is_judged_by_its_signs_of_life(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On machines that show users only their own processes."""

    def forbidden(pid: int, _: int) -> None:
        raise PermissionError(pid)

    put(folder, 1, pid=2**22 + 1)
    assert alive(folder) is None
    monkeypatch.setattr(os, "kill", forbidden)
    assert alive(folder) is not None
    os.utime(folder / "1.json", (1.0, 1.0))
    assert alive(folder) is None


def test_a_record_that_cannot_be_understood_is_judged_by_its_age(folder: Path) -> None:
    put(folder, 1)
    (folder / "1.json").write_text("{")
    with pytest.raises(BusyError, match="an unknown machine"), hold(folder):
        pytest.fail("taken from an owner of whom nothing is known")
    os.utime(folder / "1.json", (1.0, 1.0))
    with hold(folder):
        assert records(folder) == ["2.json"]


KILLED_BETWEEN: dict[str, Callable[[Path], object]] = {
    "before its record": lambda folder: (put(folder, 1, shard="kept"), (folder / "n2.partial").write_text("")),
    "after its record": lambda folder: (put(folder, 1, shard="kept"), put(folder, 2)),
    "after taking the files": lambda folder: (put(folder, 1), put(folder, 2, shard="kept")),
    "after the old record went": lambda folder: put(folder, 2, shard="kept"),
    "while it gave up": lambda folder: (put(folder, 1, shard="kept"), (folder / "n1.partial").write_text("")),
    "three times": lambda folder: (put(folder, 1, shard="kept"), put(folder, 2), put(folder, 3)),
    "by one that gave up": lambda folder: (put(folder, 3, released=True, shard="kept"), put(folder, 4)),
}


@pytest.mark.parametrize("moment", KILLED_BETWEEN)
def test_a_process_killed_while_it_claims_costs_nothing(folder: Path, moment: str) -> None:
    KILLED_BETWEEN[moment](folder)
    with hold(folder) as claim:
        assert [path.name for path in claim.work.iterdir()] == ["shard"]
        assert records(folder) == [claim.file.name]
        (claim.work / "shard").unlink()
    assert not folder.exists()


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen between a process's look at a claim and its record."""
    create = claims._create

    def late(claim: Claim) -> bool:
        monkeypatch.setattr(claims, "_create", create)
        happens()
        return create(claim)

    monkeypatch.setattr(claims, "_create", late)


@pytest.fixture
def others() -> Iterator[ExitStack]:
    """Claims of others, which this process holds in their place."""
    with ExitStack() as stack:
        yield stack


def test_who_saw_a_dead_owner_does_not_disturb_a_later_living_one(
    folder: Path, others: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead owner's successor has finished, and left no trace; yet another holds generation 1 again."""
    put(folder, 1)
    held: list[Claim] = []

    def happens() -> None:
        with hold(folder):
            pass
        held.append(others.enter_context(hold(folder)))

    meanwhile(monkeypatch, happens)
    with pytest.raises(BusyError), hold(folder):
        pytest.fail("two hold one claim")
    assert records(folder) == ["1.json"]
    held[0].check()


def test_who_saw_nobody_does_not_get_in_below_a_later_owner(
    folder: Path, others: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generation 1 has come and gone, and generation 2 is at work."""
    held: list[Claim] = []

    def happens() -> None:
        put(folder, 1, shard="kept")
        held.append(others.enter_context(hold(folder)))

    meanwhile(monkeypatch, happens)
    with pytest.raises(BusyError), hold(folder):
        pytest.fail("two hold one claim")
    assert records(folder) == ["2.json"]
    held[0].check()
    assert (held[0].work / "shard").exists()


def test_who_was_overtaken_by_one_that_has_finished_gets_the_claim(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, 1)

    def happens() -> None:
        with hold(folder):
            pass

    meanwhile(monkeypatch, happens)
    with hold(folder) as claim:
        claim.check()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


def overtake(folder: Path) -> Claim:
    """Take a claim over as a process would that thinks its owner dead."""
    owner = replace(claims._myself(), nonce="successor")
    claim = Claim(folder, max(map(claims._generation, claims._records(folder))) + 1, owner)
    assert claims._create(claim)
    claims._take_over(claim, claims._records(folder, without=claim.file))
    return claim


def test_a_late_writer_cannot_publish_nor_write_into_the_new_owners_folder(store: Store) -> None:
    folder = store.root / "work" / KEY
    with ExitStack() as late:
        work = late.enter_context(store.claim(KEY))
        (work / "shard").write_text("one")
        successor = overtake(folder)
        with pytest.raises(FileNotFoundError):
            (work / "late").write_text("late")
        with pytest.raises(OSError, match="No such file"):
            store.publish(work, manifest("train", KEY), "slug")
    assert store.find("train", KEY) is None
    assert [path.name for path in successor.work.iterdir()] == ["shard"]
    successor.check()
    published = store.publish(successor.work, manifest("train", KEY), "slug")
    successor.release()
    assert list(published.manifest.files) == ["shard"]
    assert not folder.exists()


def test_a_result_that_was_published_although_the_answer_got_lost_is_ones_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def twice(path: Path, target: Path) -> Path:
        rename(path, target)
        return rename(path, target)

    with store.claim(KEY) as work:
        (work / "shard").write_text("one")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", twice)
            store.publish(work, manifest("train", KEY), "slug")
    found = store.find("train", KEY)
    assert found is not None
    assert list(found.manifest.files) == ["shard"]


def test_what_a_late_writer_made_anew_is_not_inherited(store: Store) -> None:
    """A library that makes its folders itself would write there again, and half of it."""
    folder = store.root / "work" / KEY
    with ExitStack() as late:
        work = late.enter_context(store.claim(KEY))
        (work / "shard").write_text("whole")
        successor = overtake(folder)
        (work / "checkpoint").mkdir(parents=True)
    successor.check()
    successor.release()
    with store.claim(KEY) as work:
        assert [path.name for path in work.iterdir()] == ["shard"]


def test_a_late_writers_failure_is_that_it_lost_its_claim(store: Store) -> None:
    def work_too_late() -> None:
        with store.claim(KEY) as work:
            overtake(store.root / "work" / KEY)
            store.publish(work, manifest("train", KEY), "slug")

    with pytest.raises(LostClaimError, match=f"node {KEY}: another process took it over"):
        work_too_late()


def test_a_late_writer_does_not_give_up_what_is_anothers(folder: Path) -> None:
    """The successor has finished as well, and generation 1 is held by a third."""
    first = ExitStack()
    claim = first.enter_context(hold(folder))
    successor = overtake(folder)
    successor.release()
    with hold(folder) as third:
        assert third.file == claim.file
        first.close()
        third.check()
        assert alive(folder) is not None


def test_a_full_disk_does_not_hide_what_went_wrong(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def work_on_a_full_disk() -> None:
        with hold(folder) as claim:
            (claim.work / "shard").touch()
            monkeypatch.setattr(claims, "_write", full)
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        work_on_a_full_disk()


def test_many_processes_race_and_are_killed_at_random(tmp_path: Path) -> None:
    seconds, processes = 6.0, 4
    draw = random.Random(0)  # noqa: S311 - no secret
    arguments = ["-m", "tests.claimers", str(tmp_path)]
    racing = [start([*arguments, str(seed), str(seconds)], tmp_path) for seed in range(processes)]
    until, killed = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < until:
            time.sleep(draw.uniform(0.05, 0.25))
            victim = draw.randrange(processes)
            kill(racing[victim])
            killed += 1
            left = str(max(0.0, until - time.monotonic()))
            racing[victim] = start([*arguments, str(100 + killed), left], tmp_path)
        codes = [process.wait(30) for process in racing]
    finally:
        for process in racing:
            with suppress(ProcessLookupError):
                kill(process)
    complaints = tmp_path / "complaints"
    assert not complaints.exists() or complaints.read_text() == ""
    assert codes == [0] * processes
    assert killed > 10
    with hold(tmp_path / "claim") as claim:
        for file in claim.work.iterdir():
            file.unlink()
    assert not (tmp_path / "claim").exists()
