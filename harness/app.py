"""What one command does, once Hydra has composed its points: check, plan, run, record."""

import dataclasses
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import execute
from harness.config import Config, RunOptions, check, read
from harness.errors import ConfigError
from harness.keys import digest
from harness.plan import STAGES, Plan, make_plan
from harness.progress import Reporter
from harness.store import Store, write_json

_OPTIONS = {f.name for f in dataclasses.fields(RunOptions)}


def split(composed: Mapping[str, Any]) -> tuple[Config, RunOptions]:
    """A composed configuration as a point and the options of its run.

    Raises:
        ConfigError: unknown or missing keys, wrong types, contradictions.
    """
    options = {name: value for name, value in composed.items() if name in _OPTIONS}
    point = {name: value for name, value in composed.items() if name not in _OPTIONS}
    read_options = read(RunOptions, options)
    if not re.fullmatch(r"\w[\w.+-]*", read_options.sweep):
        raise ConfigError(f"sweep: {read_options.sweep!r} names a file; expected letters, digits, and any of _ . + -")
    threads = read_options.cluster.threads
    if threads is not None and threads < 1:
        raise ConfigError(f"cluster.threads: expected 1 or more, or null for all cores, got {threads}")
    return check(read(Config, point)), read_options


def run(composed: Sequence[Mapping[str, Any]], reporter: Reporter | None = None) -> int:
    """Run all points of one command; returns the exit code.

    Raises:
        ConfigError: any point is wrong; nothing has been done then.
    """
    reporter = reporter or Reporter()
    pairs = [split(one) for one in composed]
    configs, options = [config for config, _ in pairs], pairs[0][1]
    if any(other != options for _, other in pairs):
        raise ConfigError(
            f"{', '.join(sorted(_OPTIONS))}: one value for all points of a command; these cannot be swept"
        )
    plan = make_plan(configs)
    store = Store(Path(options.store))
    if options.dry_run:
        _show(plan, plan.done(store), reporter)
        return 0
    store.prepare()
    _show(plan, plan.done(store), reporter)
    _record(plan, options, store)
    summary = execute.execute(plan, store, reporter, options.cluster.threads)
    for line in execute.failure_report(summary, plan):
        reporter.line(line)
    empty = sum(point.train.key in summary.empty for point in plan.points)
    reporter.line(
        f"{options.sweep}: {len(plan.points)} points; {len(summary.computed)} nodes computed, "
        f"{len(summary.done)} found done, {len(summary.aliased)} equal to others, {len(summary.failed)} failed, "
        f"{len(summary.blocked)} not done; {empty} points empty; {summary.seconds:.0f} s"
    )
    return 0 if summary.ok else 1


def _show(plan: Plan, done: Sequence[str], reporter: Reporter) -> None:
    """Print nodes per stage: how many one pipeline per point would take, how many there are, how many are done."""
    nodes, finished = plan.count(), plan.count(done)
    reporter.line(f"{len(plan.points)} points. Units of work per stage:")
    reporter.line(f"  {'stage':<10}{'unshared':>10}{'shared':>8}{'done':>6}{'to do':>7}")
    for stage in STAGES:
        row = (plan.naive[stage], nodes[stage], finished[stage], nodes[stage] - finished[stage])
        reporter.line(f"  {stage:<10}{row[0]:>10}{row[1]:>8}{row[2]:>6}{row[3]:>7}")


def _record(plan: Plan, options: RunOptions, store: Store) -> None:
    """Keep the points under the sweep's name; single runs gather under theirs instead of replacing each other."""
    path = store.root / "sweeps" / f"{options.sweep}.json"
    points = {digest(record["config"]): record for record in (point.record() for point in plan.points)}
    with store.lock("sweeps"):
        if options.sweep == SINGLE and path.exists():
            points = {**json.loads(path.read_text())["points"], **points}
        write_json(path, {"name": options.sweep, "written": time.time(), "points": points})


SINGLE = "single"
"""Name under which runs without a sweep gather."""
