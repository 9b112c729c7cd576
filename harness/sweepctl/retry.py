"""`sweepctl retry`: have nodes made anew."""

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

from harness import record
from harness.store import StoreError
from harness.sweepctl.catalogue import IMPORTED, Catalogue, key_of
from harness.sweepctl.terminal import Commands, add, count, open_store, say


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "retry",
        run,
        "have nodes made anew by the next run of their sweep",
        "A failed node loses its log and its work in hand, so that it starts from nothing; one that is done is taken "
        "out of the store, together with what is its alias or what it is an alias of. Nodes that are running are "
        "refused, and then nothing is done at all.",
    )
    parser.add_argument("keys", nargs="*", metavar="KEY", help="nodes' keys, or their beginnings")
    parser.add_argument("--failed", action="store_true", help="all nodes that have failed")
    parser.add_argument("--sweep", metavar="NAME", help="with --failed: those that this sweep needs")
    parser.add_argument(
        "--dependents", action="store_true", help="and everything that was made of them, in whatever sweep"
    )


def run(options: argparse.Namespace) -> int:
    """Take nodes out of the store, or failures out of its memory."""
    store = open_store(options)
    if bool(options.keys) == options.failed:
        raise StoreError("retry: expected either keys or --failed")
    if options.sweep is not None and not options.failed:
        raise StoreError("--sweep: expected together with --failed")
    wanted = set(record.read(store, options.sweep).nodes) if options.sweep is not None else None
    catalogue = Catalogue(store)
    keys = _failed(catalogue, wanted) if options.failed else {catalogue.resolve(text) for text in options.keys}
    if keys:
        _take(catalogue, keys, dependents=options.dependents)
    else:
        say("nothing has failed")
    return 0


def _take(catalogue: Catalogue, keys: set[str], *, dependents: bool) -> None:
    """Remove nodes, and say what went, what stays, and what makes them anew."""
    asked = _with_originals(catalogue, keys)
    behind = [key for key in _behind(catalogue, asked) if _touched(catalogue, key)]
    chosen = [*asked, *behind] if dependents else asked
    _refuse(catalogue, chosen)
    for key in chosen:
        say(f"{catalogue.name(key)}: removed {', '.join(_forget(catalogue, key)) or 'nothing, there was nothing'}")
    if len(asked) > len(keys):
        say(f"{count(len(asked) - len(keys), 'artifact')} of these shared the content of those asked for (aliases)")
    if behind and not dependents:
        say(
            f"{count(len(behind), 'artifact')} made of these stay (--dependents takes them, too); should what is made "
            "anew differ, the next run says so, and `sweepctl verify` sets them aside"
        )
    for sweep in catalogue.sweeps_of(chosen):
        for command in sweep.commands(chosen):
            say(f"to make them anew ({sweep.name}): {command}")


def _failed(catalogue: Catalogue, wanted: set[str] | None) -> set[str]:
    keys = [key for key in catalogue.logs if wanted is None or key in wanted]
    return {key for key in keys if catalogue.find(key) is None and catalogue.owner(key) is None}


def _touched(catalogue: Catalogue, key: str) -> bool:
    """Whether there is anything of a node that a retry would take away."""
    return key in catalogue.folders or key in catalogue.logs or key in catalogue.in_hand


def _with_originals(catalogue: Catalogue, keys: Iterable[str]) -> list[str]:
    """The nodes with all that share their content: an alias would only find again what is to be made anew."""
    found = dict.fromkeys(sorted(keys))
    for key in list(found):
        for home in catalogue.homes(key):
            found |= dict.fromkeys([key_of(home), *catalogue.aliases_of(home)])
    return list(found)


def _behind(catalogue: Catalogue, keys: list[str]) -> list[str]:
    """Everything made of the nodes, with the aliases of that, which lead nowhere without it, and what is made of them.

    The original of an alias stays: it was made of something else.
    """
    found = dict.fromkeys(keys)
    while True:
        folders = [folder for key in found for folder in catalogue.folders.get(key, ())]
        aliases = [key for folder in folders for key in catalogue.aliases_of(folder)]
        more = [key for key in (*catalogue.descendants(found), *aliases) if key not in found]
        if not more:
            return [key for key in found if key not in set(keys)]
        found |= dict.fromkeys(more)


def _refuse(catalogue: Catalogue, keys: list[str]) -> None:
    for key in keys:
        node = catalogue.node(key)
        if node is not None and node.stage == IMPORTED and catalogue.find(key) is not None:
            raise StoreError(f"retry: {node.name} was imported, and nothing can make it anew; nothing has been done")
        if (owner := catalogue.owner(key)) is not None:
            raise StoreError(
                f"retry: {catalogue.name(key)} is being worked on by process {owner.pid} on {owner.host}; "
                "nothing has been done"
            )


def _forget(catalogue: Catalogue, key: str) -> list[str]:
    """Take away all there is of a node, under its claim; returns what that was."""
    store, taken = catalogue.store, []
    with store.claim(key) as work:
        if clear(work):
            taken.append("work in hand")
        for folder in catalogue.folders.get(key, ()):
            store.remove(folder)
            taken.append("artifact")
        if (log := catalogue.logs.get(key)) is not None:
            log.unlink(missing_ok=True)
            taken.append("log")
    return taken


def clear(folder: Path) -> bool:
    """Empty a folder; says whether it held anything."""
    entries = list(folder.iterdir())
    for entry in entries:
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return bool(entries)
