"""`sweepctl logs`: the stories of failures."""

import argparse
from pathlib import Path

from harness.store import StoreError
from harness.sweepctl.catalogue import Catalogue
from harness.sweepctl.terminal import Commands, add, age, open_store, say, table

_TRACEBACK = "Traceback (most recent call last):"

_DIED = "the worker died"


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "logs",
        run,
        "the log of a failure, or a list of all logs",
        "A log stays, even after its node is done, until `retry` or `gc` removes it.",
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="a node's key, or its beginning (default: list all logs)")


def run(options: argparse.Namespace) -> int:
    """Show one log, or list all."""
    catalogue = Catalogue(open_store(options))
    if options.key is None:
        _list(catalogue)
        return 0
    key = catalogue.resolve(options.key)
    if key not in catalogue.logs:
        raise StoreError(f"key: {catalogue.name(key)} has no log: no failure of it is known")
    say(_text(catalogue.logs[key]).rstrip())
    return 0


def _list(catalogue: Catalogue) -> None:
    newest_last = sorted(catalogue.logs.items(), key=lambda entry: entry[1].stat().st_mtime)
    rows = [
        (catalogue.name(key), "done since" if catalogue.find(key) else "", age(path.stat().st_mtime), reason(path))
        for key, path in newest_last
    ]
    for line in table([("node", "", "age", "reason"), *rows], left=4) if rows else ["no failure is known"]:
        say(line.rstrip())


def reason(log: Path) -> str:
    """The line of a log that says why: of an exception its first line, of a worker that died how it ended."""
    lines = [line for line in _text(log).splitlines()[1:] if line.strip()] or [""]
    if lines[-1].startswith(_DIED):
        return lines[-1]
    if not any(line.startswith(_TRACEBACK) for line in lines):
        return lines[0]
    last = max(i for i, line in enumerate(lines) if line.startswith(_TRACEBACK))
    said = [line for line in lines[last + 1 :] if not line.startswith(" ")]
    return said[0] if said else lines[-1]


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # its node has just been tried again by another command
        return ""
