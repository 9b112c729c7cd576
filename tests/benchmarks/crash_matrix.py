"""Kill -9 at many moments of a real sweep, and see that nothing is lost, damaged, or done twice.

`python -m tests.benchmarks.crash_matrix --kills 40`: the sweep of SmolLM2-135M, in float32 on one thread, is done once
undisturbed; then again and again while it is killed: its only process, a worker, or the command above its workers. Each
stage is aimed at in turn, then moments anywhere. `--policy tiny` takes a tiny random model instead.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from harness.manifest import digest_of, read_manifest
from harness.plan import STAGES
from harness.store import Artifact, Store
from tests import journal
from tests.processes import start
from tests.tiny import save_tiny_policy

Victim = Literal["only process", "worker", "command"]
VICTIMS: tuple[Victim, ...] = ("only process", "worker", "command")

SAVE_STEPS = 2

SIZES = [
    "n=8",
    "prompts.limit=6",
    "sampler.sample_block=4",
    "sampler.prompt_blocks=2",
    "sampler.batch_size=8",
    "sampler.max_new_tokens=8",
    "sampler.max_prompt_tokens=600",
    "evaluate.limit=6",
    "evaluate.batch_size=2",
    "evaluate.max_new_tokens=8",
    "evaluate.max_prompt_tokens=600",
    "train=lora",
    "train.epochs=2",
    "train.global_batch=2",
    "train.micro_batch=2",
    "train.max_length=700",
    f"train.save_steps={SAVE_STEPS}",
    "cluster.threads=1",
    "sweep=crash",
]

SMALLER = ["prompts.limit=3", "sampler.prompt_blocks=1", "evaluate.limit=4", "train.epochs=1"]
"""For a test: the same shape with fewer rows."""

PAIRS = "pair=max_min,max_mu,max_mu-2s"
"""The first and the last may turn out equal: the sample is small."""

LENGTHS = [
    "sampler.max_new_tokens=24",
    "reward=shorter",
    "reward.weights.words=-0.001",
    "+reward.weights.tokens=-1.0",
    "judge=shorter",
]

_PATIENCE = 600.0
"""Seconds after which a command counts as stuck."""

_ROUNDS = 20
"""Stores at most in which the wanted kills are tried for."""

_LONGEST = 3.0
"""Seconds at most between a stage's beginning and the kill that is aimed at it."""


@dataclass(kw_only=True)
class Undisturbed:
    """How it goes without any kill."""

    seconds: float
    digests: dict[str, str]
    entries: list[journal.Entry]
    stage_seconds: dict[str, float]


@dataclass(kw_only=True)
class Tally:
    """What the kills did."""

    kills: Counter[str] = field(default_factory=Counter)
    """By victim."""
    hits: Counter[str] = field(default_factory=Counter)
    """By the stage that was at work in the victim."""
    commands: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """Model calls, writes and steps beyond the undisturbed run's."""
    together: dict[int, int] = field(default_factory=dict)
    """Nodes computed, by the number of commands at once."""
    wrong: list[str] = field(default_factory=list)


