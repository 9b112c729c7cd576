"""`sweepctl cancel`: end jobs of a cluster."""

import argparse

from harness.slurm import commands, jobs, probe
from harness.store import StoreError
from harness.sweepctl.catalogue import Catalogue
from harness.sweepctl.terminal import Commands, add, count, open_store, say


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "cancel",
        run,
        "end jobs of a cluster",
        "Without keys all jobs of this store that are alive, in whoever's name; with keys those that hold the nodes, "
        "which may hold others, too. What is done stays done, what is in hand goes on with the next command.",
    )
    parser.add_argument("keys", nargs="*", metavar="KEY", help="nodes' keys, or their beginnings")


def run(options: argparse.Namespace) -> int:
    """Cancel the jobs; returns 1 where a node that was named is in none."""
    store = open_store(options)
    catalogue = Catalogue(store)
    wanted = [catalogue.resolve(text) for text in options.keys]
    queue = jobs.look(store, others=[one.job for one in probe.every(store)])
    live = queue.live
    if strange := [key for key in wanted if key not in live]:
        raise StoreError(f"key: {catalogue.name(strange[0])} is in no job that is alive")
    held = [live[key] for key in wanted] if wanted else [*queue.jobs.values(), *live.values()]
    chosen = {job.id: job for job in held if job.alive or job.stuck}
    known = sorted(job for job in chosen if job != "?")
    first = [job.id for job in queue.others.values() if job.alive]
    if first and not wanted:
        commands.scancel(first)
    if not chosen:
        say("no job is alive")
        return 0
    if known:  # without keys arrays as a whole, which is one request to slurmctld for each
        commands.scancel(known if wanted else sorted({chosen[job].main for job in known}))
    nodes = sum(job.id in known for job in live.values())
    say(f"cancelled {count(len(known), 'job')} with {count(nodes, 'node')}")
    if "?" in chosen:
        say("some were submitted a moment ago, and SLURM does not show them yet: the same command again cancels them")
    return int("?" in chosen)
