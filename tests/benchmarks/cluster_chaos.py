"""A sweep on a real SLURM cluster on which everything goes wrong: `python -m tests.benchmarks.cluster_chaos --seed 1`.

Jobs are cancelled, killed and preempted, slurmd and slurmctld are stopped and killed, machines fall over, and the
command is interrupted, killed, and typed several times at once, all of it drawn from the seed. Then the same command is
typed until it says that all is done. Every node must be there once, with the tables of an undisturbed run; no shard
that was written may be written again, and no node be published twice; nothing may be left in hand or in the queue.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from harness.manifest import digest_of, read_manifest
from harness.plan import Plan
from harness.slurm import batches
from harness.store import Store
from tests.cluster import boot
from tests.cluster.command import plan
from tests.fakes import journal
from tests.processes import start

GRACE = 15.0
"""Seconds for which a batch that SLURM does not know counts as alive; on a real cluster two minutes."""

PATIENCE = 10.0
"""Seconds for which a job waits for nodes in other hands; on a real cluster four minutes."""

_MOST = 8
"""Commands at most that may be needed in the end."""

_TIMEOUT = 300.0
"""Seconds after which a command counts as stuck."""

_DOWN = (0.5, 3.0, 20.0)
"""Seconds for which a slurmd is down; after 10 SLURM gives its jobs up. A machine that falls over is longer away: what
is missing from one that comes back at once SLURM learns only minutes later."""

_OVERRIDES = (
    "cluster.default.partition=low",
    "cluster.stages.sample.nodes_per_job=1",
    "cluster.stages.pairs.nodes_per_job=4",
    "cluster.stages.judge.nodes_per_job=4",
    "cluster.max_requeue=100",
)

_NOTICE = 25.0
"""Seconds after its start from which SLURM believes that a job is missing where its slurmd says so."""


@dataclass
class Tally:
    """The figures of one sweep."""

    nodes: int
    events: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    """Typed while things went wrong."""
    needed: int = 0
    """Typed after that until all was done."""
    elements: int = 0
    """Jobs and elements of arrays that were submitted."""
    repeats: Counter[str] = field(default_factory=Counter)
    """What was begun again: nodes, and their shards."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The figures, as lines."""
        yield f"{self.nodes} nodes, {self.seconds:.0f} s; events: {self.events.total()} {dict(self.events)}"
        yield (
            f"commands: {self.commands} while things went wrong, {self.needed} after that; {self.elements} jobs and "
            f"elements submitted; begun again: {dict(self.repeats)}"
        )
        yield f"wrong: {len(self.wrong)}"
        yield from self.wrong


