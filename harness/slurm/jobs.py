"""What SLURM says of jobs: one squeue call for all that may be alive, one sacct call for those that have ended."""

import re
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.slurm import batches
from harness.slurm.batches import Batch
from harness.slurm.commands import SlurmError, ask
from harness.store import Store

GRACE = 120.0
"""Seconds for which a batch that SLURM does not know counts as alive: it may be on its way."""

_ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED"}
    | {"TIMEOUT"}
)


_STUCK = frozenset({"launch failed requeued held", "JobHoldMaxRequeue"})
"""Why SLURM holds a job of its own accord."""

_NUMBERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")

_NAMES = 2000
"""Jobs that one call asks for by name: Linux takes 128 KiB in an argument."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, or an element of an array, as SLURM shows it."""

    id: str
    """As scancel takes it: 12, or 12_3."""
    name: str
    state: str
    elapsed: str = ""
    reason: str = ""
    """Why it waits, or how it ended."""

    @property
    def alive(self) -> bool:
        """Whether it waits or runs; a state that we do not know counts as such."""
        return self.state not in _ENDED and not self.stuck

    @property
    def stuck(self) -> bool:
        """Whether SLURM itself holds it, after a launch that failed, and will never let it begin.

        What a user or an administrator holds only waits.
        """
        return self.state not in _ENDED and self.reason.replace("_", " ") in _STUCK

    @property
    def main(self) -> str:
        """The job that it is an element of."""
        return self.id.partition("_")[0]

    @property
    def elements(self) -> Collection[int] | None:
        """Its numbers in the array: one, or those of a record of several such as 12_[3-7,9%2].

        None where it is no array, or the record is of all elements without one of their own.
        """
        numbers = self.id.partition("_")[2].partition("%")[0].strip("[]")
        if not _NUMBERS.fullmatch(numbers):  # none, or more than SLURM shows
            return None
        ranges = [part.partition("-") for part in numbers.split(",")]
        return {n for first, _, last in ranges for n in range(int(first), int(last or first) + 1)}


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The batches of a store that are not done, and their jobs."""

    batches: Sequence[Batch]
    jobs: Mapping[tuple[str, int], Job]
    """By batch and element, as far as SLURM still knows them."""
    live: dict[str, Job] = field(default_factory=dict)
    """By key of the node: who is going to do it, or is at it."""
    others: Mapping[str, Job] = field(default_factory=dict)
    """Further jobs that were asked for, by name."""

    def last(self, key: str) -> tuple[Batch, int] | None:
        """The latest batch and element that hold a node."""
        place = self.place(key)
        return (self.batches[place[0]], place[1]) if place is not None else None

    def place(self, key: str) -> tuple[int, int] | None:
        """The same, with the batch's place among all."""
        return self._places.get(key)

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, int]]:
        return {
            key: (place, number)
            for place, batch in enumerate(self.batches)
            for number, element in enumerate(batch.elements)
            for key in element
        }


def look(store: Store, done: Collection[str] = (), others: Collection[str] = ()) -> Queue:
    """The queue of a store.

    Args:
        done: keys that are known to be done.
        others: names of jobs without a batch to look for, too.

    Raises:
        SlurmError: squeue does not answer, so that nobody knows what is alive.
    """
    found = batches.unfinished(store, done)
    listed = squeue([*(batch.job for batch in found), *others])
    jobs = by_element(found, listed)
    queue = Queue(batches=found, jobs=jobs, others={job.name: job for job in listed if job.name in set(others)})
    known = {name for name, _ in jobs}
    for batch in found:
        unknown = batch.name not in known and abs(batches.age(store, batch)) < GRACE
        for number, element in enumerate(batch.elements):
            job = jobs.get((batch.name, number))
            if unknown:
                job = Job(id="?", name=batch.job, state="UNKNOWN", reason="submitted a moment ago")
            if job is not None and job.alive:
                queue.live.update(dict.fromkeys(element, job))
    return queue


def by_element(found: Sequence[Batch], jobs: Sequence[Job]) -> dict[tuple[str, int], Job]:
    """Which job is that of an element; an array that never began has one record for all.

    Of two of one name, as where sbatch lost its answer and was called again, one that is alive counts.
    """
    dead_first = sorted(jobs, key=lambda job: job.alive)
    single = {(job.name, number): job for job in dead_first for number in job.elements or (None,)}
    known = {}
    for batch in found:
        for number in range(len(batch.elements)):
            job = single.get((batch.job, number)) or single.get((batch.job, None))
            if job is not None:
                known[batch.name, number] = job
    return known


def require() -> None:
    """Make sure that this machine can submit.

    Raises:
        SlurmError: it has no sbatch.
    """
    missing = [command for command in ("sbatch", "squeue", "srun") if shutil.which(command) is None]
    if missing:
        raise SlurmError(
            f"cluster=slurm: there is no {' and no '.join(missing)} on the path; type this on a machine that submits "
            "jobs, or choose cluster=local"
        )


def squeue(names: Sequence[str]) -> list[Job]:
    """All jobs of these names that SLURM remembers, each element by itself; one call, unless they are thousands.

    Raises:
        SlurmError: it does not answer.
    """
    # Where SLURM_CLUSTERS is set, each cluster's name stands above its jobs.
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%j|%T|%M|%r"]
    lines = _ask_for(names, command)
    return [Job(**_fields(line, "id", "name", "state", "elapsed", "reason")) for line in lines if "|" in line]


def sacct(names: Sequence[str], since: float) -> list[Job]:
    """Jobs of these names that have ended, out of the accounting; one call. Empty where there is no accounting."""
    if not names or shutil.which("sacct") is None:
        return []
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - GRACE))
    options = ["--noheader", "--parsable2", "--allocations", "--allusers", f"--starttime={start}"]
    try:
        lines = _ask_for(names, ["sacct", *options, "--format=JobID,JobName,State,Elapsed,ExitCode"])
    except SlurmError:
        return []
    found = [_fields(line, "id", "name", "state", "elapsed", "reason") for line in lines if "|" in line]
    return [Job(**{**given, "reason": f"exit code {given['reason']}"}) for given in found]


def ended(job: Job) -> tuple[int | None, str]:
    """The exit code of a job that has ended, None where it is not known any more, and the machine that it ran on."""
    try:
        said = ask(["scontrol", "--oneliner", "show", "job", job.main])
    except SlurmError:
        said = ""
    given = dict(word.partition("=")[::2] for word in said.split())
    if given.get("JobName") != job.name:
        return None, ""
    code, machine = given.get("ExitCode", "").partition(":")[0], given.get("NodeList", "")
    return (int(code) if code.isdigit() else None), "" if machine == "(null)" else machine


def _ask_for(names: Sequence[str], command: Sequence[str]) -> list[str]:
    """Lines that a command prints of the jobs of these names."""
    parts = [names[start : start + _NAMES] for start in range(0, len(names), _NAMES)]
    return [line for part in parts for line in ask([*command, f"--name={','.join(part)}"]).splitlines()]


def _fields(line: str, *names: str) -> dict[str, str]:
    given = dict(zip(names, line.strip().split("|", len(names) - 1), strict=True))
    return {**given, "state": (given["state"].split() or [""])[0]}
