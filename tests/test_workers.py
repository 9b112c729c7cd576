"""Workers with stages that write tiny shards: shared work, deaths, interrupts, and what is shown meanwhile."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from harness import progress, workers
from harness.config import ClusterConfig
from harness.errors import ConfigError
from harness.machine import accelerators
from harness.perform import Ending, _kind, log_failure
from harness.progress import Reporter
from harness.schedule import ATTEMPTS
from harness.store import Store
from harness.workers import slots
from harness.world import World
from tests.fakes import ENTRY, find, journal, local, node, plan_of, sweep
from tests.processes import alive, start, wait_until


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(output: io.StringIO) -> Reporter:
    return Reporter(Console(file=output, width=500))


def no_worker_is_left() -> bool:
    """Whether no worker runs below this process, which may have other children, such as those of a fixture."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return not any(child.cmdline()[1 : 1 + len(ENTRY)] == list(ENTRY) for child in children)


def test_two_workers_share_the_work_and_do_each_node_once(store: Store, reporter: Reporter) -> None:
    plan = plan_of(*sweep(3, 0.02))
    summary = local(plan, store, reporter)
    assert summary.ok
    assert sorted(summary.computed) == sorted(plan.nodes)
    assert set(journal(store).values()) == {1}
    by = {find(store, one).manifest.provenance["pid"] for one in plan.nodes.values()}
    assert len(by) == 2
    assert os.getpid() not in by
    assert no_worker_is_left()
    assert not list((store.root / "work").iterdir())
    assert not list((store.root / "logs").iterdir())


def test_no_more_workers_are_started_than_there_is_work_for(store: Store, reporter: Reporter) -> None:
    chain = [node("model", "first")]
    for number in range(3):
        chain.append(node("model", f"{number}", before=chain[-1]))
    local(plan_of(*chain), store, reporter, count=4)
    assert len({find(store, one).manifest.provenance["pid"] for one in chain}) == 1


def test_equal_content_is_made_by_one_worker_while_another_waits(store: Store, reporter: Reporter) -> None:
    rows = [node("pairs", f"{i}", {"content": "same"}) for i in range(2)]
    given = {"seconds": 0.3}
    trained = [
        node("train", "trained", {**given, "number": i}, pairs=one) for i, one in enumerate(rows)
    ]  # of one spec, as cells of equal settings are
    summary = local(plan_of(*rows, *trained), store, reporter)
    assert summary.ok
    assert len(summary.aliased) == 1
    assert journal(store)["node trained"] == 1


@pytest.mark.parametrize(
    ("mishap", "cause"),
    [
        ("kill", "SIGKILL; the system kills what takes too much memory"),
        ("exit", "exit code 7"),
        ("segfault", "SIGSEGV"),
    ],
)
def test_a_worker_that_dies_is_replaced_and_its_node_tried_again(
    store: Store, reporter: Reporter, output: io.StringIO, mishap: str, cause: str
) -> None:
    bad = node("sample", "bad", {"do": mishap, "times": 1, "shards": 3})
    others = [node("sample", f"{i}") for i in range(4)]
    summary = local(plan_of(bad, *others), store, reporter)
    assert summary.ok
    assert summary.retried == {"died": 1}
    counts = journal(store)
    assert counts["node bad"] == 2
    assert all(count == 1 for what, count in counts.items() if what != "node bad")  # no shard is done twice
    assert find(store, bad).manifest.provenance["attempt"] == 2
    assert f"FAILED: the worker died ({cause}); it is tried again" in output.getvalue()
    log = (store.root / "logs" / f"sample-{bad.key}.log").read_text()
    assert log == f"sample bad {bad.key}\nthese are\nmy last words\nthe worker died ({cause})\n"


def test_a_node_that_kills_its_workers_is_given_up_and_the_rest_is_done(store: Store, reporter: Reporter) -> None:
    bad = node("sample", "bad", {"do": "kill"})
    behind = node("score", "behind", responses=bad)
    others = [node("sample", f"{i}") for i in range(3)]
    summary = local(plan_of(bad, behind, *others), store, reporter)
    assert not summary.ok
    assert list(summary.failed) == [bad.key]
    assert summary.failed[bad.key].failure == "died"
    assert summary.blocked == [behind.key]
    assert sorted(summary.computed) == sorted(one.key for one in others)
    assert journal(store)["node bad"] == ATTEMPTS["died"]
    assert no_worker_is_left()


def test_a_dead_worker_is_noticed_though_its_child_lives(store: Store, reporter: Reporter) -> None:
    """The child has inherited the connection, which therefore stays open."""
    started = time.monotonic()
    bad = node("sample", "bad", {"do": "heir", "times": 1})
    assert local(plan_of(bad), store, reporter, count=1).retried == {"died": 1}
    assert time.monotonic() - started < 15


def test_out_of_memory_gives_a_fresh_process(store: Store, reporter: Reporter) -> None:
    first, bad = node("model", "first"), node("sample", "bad", {"do": "memory", "times": 1})
    last = node("score", "last", responses=bad, after=first)
    summary = local(plan_of(first, bad, last), store, reporter, count=1)
    assert summary.ok
    assert summary.retried == {"memory": 1}
    by = [find(store, one).manifest.provenance["pid"] for one in (first, bad, last)]
    assert by[0] != by[1] == by[2]


