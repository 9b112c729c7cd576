"""Processes that race for one claim, and say so when two of them hold it at once or work in hand is lost.

`python -m tests.claimers FOLDER SEED SECONDS`: FOLDER holds the claim, and what the holders tell each other.
"""

import os
import random
import sys
import time
from pathlib import Path

from harness import claims

FINISHED_AT = 20
"""Files in hand at which a holder counts its work as done, and clears it away."""


def race(folder: Path, seed: int, seconds: float) -> None:
    """Hold the claim again and again, add a file to the work in hand, and check that nobody else is inside."""
    draw, until = random.Random(seed), time.monotonic() + seconds  # noqa: S311 - no secret
    inside = folder / f"inside-{os.getpid()}"
    while time.monotonic() < until:
        try:
            with claims.hold(folder / "claim") as claim:
                inside.touch()
                _check_alone(folder)
                _work(folder, claim.work, draw)
                inside.unlink()
        except claims.BusyError:
            time.sleep(draw.uniform(0, 0.002))


def _check_alone(folder: Path) -> None:
    for other in folder.glob("inside-*"):
        pid = int(other.name.partition("-")[2])
        if pid != os.getpid() and claims._born(pid) is not None:
            _complain(folder, f"{os.getpid()} is inside together with {pid}")


def _work(folder: Path, work: Path, draw: random.Random) -> None:
    """Whoever is killed may be so between its file and the note of it, and between clearing away and that note."""
    noted, there = _noted(folder), len(list(work.iterdir()))
    if there not in (noted, noted + 1) and noted != FINISHED_AT:
        _complain(folder, f"{noted} files were in hand, and {there} are left")
    (work / f"{there:03d}").touch()
    _note(folder, there + 1)
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0, 0.003))
    if there + 1 >= FINISHED_AT:
        _note(folder, FINISHED_AT)
        for file in work.iterdir():
            file.unlink()
        _note(folder, 0)


def _noted(folder: Path) -> int:
    try:
        return int((folder / "noted").read_text())
    except FileNotFoundError:
        return 0


def _note(folder: Path, count: int) -> None:
    partial = folder / f"noted.{os.getpid()}"
    partial.write_text(str(count))
    partial.replace(folder / "noted")


def _complain(folder: Path, text: str) -> None:
    with (folder / "complaints").open("a") as file:
        file.write(f"{text}\n")


if __name__ == "__main__":
    race(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
