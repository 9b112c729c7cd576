"""What runs in a job: the nodes of one element, each looked at again, claimed, and done as everywhere."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Any

from rich.console import Console
from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission

from harness import machine
from harness.errors import PrefsweepError
from harness.perform import Ending, free_memory, log_failure, perform, prepare_process
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.schedule import ATTEMPTS
from harness.slurm import batches
from harness.slurm.commands import SlurmError, ask
from harness.slurm.equal import name_equal
from harness.stages.pairs import why_empty
from harness.store import Store
from harness.world import ALONE, World

PATIENCE = 240.0
"""Seconds for which a job waits, once all else is done, for nodes in other hands: an owner that was killed counts as
dead by then. What takes longer is left to the next command."""

LATE = 60.0
"""Seconds for which an input that is not there is looked for: a network file system may show only then what another
machine has published. Not where what makes it has failed."""

_POLL = 2.0


class Exit(IntEnum):
    """How a job ends; 0 also where cells turned out empty, equal to others, or in other hands."""

    FAILED = 1
    """A node failed; the others were done."""
    MISSING = 4
    """An input was not there: what makes it has failed, or was cancelled."""
    ENDED_OFTEN = 5
    """It was ended before its time, and put back into the queue, as often as may be."""


@dataclass(frozen=True)
class Element:
    """A job's payload."""

    store: str
    batch: str
    number: int

    def __call__(self) -> None:
        """Do the work; a code other than 0 ends the process."""
        try:
            code = _Work(Path(self.store), self.batch, self.number).run()
        except PrefsweepError as error:
            sys.exit(f"error: {error}")  # code 1
        if code:
            sys.exit(code)

    def checkpoint(self) -> DelayedSubmission:
        """The job is about to be ended: shards and checkpoints are there already, so that it only has to come again."""
        if _WORK:
            _WORK[-1].interrupt()
        return DelayedSubmission(self)


_WORK: list["_Work"] = []
"""What this process is at; submitit's handler of signals knows only the payload."""


