"""A plan on SLURM: submit what is neither done nor alive, and follow it where that is asked for."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

from harness.cluster import SlurmConfig
from harness.config import KeepWeights
from harness.errors import ConfigError
from harness.perform import Ending
from harness.plan import Node
from harness.progress import Reporter
from harness.schedule import Schedule
from harness.slurm import batches, commands, jobs, probe
from harness.slurm.batches import Batch
from harness.slurm.commands import NoAnswerError, SlurmError
from harness.slurm.equal import name_equal
from harness.slurm.jobs import Job, Queue
from harness.slurm.submit import submit
from harness.store import Store

_FASTEST, _SLOWEST = 2.0, 30.0
"""Seconds between two looks at the queue: the longer a command follows, the fewer."""

_REPLACED = re.compile(r"[\\\n\r]|%\d*[A-Za-z%]")
"""What sbatch replaces in the name of an output file, and what keeps it from doing so."""

_SILENCE = 1800.0
"""Seconds for which a command that follows its jobs bears with a SLURM that does not answer."""


def run_on_slurm(
    schedule: Schedule, reporter: Reporter, cluster: SlurmConfig, keep_weights: KeepWeights, *, wait: bool
) -> None:
    """Submit a schedule's nodes, and follow them until none is alive.

    Raises:
        SlurmError: there is no SLURM here, this is a job itself, or SLURM does not answer.
        ConfigError: sbatch refuses what a stage asks for, or SLURM would change the store's path.
    """
    if "SLURM_JOB_ID" in os.environ:
        raise SlurmError(
            f"cluster=slurm: this is job {os.environ['SLURM_JOB_ID']} itself, and jobs submit no jobs; type the "
            "command on a login node, or choose cluster=local here"
        )
    if found := _REPLACED.search(str(schedule.store.root)):
        raise ConfigError(
            f"store: {str(schedule.store.root)!r} has {found[0]!r} in it, which SLURM takes for something else in the "
            "names of a job's files; choose another path"
        )
    jobs.require()
    run = _Run(schedule, reporter, cluster, keep_weights)
    queue = run.submit()
    if wait:
        run.follow(queue)
    else:
        schedule.leave()
        reporter.line(
            f"to look: sweepctl status --store {schedule.store.root}; the same command again goes on from here"
        )


class _Run:
    """What one command has to do with the queue."""

    def __init__(self, schedule: Schedule, reporter: Reporter, cluster: SlurmConfig, keep_weights: KeepWeights) -> None:
        self.schedule, self.reporter, self.cluster, self.keep_weights = schedule, reporter, cluster, keep_weights
        self.store = schedule.store
        self._undecided: dict[str, list[str]] = {}
        """Nodes that may not be needed, with the boundaries that will say so."""
        self._seen: set[str] = set()
        """Nodes that this command has submitted or found alive: each is waited for once."""
        self._out: dict[str, Node] = {}
        """Nodes whose inputs are there, and which have come to no end."""
        self._probes: set[str] = set()
        """Ids of the jobs that must succeed before what this command has submitted."""
        self._last_left = schedule.left + 1
        """Nodes that had come to no end when something was last submitted once more."""
        self._left = False
        """Whether something could not be submitted yet."""
        self._silent_since: float | None = None
        """When SLURM ceased to answer, by this process's clock; None while it does."""

    def submit(self) -> Queue:
        """Submit what is neither done nor alive, while no other command does; returns the queue after that."""
        with self.store.lock("submit"):
            queue = self._look()
            self._name_equal(queue)
            before = dict(queue.live)
            wanted, behind = self._wanted(queue)
            first = self._probe(wanted, queue)
            room = self.cluster.max_submit - len({job.id for job in queue.live.values()})
            submitted = 0
            for batch, nodes in batches.pack(wanted, self.cluster, self.keep_weights, self.schedule.conditions):
                if (room := room - len(batch.elements)) < 0:
                    break
                self._submit(batch, nodes, queue, first.get(batch.stage))
                submitted += len(nodes)
        self._say(before, submitted, len(wanted) - submitted, behind)
        self._seen.update(queue.live)
        self._left = bool(len(wanted) - submitted or behind)
        return queue

    def _look(self) -> Queue:
        """The queue, with the probes whose answer is not known, after cancelling what would never begin, and would keep
        others from it.

        Raises:
            SlurmError: one has failed that this command waits for.
        """
        asked = list(probe.every(self.store))
        summary = self.schedule.summary
        over = self.schedule.done | summary.empty.keys() | set(summary.not_needed)
        queue = jobs.look(self.store, over, [one.job for one in asked])
        for one in asked:
            if one.number in self._probes and (said := probe.trouble(self.store, one, queue.others.get(one.job))):
                raise SlurmError(said)
        for job in queue.jobs.values():
            if job.stuck:
                self.reporter.line(f"job {job.id} is held by SLURM ({job.reason}), and is cancelled")
                with suppress(SlurmError):  # another user's
                    commands.scancel([job.id])
        return queue

    def _wanted(self, queue: Queue) -> tuple[list[Node], int]:
        """Nodes that can be submitted, parents before children, and how many wait for what others are at."""
        wanted: list[Node] = []
        behind = {key for key, job in queue.live.items() if not job.main.isdigit()}  # no job could wait for those
        self.store.forget()
        self._undecided = self.schedule.undecided
        for key in self.schedule.missing:
            node = self.schedule.plan.nodes[key]
            # What was alive when the plan was made may be done by now, since the queue was looked at after that.
            if key in queue.live or key in self._seen or self.store.find(node.stage, key) is not None:
                continue
            if self.store.owner(key) is not None or not behind.isdisjoint(self._awaited(node)):
                behind.add(key)
            else:
                wanted.append(node)
        return wanted, len(behind - set(queue.live))

    def _awaited(self, node: Node) -> list[str]:
        """What a node's job has to wait for: its inputs, and what says whether it is needed at all."""
        return [*(parent.key for parent in node.needed(self.store)), *self._undecided.get(node.key, ())]

    def _submit(self, batch: Batch, nodes: Sequence[Node], queue: Queue, first: str | None) -> None:
        batches.write(batch, nodes, self.store)
        after = {queue.live[key].main for node in nodes for key in self._awaited(node) if key in queue.live}
        number = submit(batch, self.store, self.cluster, after, first, self._avoided(nodes, queue))
        queue.live.update(dict.fromkeys(batch.keys, Job(id=number, name=batch.job, state="PENDING")))
        waits = f", after {', '.join(sorted(after, key=int))}" if after else ""
        jobs_ = f" in {len(batch.elements)} jobs" if len(batch.elements) > 1 else ""
        self.reporter.line(f"submitted {batch.job} as job {number}: {len(nodes)} nodes{jobs_}{waits}")

    def _avoided(self, nodes: Sequence[Node], queue: Queue) -> set[str]:
        """Machines on which any of the nodes has last met trouble with a disk."""
        places = {place for node in nodes if (place := queue.place(node.key)) is not None}
        said = [batches.read_endings(self.store, queue.batches[batch], element) for batch, element in places]
        keys = {node.key for node in nodes}
        return {one["on"] for endings in said for key, one in endings.items() if key in keys and one.get("on")}

    def _probe(self, wanted: Sequence[Node], queue: Queue) -> dict[str, str]:
        """By stage the job that has to show first that its machines can do the work, where that is not known."""
        if not self.cluster.probe:
            return {}
        first = probe.needed(self.store, self.cluster, sorted({node.stage for node in wanted}), queue.others)
        for number in sorted(set(first.values()) - self._probes, key=int):
            self.reporter.line(f"job {number} looks first whether the machines can do the work; the others wait for it")
        self._probes.update(first.values())
        return first

    def _say(self, before: Mapping[str, Job], submitted: int, left: int, behind: int) -> None:
        """What was not submitted, and why; only where it is news."""
        if self._seen:
            return
        ours = {key: job.id for key, job in before.items() if key in self.schedule.plan.nodes}
        if ours:
            self.reporter.line(f"in the queue already: {len(ours)} nodes in {len(set(ours.values()))} jobs")
        if left:
            self.reporter.line(f"cluster.max_submit={self.cluster.max_submit}: {left} nodes are left for later")
        if behind:
            self.reporter.line(f"in the hands of other commands, or behind those: {behind} nodes, left for later")
        if not submitted:
            self.reporter.line("nothing to submit")

    def _name_equal(self, queue: Queue) -> None:
        """What is equal to something done is done, too, without a job; that may bring more within reach."""
        self._take()
        for node in list(self._out.values()):
            if node.key in queue.live or self.store.owner(node.key) is not None:
                continue
            label = self.schedule.label(node)
            if (ending := name_equal(node, self.store, self.reporter, label, 1)) is not None and ending.how != "busy":
                self._enter(node, ending)
        if self._take():
            self._name_equal(queue)

    def _take(self) -> bool:
        """Take what has come within reach; says whether anything has."""
        before = len(self._out)
        while node := self.schedule.take():
            self._out[node.key] = node
        return len(self._out) > before

    def _enter(self, node: Node, ending: Ending) -> None:
        del self._out[node.key]
        self.schedule.settle(node, ending, final=True)
        said = f"FAILED: {ending.text}" if ending.how == "failed" else ending.text
        for line in (f"{self.schedule.label(node)}: {said}", *self.schedule.news()):
            self.reporter.line(line)

    def follow(self, queue: Queue) -> None:
        """Follow the jobs, submitting what there was no room for, until nothing is alive."""
        pause = _FASTEST
        with self.reporter.task("all", self.schedule.total, "nodes") as overall:
            while self.schedule.left:
                left = self.schedule.left
                self._settle(queue)
                overall.advance(left - self.schedule.left)
                if self._silent_since is None and not self._alive(queue):
                    if not self._again(queue):
                        self._settle(queue, final=True)
                        return
                    self._left = True
                    queue = self._look_again(queue)
                    continue
                pause = _FASTEST if self.schedule.left < left else min(1.5 * pause, _SLOWEST)
                sleep(pause)
                queue = self._look_again(queue)

    def _look_again(self, queue: Queue) -> Queue:
        """The queue by now, after submitting what there was no room for; as it was last, where SLURM is silent."""
        try:
            found = self.submit() if self._left else self._look()
        except NoAnswerError as error:
            if self._silent_since is None:
                self._silent_since = monotonic()
                self.reporter.line(f"SLURM does not answer, and is asked again: {error}")
            if monotonic() - self._silent_since > _SILENCE:
                raise
            return queue
        self._silent_since = None
        return found

    def _alive(self, queue: Queue) -> bool:
        return any(key in queue.live or self.store.owner(key) is not None for key in self.schedule.missing)

    def _again(self, queue: Queue) -> bool:
        """Whether to submit once more what its job had to leave and can be done now; as long as that gets on."""
        left = [key for key in self._out if key in self._seen and key not in queue.live]
        if not left or self.schedule.left >= self._last_left:
            return False
        self._last_left = self.schedule.left
        self._seen -= self.schedule.possible
        return True

    def _settle(self, queue: Queue, *, final: bool = False) -> None:
        """Enter what has come to an end; that may bring nodes within reach which have ended, too.

        Args:
            final: what a job had to leave will not be submitted again.
        """
        self.store.forget()
        self._take()
        ended = [(node, ending) for node in self._out.values() if (ending := self._ending(node, queue)) is not None]
        ended = [(node, ending) for node, ending in ended if final or ending.how != "busy"]
        for node, ending in ended:
            self._enter(node, ending)
        if ended:
            self._settle(queue, final=final)

    def _ending(self, node: Node, queue: Queue) -> Ending | None:
        """How a node ended; None where it has not, or was not submitted yet."""
        if (found := self.store.find(node.stage, node.key)) is not None:
            if found.manifest.alias_of is not None:
                return Ending(how="aliased", text="equal to one that is done")
            return Ending(how="computed", text=f"{found.manifest.provenance.get('seconds', 0.0):.1f} s")
        if node.key in queue.live or node.key not in self._seen or self.store.owner(node.key) is not None:
            return None
        last = queue.last(node.key)
        return how_it_ended(self.store, node, *last, queue) if last is not None else None


def how_it_ended(store: Store, node: Node, batch: Batch, element: int, queue: Queue) -> Ending:
    """How a node ended that is not there and whose job is over: by the job's own word, or by SLURM's."""
    said = batches.read_endings(store, batch, element).get(node.key)
    if said is not None and said["how"] == "failed":
        log = Path(said["log"]) if said["log"] else None
        return Ending(how="failed", text=said["text"], failure=said["failure"], log=log)
    if said is not None and said["how"] in ("busy", "deferred", "missing"):
        return Ending(how="busy", text=f"{said['text']}; left to the same command again")
    job = queue.jobs.get((batch.name, element))
    text = f"job {job.id} ended as {job.state}" if job is not None else f"job {batch.job} ended, and SLURM forgot how"
    log = batches.output(store, batch, element)
    if job is not None and job.state == "OUT_OF_MEMORY":
        more = f"{text}; cluster.stages.{batch.stage}.mem_gb asks for more"
        return Ending(how="failed", text=more, failure="memory", log=log)
    return Ending(how="failed", text=text, failure="died", log=log)
