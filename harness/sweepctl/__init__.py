"""`sweepctl`: what a store holds, how its sweeps stand, and how to mend and clear it; imports no torch."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from harness.command_parser import CommandParser, parse
from harness.errors import PrefsweepError
from harness.progress import safe

_COMMANDS = (
    "status",
    "why",
    "logs",
    "retry",
    "verify",
    "gc",
    "forget",
    "cancel",
    "prefetch",
    "transfer",
    "calibrate",
)
"""Modules of this package that each register their commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code, 2 with one line on stderr where the user can mend something."""
    options = parse(parser(), arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PrefsweepError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # `sweepctl status | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return _refuse("interrupted", 130)
    return code


def _refuse(text: str, code: int = 2) -> int:
    print(f"error: {safe(text)}", file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    whole = argparse.ArgumentParser(
        prog="sweepctl",
        description="What a store holds, how its sweeps stand, and how to mend and clear it.",
        epilog="`sweepctl COMMAND --help` explains each. Keys may be any unique beginning of one. docs/store.md "
        "describes the store.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    for name in _COMMANDS:
        importlib.import_module(f"harness.sweepctl.{name}").register(commands)
    return whole