class Matrix:
    """Commands on fresh stores, under one folder."""

    def __init__(self, folder: Path, overrides: Sequence[str], *, share_model: bool, seed: int) -> None:
        self._folder, self._overrides = folder, [*overrides]
        self._draw = random.Random(seed)  # noqa: S311 - no secret
        self._stores, self._model = 0, None
        self.tally = Tally()
        store = self._fresh()
        self.undisturbed = self._measure(store)
        if share_model:
            self._model = store

    @property
    def model_is_shared(self) -> bool:
        """Whether the converted model is given, so that its stage is never at work."""
        return self._model is not None

    def _fresh(self) -> Path:
        """A store, which holds the converted model where that is shared."""
        self._stores += 1
        store = self._folder / f"store-{self._stores}"
        Store(store).prepare()
        if self._model is not None:
            for name in ("model", "content"):
                shutil.copytree(self._model / name, store / name, copy_function=os.link, dirs_exist_ok=True)
        return store

    def _start(self, store: Path, cluster: str) -> "subprocess.Popen[str]":
        self.tally.commands += 1
        arguments = ["-m", "tests.journal", "run", "-m", f"store={store}", f"cluster={cluster}", *self._overrides]
        with self._said.open("w") as said:
            return start(arguments, self._folder, {journal.JOURNAL: str(_journal(store))}, stdout=said, stderr=said)

    @property
    def _said(self) -> Path:
        return self._folder / "said"

    def _measure(self, store: Path) -> Undisturbed:
        started = time.monotonic()
        if self._start(store, "debug").wait(_PATIENCE):
            raise RuntimeError(f"the undisturbed run failed:\n{self._said.read_text()}")
        seconds: defaultdict[str, float] = defaultdict(float)
        for artifact in artifacts(store):
            made = artifact.manifest
            seconds[made.stage] = max(seconds[made.stage], made.provenance["seconds"])
        return Undisturbed(
            seconds=time.monotonic() - started,
            digests=digests(store),
            entries=journal.read(_journal(store)),
            stage_seconds=dict(seconds),
        )

    def at_stages(self, victim: Victim, stages: Sequence[str], limit: int = 100) -> None:
        """Kill at these stages, if that takes at most `limit` kills."""
        aims, kills = Counter(stages), 0
        for _ in range(_ROUNDS):
            if aims.total() and kills < limit:
                kills += self._disturb(victim, aims, [], limit - kills)

    def anywhere(self, victim: Victim, limit: int) -> None:
        """Kill at moments drawn from the undisturbed run's length."""
        kills = 0
        length = self.undisturbed.seconds - (self.undisturbed.stage_seconds["model"] if self._model else 0)
        for _ in range(_ROUNDS):
            if kills < limit:
                moments = [self._draw.uniform(0, length) for _ in range(limit - kills)]
                kills += self._disturb(victim, Counter(), moments, limit - kills)

    def _disturb(self, victim: Victim, aims: Counter[str], moments: list[float], limit: int) -> int:
        """Kill and start again in one store until a command has ended well; returns the number of kills."""
        store, kills, done = self._fresh(), 0, False
        while not done:
            process, before = self._start(store, "debug" if victim == "only process" else "local"), kills
            while kills < limit and (aims.total() or moments):
                moment = moments.pop() if moments else None
                if (pid := self._await(process, store, aims, moment, victim)) is None:
                    break
                if (stages := self._kill(store, victim, pid)) is None:
                    break
                kills += 1
                aims -= Counter(stages)  # in place, and never below none
                if victim != "worker":
                    break
            done = process.wait(_PATIENCE) == 0
            if not done and kills == before:
                self._complain(store, f"a command that nobody killed ended with {process.returncode}")
                return limit
        self._judge(store, victim, kills)
        return kills

    def _await(
        self, process: "subprocess.Popen[str]", store: Path, aims: Counter[str], moment: float | None, victim: Victim
    ) -> int | None:
        """Wait for a moment, or for one of the stages; the process to kill then, or None where there is none left."""
        seen = len(journal.read(_journal(store)))
        deadline = time.monotonic() + (_PATIENCE if moment is None else moment)
        while process.poll() is None and time.monotonic() < deadline:
            for entry in journal.read(_journal(store))[seen:]:
                stage = entry.what.partition("/")[0]
                if moment is None and entry.kind == "node" and aims[stage]:
                    time.sleep(self._draw.uniform(0, min(_LONGEST, self.undisturbed.stage_seconds[stage])))
                    return self._pid(process, entry.pid, victim)
            time.sleep(0.005)
        return self._pid(process, None, victim)

    def _pid(self, process: "subprocess.Popen[str]", at: int | None, victim: Victim) -> int | None:
        """The victim's id; where a worker is meant, that of the one at work, or any."""
        if process.poll() is not None:
            return None
        if victim != "worker":
            return process.pid
        workers = _children(process.pid)
        if at in workers:
            return at
        return self._draw.choice(workers) if workers else process.pid

    def _kill(self, store: Path, victim: Victim, pid: int) -> list[str] | None:
        """Kill, and say which stages were at work; None where the process has ended before."""
        hands = [pid, *(_children(pid) if victim == "command" else [])]
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            return None
        at: dict[int, str] = {}
        for entry in journal.read(_journal(store)):
            if entry.kind in ("node", "ended"):
                at[entry.pid] = entry.what.partition("/")[0] if entry.kind == "node" else "between nodes"
        stages = [at[hand] for hand in hands if hand in at] or ["before any node"]
        self.tally.kills[victim] += 1
        self.tally.hits.update(stages)
        return stages

    def _judge(self, store: Path, victim: Victim, kills: int) -> None:
        """Compare with the undisturbed run: what is there, and what was done for it."""
        self._check(store, f"after {kills} kills of {victim}")
        entries, plain = journal.read(_journal(store)), self.undisturbed.entries
        # A command takes its two workers along, and each may have had a shard in hand.
        hands = kills * (2 if victim == "command" else 1)
        for kind, limit in {"call": hands, "write": hands, "step": hands * SAVE_STEPS}.items():
            done, needed = journal.count(entries, kind), journal.count(plain, kind)
            more = (done - needed).total()
            self.tally.repeated[kind] += more
            if more > limit:
                self._complain(store, f"{more} more of {kind} than undisturbed after {kills} kills of {victim}")
            if (needed - done).total() and self._model is None:
                self._complain(store, f"less of {kind} than undisturbed: {needed - done}")
        shutil.rmtree(store)

    def together(self, commands: int) -> None:
        """Start several commands at once on one store: each node is done by one of them, and all of them end well."""
        store = self._fresh()
        processes = [self._start(store, "debug") for _ in range(commands)]
        codes = [process.wait(_PATIENCE) for process in processes]
        what = f"{commands} commands at once"
        if any(codes):
            self._complain(store, f"{what} ended with {codes}")
        nodes = journal.count(journal.read(_journal(store)), "node")
        self.tally.together[commands] = nodes.total()
        if twice := [node for node, times in nodes.items() if times > 1]:
            self._complain(store, f"{what} did twice: {twice}")
        self._check(store, what)
        shutil.rmtree(store)

    def _check(self, store: Path, what: str) -> None:
        """All tables and weights are there, whole, and those of the undisturbed run; and nothing else is."""
        if (found := digests(store)) != self.undisturbed.digests:
            names = sorted(name for name, _ in found.items() ^ self.undisturbed.digests.items())
            self._complain(store, f"{what}: other tables or weights than undisturbed: {names}")
        for artifact in artifacts(store):
            if broken := Store(store).verify(artifact):
                self._complain(store, f"{what}: damaged: {artifact.folder.name}: {broken}")
        # Of one killed between publishing and giving up its claim the record stays, which holds nobody up.
        if left := [str(path) for path in (store / "work").glob("*/*/**/*") if path.is_file()]:
            self._complain(store, f"{what}: left behind in work: {left}")
        if held := [path.name for path in (store / "work").iterdir() if Store(store).owner(path.name)]:
            self._complain(store, f"{what}: still held: {held}")

    def _complain(self, store: Path, text: str) -> None:
        said = self._said.read_text().splitlines()[-8:]
        self.tally.wrong.append("\n    ".join([f"{store.name}: {text}", *said]))


