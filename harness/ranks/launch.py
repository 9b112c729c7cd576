"""Starting the processes of a training, following them, and leaving none behind; in the process that owns the node."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import tables
from harness.errors import PrefsweepError
from harness.ports import free_port
from harness.progress import Reporter, Task
from harness.slurm.commands import ask
from harness.world import World

_FOLDER = "ranks"
"""In the node's work: what goes between the ranks and who starts them."""

_POLL = 0.5
"""Seconds between two looks at what the first rank has done."""

_TOLD = 5.0
"""Seconds for which ranks that died are not yet a failure: a signal that ended them has reached this process, too."""

_GRACE = 20.0
"""Seconds that the launcher has to end, once its input is closed, before it is killed."""

_LAST_WORDS = 20
"""Lines of a rank's output that a failure shows."""

# What describes the step that this process runs in, and would bend the shape of the step that it starts.
_OF_STEP = re.compile(
    r"SLURM_(STEP|SRUN|CPU_BIND|MEM_|GTIDS|LAUNCH|NTASKS|NPROCS|NNODES|TASKS_PER_NODE|DISTRIBUTION|CPUS_PER_TASK"
    r"|PROCID|LOCALID|NODEID|TASK_PID)"
)

_DIED = re.compile(r"rank\s*:\s*(\d+) \(local_rank: \d+\)\s+exitcode\s*:\s*-(\d+)")
"""What torchrun reports of a rank that a signal has ended."""

_LOST_PEER = re.compile(
    r"closed by peer|reset by peer|broken pipe|remote process exited|ncclRemoteError|connection closed", re.IGNORECASE
)

_NO_SLURM = frozenset({"SLURM_JOB_ID", "SLURM_JOB_NODELIST"})


class RankError(PrefsweepError):
    """A rank failed in a way that it could tell; an OSError that it told of is the cause."""

    machine = ""
    """Where it ran, as the cluster knows it."""


class RankDiedError(PrefsweepError):
    """A rank ended without a word."""


def train(
    policy: Path,
    rows: Sequence[dict[str, Any]] | pa.Table,
    spec: Any,
    work: Path,
    world: World,
    *,
    save_steps: int,
    reporter: Reporter,
    label: str,
    stage: str = "train",
) -> list[dict[str, Any]]:
    """As `train` of the engine of a stage, by the processes of `world`, all of which have ended when this returns.

    Args:
        stage: `train` or `sft`.

    Raises:
        RankError: a rank failed; carries its story and last lines.
        RankDiedError: a rank was killed, or crashed.
    """
    clear(work)  # of an interrupted run
    folder = work / _FOLDER
    folder.mkdir()
    try:
        _write_request(folder, policy, rows, spec, work, world, save_steps, label, stage)
        _run(folder, world, reporter)
        history: list[dict[str, Any]] = json.loads((folder / "history.json").read_text())
        return history
    finally:
        clear(work)


def clear(work: Path) -> None:
    """Remove what several processes have told each other, which no artifact holds."""
    shutil.rmtree(work / _FOLDER, ignore_errors=True)


def _write_request(
    folder: Path,
    policy: Path,
    rows: Sequence[dict[str, Any]] | pa.Table,
    spec: Any,
    work: Path,
    world: World,
    save_steps: int,
    label: str,
    stage: str,
) -> None:
    given = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    tables.write(given, folder / "rows.parquet")
    request = {
        "stage": stage,
        "policy": str(policy),
        "work": str(work),
        "spec": asdict(spec),
        "world": asdict(world),
        "save_steps": save_steps,
        "label": label,
    }
    (folder / "request.json").write_text(json.dumps(request))


def _run(folder: Path, world: World, reporter: Reporter) -> None:
    """Run all ranks to their end."""
    with (folder / "launcher.log").open("wb") as output, _started(command(folder, world), world, output) as process:
        shown = _Shown(folder / "progress", reporter)
        try:
            while process.poll() is None:
                time.sleep(_POLL)
                shown.update()
            shown.update()
        finally:
            shown.close()
        if process.returncode:
            time.sleep(_TOLD)
            raise _failure(folder, process.returncode)


