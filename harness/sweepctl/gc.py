"""`sweepctl gc`: clear away what no recorded sweep needs."""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from harness import record
from harness.claims import BusyError, Owner
from harness.manifest import read_manifest
from harness.slurm import batches
from harness.store import SET_ASIDE, Store, StoreError
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
    unneeded: Callable[["View"], bool]
    """Whether that holds; asked again at the moment of its removal."""
    claim: str | None = None
    """Name of the claim under which it is removed."""


class View:
    """What recorded sweeps need, as far as this moment's catalogue knows."""

    def __init__(self, store: Store) -> None:
        self.records = _records(store)  # before they are read: what changes meanwhile counts as changed
        self.catalogue = Catalogue(store)

    @cached_property
    def pointed_to(self) -> set[Path]:
        """Folders that hold what needed artifacts only point to."""
        return set(_pointed_to(self.catalogue))

    def current(self) -> "View":
        """This view, or a new one where a record has been written since."""
        store = self.catalogue.store
        return self if _records(store) == self.records else View(store)


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "gc",
        run,
        "list, and with --yes remove, what no recorded sweep needs",
        "Artifacts that no recorded sweep needs, and those set aside as damaged; work in hand of nodes that are done "
        "or in no sweep; logs of nodes that are done; files of jobs whose nodes are; pointers to nothing; half-written "
        "files. Nodes in the hands of a living process and records of sweeps are never touched.",
    )
    parser.add_argument("--yes", action="store_true", help="remove it (default: only list it)")
    parser.add_argument("--older-than", type=float, default=0.0, metavar="DAYS", help="only what has not changed since")
    parser.add_argument("--imports", action="store_true", help="imported artifacts, too, where no sweep needs them")


def run(options: argparse.Namespace) -> int:
    """List or remove what nobody needs."""
    store = open_store(options)
    if not options.older_than >= 0:  # nan, too
        raise StoreError(f"--older-than: expected 0 or more days, got {options.older_than:g}")
    view = View(store)
    if not view.catalogue.sweeps:
        say("no sweep is recorded here, so that nothing is needed")
    rows, total = [], 0
    for item in list(_items(view, imports=options.imports)):
        held, seconds = _measure(item.path)
        if seconds < options.older_than * _DAY:
            continue
        if options.yes:
            view = view.current()
            try:
                if not _remove(store, item, view):
                    continue
            except PermissionError:  # of a store that several people share
                say(f"{item.path.relative_to(store.root)}: stays, since it is another user's")
                continue
        rows.append((item.path.relative_to(store.root), size(held), f"{span(seconds)} old", item.why))
        total += held
    for line in table(rows, left=4):
        say(line.rstrip())
    said = "removed" if options.yes else "not removed; --yes removes it"
    say(f"{count(len(rows), 'item')}, {size(total)}: {said}" if rows else "nothing to clear away")
    return 0


def _items(view: View, *, imports: bool) -> Iterator[Item]:
    unneeded = list(_artifacts(view, imports=imports))
    yield from unneeded
    yield from _work(view)
    yield from _logs(view)
    yield from _pointers(view, {item.path for item in unneeded})
    yield from _batches(view)
    yield from _leftovers(view.catalogue.store.root)


def _artifacts(view: View, *, imports: bool) -> Iterator[Item]:
    catalogue = view.catalogue
    for key, folders in sorted(catalogue.folders.items(), key=lambda entry: entry[1]):
        for folder in folders:
            if catalogue.owner(key) is not None or (folder.parent.name == IMPORTED and not imports):
                continue
            if _is_aside(folder, view):
                yield Item(path=folder, why="set aside as damaged", unneeded=partial(_is_aside, folder), claim=key)
            elif _is_unneeded(folder, view):
                why = "no recorded sweep needs it"
                yield Item(path=folder, why=why, unneeded=partial(_is_unneeded, folder), claim=key)


def _is_aside(folder: Path, _: View) -> bool:
    return (folder / SET_ASIDE).exists() and not (folder / "manifest.json").exists()


def _is_unneeded(folder: Path, view: View) -> bool:
    return key_of(folder) not in view.catalogue.wanted and folder not in view.pointed_to


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


def _work(view: View) -> Iterator[Item]:
    catalogue = view.catalogue
    for name in sorted(catalogue.in_hand):
        path = catalogue.store.root / "work" / name
        if path.is_dir() and catalogue.owner(name) is None and _is_idle(name, view):
            why = "a node that is done" if name in catalogue.wanted else "no recorded sweep"
            yield Item(path=path, why=f"work in hand of {why}", unneeded=partial(_is_idle, name), claim=name)


