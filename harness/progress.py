"""Progress of a long piece of work: one live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0
"""Plain lines are printed at most this often."""


class Reporter:
    """Prints what is going on; one for a command."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)

    def line(self, text: str) -> None:
        """Print one line; markup in the text has no meaning."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator["Task"]:
        """Show `done` of `total` units until the block ends; work that a re-run found done counts in no rate."""
        if self.console.is_terminal:
            with Progress(
                TextColumn("  {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]} {task.fields[rate]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            ) as progress:
                yield Task(self, label, total, unit, done, progress)
        else:
            yield Task(self, label, total, unit, done, None)


class Task:
    """A piece of work that is under way."""

    def __init__(
        self, reporter: Reporter, label: str, total: int, unit: str, done: int, progress: Progress | None
    ) -> None:
        self._reporter, self._label, self._total, self._unit = reporter, label, total, unit
        self._start, self._started_at, self._done = done, time.monotonic(), done
        self._last_line = time.monotonic()
        self._progress = progress
        self._id = progress.add_task(label, total=total, completed=done, unit=unit, rate="") if progress else None

    def advance(self, units: int) -> None:
        """Count units of work done."""
        self._done += units
        seconds = max(time.monotonic() - self._started_at, 1e-9)
        rate = (self._done - self._start) / seconds
        if self._progress is not None and self._id is not None:
            self._progress.update(self._id, completed=self._done, rate=f"{rate:.1f}/s")
        elif time.monotonic() - self._last_line >= _PLAIN_SECONDS:
            self._last_line = time.monotonic()
            left = (self._total - self._done) / rate if rate else float("nan")
            self._reporter.line(
                f"    {self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
            )
