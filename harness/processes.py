"""Child processes: which interpreter runs one, and what can be said of one that has died."""

import os
import signal
from pathlib import Path
from typing import IO

LAST_WORDS = 20
"""Lines of a dead process's output that go into the log of what it was at."""

_READ = 1 << 16
"""Bytes of its output among which they are looked for."""


def last_words(output: IO[bytes]) -> str:
    """The last lines of what a process has printed into a file."""
    size = os.fstat(output.fileno()).st_size
    # Not by seeking: the process writes on from where its parent reads.
    end = os.pread(output.fileno(), _READ, max(0, size - _READ)).decode(errors="replace")
    return "\n".join(end.splitlines()[-LAST_WORDS:])


def cause(code: int | None) -> str:
    """Why a process is gone, out of its exit code; None for one that lives but is out of reach."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}; the system kills what takes too much memory" if name == "SIGKILL" else name
    return f"exit code {code}" if code is not None else "it no longer answers"


def python_path(named: str) -> str:
    """Path of an interpreter; a user may name the folder of its environment."""
    path = Path(named).expanduser().absolute()
    return str(path / "bin" / "python" if path.is_dir() else path)
