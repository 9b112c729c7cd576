"""Looking again and again: in place on a terminal, elsewhere one text after the other."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.progress import safe
from harness.sweepctl.terminal import say


class Look(Protocol):
    """How things stood at one moment."""

    @property
    def lines(self) -> Sequence[str]:
        """What to show."""

    @property
    def alive(self) -> bool:
        """Whether anything is still to come by itself."""

    @property
    def code(self) -> int:
        """Exit code of a command that ends with this."""


def watch(look: Callable[[], Look], seconds: float, console: Console | None = None) -> int:
    """Show how things stand every so many seconds until nothing is alive; returns the last exit code."""
    console = console or Console()
    if not console.is_terminal:
        return _in_turn(look, seconds)
    now = look()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(Text(safe("\n".join(now.lines))), refresh=True)
            if not now.alive:
                return now.code
            time.sleep(seconds)
            now = look()


def _in_turn(look: Callable[[], Look], seconds: float) -> int:
    """As plain text, and only what differs from the last one."""
    shown: Sequence[str] = ()
    while True:
        now = look()
        if now.lines != shown:
            say(f"{time.strftime('%Y-%m-%d %H:%M:%S')}")
            say("\n".join(now.lines))
            shown = now.lines
        if not now.alive:
            return now.code
        time.sleep(seconds)
