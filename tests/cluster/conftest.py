"""The cluster of the session, and what tests ask it."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.store import Store
from tests.cluster import boot
from tests.processes import ROOT, start, wait_until


@dataclass
class Site:
    """A cluster, and a store of one test."""

    conf: Path
    store: Store

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf), "PYTHONPATH": str(ROOT)}

    def slurm(self, *command: str) -> list[str]:
        """Lines that a command of SLURM prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()

    def begin(self, **config: Any) -> "subprocess.Popen[str]":
        """Type the command for a sweep of synthetic stages."""
        arguments = ["-m", "tests.cluster.command", str(self.store.root), json.dumps(config)]
        return start(arguments, self.store.root.parent, self.environment, stderr=subprocess.PIPE)

    def hidden(self, **config: Any) -> tuple[int, str]:
        """Type it where the store's folder is a file system that only the command sees."""
        folder = self.store.root.parent
        shutil.rmtree(self.store.root)
        arguments = shlex.join(
            [sys.executable, "-m", "tests.cluster.command", str(self.store.root), json.dumps(config)]
        )
        hide = f"mount -t tmpfs none {shlex.quote(str(folder))} && cd {shlex.quote(str(folder))} && exec {arguments}"
        ended = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", hide],
            cwd=folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if "unshare:" in ended.stderr or "mount:" in ended.stderr:
            pytest.skip(f"no file system of a process's own: {ended.stderr.strip()}")
        return ended.returncode, ended.stderr

    def type(self, **config: Any) -> tuple[int, str]:
        """Type it, and wait for its end; returns exit code and output."""
        command = self.begin(**config)
        _, text = command.communicate(timeout=240)
        return command.returncode, text

    def harness(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Type `python -m harness`."""
        return self.python("-m", "harness", *arguments)

    def python(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python in the test's folder."""
        environment = {**os.environ, **self.environment}
        command = [sys.executable, *arguments]
        cwd = self.store.root.parent
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=400
        )

    def jobs(self, *states: str) -> list[str]:
        """Ids of jobs in any of the states; of all that are alive without any."""
        asked = [f"--states={','.join(states)}"] if states else []
        return [line.split()[0] for line in self.slurm("squeue", "-h", "-r", "-o", "%i", *asked)]

    def mended(self) -> bool:
        """Whether all machines are idle; one that a test before has left drained or down is put back."""
        states = dict(line.split() for line in self.slurm("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T"))
        for machine, state in states.items():
            if not state.startswith(("idle", "completing", "allocated", "mixed")):
                with suppress(subprocess.CalledProcessError):  # it is on its way
                    self.slurm("scontrol", "update", f"nodename={machine}", "state=resume")
        return set(states.values()) == {"idle"}

    def settle(self, seconds: float = 200) -> None:
        """Wait until no job is left."""
        wait_until(lambda: not self.jobs(), seconds, "no job is left")


@pytest.fixture(scope="session")
def cluster() -> Iterator[boot.Cluster]:
    if reason := boot.missing():
        pytest.skip(reason)
    with boot.booted() as cluster:
        yield cluster


@pytest.fixture
def site(cluster: boot.Cluster, tmp_path: Path) -> Iterator[Site]:
    site = Site(cluster.conf, Store(tmp_path / "store").prepare())
    wait_until(site.mended, 60, "all machines are idle")
    yield site
    if jobs := site.jobs():
        site.slurm("scancel", *jobs)
        site.settle()
