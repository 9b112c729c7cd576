"""What one command does, once Hydra has composed its points: check, plan, run, record."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import dry_run, execute, record
from harness.cluster import SlurmConfig, check_slurm, check_vllm
from harness.config import ClusterConfig, Config, RunOptions, check, read
from harness.errors import ConfigError
from harness.judges.expected import check_asking, check_found
from harness.plan import Plan, make_plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.schedule import Summary
from harness.store import Store

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
    _check_cluster(read_options.cluster)
    return check(read(Config, point)), read_options


def _check_cluster(cluster: ClusterConfig | SlurmConfig) -> None:
    check_vllm(cluster.vllm)
    if isinstance(cluster, SlurmConfig):
        check_slurm(cluster)
        return
    for name in ("threads", "workers"):
        value = getattr(cluster, name)
        if value is not None and value < 1:
            raise ConfigError(f"cluster.{name}: expected 1 or more, or null for all cores, got {value}")


def run(composed: Sequence[Mapping[str, Any]], reporter: Reporter | None = None, plan_dir: Path | None = None) -> int:
    """Run all points of one command; returns the exit code.

    Args:
        plan_dir: where a dry run writes `plan.json`; None for the current folder.

    Raises:
        ConfigError: any point is wrong; nothing has been done then.
        StoreError: the store cannot be used as it is; nothing has been done then.
    """
    reporter = reporter or Reporter()
    pairs = [split(one) for one in composed]
    configs, options = [config for config, _ in pairs], pairs[0][1]
    if any(other != options for _, other in pairs):
        raise ConfigError(
            f"{', '.join(sorted(_OPTIONS))}: one value for all points of a command; these cannot be swept"
        )
    store = Store(Path(options.store).expanduser())
    plan = make_plan(configs, store, regressions_early=options.keep_weights == "none")
    _check_tasks(plan, store, configs[0], options)
    if options.dry_run:
        if (store.root / "store.json").exists():
            store.check()
        outline = dry_run.outline(plan, store)
        dry_run.show(outline, reporter)
        dry_run.write(outline, plan_dir or Path(), reporter)
        execute.check(plan, plan.found(store))
        return 0
    store.prepare()
    dry_run.show(dry_run.counts(plan, store), reporter)
    found = plan.found(store)
    execute.check(plan, found)
    check_found(plan, found)
    check_asking(plan, found)
    command = shlex.join(["python", "-m", "harness", *sys.argv[1:]])
    recorded = record.write(plan, options.sweep, command, store, options.keep_weights)
    if recorded > len(plan.points) and options.sweep != record.SINGLE:
        reporter.line(f"{options.sweep}: {recorded} points by now, with those of earlier commands")
    retention = Retention(options.keep_weights, plan, store)
    summary = execute.execute(plan, store, reporter, options.cluster, retention, wait=options.follow)
    for line in execute.failure_report(summary, plan):
        reporter.line(line)
    reporter.line(_last_line(options.sweep, plan, summary))
    return 0 if summary.ok else 1


def _check_tasks(plan: Plan, store: Store, config: Config, options: RunOptions) -> None:
    """Refuse tasks that lm_eval does not have, where any is to be run.

    Raises:
        ConfigError: there is no such task, or no lm_eval.
    """
    todo = {n.spec.task for n in plan.nodes.values() if n.stage == "lm_eval" and store.find(n.stage, n.key) is None}
    if todo:
        from harness.engines import lm_eval

        lm_eval.check_tasks(options.cluster.python.lm_eval, sorted(todo), config.regressions.include)


def _last_line(sweep: str, plan: Plan, summary: Summary) -> str:
    empty = sum(point.nodes["judge"].key in summary.empty for point in plan.points)
    counts = {
        "nodes computed": len(summary.computed),
        "found done": len(summary.done),
        "equal to others": len(summary.aliased),
        "failed": len(summary.failed),
        "not done": len(summary.blocked) + len(summary.alive),
    }
    if summary.empty:
        counts["of empty cells"] = len(summary.empty)
    if summary.later:
        counts["left to jobs"] = len(summary.later)
    if summary.retried:
        counts["attempts repeated"] = summary.retried.total()
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{sweep}: {len(plan.points)} points; {said}; {empty} points empty; {summary.seconds:.0f} s"
