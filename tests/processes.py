"""Processes that tests start, watch and kill, each by its own id."""

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.claims import _born

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def running(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, **given: Any
) -> Iterator[subprocess.Popen[str]]:
    """A Python process of its own group that imports this checkout; killed when the block ends."""
    process = start(arguments, cwd, environment, **given)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def start(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, **given: Any
) -> subprocess.Popen[str]:
    """Start a Python process in a group of its own that imports this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, env=environment, text=True, start_new_session=True, **given
    )


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not."""
    return _born(pid) is not None


MARK = 12345.0


def mark_checkpoints(work: Path) -> int:
    """Give the first step in every whole checkpoint the gradient norm MARK; returns how many there are.

    A training that goes on from one of them has it in its table; one that does its steps again has its own.
    """
    states = [path.parent / "trainer_state.json" for path in work.glob("*/*/checkpoints/checkpoint-*/whole")]
    for path in states:
        state = json.loads(path.read_text())
        state["log_history"][0]["grad_norm"] = MARK
        path.write_text(json.dumps(state))
    return len(states)


def any_file(folder: Path, pattern: str) -> bool:
    """Whether a folder that others work in has such a file; unlike `Path.glob` it bears folders that vanish."""
    return bool(glob.glob(str(folder / pattern)))


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait for something to become true.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s: {what}")
        time.sleep(0.01)


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL, and wait for the end."""
    process.send_signal(signal.SIGKILL)
    process.wait()
