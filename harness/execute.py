"""Doing a plan: everything that is neither done nor in other hands, in this process, by local workers or by jobs."""

import time
from collections.abc import Iterator, Mapping, Sequence

from harness import machine
from harness.attempts import POLL, WAITING, settle
from harness.cluster import SlurmConfig
from harness.config import ClusterConfig
from harness.perform import Ending, default_threads, free_memory, perform, prepare_process
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.provenance import commit
from harness.retention import Retention
from harness.schedule import Schedule, Summary
from harness.store import RETRY, Artifact, Store, StoreError, mixed
from harness.workers import run_workers

_LOG_LINES = 5
"""Last lines of a failure's log that the end of a run shows."""

_NAMED = 3
"""Nodes that an error names one by one."""


def execute(
    plan: Plan,
    store: Store,
    reporter: Reporter,
    cluster: ClusterConfig | SlurmConfig,
    retention: Retention,
    *,
    wait: bool = True,
) -> Summary:
    """Do every node of a plan that is not done; a failure stops only what depends on it.

    Args:
        wait: follow nodes that other commands or jobs are at until they are done; otherwise leave them.

    Raises:
        StoreError: the store holds parts that do not belong together, or weights that are needed were released.
        SlurmError: a cluster is asked for that does not answer, or refuses.
    """
    started = time.monotonic()
    found = plan.found(store)
    check(plan, found)
    for node in plan.nodes.values():
        if node.key not in found and (damaged := store.damaged(node.stage, node.key)) is not None:
            reporter.line(f"damaged: {damaged} misses files or has wrong sizes; it is made again")
    for line in drift(found, commit()):
        reporter.line(line)
    schedule = Schedule(plan, store, found)
    for line in schedule.news():
        reporter.line(line)
    if schedule.left:
        if isinstance(cluster, SlurmConfig):
            from harness.slurm.run import run_on_slurm

            run_on_slurm(schedule, reporter, cluster, retention.keep, wait=wait)
        elif cluster.name == "local":
            run_workers(schedule, reporter, cluster, retention, wait=wait)
        else:
            _run_here(schedule, reporter, cluster, retention, wait=wait)
    summary = schedule.close()
    if not summary.later:  # until then it is not known which cell is best
        for line in retention.at_the_end():
            reporter.line(line)
    summary.seconds = time.monotonic() - started
    return summary


def check(plan: Plan, found: Mapping[str, Artifact]) -> None:
    """Refuse to begin on a store that cannot give what the plan needs.

    Raises:
        StoreError: parts that do not belong together, or weights that are needed were released.
    """
    check_parts(plan, found)
    check_weights(plan, found)


def check_parts(plan: Plan, found: Mapping[str, Artifact]) -> None:
    """Refuse a store in which something was made from another input than the one that is there now.

    Raises:
        StoreError: names what does not belong together.
    """
    wrong = []
    for key, artifact in found.items():
        parents = [found[p.key] for p in plan.nodes[key].parents if p.key in found]
        wrong += [
            f"{artifact.manifest.stage} {key} was made from another {other}" for other in mixed(artifact, parents)
        ]
    if wrong:
        more = f", and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise StoreError(
            f"store: parts of two stores are mixed: {'; '.join(wrong[:_NAMED])}{more}. `sweepctl verify` sets aside "
            "what does not belong, and the same command then makes it anew"
        )


def drift(found: Mapping[str, Artifact], now: str | None) -> Iterator[str]:
    """One line where what is done was made by other code than this; only a stage's version makes it anew.

    Args:
        now: commit of this code, None where it is not known.
    """
    made = {str(artifact.manifest.provenance.get("commit")) for artifact in found.values()} - {str(now), "None"}
    if now is not None and made:
        more = f" and {len(made) - _NAMED} more" if len(made) > _NAMED else ""
        yield f"some of what is done was made by other commits ({', '.join(sorted(made)[:_NAMED])}{more}; now {now})"


def check_weights(plan: Plan, found: Mapping[str, Artifact]) -> None:
    """Refuse to begin where something to do needs weights that are no longer there.

    Raises:
        StoreError: names the cell, and says how to have it back.
    """
    unneeded = plan.not_needed(found)
    needed = {
        parent.key: parent
        for node in plan.nodes.values()
        if node.key not in found and node.key not in unneeded
        for parent in node.parents
        if parent.stage == "train" and parent.key in found and found[parent.key].manifest.released
    }
    if needed:
        node = next(iter(needed.values()))
        raise StoreError(
            f"keep_weights: the answers to do need the weights of {len(needed)} trained cells, which were released "
            f"(first: {node.slug}); {RETRY.format(' '.join(needed))}"
        )


def _run_here(
    schedule: Schedule, reporter: Reporter, cluster: ClusterConfig, retention: Retention, *, wait: bool
) -> None:
    """Every node in this process, one after the other."""
    threads = default_threads(cluster.threads)
    machine.use(python=cluster.python, vllm=cluster.vllm, threads=threads)
    prepare_process(threads)
    for node in _next_nodes(schedule, reporter, wait=wait):
        attempt, label = schedule.attempt(node), schedule.label(node)
        ending = perform(node, schedule.store, reporter, label, threads, attempt)
        if settle(schedule, node, label, ending, reporter, retention):
            free_memory()


def _next_nodes(schedule: Schedule, reporter: Reporter, *, wait: bool) -> Iterator[Node]:
    """Nodes to do, one by one, until nothing is left or what is left is not ours."""
    told = False
    while schedule.left:
        if (node := schedule.take()) is not None:
            yield node
        elif not (schedule.waiting and wait):
            return
        elif not schedule.poll():
            if not told:
                reporter.line(WAITING)
            told = True
            time.sleep(POLL)


def _story(ending: Ending) -> list[str]:
    """A failure's log; what is known without it where it could not be written, or was cleared away meanwhile."""
    try:
        return ending.log.read_text(encoding="utf-8").splitlines() if ending.log else [ending.text]
    except OSError:
        return [ending.text]


def failure_report(summary: Summary, plan: Plan) -> Sequence[str]:
    """Every failure with its log, whose last lines are told once for all that end alike, and what was not done."""
    lines: list[str] = []
    told: dict[tuple[str, ...], str] = {}
    for key, ending in summary.failed.items():
        node = plan.nodes[key]
        story = _story(ending)
        last = (story[1:] or story)[-_LOG_LINES:]  # the first line names the node
        first = told.setdefault((node.stage, *last), node.slug)
        alike = "" if first == node.slug else f", as {first}"
        lines.append(f"failed: {node.stage} {node.slug} (log: {ending.log or 'could not be written'}){alike}")
        if not alike:
            lines += [f"    {line}" for line in last]
    if summary.blocked:
        lines.append(f"not done, since something they need is not there: {len(summary.blocked)} nodes")
    if summary.alive:
        lines.append(f"in the hands of other commands: {len(summary.alive)} nodes; the same command again follows them")
    if summary.stopped:
        lines.append(f"stopped: the store cannot be written: {summary.stopped}; the same command goes on from here")
    return lines
