"""`sweepctl status`: how the sweeps of a store stand."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cost, record
from harness.claims import Owner
from harness.store import Store, StoreError
from harness.sweepctl import jobs
from harness.sweepctl.catalogue import Catalogue
from harness.sweepctl.logs import reason
from harness.sweepctl.standing import OVER, Standing, stand
from harness.sweepctl.terminal import Commands, add, age, clock, count, open_store, say, say_json, table
from harness.sweepctl.watch import watch

_COLUMNS = ("needed", "done", "aliases", "released", "running", "failed", "blocked", "empty", "not_needed", "to_do")

_HOURS = ("hours", "gpu hours", "core hours")

_REFRESH = 10.0
"""Seconds between two looks."""

_MEANING = (
    "A node is done, running (a living process has claimed it), failed (it has a log in logs/ and is neither), blocked "
    "(something it needs has failed), empty (a cell without preference rows, and what hangs on it), not needed (of a "
    "branch that a boundary has decided against), or to do. Aliases "
    "(equal in content to another node) and released ones (weights given up) are among the done. "
    "Jobs of a cluster stand below, those alive first, then those that ended and left something to do. "
    "Hours are the time of what is done, times the GPUs and the threads that it had; attempts that were cut short are "
    "not among them, and what was found equal counts once. "
    "Exit code: 1 if anything has failed, or machines of a cluster cannot do the work."
)


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(commands, "status", run, "how the sweeps of a store stand", _MEANING)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="one sweep in detail (default: all, one line each)")
    parser.add_argument("--cells", action="store_true", help="with SWEEP: the machine time of each cell, too")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=_REFRESH,
        metavar="SECONDS",
        help=f"look again and again (default: every {_REFRESH:.0f} s), until nothing is running or in the queue",
    )
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def run(options: argparse.Namespace) -> int:
    """Show one sweep, or all; returns 1 if anything has failed.

    Raises:
        StoreError: no such sweep; or options that contradict each other.
    """
    if options.json and options.watch is not None:
        raise StoreError("--watch: shows text; expected without --json")
    if options.cells and options.sweep is None:
        raise StoreError("--cells: expected together with a SWEEP")
    store = open_store(options)
    if options.sweep is not None:
        record.read(store, options.sweep)  # names the sweeps there are
    if options.watch is not None:
        return watch(lambda: _Look(store, options), options.watch)
    look = _Look(store, options)
    say_json(look.facts) if options.json else say("\n".join(look.lines))
    return look.code


class _Look:
    """How things stood at one moment."""

    def __init__(self, store: Store, options: argparse.Namespace) -> None:
        catalogue = Catalogue(store)
        wanted = [options.sweep] if options.sweep is not None else list(catalogue.sweeps)
        standings = [stand(catalogue, catalogue.sweeps[name]) for name in wanted]
        cluster = _jobs(store, standings)
        if options.sweep is not None:
            self.facts = {**describe(catalogue, standings[0]), **cluster}
            self.lines = list(_lines(self.facts, cells=options.cells))
        else:
            self.facts = {"store": str(store.root), "sweeps": [_summary(one) for one in standings], **cluster}
            self.lines = list(_lines_of_all(self.facts))
        unfit = any(row["trouble"] for row in cluster["probes"])
        self.code = int(unfit or any(standing.keys("failed") for standing in standings))
        jobs_alive = any(row["alive"] for row in (*cluster["jobs"], *cluster["probes"]))
        # Who cannot ask the queue does not know that nothing is alive.
        self.alive = jobs_alive or bool(cluster["jobs_error"]) or any(one.owners for one in standings)


def _interval(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected 1 second or more, got {text}")
    return seconds


def _jobs(store: Store, standings: Sequence[Standing]) -> dict[str, Any]:
    """Jobs of a cluster that are to do any of the sweeps' nodes; none is asked for where nothing was submitted."""
    states = {key: state for standing in standings for key, state in standing.states.items()}
    return jobs.describe(store, states, {key for key, state in states.items() if state in OVER})


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
        "spent": _spent(standing),
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
        "warnings": [
            {**named(key), "warning": said}
            for key, held in standing.held.items()
            if (said := held.original.measures.get("warning"))
        ],
        "damaged_nodes": [
            {**named(key), "folder": str(catalogue.folders[key][0])}
            for key in standing.keys("to do", "failed", "blocked")
            if key in catalogue.folders
        ],
    }


