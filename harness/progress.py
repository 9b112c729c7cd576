"""Progress of long pieces of work: live lines on a terminal, plain lines elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_PLAIN_SECONDS = 10.0
"""Plain lines are printed at most this often, for each piece of work."""


def safe(text: str) -> str:
    """A text in which control characters, which a terminal would obey, are written out."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class Task(Protocol):
    """A piece of work that is under way."""

    def advance(self, units: int) -> None:
        """Count units of work done."""

    def close(self) -> None:
        """The work is over, or has failed."""


class Reporter:
    """Prints what is going on; one for a command, however many pieces of work are under way."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._live: Progress | None = None
        self._open = 0

    def line(self, text: str) -> None:
        """Print one line, whatever it holds; markup and control characters in it have no meaning."""
        self.console.print(safe(text), markup=False, soft_wrap=True)

    def open(self, label: str, total: int, unit: str, done: int = 0) -> Task:
        """Begin to show `done` of `total` units; work that a re-run found done counts in no rate."""
        return _Shown(self, label, total, unit, done)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """The same, until the block ends."""
        task = self.open(label, total, unit, done)
        try:
            yield task
        finally:
            task.close()

    def enter(self, label: str, total: int, unit: str, done: int) -> tuple[Progress, TaskID] | None:
        """A line of the live display, which begins with its first line; None where there is no terminal."""
        if not self.console.is_terminal:
            return None
        if self._live is None:
            self._live = Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[rate]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._live.start()
        self._open += 1
        return self._live, self._live.add_task(safe(label), total=total, completed=done, unit=unit, rate="")

    def leave(self, line: TaskID) -> None:
        """Take a line out of the live display, which ends with its last line."""
        assert self._live is not None
        self._live.remove_task(line)
        self._open -= 1
        if not self._open:
            self._live.stop()
            self._live = None


class _Shown:
    """A piece of work that this process shows."""

    def __init__(self, reporter: Reporter, label: str, total: int, unit: str, done: int) -> None:
        self._reporter, self._label, self._total, self._unit = reporter, label, total, unit
        self._start, self._started_at, self._done = done, time.monotonic(), done
        self._last_line = time.monotonic()
        self._line = reporter.enter(label, total, unit, done)
        # What is done in few large steps, as text is drawn, would look as if it hung.
        self._silence = threading.Timer(_PLAIN_SECONDS, self._say_begun)
        self._silence.daemon = True
        if self._line is None:
            self._silence.start()

    def _say_begun(self) -> None:
        self._reporter.line(f"    {self._label}: {self._done}/{self._total} {self._unit}, at work")

    def advance(self, units: int) -> None:
        self._silence.cancel()
        self._done += units
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        rate = (self._done - self._start) / seconds
        if self._line is not None:
            live, line = self._line
            live.update(line, completed=self._done, rate=f"{rate:.1f}/s")
        elif time.monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            left = (self._total - self._done) / rate if rate else float("nan")
            self._reporter.line(
                f"    {self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
            )

    def close(self) -> None:
        self._silence.cancel()
        if self._line is not None:
            self._reporter.leave(self._line[1])
            self._line = None