def _logs(view: View) -> Iterator[Item]:
    for key, path in view.catalogue.logs.items():
        done = view.catalogue.find(key) is not None
        if done or (key not in view.catalogue.wanted and view.catalogue.owner(key) is None):
            why = "log of a node that is done" if done else "log of no recorded sweep"
            yield Item(path=path, why=why, unneeded=partial(_is_idle, key))


def _is_idle(key: str, view: View) -> bool:
    """Whether nobody needs a node, or it is done."""
    node = view.catalogue.wanted.get(key)
    return node is None or view.catalogue.store.find(node.stage, key) is not None


def _pointers(view: View, gone: set[Path]) -> Iterator[Item]:
    root = view.catalogue.store.root
    for pointer in sorted((root / "content").iterdir()):
        # A node that is just being published has its pointer a moment before its folder.
        if not pointer.name.endswith(".partial") and (
            _is_loose(pointer, view) or (root / _target(pointer) in gone and _owner(pointer, view) is None)
        ):
            yield Item(path=pointer, why="points to nothing", unneeded=partial(_is_loose, pointer))


def _is_loose(pointer: Path, view: View) -> bool:
    return _owner(pointer, view) is None and read_manifest(view.catalogue.store.root / _target(pointer)) is None


def _target(pointer: Path) -> str:
    return pointer.read_text(errors="replace").strip()


def _owner(pointer: Path, view: View) -> Owner | None:
    """Who is at work on the node that a pointer leads to, by what stands there now."""
    return view.catalogue.store.owner(key_of(Path(_target(pointer))))


def _batches(view: View) -> Iterator[Item]:
    """Files of jobs of a cluster: those whose nodes are all done, and those that were never submitted."""
    root = view.catalogue.store.root / "batches"
    for private in sorted(path for path in root.glob("*") if path.is_dir()):
        record_ = private.with_suffix(".json")
        if _measure(private)[1] < _STALE:  # its last job may be at its last lines
            continue
        if not record_.exists():
            yield Item(path=private, why="jobs that were not submitted", unneeded=partial(_are_done, private))
        elif _are_done(private, view):
            for path in (record_, private):
                yield Item(path=path, why="jobs of nodes that are done", unneeded=partial(_are_done, private))


def _are_done(private: Path, view: View) -> bool:
    """Whether there is nothing left for a batch's jobs to do."""
    if not private.with_suffix(".json").exists():
        return True
    batch = batches.read(view.catalogue.store, private.name)
    return batches.is_over(batch, view.catalogue.store)


def _leftovers(root: Path) -> Iterator[Item]:
    for pattern in ("*.partial", "*/*.partial", "*/*/*.partial"):
        for path in sorted(root.glob(pattern)):
            if path.is_file() and time.time() - path.stat().st_mtime > _STALE:
                yield Item(path=path, why="half-written", unneeded=lambda _: True)


def _measure(path: Path) -> tuple[int, float]:
    """Bytes of a file or of all below a folder, and the seconds since the newest was written."""
    total, newest = 0, path.lstat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))
            total, newest = total + stat.st_size, max(newest, stat.st_mtime)
    return total if path.is_dir() else path.lstat().st_size, time.time() - newest


def _records(store: Store) -> dict[str, tuple[int, int]]:
    """What tells that a record was written: its file by name, which each writing replaces."""
    stats = {name: (store.root / "sweeps" / f"{name}.json").stat() for name in record.names(store)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def _remove(store: Store, item: Item, view: View) -> bool:
    """Remove an item, under its claim if it has one; False where somebody has just taken it up, or needs it by now."""
    if item.claim is None:
        unneeded = item.unneeded(view)
        if unneeded:
            shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
        return unneeded
    try:
        with store.claim(item.claim) as work:
            if not item.unneeded(view.current()):
                return False
            if item.path.parent != store.root / "work" and not _take(store, item, view):
                return False
            clear(work)
    except BusyError:
        return False
    return True


def _take(store: Store, item: Item, view: View) -> bool:
    """Remove an artifact that a sweep may come to need at this moment.

    A sweep is recorded before its artifacts are looked for. Here the artifact ceases to be there before the records are
    looked at, so that either the sweep does not find it, and makes it, or its record is seen, and it is put back.
    """
    if (item.path / "manifest.json").exists():
        store.set_aside(item.path)
        if not item.unneeded(view.current()):
            (item.path / SET_ASIDE).rename(item.path / "manifest.json")
            return False
    store.remove(item.path)
    return True
