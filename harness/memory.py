"""Smaller batches after memory has run out: noted with the work in hand, so that whoever goes on from it knows.

What comes out is a new valid draw, up to rounding the same, and its manifest says in how many parts batches were done.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

_NOTE = "out_of_memory"


def parts(work: Path) -> int:
    """In how many parts a batch is to be done; 1 where memory has not run out."""
    try:
        return max(1, int((work / _NOTE).read_text()))
    except (OSError, ValueError):  # no note, or one that was cut short
        return 1


def note(work: Path) -> None:
    """Memory has run out: the next attempt takes half as much at once."""
    doubled = 2 * parts(work)
    with suppress(OSError):  # the claim was lost, or the disk is full
        (work / _NOTE).write_text(str(doubled))


def forget(work: Path) -> None:
    """Take the note away from what becomes an artifact."""
    (work / _NOTE).unlink(missing_ok=True)


def smaller(size: int, parts: int) -> int:
    """A batch size, or its tokens, of one of the parts."""
    return max(1, size // parts)


def divisor(size: int, parts: int) -> int:
    """The largest divisor of a batch size that is no more than one of the parts."""
    return max(d for d in range(1, smaller(size, parts) + 1) if size % d == 0)


def smaller_training(spec: Any, parts: int) -> Any:
    """A training's spec with smaller forward passes and the same optimiser steps."""
    if spec.batch_tokens is not None:
        return replace(spec, batch_tokens=smaller(spec.batch_tokens, parts))
    return replace(spec, micro_batch=divisor(spec.micro_batch, parts))
