"""Local workers: processes that each have one accelerator or a share of the cores, and keep what they have loaded.

The command hands out nodes and shows progress; a worker does one node at a time. One that dies is replaced, and its
node tried again. Workers end with their command, however that ends; from what they leave in hand the next one goes on.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from tempfile import TemporaryFile
from typing import IO, Any

from harness import machine
from harness.attempts import POLL, WAITING, settle
from harness.config import ClusterConfig
from harness.errors import ConfigError
from harness.machine import accelerators
from harness.perform import Ending, log_failure, perform, prepare_process
from harness.plan import Node
from harness.processes import cause, last_words
from harness.progress import Reporter, Task
from harness.provenance import cpus
from harness.retention import Retention
from harness.schedule import Schedule
from harness.store import Store
from harness.world import World

_PARENT_POLL = 0.25
"""Seconds between a worker's looks whether its command still lives."""

_SHOWN_EVERY = 0.1
"""Seconds between two reports of a worker's progress."""

_GRACE = 5.0
"""Seconds that an idle worker has to end by itself."""

ENTRY = ("-m", "harness.workers")
"""Arguments of Python that make a worker process; the number of its connection follows."""


@dataclass(kw_only=True)
class _Worker:
    """A worker process as its command sees it."""

    number: int
    process: subprocess.Popen[bytes]
    connection: Connection
    output: IO[bytes]
    """What it prints: a file without a name, which is gone with the command however that ends."""
    node: Node | None = None
    label: str = ""
    loaded: str = ""
    tasks: dict[int, Task] = field(default_factory=dict)


def run_workers(
    schedule: Schedule,
    reporter: Reporter,
    cluster: ClusterConfig,
    retention: Retention,
    *,
    wait: bool,
    entry: Sequence[str] = ENTRY,
) -> None:
    """Do a schedule's nodes by worker processes."""
    pool = _Pool(schedule, reporter, retention, cluster, entry)
    try:
        with reporter.task("all", schedule.total, "nodes") as overall:
            pool.run(overall, wait_for_others=wait)
    finally:
        pool.end()


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What one worker may use."""

    threads: int
    share: float
    """Part of its accelerator's memory, where workers share one."""
    world: World
    """The processes of each training."""
    environment: Mapping[str, str]


