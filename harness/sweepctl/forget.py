"""`sweepctl forget`: remove the record of a sweep."""

import argparse

from harness import record
from harness.store import StoreError
from harness.sweepctl.catalogue import Catalogue
from harness.sweepctl.terminal import Commands, add, count, open_store, say


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "forget",
        run,
        "remove the record of a sweep",
        "Its artifacts stay; `sweepctl gc` then lists those that no other sweep needs.",
    )
    parser.add_argument("sweep", metavar="SWEEP", help="the sweep's name")


def run(options: argparse.Namespace) -> int:
    """Remove one record, unless the sweep is being worked on."""
    store = open_store(options)
    record.read(store, options.sweep)
    catalogue = Catalogue(store)
    nodes = catalogue.sweeps[options.sweep].nodes
    if running := [key for key in nodes if catalogue.owner(key) is not None]:
        raise StoreError(f"forget: {options.sweep} is being worked on: {catalogue.name(running[0])} is running")
    record.forget(store, options.sweep)
    others = {key for name, sweep in catalogue.sweeps.items() if name != options.sweep for key in sweep.nodes}
    alone = [key for key in nodes if key not in others and catalogue.find(key) is not None]
    say(f"forgot {options.sweep}; {count(len(alone), 'artifact')} that only it needed can be cleared by `sweepctl gc`")
    return 0