class Chaos:
    """One sweep, and what happens to it.

    Args:
        folder: for the store, and what commands print.
        seconds: that each of a node's two shards takes.
    """

    def __init__(self, cluster: boot.Cluster, folder: Path, *, cells: int, seconds: float, seed: int) -> None:
        self.cluster, self.folder = cluster, folder
        self.store = Store(folder / "store")
        self.config: dict[str, Any] = {
            "cells": cells,
            "seconds": seconds,
            "grace": GRACE,
            "patience": PATIENCE,
            "overrides": _OVERRIDES,
        }
        self.plan: Plan = plan(self.config)
        self.tally = Tally(nodes=len(self.plan.nodes))
        self._draw = random.Random(seed)  # noqa: S311 - no secret
        self._commands: list[subprocess.Popen[str]] = []
        self._ended: set[int] = set()
        """Numbers of the commands that were not left to end by themselves."""
        self._down: dict[str, float] = {}
        """When the slurmd of a node is to be started again."""

    def run(self, seconds: float) -> Tally:
        """Let things go wrong for so long, or until all is done, finish the sweep, and look at what is there."""
        begun = time.monotonic()
        self._type(wait=False)
        while time.monotonic() < begun + seconds and not self._done():
            (name,) = self._draw.choices(list(_EVENTS), [weight for weight, _ in _EVENTS.values()])
            if _EVENTS[name][1](self):
                self.tally.events[name] += 1
            self._start_again(time.monotonic())
            time.sleep(self._draw.uniform(0.5, 4.0))
        self._start_again()
        time.sleep(_NOTICE)
        self._restart_slurmds()
        for command in self._commands:
            self._end_of(command)
        self._finish()
        self.tally.seconds = time.monotonic() - begun
        self._judge()
        return self.tally

    def _done(self) -> bool:
        self.store.forget()
        return all(self.store.find(node.stage, node.key) is not None for node in self.plan.nodes.values())

    # The command.

    def _type(self, *, wait: bool) -> subprocess.Popen[str]:
        self.tally.commands += 1
        arguments = ["-m", "tests.cluster.command", str(self.store.root), json.dumps({**self.config, "wait": wait})]
        environment = {"SLURM_CONF": str(self.cluster.conf)}
        with (self.folder / f"said-{len(self._commands)}").open("w") as said:
            self._commands.append(start(arguments, self.folder, environment, stderr=said))
        return self._commands[-1]

    def _end_of(self, command: subprocess.Popen[str]) -> int:
        """Wait for a command; returns its exit code."""
        try:
            return command.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._ended.add(self._commands.index(command))
            left = self._ask("squeue", "-h", "-r", "-o", "%i %j %T %r")
            self.tally.wrong.append(f"a command did not end in {_TIMEOUT:.0f} s; in the queue: {left}")
            command.kill()
            return command.wait()

    def _finish(self) -> None:
        """Type the command until it says that all is done."""
        before = self.tally.commands
        while self._end_of(self._type(wait=True)) != 0:
            if self.tally.commands - before >= _MOST:
                self.tally.wrong.append(f"not done after {_MOST} commands that nobody disturbed")
                break
        self.tally.needed = self.tally.commands - before
        self.tally.commands = before

    def type_again(self) -> bool:
        """Type the command once more, whatever others do."""
        self._type(wait=self._draw.random() < 0.5)
        return True

    def type_twice(self) -> bool:
        """Type it twice at once."""
        for _ in range(2):
            self._type(wait=False)
        return True

    def interrupt(self, number: signal.Signals) -> bool:
        """Type it, and let a signal end it, with all it has started if that is Ctrl-C."""
        command = self._type(wait=self._draw.random() < 0.5)
        time.sleep(self._draw.uniform(0.2, 6.0))
        if command.poll() is not None:
            return False
        self._ended.add(len(self._commands) - 1)
        with suppress(ProcessLookupError):
            os.killpg(command.pid, number) if number == signal.SIGINT else command.send_signal(number)
        return True

    # Jobs.

    def cancel(self, *, whole: bool) -> bool:
        """Cancel a job or an element, or a whole array."""
        jobs = [line.split()[0] for line in self._ask("squeue", "-h", "-r", "-o", "%i %j") if "prefsweep-" in line]
        if not jobs:
            return False
        chosen = self._draw.choice(jobs)
        self._ask("scancel", chosen.partition("_")[0] if whole else chosen)
        return True

    def kill(self) -> bool:
        """SIGKILL a process of a job."""
        if not (found := boot.processes(self.cluster.conf)):
            return False
        with suppress(psutil.Error):
            self._draw.choice(list(found)).kill()
        return True

    def preempt(self) -> bool:
        """Submit a job of higher priority that takes a whole node."""
        return bool(
            self._ask("sbatch", "--parsable", "-p", "main", "-N1", "--exclusive", "-o", "/dev/null", "--wrap=:")
        )

    def _ask(self, *command: str) -> list[str]:
        """Lines that a command of SLURM prints; none where SLURM does not answer, as may be."""
        with suppress(subprocess.TimeoutExpired):
            ended = subprocess.run(
                command, env=self.cluster.environment, capture_output=True, text=True, check=False, timeout=30
            )
            return ended.stdout.splitlines()
        return []

    # Daemons.

    def stop_slurmd(self, how: Callable[[str], None], *seconds: float) -> bool:
        """End the slurmd of a node in a way, and have it started again after one of so many seconds."""
        up = sorted(name for name in self.cluster.daemons if name.startswith("n"))
        if len(up) < 2:
            return False
        node = self._draw.choice(up)
        how(node)
        self._down[node] = time.monotonic() + self._draw.choice(seconds)
        return True

    def restart_slurmctld(self, number: signal.Signals) -> bool:
        """End slurmctld by a signal, and start it again soon."""
        self.cluster.end("slurmctld", number)
        time.sleep(self._draw.uniform(0.1, 3.0))
        self.cluster.launch("slurmctld")
        return True

    def _start_again(self, now: float = float("inf")) -> None:
        """Start every slurmd whose time has come."""
        for node in [node for node, then in self._down.items() if then <= now]:
            del self._down[node]
            self.cluster.launch(node)

    def _restart_slurmds(self) -> None:
        """Do as an administrator does: have every slurmd say which jobs it has, and take back machines into service.

        SLURM asks for the jobs every few minutes only, and takes out machines where it finds an id used twice.
        """
        for node in sorted(name for name in self.cluster.daemons if name.startswith("n")):
            self.cluster.end(node, signal.SIGTERM)
            self.cluster.launch(node)
            self._ask("scontrol", "update", f"nodename={node}", "state=resume")

    # What is there in the end.

    def _judge(self) -> None:
        counts, wrong = journal(self.store), self.tally.wrong
        for kind in ("node", "shard"):
            self.tally.repeats[kind] = sum(n - 1 for what, n in counts.items() if what.startswith(f"{kind} "))
        for kind in ("written", "published"):
            wrong += [f"{n} times: {what}" for what, n in counts.items() if what.startswith(f"{kind} ") and n > 1]
        for number, command in enumerate(self._commands):
            said = (self.folder / f"said-{number}").read_text()
            if number not in self._ended and (command.returncode not in (0, 1) or "Traceback" in said):
                wrong.append(f"a command broke: {command.returncode}: {said[-500:]}")
        self._await_end_of_jobs()
        self._judge_store()
        self._judge_again()

    def _judge_store(self) -> None:
        wrong, undisturbed = self.tally.wrong, Store(self.folder / "undisturbed" / "store")
        undisturbed.root.parent.mkdir()
        given = [str(undisturbed.root), "debug", str(self.config["cells"]), "0"]
        start(["-m", "tests.fakes", "run", *given], self.folder, stderr=subprocess.DEVNULL).wait(_TIMEOUT)
        expected, found = digests(self.plan, undisturbed), digests(self.plan, self.store)
        if len(expected) != len(self.plan.nodes) or found != expected:
            differ = sorted(key for key, _ in found.items() ^ expected.items())
            wrong.append(f"other tables than undisturbed: {differ}")
        folders = Counter(folder.name for stage in self.store.stages() for folder in self.store.folders(stage))
        if folders.total() != len(self.plan.nodes):
            wrong.append(f"{folders.total()} artifacts for {len(self.plan.nodes)} nodes")
        for node in self.plan.nodes.values():
            artifact = self.store.find(node.stage, node.key)
            if artifact is not None and (broken := self.store.verify(artifact)):
                wrong.append(f"damaged: {artifact.folder.name}: {broken}")
        # Of one killed between publishing and giving up its claim the record stays, which holds nobody up.
        work = self.store.root / "work"
        if left := [str(path) for path in work.glob("*/*/**/*") if path.is_file()]:
            wrong.append(f"left behind in work: {left}")
        if held := [path.name for path in work.iterdir() if self.store.owner(path.name)]:
            wrong.append(f"still held: {held}")

    def _judge_again(self) -> None:
        """Typed once more, the command must submit nothing."""
        before = {path.stem for path in (self.store.root / "batches").glob("*.json")}
        self.tally.elements = sum(len(batches.read(self.store, name).elements) for name in before)
        code = self._end_of(self._type(wait=False))
        self.tally.commands -= 1
        after = {path.stem for path in (self.store.root / "batches").glob("*.json")}
        if code or after != before:
            self.tally.wrong.append(f"once more: exit code {code}, submitted {sorted(after - before)}")

    def _await_end_of_jobs(self) -> None:
        """Wait for jobs that find nothing to do any more."""
        deadline = time.monotonic() + 90
        while left := self._ask("squeue", "-h", "-r", "-o", "%i %j %T %r"):
            if time.monotonic() > deadline:
                self.tally.wrong.append(f"still in the queue: {left}")
                return
            time.sleep(0.5)


