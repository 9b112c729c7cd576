"""Argument parsers of `sweepctl` and `python -m analysis`: who mistypes is shown what that command takes."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class CommandParser(argparse.ArgumentParser):
    """A parser of one command, which refuses itself what it does not know, with its own usage.

    argparse leaves that to the parser of all commands, whose usage names none of the command's options.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See argparse."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command; without any arguments the commands are listed, and the process ends with code 2."""
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        sys.exit(2)
    return parser.parse_args(arguments)
