"""Ports of this machine for servers that a job runs for itself, so that jobs of one machine keep apart."""

import os
import secrets
import socket
from contextlib import suppress

from harness.errors import PrefsweepError

PORTS = range(12_000, 32_768)
"""Below the ports that systems hand out by themselves."""

_APART = 7
"""Ports between those of one job and the next, for a job that needs several."""


class PortError(PrefsweepError):
    """No port is free."""


def free_port(host: str = "127.0.0.1", attempt: int = 0) -> int:
    """A port that nobody listens at: in a SLURM job the first that its id leads to, elsewhere any.

    Another process may take it before it is used.

    Args:
        host: the address of this machine to listen at; empty for all of them.
        attempt: how many ports have been taken by others since they were found free here.

    Raises:
        PortError: none is free.
    """
    job = os.environ.get("SLURM_JOB_ID", "")
    first = _APART * int(job) if job.isdigit() else secrets.randbelow(len(PORTS))
    for offset in range(len(PORTS)):
        port = PORTS[(first + attempt + offset) % len(PORTS)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise PortError(f"no port of {host or 'this machine'} from {PORTS.start} to {PORTS.stop - 1} is free")