_EVENTS: Mapping[str, tuple[int, Callable[[Chaos], bool]]] = {
    "cancel an element": (3, lambda chaos: chaos.cancel(whole=False)),
    "cancel an array": (1, lambda chaos: chaos.cancel(whole=True)),
    "kill a process": (4, Chaos.kill),
    "preempt": (3, Chaos.preempt),
    "stop a slurmd": (1, lambda chaos: chaos.stop_slurmd(partial(chaos.cluster.end, number=signal.SIGTERM), *_DOWN)),
    "kill a slurmd": (1, lambda chaos: chaos.stop_slurmd(partial(chaos.cluster.end, number=signal.SIGKILL), *_DOWN)),
    "crash a machine": (1, lambda chaos: chaos.stop_slurmd(chaos.cluster.crash, max(_DOWN))),
    "restart slurmctld": (1, lambda chaos: chaos.restart_slurmctld(signal.SIGTERM)),
    "kill slurmctld": (1, lambda chaos: chaos.restart_slurmctld(signal.SIGKILL)),
    "type again": (2, Chaos.type_again),
    "type twice at once": (2, Chaos.type_twice),
    "interrupt the command": (2, lambda chaos: chaos.interrupt(signal.SIGINT)),
    "kill the command": (2, lambda chaos: chaos.interrupt(signal.SIGKILL)),
}
"""What can happen, and how often relative to the others."""


def digests(plan: Plan, store: Store) -> dict[str, str]:
    """The hash of each node's tables, by key."""
    found = {}
    for node in plan.nodes.values():
        artifact = store.find(node.stage, node.key)
        manifest = read_manifest(artifact.folder) if artifact is not None else None
        if manifest is not None:
            found[node.key] = digest_of({n: r for n, r in manifest.files.items() if n.endswith(".parquet")})
    return found


def main() -> int:
    """Boot a cluster, let one sweep suffer, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=60, help="of the sweep, at least")
    parser.add_argument("--seconds", type=float, default=90.0, help="for which things go wrong")
    parser.add_argument("--folder", type=Path, help="where the store and what commands said are kept; must be empty")
    given = parser.parse_args()
    if reason := boot.missing():
        sys.exit(reason)
    cells = -(-(given.nodes - 5) // 4)
    with tempfile.TemporaryDirectory() as name, boot.booted() as cluster:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        tally = Chaos(cluster, folder, cells=cells, seconds=0.75, seed=given.seed).run(given.seconds)
    print(f"seed {given.seed}:", *tally.lines(), sep="\n")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