def _journal(store: Path) -> Path:
    return store.with_suffix(".journal")


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def artifacts(store: Path) -> Iterator[Artifact]:
    """Every whole artifact of a store."""
    opened = Store(store)
    for stage in STAGES:
        for folder in opened.folders(stage):
            if (found := opened.find(stage, folder.name.rpartition("-")[2])) is not None:
                yield found


def digests(store: Path) -> dict[str, str]:
    """The hash of each node's tables and weights, by stage and key; the same whoever of equal cells made them."""
    return {f"{a.manifest.stage}/{a.manifest.key}": _digest(a.folder) for a in artifacts(store)}


def _digest(folder: Path) -> str:
    """Adapters have two more files that name the folder of their base, which differs from store to store."""
    manifest = read_manifest(folder)
    assert manifest is not None
    return digest_of({name: r for name, r in manifest.files.items() if name.endswith((".parquet", ".safetensors"))})


def summary(matrix: Matrix) -> Iterator[str]:
    """The figures, as lines."""
    plain, tally = matrix.undisturbed, matrix.tally
    counts = {kind: journal.count(plain.entries, kind).total() for kind in ("node", "call", "write", "step")}
    yield f"undisturbed: {plain.seconds:.1f} s, {len(plain.digests)} nodes; computed: {counts}"
    yield f"kills: {tally.kills.total()} in {tally.commands} commands; victims: {dict(tally.kills)}"
    yield f"at work when killed: {dict(tally.hits)}"
    yield f"done again, for all kills together: {dict(tally.repeated)}"
    for commands, nodes in tally.together.items():
        yield f"{commands} commands at once: {nodes} nodes computed"
    yield f"wrong: {len(tally.wrong)}"
    yield from tally.wrong


def settings(policy: str, folder: Path) -> list[str]:
    """The sweep's settings with the real or a tiny policy."""
    if policy == "tiny":
        return [PAIRS, *SIZES, "policy=local", f"policy.id={save_tiny_policy(folder / 'policy')}", *LENGTHS]
    return [PAIRS, *SIZES, "policy=smollm2_135m_instruct"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="at least; each stage takes one for each victim")
    parser.add_argument("--stages", default=",".join(STAGES), help="aimed at, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--policy", choices=("smollm2", "tiny"), default="smollm2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, started = Path(name), time.monotonic()
        matrix = Matrix(folder, settings(given.policy, folder), share_model=given.policy != "tiny", seed=given.seed)
        print(f"undisturbed: {matrix.undisturbed.seconds:.1f} s", flush=True)
        there = {*matrix.undisturbed.stage_seconds} - ({"model"} if matrix.model_is_shared else set())
        stages = [stage for stage in given.stages.split(",") if stage in there]
        for victim in VICTIMS:
            matrix.at_stages(victim, stages)
            matrix.anywhere(victim, -(-given.kills // len(VICTIMS)) - matrix.tally.kills[victim])
            print(f"{victim}: {matrix.tally.kills[victim]} kills, {time.monotonic() - started:.0f} s", flush=True)
        for commands in (2, 4):
            matrix.together(commands)
        print(*summary(matrix), f"{time.monotonic() - started:.0f} s in all", sep="\n")
    return 1 if matrix.tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
