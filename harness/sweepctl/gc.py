"""`sweepctl gc`: clear away what no recorded sweep needs."""

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.claims import BusyError
from harness.store import SET_ASIDE, Store, StoreError, read_manifest
from harness.sweepctl.catalogue import IMPORTED, Catalogue, key_of
from harness.sweepctl.retry import clear
from harness.sweepctl.terminal import Commands, add, count, open_store, say, size, span, table

_STALE = 3600.0
"""Seconds after which a half-written file is surely left over: each is a moment's work."""

_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that nobody needs."""

    path: Path
    why: str
    claim: str | None = None
    """Name of the claim under which it is removed."""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "gc",
        run,
        "list, and with --yes remove, what no recorded sweep needs",
        "Artifacts that no recorded sweep needs, and those set aside as damaged; work in hand of nodes that are done "
        "or in no sweep; logs of nodes that are done; pointers to nothing; half-written files. "
        "Nodes in the hands of a living process and records of sweeps are never touched.",
    )
    parser.add_argument("--yes", action="store_true", help="remove it (default: only list it)")
    parser.add_argument("--older-than", type=float, default=0.0, metavar="DAYS", help="only what has not changed since")
    parser.add_argument("--imports", action="store_true", help="imported artifacts, too, where no sweep needs them")


def run(options: argparse.Namespace) -> int:
    """List or remove what nobody needs."""
    store = open_store(options)
    if options.older_than < 0:
        raise StoreError(f"--older-than: expected 0 or more days, got {options.older_than:g}")
    catalogue = Catalogue(store)
    if not catalogue.sweeps:
        say("no sweep is recorded here, so that nothing is needed")
    rows, total = [], 0
    for item in list(_items(catalogue, imports=options.imports)):
        held, seconds = _measure(item.path)
        if seconds < options.older_than * _DAY or (options.yes and not _remove(store, item)):
            continue
        rows.append((item.path.relative_to(store.root), size(held), f"{span(seconds)} old", item.why))
        total += held
    for line in table(rows, left=4):
        say(line.rstrip())
    said = "removed" if options.yes else "not removed; --yes removes it"
    say(f"{count(len(rows), 'item')}, {size(total)}: {said}" if rows else "nothing to clear away")
    return 0


def _items(catalogue: Catalogue, *, imports: bool) -> Iterator[Item]:
    unneeded = list(_artifacts(catalogue, imports=imports))
    yield from unneeded
    yield from _work(catalogue)
    yield from _logs(catalogue)
    yield from _pointers(catalogue, {item.path for item in unneeded})
    yield from _leftovers(catalogue.store.root)


def _artifacts(catalogue: Catalogue, *, imports: bool) -> Iterator[Item]:
    pointed_to = set(_pointed_to(catalogue))
    for key, folders in sorted(catalogue.folders.items(), key=lambda entry: entry[1]):
        for folder in folders:
            if catalogue.owner(key) is not None or (folder.parent.name == IMPORTED and not imports):
                continue
            if (folder / SET_ASIDE).exists() and not (folder / "manifest.json").exists():
                yield Item(path=folder, why="set aside as damaged", claim=key)
            elif key not in catalogue.wanted and folder not in pointed_to:
                yield Item(path=folder, why="no recorded sweep needs it", claim=key)


def _pointed_to(catalogue: Catalogue) -> Iterator[Path]:
    """Folders that hold what needed artifacts only point to: originals of aliases, weights of untrained policies."""
    for key in catalogue.wanted:
        for home in catalogue.homes(key):
            yield home
            try:
                weights = Path(os.path.normpath(home / json.loads((home / "model.json").read_text())["path"]))
            except (OSError, ValueError, TypeError, KeyError):
                continue
            yield weights.parent


def _work(catalogue: Catalogue) -> Iterator[Item]:
    for name in sorted(catalogue.in_hand):
        path = catalogue.store.root / "work" / name
        if not path.is_dir() or catalogue.owner(name) is not None:
            continue
        if name not in catalogue.wanted:
            yield Item(path=path, why="work in hand of no recorded sweep", claim=name)
        elif catalogue.find(name) is not None:
            yield Item(path=path, why="work in hand of a node that is done", claim=name)


def _logs(catalogue: Catalogue) -> Iterator[Item]:
    for key, path in catalogue.logs.items():
        if catalogue.find(key) is not None:
            yield Item(path=path, why="log of a node that is done")
        elif key not in catalogue.wanted and catalogue.owner(key) is None:
            yield Item(path=path, why="log of no recorded sweep")


def _pointers(catalogue: Catalogue, gone: set[Path]) -> Iterator[Item]:
    root = catalogue.store.root
    for pointer in sorted((root / "content").iterdir()):
        if pointer.name.endswith(".partial"):
            continue
        target = root / pointer.read_text(errors="replace").strip()
        # A node that is just being published has its pointer a moment before its folder.
        if catalogue.owner(key_of(target)) is None and (target in gone or read_manifest(target) is None):
            yield Item(path=pointer, why="points to nothing")


def _leftovers(root: Path) -> Iterator[Item]:
    for pattern in ("*.partial", "*/*.partial", "*/*/*.partial"):
        for path in sorted(root.glob(pattern)):
            if path.is_file() and time.time() - path.stat().st_mtime > _STALE:
                yield Item(path=path, why="half-written")


def _measure(path: Path) -> tuple[int, float]:
    """Bytes of a file or of all below a folder, and the seconds since the newest was written."""
    total, newest = 0, path.lstat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))
            total, newest = total + stat.st_size, max(newest, stat.st_mtime)
    return total if path.is_dir() else path.lstat().st_size, time.time() - newest


def _remove(store: Store, item: Item) -> bool:
    """Remove an item under its claim; False where somebody has just taken it up."""
    if item.claim is None:
        item.path.unlink(missing_ok=True)
        return True
    try:
        with store.claim(item.claim) as work:
            clear(work)
            if item.path.parent != store.root / "work":
                store.remove(item.path)
    except BusyError:
        return False
    return True
