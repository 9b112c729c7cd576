"""Claims: the one right to work on a node, held by a living owner and taken over from a dead one.

work/<key>/<generation>.json            who holds, or held, the claim; the highest generation counts
work/<key>/<generation>-<nonce>/        the files in hand, which each new owner takes along from the one before

A new owner makes the next generation's record, which only one process can do, and looks again: what it took for dead
may have ended meanwhile, and another have begun. Only who then sees no other living owner holds the claim, and renames
the folder of files to a name of its own, which nobody had or will have. Whatever a former owner still writes, or tries
to publish, goes to a path that is no longer there. No step needs a file lock or equal clocks, so that it holds on a
network file system, too.
"""

import errno
import json
import os
import platform
import random
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from harness.errors import PrefsweepError

HEARTBEAT = 15.0
"""Seconds between two signs of life of an owner."""

DEAD_AFTER = 180.0
"""Seconds without a sign of life after which an owner on another machine counts as dead."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_STEP_ASIDE = 0.05
"""Seconds at most before one of two who claimed at the same moment tries again."""


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
    """Boot of the machine and process namespace: within one, on one host, a process id says whether its owner lives."""
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
        return _work(self.file, self.owner)

    @property
    def held(self) -> bool:
        """Whether nobody has taken the claim over."""
        return _is(self.file, self.owner)

    def check(self) -> None:
        """Make sure that the claim is still held, and its files are there.

        Raises:
            LostClaimError: another process has taken it over.
        """
        if not self.held or not self.work.exists():
            raise LostClaimError(f"node {self._folder.name}: another process took it over; its result counts")

    def release(self) -> None:
        """Give the claim up; work in hand stays for the next owner, and without any nothing stays."""
        with suppress(OSError):
            self.work.rmdir()  # of an empty folder only
        if self.work.exists():
            self._leave_work()
            return
        self.withdraw()
        for leftover in self._folder.glob("*.partial"):  # of one killed while it claimed; a living one tries again
            leftover.unlink(missing_ok=True)
        with suppress(OSError):  # a process that claims at this moment has put its record there
            self._folder.rmdir()

    def _leave_work(self) -> None:
        if not self.held:  # written anew by an owner that came too late: the next one took along what counts
            shutil.rmtree(self.work, ignore_errors=True)
            return
        with suppress(OSError):  # a full disk: the record stays, and its owner will be seen to be dead
            _replace(self.file, replace(self.owner, released=True))

    def withdraw(self) -> None:
        """Take the record away, unless it is another's by now."""
        if self.held:
            self.file.unlink(missing_ok=True)


@contextmanager
def hold(folder: Path) -> Iterator[Claim]:
    """Hold the claim of `folder`, whose name is the node's key, until the block ends.

    Raises:
        BusyError: a living process holds it.
        LostClaimError: the block failed, since another process has taken the claim over.
    """
    claim = _acquire(folder)
    with _HEART.beating(claim.file):
        try:
            yield claim
        except Exception:
            claim.check()  # its files were taken away: that is what failed
            raise
        finally:
            claim.release()


def alive(folder: Path) -> Owner | None:
    """The living owner of the claim of `folder`; None where nobody works on it."""
    return next((owner for file, owner in _records(folder).items() if _lives(owner, file)), None)


def _acquire(folder: Path) -> Claim:
    while True:
        if (owner := alive(folder)) is not None:
            raise BusyError(f"node {folder.name} is being worked on by process {owner.pid} on {owner.host}")
        claim = Claim(folder, 1 + max(map(_generation, _records(folder)), default=0), _myself())
        if not _create(claim):
            continue
        others = _records(folder, without=claim.file)
        if not any(_lives(owner, file) for file, owner in others.items()) and claim.held:
            _take_over(claim, others)
            return claim
        claim.withdraw()
        time.sleep(random.uniform(0, _STEP_ASIDE))  # noqa: S311 - no secret: who comes back first goes first


def _create(claim: Claim) -> bool:
    """Make the record of a claim; False where another process was faster."""
    folder = claim.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{claim.owner.nonce}.partial"
    try:
        _write(partial, claim.owner)
        os.link(partial, claim.file)  # fails where the name is taken, and never shows a half-written record
    except FileExistsError:  # taken; unless the answer to a first request got lost, and this is the one to a second
        return _is(claim.file, claim.owner)
    except FileNotFoundError:  # the folder was removed by an owner that has finished
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise PrefsweepError(f"store: the file system of {folder} has no hard links, which claims need") from None
        raise
    finally:
        partial.unlink(missing_ok=True)
    return True


def _take_over(claim: Claim, earlier: Mapping[Path, Owner]) -> None:
    """Take along the files of the owners before, whose paths cease to be; their records go."""
    for file, owner in earlier.items():
        with suppress(FileNotFoundError):
            _work(file, owner).rename(claim.work)
            break
    claim.work.mkdir(exist_ok=True)
    for file, owner in earlier.items():
        if _is(file, owner):
            file.unlink(missing_ok=True)


def _records(folder: Path, without: Path | None = None) -> dict[Path, Owner]:
    """Owners by their records, the highest generation first."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    files = [folder / name for name in names if name.endswith(".json") and name[:-5].isdigit()]
    read = {file: _read(file) for file in sorted(files, key=_generation, reverse=True) if file != without}
    return {file: owner for file, owner in read.items() if owner is not None}


def _generation(file: Path) -> int:
    return int(file.stem)


def _work(file: Path, owner: Owner) -> Path:
    """The folder of files that belongs to a record."""
    return file.with_name(f"{file.stem}-{owner.nonce}")


def _is(file: Path, owner: Owner) -> bool:
    """Whether a record is this owner's."""
    found = _read(file)
    return found is not None and found.nonce == owner.nonce


def _write(file: Path, owner: Owner) -> None:
    with file.open("w") as stream:
        json.dump(asdict(owner), stream)
        stream.flush()
        os.fsync(stream.fileno())


def _replace(file: Path, owner: Owner) -> None:
    partial = file.with_name(f"{owner.nonce}.partial")
    try:
        _write(partial, owner)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path) -> Owner | None:
    """Who a record names; None where there is no record. Of one that cannot be understood only its age is known."""
    try:
        return Owner(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return Owner(nonce="", host="an unknown machine", namespace="", pid=0, born="", since=0.0)


def _lives(owner: Owner, file: Path) -> bool:
    if owner.released:
        return False
    if (owner.host, owner.namespace) == (platform.node(), _namespace()):
        born = _born(owner.pid)
        if born is not None or not _hidden(owner.pid):
            return born == owner.born
    try:
        return now(file.parent) - file.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False


def _hidden(pid: int) -> bool:
    """Whether a process runs that the system does not show, since it is another user's."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except ProcessLookupError:
        return False
    return False


def now(folder: Path) -> float:
    """The time by the clock that stamps the files of this folder, which need not be this machine's."""
    probe = folder / f"{secrets.token_hex(8)}.partial"
    try:
        with probe.open("w") as stream:
            return os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            return time.time()  # the best that somebody who only looks can know
        raise
    finally:
        with suppress(OSError):
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