def test_a_passing_trouble_is_tried_again_by_the_same_worker(store: Store, reporter: Reporter) -> None:
    first, bad = node("model", "first"), node("sample", "bad", {"do": "io", "times": 1})
    summary = local(plan_of(first, bad), store, reporter, count=1)
    assert summary.retried == {"io": 1}
    assert len({find(store, one).manifest.provenance["pid"] for one in (first, bad)}) == 1


def test_workers_that_cannot_even_start_end_the_command(
    store: Store, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fakes.ENTRY", ("-c", "print('no such library'); raise SystemExit(3)"))
    nodes = [node("sample", "a"), node("sample", "b")]
    summary = local(plan_of(*nodes), store, reporter)
    assert len(summary.failed) == 2
    for one in nodes:
        ending = summary.failed[one.key]
        assert ending.text == "the worker died (exit code 3)"
        assert ending.log is not None
        assert "no such library" in ending.log.read_text()


def test_what_workers_say_comes_out_whole(store: Store, reporter: Reporter, output: io.StringIO) -> None:
    nodes = [node("sample", f"{i}", {"do": "talk", "shards": 4}) for i in range(4)]
    assert local(plan_of(*nodes), store, reporter).ok
    said = [line for line in output.getvalue().splitlines() if "says" in line]
    assert len(said) == 4 * 4 * 50
    pattern = re.compile(r"\[\d/4\] sample \d says line \d{3} x{120} end")
    assert all(pattern.fullmatch(line) for line in said)


# Ends of a command.


@pytest.mark.parametrize("how", ["SIGINT to all", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_worker_outlives_its_command_and_the_next_one_finishes(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path / "store").prepare()
    arguments = ["-m", "tests.fakes", "run", str(store.root), "local", "3"]
    with (tmp_path / "said").open("w") as said:
        command = start([*arguments, "0.2"], tmp_path, stderr=said)
        wait_until(lambda: journal(store)["node sample-1"], 20, "two workers are at work")
        children = [child.pid for child in psutil.Process(command.pid).children()]
        assert len(children) == 2
        if how == "SIGINT to all":
            os.killpg(command.pid, signal.SIGINT)
        else:
            command.send_signal(getattr(signal, how))
        code = command.wait(10)
        wait_until(lambda: not any(map(alive, children)), 3, "no worker is left")
    assert code == {"SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL}.get(how, 130)
    assert "Traceback" not in (tmp_path / "said").read_text()
    nodes = sweep(3)
    assert not any(store.owner(one.key) for one in nodes)
    assert not list((store.root / "logs").glob("*-*-*.log"))
    again = start([*arguments, "0"], tmp_path, stderr=subprocess.PIPE)
    _, text = again.communicate(timeout=60)
    assert again.returncode == 0, text
    counts = journal(store)
    assert all(store.verify(find(store, one)) == [] for one in nodes)
    assert sum(counts[f"shard {one.slug} {number}"] - 1 for one in nodes for number in range(2)) <= 2  # those in hand


def test_a_worker_whose_command_died_while_it_started_does_nothing(store: Store) -> None:
    """All that it needs may stand in its connection already, and its parent is another by now."""
    script = """
import os, sys, time
from multiprocessing import Pipe
from pathlib import Path
from subprocess import Popen
from tests.fakes import ENTRY, node
ours, theirs = Pipe()
worker = Popen([sys.executable, *ENTRY, str(theirs.fileno())], pass_fds=[theirs.fileno()])
one = node("sample", "late", {"seconds": 1.5})
ours.send(({one.key: one}, Path(sys.argv[1]), 1, 1.0, os.getpid()))
ours.send((one.key, "label", 1))
print(worker.pid, flush=True)
os._exit(0)
"""
    command = start(["-c", script, str(store.root)], store.root, stdout=subprocess.PIPE)
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    command.communicate()
    wait_until(lambda: not alive(worker), 10, "it has ended")
    assert not list(store.root.glob("sample/*"))


# What is shown.


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_terminal_shows_any_number_of_pieces_in_any_order(order: tuple[int, ...]) -> None:
    output = io.StringIO()
    reporter = Reporter(Console(file=output, force_terminal=True, width=100, highlight=False))
    tasks = [reporter.open(f"task [{i}]", 10, "rows", done=i) for i in range(3)]
    for number in order:
        tasks[number].advance(5)
        reporter.line(f"line of [{number}]")
        tasks[number].close()
        tasks[number].close()
    assert reporter._live is None
    for number in range(3):
        assert f"line of [{number}]" in output.getvalue()
        assert f"task [{number}]" in output.getvalue()
    with reporter.task("once more", 1, "rows") as task:
        task.advance(1)
    assert reporter._live is None


def test_the_cursor_is_back_after_an_interrupt() -> None:
    output = io.StringIO()
    reporter = Reporter(Console(file=output, force_terminal=True, width=100, highlight=False))
    with pytest.raises(KeyboardInterrupt), reporter.task("all", 2, "nodes"), reporter.task("one", 2, "rows"):
        raise KeyboardInterrupt
    assert output.getvalue().rindex("\x1b[?25h") > output.getvalue().rindex("\x1b[?25l")


def test_plain_lines_come_only_every_so_often(reporter: Reporter, output: io.StringIO) -> None:
    task = reporter.open("label", 100, "rows", done=50)
    task.advance(10)
    assert output.getvalue() == ""
    task._last_line -= 60  # type: ignore[attr-defined]
    task.advance(10)
    task.advance(10)
    task.close()
    assert re.fullmatch(r"    label: 70/100 rows, [\d.]+/s, \d+ s left\n", output.getvalue())


def test_work_that_is_long_silent_is_said_to_be_under_way(
    reporter: Reporter, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.01)
    with reporter.task("label", 100, "rows", done=50):
        wait_until(output.getvalue, 10, "a line without any step")
    assert output.getvalue() == "    label: 50/100 rows, at work\n"


# What a worker may use.


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", []),
        ("0", ["0"]),
        ("0,1", ["0", "1"]),
        (" 2 , 3 ", ["2", "3"]),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("GPU-0a1b2c3d-1111,GPU-ffff", ["GPU-0a1b2c3d-1111", "GPU-ffff"]),
        ("MIG-0a1b/3/0", ["MIG-0a1b/3/0"]),
        ("1,,2", ["1"]),
    ],
)
def test_devices_are_read_as_cuda_reads_them(
    monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert accelerators() == expected


def fake_nvidia_smi(folder: Path, text: str, code: int = 0) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f"#!{sys.executable}\nprint({text!r})\nraise SystemExit({code})\n")
    script.chmod(0o755)


def test_devices_are_counted_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accelerators() == []
    fake_nvidia_smi(tmp_path, "GPU 0: one (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\nGPU 1: two")
    assert accelerators() == ["0", "1"]
    fake_nvidia_smi(tmp_path, "NVIDIA-SMI has failed", 9)
    assert accelerators() == []


def cluster(count: int | None, threads: int | None) -> ClusterConfig:
    return ClusterConfig(name="local", workers=count, threads=threads)


@pytest.mark.parametrize(
    ("count", "threads", "expected"),
    [
        (None, None, [1] * 8),
        (None, 2, [2] * 4),
        (None, 16, [16]),
        (3, None, [2] * 3),
        (2, 1, [1, 1]),
    ],
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, count: int | None, threads: int | None, expected: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(workers, "cpus", lambda: 8)
    given = slots(cluster(count, threads))
    assert [slot.threads for slot in given] == expected
    assert all(slot.environment["OMP_NUM_THREADS"] == str(slot.threads) for slot in given)
    assert all(slot.environment["CUDA_VISIBLE_DEVICES"] == "" for slot in given)


def test_each_accelerator_has_a_worker_and_further_workers_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr(workers, "cpus", lambda: 8)

    def devices(count: int | None) -> list[str]:
        return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots(cluster(count, None))]

    assert devices(None) == ["4", "6"]
    assert devices(3) == ["4", "6", "4"]
    assert [slot.threads for slot in slots(cluster(None, None))] == [4, 4]


def test_workers_may_have_several_accelerators_which_a_training_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,6")
    monkeypatch.setattr(workers, "cpus", lambda: 16)
    pairs = replace(cluster(None, None), gpus_per_worker=2, sharding="none")
    given = slots(pairs)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in given] == ["0,1", "4,6"]
    assert given[1].world == World(processes=2, threads=4, sharding="none", devices="4,6")
    assert {slot.world.size for slot in slots(cluster(None, None))} == {1}
    with pytest.raises(ConfigError, match="3 workers with 2 accelerators each need 6, and this machine has 4"):
        slots(replace(pairs, workers=3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"^cluster\.gpus_per_worker: .* and this machine has 0"):
        slots(pairs)


# Kinds of failure.


def wrapped(inner: BaseException) -> BaseException:
    try:
        raise RuntimeError("a library's own words") from inner
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("wrong"), "error"),
        (FileNotFoundError(2, "No such file"), "error"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "memory"),
        (OSError(12, "Cannot allocate memory"), "memory"),
        (OSError(5, "Input/output error"), "io"),
        (OSError(28, "No space left on device"), "store"),
        (wrapped(OSError(122, "Disk quota exceeded")), "store"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "store"),
        (PermissionError(13, "Permission denied", "/somebody/elses/model"), "io"),
    ],
)
def test_failures_are_told_apart(store: Store, error: BaseException, kind: str) -> None:
    assert _kind(error, store) == kind


def test_any_failure_in_a_store_that_cannot_be_written_is_the_stores(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    assert _kind(PermissionError(13, "Permission denied"), store) == "store"
    monkeypatch.setattr(Path, "write_text", read_only)
    assert log_failure(store, node("sample", "a"), "why") is None


def test_an_ending_travels(tmp_path: Path) -> None:
    import pickle

    ending = Ending(how="failed", failure="io", text="why", log=tmp_path / "log")
    assert pickle.loads(pickle.dumps(ending)) == ending  # noqa: S301 - our own
