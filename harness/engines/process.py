"""Engine processes: children in an interpreter of their own, which need not hold this project and end with this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

from harness.errors import ConfigError, PrefsweepError
from harness.processes import cause, last_words, python_path, without_secrets

_GRACE = 10.0
"""Seconds that an engine has to end by itself."""

_OURS = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""What says where this interpreter's packages are, and would mislead another one."""


class EngineError(PrefsweepError):
    """An engine could not start, or died; the message ends with its last words."""


@lru_cache(maxsize=8)
def interpreter(python: str | None, package: str, key: str, install: str) -> str:
    """Path of the interpreter that has a package: the named one, or this one.

    Args:
        key: dotted configuration key that names it.
        install: what to do where the package is missing.

    Raises:
        ConfigError: no such interpreter, or it has no such package; says how to install it.
    """
    path = python_path(python) if python is not None else sys.executable
    if not Path(path).exists():
        raise ConfigError(f"{key}: there is no {path}; expected a Python interpreter, or its environment's folder")
    look = f"import importlib.util, sys; sys.exit(3 if importlib.util.find_spec({package!r}) is None else 0)"
    try:
        found = subprocess.run(
            [path, "-c", look],
            env=environment(python, hub=False),
            cwd="/",
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{key}: {path} is no Python interpreter that runs: {error}") from None
    if found.returncode == 0:
        return path
    if found.returncode == 3:
        raise ConfigError(f"{key}: {path} has no {package}; {install}")
    said = (found.stderr.strip().splitlines() or [cause(found.returncode)])[-1]
    raise ConfigError(f"{key}: {path} is no Python interpreter that runs: {said}")


def environment(python: str | None, *, hub: bool) -> dict[str, str]:
    """Environment variables of an engine: this process's, without secrets and what misleads another interpreter.

    Args:
        hub: it loads from a hub, and keeps the hub's own token.
    """
    told = without_secrets(os.environ, hub=hub)
    return {name: value for name, value in told.items() if python is None or name not in _OURS}


class EngineProcess:
    """A child that leads a process group of its own; whatever it has started ends with it."""

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], label: str, *, keep_output: bool = False
    ) -> None:
        """Start it.

        Args:
            command: interpreter and arguments.
            variables: the whole environment.
            label: what errors call it.
            keep_output: standard output goes where its errors go; otherwise it is a pipe.
        """
        self.label = label
        # Without a name, it is gone with this process however that ends.
        self._output = TemporaryFile()  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            list(command),
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=self._output if keep_output else subprocess.PIPE,
            stderr=self._output,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def death(self, what: str) -> EngineError:
        """The error that tells how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GRACE)
        return EngineError(f"{self.label} {what} ({cause(self.process.poll())}); its last words:\n{self.last_words}")

    @property
    def last_words(self) -> str:
        """The last lines that it has printed."""
        return last_words(self._output)

    def end(self, grace: float = _GRACE) -> None:
        """End it and all that it has started; first kindly, where there is time."""
        if self.alive and grace:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self._output):
            if file is not None:
                with suppress(OSError):
                    file.close()
