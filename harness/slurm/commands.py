"""SLURM's own commands, asked as programs: what they print, or why they do not answer."""

import os
import subprocess
from collections.abc import Iterable, Sequence

from harness.errors import PrefsweepError

_TIMEOUT = 120.0

_FILTERS = ("SQUEUE_", "SACCT_", "SCANCEL_")
"""Beginnings of variables with which users have these commands show, or touch, less than they are asked for."""


class SlurmError(PrefsweepError):
    """SLURM is not there, or refuses."""


class NoAnswerError(SlurmError):
    """A command of SLURM fails, or does not end in time; it may be answered a little later."""


def ask(command: Sequence[str]) -> str:
    """What a command of SLURM prints, whatever the user's environment asks it to leave out.

    Raises:
        SlurmError: it is not there.
        NoAnswerError: it fails, or does not answer.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FILTERS)}
    try:
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TIMEOUT,
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]}: not on the path; this machine knows no SLURM") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{command[0]}: no answer in {_TIMEOUT:.0f} s") from None
    if ended.returncode:
        raise NoAnswerError(f"{command[0]}: {ended.stderr.strip() or f'exit code {ended.returncode}'}")
    return ended.stdout


def scancel(ids: Iterable[str]) -> None:
    """Cancel jobs.

    Raises:
        SlurmError: SLURM refuses.
    """
    ask(["scancel", *ids])
