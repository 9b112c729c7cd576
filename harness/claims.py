"""Claims: the one right to work on a node, held by a living owner and taken over from a dead one.

work/<key>/<generation>.json    who holds, or held, the claim; the highest generation counts
work/<key>/<generation>/        the files in hand, which each new owner takes along from the one before

A new owner makes the next generation's file, which only one process can do, and then renames the folder of files to its
own generation. Whatever a former owner still writes, or tries to publish, goes to a path that is no longer there. No
step needs a file lock or equal clocks, so that it holds on a network file system, too.
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from harness.errors import PrefsweepError

HEARTBEAT = 15.0
"""Seconds between two signs of life of an owner."""

DEAD_AFTER = 180.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""


class BusyError(PrefsweepError):
    """Another process is at work on the node."""


class LostClaimError(PrefsweepError):
    """The claim was taken over while its owner was thought dead."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a claim."""

    nonce: str
    host: str
    namespace: str
    """Boot of the machine and process namespace: within one, a process id says whether its owner lives."""
    pid: int
    born: str
    """Start of the process, in the kernel's ticks: a process id is used again."""
    since: float
    """Seconds since the epoch, by the owner's clock."""
    released: bool = False
    """Given up without a result: the next owner goes on from its files."""


class Claim:
    """A claim that is held."""

    def __init__(self, folder: Path, generation: int, owner: Owner) -> None:
        self._folder, self._generation, self.owner = folder, generation, owner

    @property
    def file(self) -> Path:
        """The record of its owner."""
        return self._folder / f"{self._generation}.json"

    @property
    def work(self) -> Path:
        """The files in hand."""
        return self._folder / str(self._generation)

    def check(self) -> None:
        """Make sure that the claim is still held.

        Raises:
            LostClaimError: another process has taken it over.
        """
        if not self.file.exists() or max(_generations(self._folder), default=0) != self._generation:
            raise LostClaimError(f"node {self._folder.name}: another process took it over; its result counts")

    def release(self) -> None:
        """Give the claim up; work in hand stays for the next owner, and without any nothing stays."""
        with suppress(OSError):
            self.work.rmdir()  # of an empty folder only
        if self.work.exists():
            with suppress(OSError):  # a full disk: the record stays, and its owner will be seen to be dead
                _replace(self.file, Owner(**{**asdict(self.owner), "released": True}))
            return
        for generation in sorted(_generations(self._folder)):
            if generation <= self._generation:
                (self._folder / f"{generation}.json").unlink(missing_ok=True)
        with suppress(OSError):  # a process that claims at this moment has put its record there
            self._folder.rmdir()


@contextmanager
def hold(folder: Path) -> Iterator[Claim]:
    """Hold the claim of `folder`, whose name is the node's key, until the block ends.

    Raises:
        BusyError: a living process holds it.
    """
    claim = _acquire(folder)
    with _HEART.beating(claim.file):
        try:
            yield claim
        finally:
            claim.release()


def alive(folder: Path) -> Owner | None:
    """The living owner of the claim of `folder`; None where nobody works on it."""
    generation = max(_generations(folder), default=0)
    owner = _read(folder / f"{generation}.json") if generation else None
    return owner if owner is not None and _lives(owner, folder / f"{generation}.json") else None


def _acquire(folder: Path) -> Claim:
    while True:
        generations = _generations(folder)
        latest = max(generations, default=0)
        if latest and (owner := alive(folder)) is not None:
            raise BusyError(f"node {folder.name} is being worked on by process {owner.pid} on {owner.host}")
        claim = Claim(folder, latest + 1, _myself())
        if _create(claim):
            break
    _take_over(claim, generations)
    return claim


def _create(claim: Claim) -> bool:
    """Make the record of a claim; False where another process was faster."""
    folder = claim.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{claim.owner.nonce}.partial"
    try:
        partial.write_text(json.dumps(asdict(claim.owner)))
        os.link(partial, claim.file)  # fails where the name is taken, and never shows a half-written record
    except (FileExistsError, FileNotFoundError):  # taken; or the folder was removed by an owner that has finished
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True


def _take_over(claim: Claim, earlier: list[int]) -> None:
    """Take along the files of the owners before, whose paths cease to be; their records go."""
    for generation in sorted(earlier, reverse=True):
        with suppress(FileNotFoundError):
            (claim.file.parent / str(generation)).rename(claim.work)
            break
    claim.work.mkdir(exist_ok=True)
    for generation in earlier:
        (claim.file.parent / f"{generation}.json").unlink(missing_ok=True)


def _generations(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [int(stem) for name in names if name.endswith(".json") and (stem := name[:-5]).isdigit()]


def _replace(file: Path, owner: Owner) -> None:
    partial = file.with_name(f"{owner.nonce}.partial")
    partial.write_text(json.dumps(asdict(owner)))
    partial.replace(file)


def _read(file: Path) -> Owner | None:
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _lives(owner: Owner, file: Path) -> bool:
    if owner.released:
        return False
    if owner.namespace == _namespace():
        return _born(owner.pid) == owner.born
    try:
        return _now(file.parent) - file.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files of this folder, which need not be this machine's."""
    probe = folder / f"{secrets.token_hex(8)}.partial"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _myself() -> Owner:
    return Owner(
        nonce=secrets.token_hex(8),
        host=platform.node(),
        namespace=_namespace(),
        pid=os.getpid(),
        born=_born(os.getpid()) or "",
        since=time.time(),
    )


@lru_cache(maxsize=1)
def _namespace() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


def _born(pid: int) -> str | None:
    """When a process of this machine started; None where it has ended."""
    try:
        # The name in parentheses may hold anything; state and start stand 1 and 20 fields after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _born_elsewhere(pid)
    return None if fields[0] in "ZX" else fields[19]


def _born_elsewhere(pid: int) -> str | None:
    """The same on a system without /proc."""
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


class _Heart:
    """Renews the time stamps of this process's claims."""

    def __init__(self) -> None:
        self._files: set[Path] = set()
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, file: Path) -> Iterator[None]:
        self._files.add(file)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            self._files.discard(file)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT)
            for file in tuple(self._files):
                with suppress(OSError):  # released at this moment, or taken over, which `check` finds
                    os.utime(file)


_HEART = _Heart()