def slots(cluster: ClusterConfig) -> list[Slot]:
    """One slot per accelerator or group of them, or without any one per CPU core or per so many cores as a worker has
    threads.

    Raises:
        ConfigError: more accelerators are asked for than there are.
    """
    devices, each = accelerators(), cluster.gpus_per_worker
    workers = cluster.workers or len(devices) // each or max(1, cpus() // (cluster.threads or 1))
    if each > 1 and workers * each > len(devices):
        raise ConfigError(
            f"cluster.gpus_per_worker: {workers} workers with {each} accelerators each need {workers * each}, and this "
            f"machine has {len(devices)}"
        )
    threads = cluster.threads or max(1, cpus() // workers)
    return [_slot(number, workers, threads, devices, cluster) for number in range(workers)]


def _slot(number: int, workers: int, threads: int, devices: Sequence[str], cluster: ClusterConfig) -> Slot:
    each = cluster.gpus_per_worker
    own = [devices[(number * each + place) % len(devices)] for place in range(each)] if devices else []
    visible = ",".join(own)
    return Slot(
        threads=threads,
        share=min(1.0, len(devices) / workers),
        environment={
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "CUDA_VISIBLE_DEVICES": visible,
        },
        world=World(
            processes=each, threads=max(1, threads // each), sharding=cluster.sharding, devices=visible if own else None
        ),
    )


class _Pool:
    """The workers of one command."""

    def __init__(
        self,
        schedule: Schedule,
        reporter: Reporter,
        retention: Retention,
        cluster: ClusterConfig,
        entry: Sequence[str],
    ) -> None:
        self._schedule, self._reporter, self._retention = schedule, reporter, retention
        self._cluster, self._slots, self._entry = cluster, slots(cluster), entry
        self._workers: dict[int, _Worker] = {}
        """By the number of their slot."""
        self._polled, self._told = 0.0, False

    def run(self, overall: Task, *, wait_for_others: bool) -> None:
        """Hand out nodes until nothing is left, or what is left is not ours."""
        schedule = self._schedule
        while schedule.left:
            self._hand_out()
            busy = [worker for worker in self._workers.values() if worker.node is not None]
            if not busy and not (schedule.waiting and wait_for_others):
                return
            left = schedule.left
            self._listen()
            self._poll()
            if not busy and not self._told:
                self._reporter.line(WAITING)
                self._told = True
            overall.advance(left - schedule.left)

    def end(self) -> None:
        """Leave no worker running; what they have in hand is safe at any moment."""
        for worker in self._workers.values():
            worker.connection.close()  # which ends one that is idle
            if worker.node is not None:
                worker.process.kill()
        for worker in list(self._workers.values()):
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(_GRACE)
            self._dismiss(worker)

    def _hand_out(self) -> None:
        """Give every idle worker a node; start further workers only while there is work for them."""
        for worker in self._workers.values():
            if worker.node is None and (node := self._schedule.take(worker.loaded)) is not None:
                self._give(worker, node)
        for number in range(len(self._slots)):
            if number not in self._workers and (node := self._schedule.take()) is not None:
                self._workers[number] = self._start(number)
                self._give(self._workers[number], node)

    def _poll(self) -> None:
        if time.monotonic() - self._polled >= POLL:
            self._schedule.poll()
            self._polled = time.monotonic()

    def _give(self, worker: _Worker, node: Node) -> None:
        attempt = self._schedule.attempt(node)
        worker.node, worker.label = node, self._schedule.label(node)
        worker.loaded = node.loads or worker.loaded
        with suppress(OSError):  # it died while idle; listening will find its end
            worker.connection.send((node.key, worker.label, attempt))

    def _start(self, number: int) -> _Worker:
        slot, root = self._slots[number], self._schedule.store.root
        ours, theirs = Pipe()
        # What libraries print goes to a file: the terminal belongs to the command.
        output = TemporaryFile(dir=root / "logs")  # noqa: SIM115 - closed with the worker
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *self._entry, str(theirs.fileno())],
                env={**os.environ, **slot.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )
        with suppress(OSError):  # it has died already, which listening will find
            may_use: dict[str, Any] = {"threads": slot.threads, "share": slot.share}
            may_use |= {"python": self._cluster.python, "vllm": self._cluster.vllm}
            ours.send((dict(self._schedule.plan.nodes), root, may_use, slot.world, os.getpid()))
        return _Worker(number=number, process=process, connection=ours, output=output)

    def _listen(self) -> None:
        """Take in what workers say, for at most the time after which others' nodes are looked at again."""
        ready = wait([worker.connection for worker in self._workers.values()], timeout=POLL)
        for worker in list(self._workers.values()):
            if worker.connection in ready:
                self._take_in(worker)
            elif worker.process.poll() is not None:  # something it had started holds its connection open
                self._bury(worker)

    def _take_in(self, worker: _Worker) -> None:
        """All that a worker has said by now."""
        while self._workers.get(worker.number) is worker:
            try:
                if not worker.connection.poll():
                    return
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
                return
            self._hear(worker, message)

    def _hear(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        kind, *rest = message
        if kind == "line":
            self._reporter.line(rest[0])
        elif kind == "open":
            worker.tasks[rest[0]] = self._reporter.open(*rest[1:])
        elif kind == "advance" and rest[0] in worker.tasks:
            worker.tasks[rest[0]].advance(rest[1])
        elif kind == "close" and rest[0] in worker.tasks:
            worker.tasks.pop(rest[0]).close()
        elif kind == "ending":
            self._settle(worker, rest[0])

    def _settle(self, worker: _Worker, ending: Ending) -> None:
        assert worker.node is not None
        node, worker.node = worker.node, None
        settle(self._schedule, node, worker.label, ending, self._reporter, self._retention)
        if ending.failure == "memory":  # only a fresh process surely has all of its memory back
            self._dismiss(worker)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died: its node is tried again, by another process."""
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(_GRACE)
        if worker.node is not None:
            words = last_words(worker.output)
            text = f"the worker died ({cause(worker.process.poll())})"
            log = log_failure(self._schedule.store, worker.node, f"{words}\n{text}")
            self._settle(worker, Ending(how="failed", failure="died", text=text, log=log))
        self._dismiss(worker)

    def _dismiss(self, worker: _Worker) -> None:
        """End a worker, and give its slot to another as soon as there is work for one."""
        worker.process.kill()
        worker.process.wait()
        worker.connection.close()
        for task in worker.tasks.values():
            task.close()
        worker.output.close()
        del self._workers[worker.number]


def work(connection: Connection) -> None:
    """A worker process: do what it is told, one node at a time, until its command ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what an interrupt means
    link = _Link(connection)
    nodes, root, may_use, world, command = link.recv()
    threading.Thread(target=_end_with, args=(command,), daemon=True).start()
    store, reporter = Store(root), _Remote(link)
    machine.use(**may_use)
    prepare_process(may_use["threads"], may_use["share"])
    while True:
        key, label, attempt = link.recv()
        link.send(("ending", perform(nodes[key], store, reporter, label, may_use["threads"], attempt, world)))


class _Link:
    """A worker's end of its connection; without the other end there is no command, and nothing to go on for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def recv(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            os._exit(0)

    def send(self, message: tuple[Any, ...]) -> None:
        try:
            self._connection.send(message)
        except OSError:
            os._exit(1)


def _end_with(parent: int) -> None:
    """End this process when its command has ended, at whatever it is."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os._exit(1)


class _Remote(Reporter):
    """Sends progress to the command, which shows it."""

    def __init__(self, link: _Link) -> None:
        super().__init__()
        self._link, self._tasks = link, 0

    def line(self, text: str) -> None:
        self._link.send(("line", text))

    def open(self, label: str, total: int, unit: str, done: int = 0) -> Task:
        self._tasks += 1
        self._link.send(("open", self._tasks, label, total, unit, done))
        return _RemoteTask(self._link, self._tasks)


class _RemoteTask:
    """A piece of work that the command shows."""

    def __init__(self, link: _Link, number: int) -> None:
        self._link, self._number = link, number
        self._unsent, self._sent_at = 0, 0.0

    def advance(self, units: int) -> None:
        self._unsent += units
        if time.monotonic() - self._sent_at >= _SHOWN_EVERY:
            self._send()

    def close(self) -> None:
        self._send()
        self._link.send(("close", self._number))

    def _send(self) -> None:
        self._link.send(("advance", self._number, self._unsent))
        self._unsent, self._sent_at = 0, time.monotonic()


if __name__ == "__main__":
    work(Connection(int(sys.argv[1])))
