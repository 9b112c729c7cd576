"""What one command does, once Hydra has composed its points: check, plan, run, record."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import dry_run, execute, prefetch, preflight, record
from harness.cluster import SlurmConfig, check_slurm, check_vllm
from harness.config import ClusterConfig, Config, RunOptions, check, read, trains
from harness.errors import ConfigError
from harness.judges.expected import check_asking, check_found
from harness.plan import Plan, make_plan
from harness.progress import Reporter
from harness.resources.gpus import check as check_gpu
from harness.retention import Retention
from harness.schedule import Summary
from harness.sft import SftConfig
from harness.store import Store
from harness.world import World

_OPTIONS = {f.name for f in dataclasses.fields(RunOptions)}


def split(composed: Mapping[str, Any]) -> tuple[Config, RunOptions]:
    """A composed configuration as a point and the options of its run.

    Raises:
        ConfigError: unknown or missing keys, wrong types, contradictions.
    """
    options = {name: value for name, value in composed.items() if name in _OPTIONS}
    read_options = read(RunOptions, options)
    if not re.fullmatch(r"\w[\w.+-]*", read_options.sweep):
        raise ConfigError(f"sweep: {read_options.sweep!r} names a file; expected letters, digits, and any of _ . + -")
    if not read_options.store.strip():
        raise ConfigError("store: expected a folder, got an empty name (without store=... it is ./store)")
    if read_options.max_nodes < 1:
        raise ConfigError(f"max_nodes: expected 1 or more, got {read_options.max_nodes}; yes=true allows any number")
    _check_cluster(read_options.cluster)
    return _point(composed), read_options


def _point(composed: Mapping[str, Any]) -> Config:
    return check(read(Config, {name: value for name, value in composed.items() if name not in _OPTIONS}))


def _same_options(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in _OPTIONS)


def _check_cluster(cluster: ClusterConfig | SlurmConfig) -> None:
    check_vllm(cluster.vllm)
    check_gpu(cluster.gpu)
    if isinstance(cluster, SlurmConfig):
        check_slurm(cluster)
        return
    for name in ("threads", "workers"):
        value = getattr(cluster, name)
        if value is not None and value < 1:
            raise ConfigError(f"cluster.{name}: expected 1 or more, or null for all cores, got {value}")
    if cluster.gpus_per_worker < 1:
        raise ConfigError(f"cluster.gpus_per_worker: expected 1 or more, got {cluster.gpus_per_worker}")
    if cluster.name == "debug" and cluster.gpus_per_worker > 1:
        raise ConfigError("cluster.gpus_per_worker: one process has one accelerator; choose cluster=local for more")


def check_batches(configs: Sequence[Config], cluster: ClusterConfig | SlurmConfig) -> None:
    """Refuse a batch that cannot be dealt out evenly to the processes of a training.

    Raises:
        ConfigError: names the batch, and where the number of processes comes from.
    """
    for config in configs:
        settings = config.train
        if trains(config) and settings.max_steps != 0:
            at_once = settings.micro_batch if settings.batch_tokens is None else None
            _check_batch("train", settings.global_batch, at_once, cluster)
        if isinstance(config.sft, SftConfig):
            _check_batch("sft", config.sft.global_batch, config.sft.micro_batch, cluster)


def _check_batch(stage: str, whole: int, at_once: int | None, cluster: ClusterConfig | SlurmConfig) -> None:
    """Check one kind of training; `at_once` are the rows of a forward pass, None where that is by tokens."""
    if isinstance(cluster, SlurmConfig):
        world, asked = cluster.world(stage), cluster.resources(stage)
        places = [f"{cluster.place(stage, name)}={getattr(asked, name)}" for name in ("nodes", "gpus")]
    else:
        world, places = World(processes=cluster.gpus_per_worker), [f"cluster.gpus_per_worker={cluster.gpus_per_worker}"]
    if whole % ((at_once or 1) * world.size):
        times = f"{stage}.micro_batch={at_once} times " if at_once is not None else ""
        raise ConfigError(
            f"{stage}.global_batch: {whole} is no multiple of {times}the {world.size} processes of a training "
            f"({', '.join(places)}), which are each dealt as much of a step"
        )


def run(composed: Sequence[Mapping[str, Any]], reporter: Reporter | None = None, plan_dir: Path | None = None) -> int:
    """Run all points of one command; returns the exit code.

    Args:
        plan_dir: where a dry run writes `plan.json`; None for the current folder.

    Raises:
        ConfigError: any point is wrong; nothing has been done then.
        StoreError: the store cannot be used as it is; nothing has been done then.
    """
    reporter = reporter or Reporter()
    options = split(composed[0])[1]
    configs = [_point(one) for one in composed]
    # Those of thousands of points are read only where they are not written alike.
    if any(not _same_options(one, composed[0]) and split(one)[1] != options for one in composed):
        raise ConfigError(
            f"{', '.join(sorted(_OPTIONS))}: one value for all points of a command; these cannot be swept"
        )
    store = _store(options)
    check_batches(configs, options.cluster)
    plan = make_plan(configs, store, regressions_early=options.keep_weights == "none")
    if (store.root / "store.json").exists():
        store.check()
    if not options.prefetch:
        _check_tasks(plan, store, configs[0], options)
    if options.dry_run:
        outline = dry_run.outline(plan, store, options.cluster, options.keep_weights)
        dry_run.show(outline, reporter)
        dry_run.write(outline, plan_dir or Path(), reporter)
        execute.check(plan, plan.found(store))
        _say_refusal(plan, store, options, reporter)
        return 0
    if options.prefetch:
        count = prefetch.fetch(plan, plan.found(store), reporter)
        there = f"{count} models and data sets are in the hub's cache"
        reporter.line(there if count else "nothing that is to do comes from a hub")
        return 0
    preflight.check(plan.nodes.values(), store, options.cluster)
    counts = dry_run.counts(plan, store)
    _check_size(counts, options)
    store.prepare()
    dry_run.show(counts, reporter)
    found = plan.found(store)
    for line in dry_run.warnings(plan, store, options.cluster):
        reporter.line(line)
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


def _store(options: RunOptions) -> Store:
    """The store, whose folder need not be there yet.

    Raises:
        ConfigError: it cannot be one.
    """
    store = Store(Path(options.store).expanduser())
    nearest = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    if not nearest.is_dir():
        raise ConfigError(f"store: {nearest} is a file; expected a folder, which need not be there yet")
    return store


def _say_refusal(plan: Plan, store: Store, options: RunOptions, reporter: Reporter) -> None:
    """Say why the command would not begin on this machine; another machine may be meant."""
    try:
        preflight.check(plan.nodes.values(), store, options.cluster)
    except ConfigError as error:
        reporter.line(f"Without dry_run this would be refused here: {error}")


def _check_tasks(plan: Plan, store: Store, config: Config, options: RunOptions) -> None:
    """Refuse tasks that lm_eval does not have, where any is to be run.

    Raises:
        ConfigError: there is no such task, or no lm_eval.
    """
    todo = {n.spec.task for n in plan.nodes.values() if n.stage == "lm_eval" and store.find(n.stage, n.key) is None}
    if todo:
        from harness.engines import lm_eval

        lm_eval.check_tasks(options.cluster.python.lm_eval, sorted(todo), config.regressions.include)


def _check_size(counts: dry_run.Outline, options: RunOptions) -> None:
    """Refuse to begin more than may be meant; a sweep that is larger, but mostly done, goes on."""
    todo = sum(counts.todo.values())
    if todo > options.max_nodes and not options.yes:
        raise ConfigError(
            f"max_nodes: {todo:,} units of work are to do, more than {options.max_nodes:,}; look at them with "
            "dry_run=true, then narrow the sweep, or begin them all with yes=true"
        )


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
    if summary.not_needed:
        counts["not needed"] = len(summary.not_needed)
    if summary.later:
        counts["left to jobs"] = len(summary.later)
    if summary.retried:
        counts["attempts repeated"] = summary.retried.total()
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{sweep}: {len(plan.points)} points; {said}; {empty} points empty; {summary.seconds:.0f} s"
