"""Handing a batch to SLURM through submitit: what it asks for, and what sbatch's refusals mean here."""

import contextlib
import io
import re
from collections.abc import Collection, Mapping
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.cluster import SlurmConfig
from harness.errors import ConfigError, PrefsweepError
from harness.slurm import batches
from harness.slurm.batches import Batch
from harness.slurm.job import Element
from harness.slurm.jobs import SlurmError, scancel, squeue
from harness.store import Store

_SIGNAL = 90
"""Seconds before its time limit at which a job is told; fewer where the limit is a few minutes."""

_ONE_OWNER = ("--nodes=1", "--ntasks=1", "--relative=0")
"""Of a job on several machines: its work is begun by one process on the first, which starts the others itself."""

_FIELDS: Mapping[str, str] = {
    r"account": "account",
    r"partition": "partition",
    r"qos": "qos",
    r"feature|constraint": "constraint",
    r"gpu|gres": "gpus",
    r"memory": "mem_gb",
    r"time limit|TimeLimit": "time_minutes",
    r"node count": "nodes",
    r"cpu|node configuration": "cpus",
}
"""What sbatch complains of, and the field that asked for it; the first that matches counts."""


def submit(batch: Batch, store: Store, cluster: SlurmConfig, after: Collection[str]) -> str:
    """Submit a batch that stands in the store; returns the job's id.

    Args:
        after: jobs that must have ended, however, before this one begins.

    Raises:
        ConfigError: sbatch refuses what the job asks for.
        SlurmError: it fails otherwise.
    """
    executor = SlurmExecutor(batches.folder(store, batch.name), max_num_timeout=batch.max_requeue)
    executor.update_parameters(**parameters(batch, cluster, after))
    elements = [Element(str(store.root), batch.name, number) for number in range(len(batch.elements))]
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it also raises
            submitted = [executor.submit(element) for element in elements]
    except (FailedJobError, FailedSubmissionError) as error:
        raise _refused(batch, store, cluster, str(error)) from None
    return str(submitted[0].job_id).partition("_")[0]


def parameters(batch: Batch, cluster: SlurmConfig, after: Collection[str]) -> dict[str, Any]:
    """What submitit is told of a batch's job."""
    asked = cluster.resources(batch.stage)
    assert asked.time_minutes is not None
    gpus = f"{asked.gpu_type}:{asked.gpus}" if asked.gpu_type else asked.gpus
    given = {
        "job_name": batch.job,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "gpus_per_node": gpus if asked.gpus else None,
        "cpus_per_task": asked.cpus,
        "mem": f"{round(1024 * asked.mem_gb)}M" if asked.mem_gb is not None else None,
        "time": asked.time_minutes,
        "nodes": asked.nodes or 1,
        "ntasks_per_node": 1,
        "signal_delay_s": min(_SIGNAL, 15 * asked.time_minutes),
        "array_parallelism": len(batch.elements),
        "setup": list(asked.setup or ()) or None,
        "dependency": f"afterany:{':'.join(sorted(after))}" if after else None,
        "stderr_to_stdout": True,
        # Since SLURM 22.05 a step no longer has its job's cores by itself.
        "srun_args": [f"--cpus-per-task={asked.cpus}", *(_ONE_OWNER if (asked.nodes or 1) > 1 else ())],
        # Whatever the cluster does by default: a job that is to end before its time comes again.
        "additional_parameters": {"requeue": True, **(asked.extra or {})},
    }
    return {name: value for name, value in given.items() if value is not None}


def _refused(batch: Batch, store: Store, cluster: SlurmConfig, said: str) -> PrefsweepError:
    """Take back a batch that sbatch has failed on; returns what to say.

    The job may be there all the same, if only the answer was lost. It would not find its payload, which is called after
    the id that sbatch gives.
    """
    if found := squeue([batch.job]):
        scancel(sorted({job.main for job in found}))
    batches.withdraw(batch, store)
    said = " ".join(line.removeprefix("sbatch: error: ").strip() for line in said.splitlines() if line.strip())
    if re.search(r"array", said, re.IGNORECASE):
        return ConfigError(f"cluster.max_array: {cluster.max_array} is too large for this cluster; sbatch says: {said}")
    if re.search(r"submit limit|SubmitJob", said):
        return SlurmError(f"cluster.max_submit: {cluster.max_submit} is more than you may have; sbatch says: {said}")
    for pattern, field in _FIELDS.items():
        if re.search(pattern, said, re.IGNORECASE):
            value = getattr(cluster.resources(batch.stage), field)
            return ConfigError(f"{cluster.place(batch.stage, field)}: {value!r} is refused; sbatch says: {said}")
    return SlurmError(f"sbatch: {said}")