class _Work:
    """The nodes of one element."""

    def __init__(self, root: Path, name: str, number: int) -> None:
        self.store = Store(root).check()
        self.batch, self.number = batches.read(self.store, name), number
        self.nodes = batches.read_nodes(self.store, self.batch, number)
        self.reporter = Reporter(Console(file=sys.stdout, width=200, highlight=False))
        nowhere = Plan(points=(), nodes={}, naive={})  # what has to be looked at as a whole is done by commands
        self.retention = Retention(self.batch.keep_weights, nowhere, self.store)
        self.endings: dict[str, Ending | None] = {}
        self.at: Node | None = None
        self.interrupted = False
        self.told: float | None = None
        """When the job heard that it is about to be ended, and went on."""
        self.late = 0.0
        """Until when an input that is not there may still show itself."""
        self.world = ALONE
        _WORK.append(self)

    def run(self) -> int:
        """Bring every node to its end; returns the exit code."""
        if not self.batch.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # where SLURM does not hide those of other jobs
        machine.use(python=self.batch.python, vllm=self.batch.vllm, threads=self.batch.threads)
        self.world = World(**{**self.batch.world, "devices": os.environ.get("CUDA_VISIBLE_DEVICES")})
        prepare_process(self.batch.threads)
        signal.signal(signal.SIGTERM, self._told_to_end)
        if callable(requeue := signal.getsignal(JobEnvironment._usr_sig())):
            signal.signal(JobEnvironment._usr_sig(), partial(self._told_to_come_again, requeue))
        self.late = monotonic() + LATE
        waiting = [node for node in self.nodes if not self._bring(node)]
        if len(waiting) < len(self.nodes):  # the others took their time
            waiting = [node for node in waiting if not self._bring(node)]
        waiting = [node for node in waiting if not self._is_deferred(node)]
        deadline = monotonic() + PATIENCE
        while waiting and monotonic() < deadline:
            sleep(_POLL)
            waiting = [node for node in waiting if not self._bring(node) and not self._is_deferred(node)]
        hows = {ending.how if ending is not None else "missing" for ending in self.endings.values()}
        return Exit.FAILED if "failed" in hows else Exit.MISSING if "missing" in hows else 0

    def _told_to_end(self, *_: object) -> None:
        """Give up what is in hand at once where the job was cancelled, so that nobody has to wait for its claims.

        A job that is to be preempted hears the same; SLURM puts it back only if it does not end by itself.
        """
        with suppress(SlurmError):
            states = ask(["squeue", "--noheader", f"--jobs={_own_id()}", "--format=%T"])
            if not self.interrupted and states.split() != ["RUNNING"]:
                sys.exit(128 + signal.SIGTERM)
        self.told = monotonic()

    def _told_to_come_again(self, requeue: Callable[[int, FrameType | None], Any], *given: Any) -> None:
        """Have submitit put the job back; where SLURM does not answer, that is no failure of the node in hand."""
        try:
            requeue(*given)
        except Exception as error:  # the job goes on, and SLURM puts back those that it preempts
            self.interrupted, self.told = False, monotonic()
            self.reporter.line(f"could not be put back into the queue: {error}")

    def interrupt(self) -> None:
        """End the process for good if it has been ended too often."""
        self.interrupted = True
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < self.batch.max_requeue:
            return
        text = f"the job was preempted or reached its time limit {self.batch.max_requeue + 1} times"
        if self.at is not None:
            log = log_failure(self.store, self.at, text)
            self._end(self.at, Ending(how="failed", failure="died", text=text, log=log))
        sys.exit(Exit.ENDED_OFTEN)

    def _bring(self, node: Node) -> bool:
        """Do a node, as often as its failures may be tried again; says whether it came to an end."""
        if reason := empty_because(node, self.store):
            return self._end(node, Ending(how="done", text=f"empty ({reason})"))
        needed = batches.is_needed(self.batch, self.store, node.key)
        if needed is False:
            return self._end(node, Ending(how="done", text="not needed: a boundary asks for other data"))
        absent = [parent for parent in node.needed(self.store) if not self._is_there(parent)]
        if absent or needed is None:
            self._end(node, None)
            return monotonic() >= self.late or any(failed(parent, self.store) for parent in absent)
        for attempt in range(1, max(ATTEMPTS.values()) + 1):
            self.at = node
            ending = perform(
                node, self.store, self.reporter, self._label(node), self.batch.threads, attempt, self.world
            )
            self.at = None
            if ending.how == "failed" and self._is_to_end(ending):
                continue
            if ending.failure is None or attempt >= ATTEMPTS[ending.failure]:
                break
            self.reporter.line(f"{self._label(node)}: FAILED: {ending.text}; it is tried again")
            free_memory()
        self._end(node, ending)
        for line in self.retention.after(node):
            self.reporter.line(line)
        return ending.how not in ("busy", "deferred")

    def _is_to_end(self, ending: Ending) -> bool:
        """Whether a failure is none, since all processes of the job have heard that it is about to be ended.

        Engines end by that. A job that would end by itself now is not put back: it waits for its end, and where none
        comes, the node is tried again.
        """
        told, self.told = self.told, None
        if told is None or monotonic() > told + PATIENCE:
            return False
        self.reporter.line(f"the job is about to be ended, and waits for that: {ending.text}")
        if ending.log is not None:
            ending.log.unlink(missing_ok=True)
        while monotonic() < told + PATIENCE:
            sleep(_POLL)
        return True

    def _is_there(self, parent: Node) -> bool:
        """Whether an input is done, if only by being equal to something that is."""
        if self.store.find(parent.stage, parent.key) is not None:
            return True
        label = f"{parent.stage} {parent.slug}"
        ending = name_equal(parent, self.store, self.reporter, label, self.batch.threads)
        return ending is not None and self.store.find(parent.stage, parent.key) is not None

    def _is_deferred(self, node: Node) -> bool:
        """Whether somebody else is not at the node itself, but at one of equal content: that may take hours."""
        ending = self.endings[node.key]
        return ending is not None and ending.how == "deferred"

    def _label(self, node: Node) -> str:
        return f"[{self.nodes.index(node) + 1}/{len(self.nodes)}] {node.stage} {node.slug}"

    def _end(self, node: Node, ending: Ending | None) -> bool:
        """Say and keep how a node ended; None: an input is not there."""
        text = "an input is not there" if ending is None else ending.text
        if node.key not in self.endings or self.endings[node.key] != ending:
            failed = "FAILED: " if ending is not None and ending.how == "failed" else ""
            self.reporter.line(f"{self._label(node)}: {failed}{text}")
        self.endings[node.key] = ending
        batches.write_endings(self.store, self.batch, self.number, dict(self._facts()))
        return True

    def _facts(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        for key, ending in self.endings.items():
            if ending is None:
                yield key, {"how": "missing", "text": "an input is not there", "failure": None, "log": None}
            else:
                log = str(ending.log) if ending.log else None
                facts = {"how": ending.how, "text": ending.text, "failure": ending.failure}
                yield key, {**facts, "log": log, "on": ending.on}


def failed(node: Node, store: Store) -> bool:
    """Whether a node that is not there has failed, or something that it needs has."""
    if (store.root / "logs" / f"{node.stage}-{node.key}.log").exists():
        return True
    return any(failed(parent, store) for parent in node.needed(store) if store.find(parent.stage, parent.key) is None)


def _own_id() -> str:
    """This job's id; the raw id of one of an array's elements is the array's, and would stand for all of them."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job


def empty_because(node: Node, store: Store) -> str:
    """Why a node will never exist: a cell above it has no rows; an empty text where that is not so."""
    if node.stage == "train" and "pairs" in node.inputs:
        rows = store.find("pairs", node.inputs["pairs"][0].key)
        return why_empty(rows) if rows is not None else ""
    absent = (parent for parent in node.needed(store) if store.find(parent.stage, parent.key) is None)
    return next(filter(None, (empty_because(parent, store) for parent in absent)), "")
