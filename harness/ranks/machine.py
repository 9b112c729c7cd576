"""One machine's part of a training: torchrun, which ends, with its ranks, when who started the training has ended.

`python -m harness.ranks.machine FOLDER MACHINES PROCESSES ADDRESS PORT`
"""

import os
import signal
import sys
import threading
from contextlib import suppress

import psutil


def main(folder: str, machines: str, processes: str, address: str, port: str) -> None:
    """Run this machine's ranks to their end.

    Raises:
        torch.distributed.elastic.multiprocessing.errors.ChildFailedError: one failed; the others were killed.
    """
    # SLURM tells every process of a job that its end is near. What to do about it is for the process alone that owns
    # the node; the ranks inherit this.
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_owner, daemon=True).start()
    # Of the ranks that are left when one has died nobody expects anything; they ignore the milder signal.
    os.environ |= {"PET_SIGNALS_TO_HANDLE": "SIGINT", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"}
    from torch.distributed import run

    meeting = ["--standalone"]
    if machines != "1":
        place = os.environ["SLURM_PROCID"]
        meeting = [f"--nnodes={machines}", f"--node-rank={place}", f"--master-addr={address}", f"--master-port={port}"]
    run.main([*meeting, f"--nproc-per-node={processes}", "--max-restarts=0", "-m", "harness.ranks.rank", folder])


def _end_with_owner() -> None:
    """Wait until nobody can write to this process's input any more, then end at once."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    for rank in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            rank.kill()
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
