"""The commands' common options, and text for a terminal out of whatever a store holds."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.progress import safe
from harness.store import Store

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any  # argparse has no public name for it

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"))


def add(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """A command with the options that all have; `run` returns the exit code."""
    parser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {details}")
    parser.add_argument("--store", type=Path, default=Path("store"), metavar="DIR", help="default: ./store")
    parser.set_defaults(run=run)
    return parser


def open_store(options: argparse.Namespace) -> Store:
    """The store of a command.

    Raises:
        StoreError: no store there, or one of another format.
    """
    return Store(options.store.expanduser()).check()


def say(text: str = "") -> None:
    """Print lines, whatever they hold."""
    print(safe(text))


def say_json(value: Any) -> None:
    """Print one JSON object; what is no plain ASCII is escaped."""
    print(json.dumps(value, indent=1))


def table(rows: Iterable[Sequence[Any]], left: int = 1) -> list[str]:
    """Rows as lines of columns, the first `left` of them aligned to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    return [
        "  "
        + "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]


def size(count: float) -> str:
    """Bytes in the largest unit that leaves a digit before the point."""
    for factor, unit in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def span(seconds: float) -> str:
    """A time span in its largest unit."""
    for factor, unit in _SPANS:
        if seconds >= factor:
            return f"{seconds / factor:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def age(moment: float) -> str:
    """How long ago a moment was, in seconds since the epoch."""
    return span(time.time() - moment)


def clock(moment: float) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def count(number: int, noun: str) -> str:
    """A number with its noun in singular or plural."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
