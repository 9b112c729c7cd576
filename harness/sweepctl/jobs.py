"""Jobs of a cluster that matter to a store: one squeue call, and one of sacct for those that squeue has forgotten."""

import time
from collections.abc import Collection, Iterator
from typing import Any

from harness.slurm import jobs, probe
from harness.slurm.batches import Batch
from harness.slurm.commands import SlurmError
from harness.slurm.jobs import Job, Queue
from harness.store import Store, StoreError
from harness.sweepctl.terminal import count, table


def describe(store: Store, wanted: Collection[str], over: Collection[str]) -> dict[str, Any]:
    """Jobs that are to do any of the nodes, or have ended without: as plain data.

    Args:
        wanted: keys of the nodes.
        over: keys of those that are done, or will never be.
    """
    try:
        asked = list(probe.every(store))
        queue = jobs.look(store, over, [one.job for one in asked])
    except (SlurmError, StoreError) as error:  # no answer, or a batch that cannot be read; the store has all the rest
        return {"jobs": [], "probes": [], "jobs_error": str(error)}
    open_ = set(wanted) - set(over)
    elements = list(_elements(queue, open_))
    forgotten = [batch for batch, number, _ in elements if _known(queue, batch, number) is None]
    ended = {}
    if forgotten:
        names = sorted({batch.job for batch in forgotten})
        found = jobs.sacct(names, min(batch.submitted for batch in forgotten))
        ended = jobs.by_element(forgotten, found)
    rows = []
    for batch, number, left in elements:
        job = _known(queue, batch, number) or ended.get((batch.name, number))
        job = job or Job(id="?", name=batch.job, state="ENDED", reason="SLURM has forgotten how")
        rows.append(_row(batch, job, len(batch.elements[number]), left))
    known = [one for one in asked if one.job in queue.others or time.time() - one.asked < jobs.GRACE]
    probes = [_probe(store, one, queue) for one in known]
    return {"jobs": rows, "probes": probes, "jobs_error": ""}


def _probe(store: Store, asked: probe.Probe, queue: Queue) -> dict[str, Any]:
    """A first small job that has not shown that the machines can do the work."""
    job = queue.others.get(asked.job)
    state = job.state if job is not None else "UNKNOWN"
    alive = job is not None and job.alive
    return {"id": asked.number, "state": state, "alive": alive, "trouble": probe.trouble(store, asked, job)}


def _elements(queue: Queue, open_: set[str]) -> Iterator[tuple[Batch, int, int]]:
    """The last element that holds a node, for every node that is open, and of how many it is the last."""
    left = set(open_)
    for batch in reversed(queue.batches):
        for number, keys in enumerate(batch.elements):
            if held := left & set(keys):
                left -= held
                yield batch, number, len(held)


def _known(queue: Queue, batch: Batch, number: int) -> Job | None:
    """An element's job, as far as squeue has said something of it."""
    if (job := queue.jobs.get((batch.name, number))) is not None:
        return job
    return queue.live.get(batch.elements[number][0])


def _row(batch: Batch, job: Job, nodes: int, left: int) -> dict[str, Any]:
    return {
        "id": job.id,
        "job": batch.job,
        "stage": batch.stage,
        "state": job.state,
        "alive": job.alive,
        "elapsed": job.elapsed,
        "reason": "" if job.reason == "None" else job.reason,
        "nodes": nodes,
        "left": left,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """The jobs as lines; elements of an array of which there is the same to say are one."""
    if facts["jobs_error"]:
        return [f"the queue is not known: {facts['jobs_error']}"]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in facts["jobs"]:
        groups.setdefault((row["job"], row["state"], row["reason"]), []).append(row)
    said = [_probe_line(row) for row in facts["probes"]]
    rows = []
    for (job, state, reason), same in sorted(groups.items(), key=lambda group: _order(group[1][0])):
        ids = same[0]["id"] + (f" and {len(same) - 1} more" if len(same) > 1 else "")
        left, nodes = (sum(row[name] for row in same) for name in ("left", "nodes"))
        rows.append((ids, job, state, same[0]["elapsed"], f"{left} of {count(nodes, 'node')} to do", reason))
    return [*said, *(line.rstrip()[2:] for line in table(rows, left=6))]


def _probe_line(row: dict[str, Any]) -> str:
    if row["trouble"]:
        return f"{row['trouble']} (job {row['id']}; what waited for it was not begun)"
    return f"{row['id']}  {row['state']}  looks first whether the machines can do the work; the others wait for it"


def _order(row: dict[str, Any]) -> tuple[bool, list[int]]:
    """Those alive first, by their ids."""
    return not row["alive"], [int(part) for part in row["id"].split("_") if part.isdigit()]
