"""SLURM's commands as shell scripts that write down how they were called, and answer what a test tells them to."""

import io
import os
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from harness import execute as execution
from harness import perform
from harness.cluster import SlurmConfig
from harness.config import RunOptions, read
from harness.files import write_json
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.schedule import Summary
from harness.slurm import batches, job
from harness.slurm.batches import Batch
from harness.store import Store
from tests.configs import OPTIONS, composed
from tests.fakes import FakeStage, plan_of

SBATCH = """#!/bin/bash
echo "sbatch $*" >> "$FAKE_SLURM/calls"
if [ -e "$FAKE_SLURM/refusal" ]; then cat "$FAKE_SLURM/refusal" >&2; exit 1; fi
if [ -e "$FAKE_SLURM/sbatch --exclude.error" ] && grep -q -- --exclude "${@: -1}"; then
  cat "$FAKE_SLURM/sbatch --exclude.error" >&2; exit 1
fi
number=$(( $(cat "$FAKE_SLURM/last" 2>/dev/null || echo 0) + 1 ))
echo $number > "$FAKE_SLURM/last"
cp "${@: -1}" "$FAKE_SLURM/$number.sh"
echo "Submitted batch job $number"
"""

ANSWERS = """#!/bin/bash
echo "$(basename "$0") $*" >> "$FAKE_SLURM/calls"
if [ -e "$FAKE_SLURM/$(basename "$0").error" ]; then cat "$FAKE_SLURM/$(basename "$0").error" >&2; exit 1; fi
cat "$FAKE_SLURM/$(basename "$0")" 2>/dev/null
exit 0
"""


@dataclass
class FakeSlurm:
    """A folder that the commands write to and read from."""

    folder: Path

    def calls(self, command: str) -> list[str]:
        """Arguments of every call of a command."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(f"{command} ") for line in lines if line.startswith(f"{command} ")]

    def script(self, number: int) -> str:
        """What a job was submitted with."""
        return (self.folder / f"{number}.sh").read_text()

    def option(self, number: int, flag: str) -> str | None:
        """The value of a flag of a job."""
        found = [
            line.partition("=")[2] for line in self.script(number).splitlines() if line.startswith(f"#SBATCH --{flag}=")
        ]
        return found[0] if found else None

    def name(self, number: int) -> str:
        """A job's name."""
        return self.option(number, "job-name") or ""

    def answer(self, command: str, *lines: str) -> None:
        """What a command prints from now on."""
        (self.folder / command).write_text("".join(f"{line}\n" for line in lines))

    def refuse(self, command: str, text: str) -> None:
        """A command fails from now on, with these words; without any it works again."""
        path = self.folder / ("refusal" if command == "sbatch" else f"{command}.error")
        path.write_text(text) if text else path.unlink(missing_ok=True)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder, commands = tmp_path / "slurm", tmp_path / "bin"
    for path in (folder, commands):
        path.mkdir()
    for name in ("sbatch", "squeue", "srun", "sacct", "scancel", "scontrol"):
        (commands / name).write_text(SBATCH if name == "sbatch" else ANSWERS)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return FakeSlurm(folder)


def cluster(*overrides: str) -> SlurmConfig:
    """The cluster that these overrides compose."""
    data = composed("cluster=slurm", "cluster.probe=false", *overrides)
    found = read(RunOptions, {name: value for name, value in data.items() if name in OPTIONS}).cluster
    assert isinstance(found, SlurmConfig)
    return found


@dataclass
class Desk:
    """A store, and the commands that a user types."""

    store: Store
    slurm: FakeSlurm
    output: io.StringIO = field(default_factory=io.StringIO)
    cluster: SlurmConfig = field(default_factory=cluster)

    def type(self, plan: Plan, *, wait: bool = False, keep: str = "all") -> Summary:
        """Type the command."""
        reporter = Reporter(Console(file=self.output, width=500))
        retention = Retention(keep, plan, self.store)  # type: ignore[arg-type]
        return execution.execute(plan, self.store, reporter, self.cluster, retention, wait=wait)

    def said(self) -> str:
        """What was printed since the last look."""
        text = self.output.getvalue()
        self.output.truncate(0)
        self.output.seek(0)
        return text

    def batches(self) -> list[Batch]:
        """All batches, the oldest first."""
        every = [batches.read(self.store, path.stem) for path in (self.store.root / "batches").glob("*.json")]
        return sorted(every, key=lambda batch: batch.submitted)

    def batch(self, stage: str) -> Batch:
        """The latest batch of a stage."""
        return [batch for batch in self.batches() if batch.stage == stage][-1]

    def age(self, seconds: float) -> None:
        """Let all batches be that old."""
        for batch in self.batches():
            path = batches.folder(self.store, batch.name).with_suffix(".json")
            older = replace(batch, submitted=batch.submitted - seconds)
            path.unlink()
            write_json(path, asdict(older))
            os.utime(path, (time.time() - seconds,) * 2)

    def work(self, *stages: str) -> list[int]:
        """Do the latest jobs of stages, in this process; returns their exit codes."""
        found = [self.batch(stage) for stage in stages]
        before = signal.getsignal(signal.SIGTERM)
        try:
            return [
                job._Work(self.store.root, one.name, number).run()
                for one in found
                for number in range(len(one.elements))
            ]
        finally:
            signal.signal(signal.SIGTERM, before)


@pytest.fixture
def desk(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Desk:
    stage = FakeStage()
    monkeypatch.setattr(perform, "_stage", lambda name: stage)
    monkeypatch.setattr(perform, "provenance", lambda: {"pid": os.getpid(), "seconds": 0.0})
    monkeypatch.setattr(job, "prepare_process", lambda threads: None)
    monkeypatch.setattr(job, "PATIENCE", 0.0)
    monkeypatch.setattr(job, "LATE", 0.0)
    monkeypatch.setattr(job, "_WORK", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return Desk(Store(tmp_path / "store").prepare(), slurm)


def plan(*nodes: Node) -> Plan:
    return plan_of(*nodes)