@contextmanager
def _started(arguments: Sequence[str], world: World, output: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """The launcher; it and all ranks end with the block, and with this process however that ends.

    The ranks' machines read from a pipe that only this process can write to. It closes when this process ends.
    """
    process = subprocess.Popen(
        arguments,
        env=environment(world),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # an interrupt from the terminal is for this process to pass on
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        for end in (process.terminate, process.kill):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
                break
            end()
        process.wait()


def command(folder: Path, world: World) -> list[str]:
    """The command that starts the ranks on all machines."""
    address, port = rendezvous(world)
    machine = [sys.executable, "-m", "harness.ranks.machine", str(folder), str(world.machines), str(world.processes)]
    machine += [address, str(port)]
    if world.machines == 1:
        return machine
    step = ["srun", f"--jobid={os.environ['SLURM_JOB_ID']}", f"--nodes={world.machines}", f"--ntasks={world.machines}"]
    # The step stands beside the one that this process is, on the same cores, memory and GPUs.
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "1")  # all of the job's on each machine, however few
    step += ["--ntasks-per-node=1", f"--cpus-per-task={cores}", "--mem=0", "--overlap"]
    return [*step, "--kill-on-bad-exit=1", "--unbuffered", *machine]


def environment(world: World) -> dict[str, str]:
    """What the ranks find in their environment."""
    ours = {name: value for name, value in os.environ.items() if not _OF_STEP.match(name)}
    ours["OMP_NUM_THREADS"] = str(world.threads)
    ours.pop("CUDA_VISIBLE_DEVICES", None)
    # On several machines SLURM sets it for each; but those of other jobs it may leave in sight.
    if world.devices is not None and (world.machines == 1 or not world.devices):
        ours["CUDA_VISIBLE_DEVICES"] = world.devices
    return ours


def rendezvous(world: World) -> tuple[str, int]:
    """Where the ranks meet: the job's first machine, at a port that comes from the job's id and is free there.

    On one machine torchrun finds a free port itself, on loopback.

    Raises:
        RankError: this is no SLURM job.
    """
    if world.machines == 1:
        return "localhost", 0
    if missing := sorted(_NO_SLURM - os.environ.keys()):
        raise RankError(f"a training on {world.machines} machines is a SLURM job; {' and '.join(missing)} are not set")
    return first_machine(os.environ["SLURM_JOB_NODELIST"]), free_port(host="")


def first_machine(machines: str) -> str:
    """The address under which SLURM itself reaches the first of a list of machines; its name need not resolve.

    Args:
        machines: as SLURM_JOB_NODELIST writes them: `n[1-4,7]`.
    """
    name = _scontrol("hostnames", machines).split()[0]
    found = re.search(r"\bNodeAddr=(\S+)", _scontrol("node", name))
    return found[1] if found else name


def _scontrol(*arguments: str) -> str:
    return ask(["scontrol", "show", *arguments])


class _Shown:
    """The first rank's progress, which it writes to a file, shown by this process."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self._path, self._reporter = path, reporter
        self._read = 0
        self._task: Task | None = None

    def update(self) -> None:
        """Show what is new."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.splitlines():
                self._show(*json.loads(line))

    def _show(self, kind: str, *given: Any) -> None:
        if kind == "line":
            self._reporter.line(*given)
        elif kind == "open":
            self.close()
            self._task = self._reporter.open(*given)
        elif self._task is not None:
            self._task.advance(*given)

    def close(self) -> None:
        if self._task is not None:
            self._task.close()
            self._task = None


def _failure(folder: Path, code: int) -> PrefsweepError:
    """What went wrong first: what a rank told, that one was killed, or what the launcher says."""
    told = sorted((json.loads(path.read_text()) for path in folder.glob("rank-*.error.json")), key=lambda e: e["time"])
    launcher = (folder / "launcher.log").read_text(errors="replace") if (folder / "launcher.log").exists() else ""
    died = _DIED.search(launcher)
    # Ranks that have lost a peer tell so, too, and may do it before torchrun sees the one that died.
    causes = [error for error in told if not _LOST_PEER.search(error["text"])] or ([] if died else told)
    if causes:
        return _told(folder, causes[0])
    if died is None:
        lines = launcher.splitlines()[-_LAST_WORDS:]
        return RankDiedError("\n".join([f"the ranks ended with exit code {code}", *lines]))
    rank, cause = int(died[1]), signal.Signals(int(died[2])).name
    return RankDiedError("\n".join([f"rank {rank} died ({cause})", *_last_lines(folder, rank)]))


def _told(folder: Path, first: Mapping[str, Any]) -> RankError:
    """What a rank told, with what decides whether it is tried again, and where."""
    text = first["text"]
    if not first["plain"]:
        said = f"rank {first['rank']} on {first['host']}: {text}"
        text = "\n".join([said, first["story"], *_last_lines(folder, first["rank"])])
    failure = RankError(text)
    failure.machine = first["host"]
    if first["system"] is not None:
        failure.__cause__ = OSError(*first["system"])
    return failure


def _last_lines(folder: Path, rank: int) -> Sequence[str]:
    path = folder / f"rank-{rank}.log"
    lines = path.read_text(errors="replace").splitlines()[-_LAST_WORDS:] if path.exists() else []
    return [f"last lines of rank {rank}:", *lines] if lines else [f"rank {rank} has printed nothing"]