def _spent(standing: Standing) -> dict[str, Any]:
    """Machine time by stage and by cell; an artifact counts once, however many nodes it is the content of."""
    sweep = standing.sweep
    homes = {key: str(held.home) for key, held in standing.held.items()}
    costs = {str(held.home): cost.of(held.original.provenance) for held in standing.held.values()}
    by_stage = {
        stage: {homes[key] for key in homes if sweep.nodes[key]["stage"] == stage} for stage in standing.stages()
    }
    cells: dict[str, set[str]] = {}
    for point in sweep.points.values():
        keys = {key for own in point["nodes"].values() for key in (own, *sweep.ancestors(own))}
        cell = point["nodes"].get("train") or point["nodes"]["imported"]
        cells.setdefault(cell, set()).update(homes[key] for key in keys if key in homes)
    return {
        "stages": {
            stage: {"artifacts": len(found), **cost.total(costs[home] for home in found).facts()}
            for stage, found in by_stage.items()
        },
        "cells": {
            cell: {"slug": sweep.nodes[cell]["slug"], **one.facts()} for cell, one in cost.split(cells, costs).items()
        },
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


def _lines_of_all(facts: dict[str, Any]) -> Iterator[str]:
    summaries = facts["sweeps"]
    if not summaries:
        yield "no sweep is recorded"
        return
    head = ("sweep", "points", *(column.replace("_", " ") for column in _COLUMNS), "written")
    yield from table(
        [head, *([s["sweep"], s["points"], *(s[c] for c in _COLUMNS), clock(s["written"])] for s in summaries)]
    )
    yield from _section("jobs", jobs.lines(facts))


def _lines(facts: dict[str, Any], *, cells: bool) -> Iterator[str]:
    yield f"{facts['sweep']}: {count(facts['points'], 'point')}, asked for {clock(facts['written'])}"
    spent = facts["spent"]["stages"]
    head = ("stage", *(column.replace("_", " ") for column in _COLUMNS), *_HOURS)
    rows = [[stage, *(counts[c] for c in _COLUMNS), *_hours(spent[stage])] for stage, counts in facts["stages"].items()]
    whole = {name.replace(" ", "_"): sum(one[name.replace(" ", "_")] for one in spent.values()) for name in _HOURS}
    yield from table([head, *rows, ["all", *(facts[c] for c in _COLUMNS), *_hours(whole)]])
    if cells:
        yield from _section("machine time of cells, shared work split evenly", _cell_lines(facts["spent"]["cells"]))
    yield from _section("jobs", jobs.lines(facts))
    yield from _section("running", [_running_line(node) for node in facts["running_nodes"]])
    yield from _section("failed", [line for node in facts["failed_nodes"] for line in _failed_lines(node)])
    yield from _section("empty", [f"{_name(node)}: {node['reason']}" for node in facts["empty_cells"]])
    yield from _section("warnings", _warning_lines(facts["warnings"]))
    damaged = [_name(node) for node in facts["damaged_nodes"]]
    yield from _section("damaged or set aside; made again by the next run", damaged)
    if sum(facts[state.replace(" ", "_")] for state in OVER) < facts["needed"]:
        for command in facts["commands"]:
            yield f"to continue: {command}"


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield f"{title}:"
        for line in lines:
            yield f"  {line}"


def _hours(spent: Mapping[str, float]) -> list[str]:
    values = [spent[name.replace(" ", "_")] for name in _HOURS]
    return ["<0.001" if 0 < value < 0.001 else f"{value:.1f}" if value >= 100 else f"{value:.3g}" for value in values]


def _cell_lines(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    dearest = sorted(cells.items(), key=lambda item: (-item[1]["gpu_hours"], -item[1]["hours"], item[0]))
    rows = [(f"{one['slug']}-{key}", *_hours(one)) for key, one in dearest]
    return [line[2:] for line in table([("cell", *_HOURS), *rows])]


def _name(node: dict[str, Any]) -> str:
    return f"{node['stage']} {node['slug']}-{node['key']}"


def _running_line(node: dict[str, Any]) -> str:
    newest = f", the newest {age(node['newest'])} old" if node["newest"] is not None else ""
    return (
        f"{_name(node)}: process {node['pid']} on {node['host']} for {age(node['since'])}; "
        f"{count(node['files'], 'file')} in hand{newest}"
    )


def _warning_lines(warned: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Each warning once, with the nodes that it is about."""
    alike: dict[str, list[str]] = {}
    for node in warned:
        alike.setdefault(node["warning"], []).append(_name(node))
    for text, names in alike.items():
        yield f"{text}: {names[0]}" if len(names) == 1 else f"{text}: {len(names)} nodes, {', '.join(names)}"


def _failed_lines(node: dict[str, Any]) -> list[str]:
    behind = f"    holds back {count(node['blocks'], 'node')}" if node["blocks"] else ""
    return [f"{_name(node)}: {node['reason']}", f"    log: {node['log']}", *([behind] if behind else [])]
