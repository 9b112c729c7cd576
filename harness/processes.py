"""Child processes: which interpreter runs one, what it is not told, and what can be said of one that has died."""

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import IO

LAST_WORDS = 20
"""Lines of a dead process's output that go into the log of what it was at."""

_READ = 1 << 16
"""Bytes of its output among which they are looked for."""

_SECRET = re.compile(
    r"(KEYS?|TOKEN|SECRETS?|PASSWORD|PASSWD|CREDENTIALS?|(^|_)(AUTH|BEARER|PAT))\d*(_|$)", re.IGNORECASE
)
"""At the end of a word of a variable's name; settings such as TOKENIZERS_PARALLELISM and MAX_TOKENS are none."""

_OF_HUB = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"})
"""What a process that loads from a hub needs of what looks like a secret."""


def is_secret(variable: str) -> bool:
    """Whether an environment variable holds a secret, by its name: words such as KEY, TOKEN and PASSWORD say so."""
    return _SECRET.search(variable) is not None


def without_secrets(variables: Mapping[str, str], *, hub: bool) -> dict[str, str]:
    """An environment for a program that is not ours, without the keys that this one may hold.

    Args:
        hub: it loads from a hub, and keeps the hub's own token.
    """
    return {n: value for n, value in variables.items() if (hub and n in _OF_HUB) or not is_secret(n)}


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
