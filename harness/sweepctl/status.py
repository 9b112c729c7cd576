"""`sweepctl status`: how the sweeps of a store stand."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import record
from harness.claims import Owner
from harness.store import Store
from harness.sweepctl import jobs
from harness.sweepctl.catalogue import Catalogue
from harness.sweepctl.logs import reason
from harness.sweepctl.standing import Standing, stand
from harness.sweepctl.terminal import Commands, add, age, clock, count, open_store, say, say_json, table

_COLUMNS = ("needed", "done", "aliases", "released", "running", "failed", "blocked", "empty", "to_do")

_MEANING = (
    "A node is done, running (a living process has claimed it), failed (it has a log in logs/ and is neither), blocked "
    "(something it needs has failed), empty (a cell without preference rows, and what hangs on it), or to do. Aliases "
    "(equal in content to another node) and released ones (weights given up) are among the done. "
    "Jobs of a cluster stand below, those alive first, then those that ended and left something to do. "
    "Exit code: 1 if anything has failed."
)


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(commands, "status", run, "how the sweeps of a store stand", _MEANING)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="one sweep in detail (default: all, one line each)")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Show one sweep, or all; returns 1 if anything has failed."""
    store = open_store(options)
    if options.sweep is not None:
        record.read(store, options.sweep)  # names the sweeps there are
    catalogue = Catalogue(store)
    wanted = [options.sweep] if options.sweep is not None else list(catalogue.sweeps)
    standings = [stand(catalogue, catalogue.sweeps[name]) for name in wanted]
    cluster = _jobs(store, standings)
    if options.sweep is not None:
        facts = {**describe(catalogue, standings[0]), **cluster}
        say_json(facts) if options.json else _show(facts)
    else:
        facts = {"store": str(store.root), "sweeps": [_summary(standing) for standing in standings], **cluster}
        say_json(facts) if options.json else _show_all(facts)
    return int(any(standing.keys("failed") for standing in standings))


def _jobs(store: Store, standings: Sequence[Standing]) -> dict[str, Any]:
    """Jobs of a cluster that are to do any of the sweeps' nodes; none is asked for where nothing was submitted."""
    states = {key: state for standing in standings for key, state in standing.states.items()}
    return jobs.describe(store, states, {key for key, state in states.items() if state in ("done", "empty")})


def _summary(standing: Standing) -> dict[str, Any]:
    sweep = standing.sweep
    return {
        "sweep": sweep.name,
        "written": sweep.written,
        "command": sweep.command,
        "points": len(sweep.points),
        **standing.count(),
    }


def describe(catalogue: Catalogue, standing: Standing) -> dict[str, Any]:
    """All there is to say of a sweep, as plain data."""
    nodes, blocks = standing.sweep.nodes, standing.blocks()

    def named(key: str) -> dict[str, Any]:
        return {"key": key, "stage": nodes[key]["stage"], "slug": nodes[key]["slug"]}

    return {
        "store": str(catalogue.store.root),
        **_summary(standing),
        "commands": standing.sweep.commands(standing.keys("failed", "blocked", "to do")),
        "stages": {stage: standing.count(stage) for stage in standing.stages()},
        "running_nodes": [
            {**named(key), **_hands(owner), **_progress(catalogue.store.root / "work" / key)}
            for key, owner in standing.owners.items()
        ],
        "failed_nodes": [
            {
                **named(key),
                "reason": reason(catalogue.logs[key]),
                "log": str(catalogue.logs[key]),
                "blocks": blocks.get(key, 0),
            }
            for key in standing.keys("failed")
        ],
        "empty_cells": [
            {**named(key), "reason": why} for key, why in standing.empty.items() if nodes[key]["stage"] == "train"
        ],
        "damaged_nodes": [
            {**named(key), "folder": str(catalogue.folders[key][0])}
            for key in standing.keys("to do", "failed", "blocked")
            if key in catalogue.folders
        ],
    }


def _hands(owner: Owner) -> dict[str, Any]:
    return {"host": owner.host, "pid": owner.pid, "since": owner.since}


def _progress(work: Path) -> dict[str, Any]:
    """Files in hand, below the folder of each generation of owners, and when the newest was written."""
    written = []
    for path in work.glob("*/**/*"):
        try:
            if path.is_file():
                written.append(path.stat().st_mtime)
        except OSError:  # its owner has just renamed or published it
            continue
    return {"files": len(written), "newest": max(written, default=None)}


def _show_all(facts: dict[str, Any]) -> None:
    summaries = facts["sweeps"]
    if not summaries:
        say("no sweep is recorded")
        return
    head = ("sweep", "points", *(column.replace("_", " ") for column in _COLUMNS), "written")
    rows = [[s["sweep"], s["points"], *(s[c] for c in _COLUMNS), clock(s["written"])] for s in summaries]
    for line in table([head, *rows]):
        say(line)
    _section("jobs", jobs.lines(facts))


def _show(facts: dict[str, Any]) -> None:
    say(f"{facts['sweep']}: {count(facts['points'], 'point')}, asked for {clock(facts['written'])}")
    head = ("stage", *(column.replace("_", " ") for column in _COLUMNS))
    rows = [[stage, *(counts[c] for c in _COLUMNS)] for stage, counts in facts["stages"].items()]
    for line in table([head, *rows, ["all", *(facts[c] for c in _COLUMNS)]]):
        say(line)
    _section("jobs", jobs.lines(facts))
    _section("running", [_running_line(node) for node in facts["running_nodes"]])
    _section("failed", [line for node in facts["failed_nodes"] for line in _failed_lines(node)])
    _section("empty", [f"{_name(node)}: {node['reason']}" for node in facts["empty_cells"]])
    _section("damaged or set aside; made again by the next run", [_name(node) for node in facts["damaged_nodes"]])
    if facts["done"] + facts["empty"] < facts["needed"]:
        for command in facts["commands"]:
            say(f"to continue: {command}")


def _section(title: str, lines: list[str]) -> None:
    if lines:
        say(f"{title}:")
        for line in lines:
            say(f"  {line}")


def _name(node: dict[str, Any]) -> str:
    return f"{node['stage']} {node['slug']}-{node['key']}"


def _running_line(node: dict[str, Any]) -> str:
    newest = f", the newest {age(node['newest'])} old" if node["newest"] is not None else ""
    return (
        f"{_name(node)}: process {node['pid']} on {node['host']} for {age(node['since'])}; "
        f"{count(node['files'], 'file')} in hand{newest}"
    )


def _failed_lines(node: dict[str, Any]) -> list[str]:
    behind = f"    holds back {count(node['blocks'], 'node')}" if node["blocks"] else ""
    return [f"{_name(node)}: {node['reason']}", f"    log: {node['log']}", *([behind] if behind else [])]
