"""Handing a batch to SLURM through submitit: what it asks for, and what sbatch's refusals mean here."""

import contextlib
import io
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from harness.cluster import SlurmConfig
from harness.errors import ConfigError, PrefsweepError
from harness.slurm import batches
from harness.slurm.batches import Batch
from harness.slurm.commands import SlurmError, scancel
from harness.slurm.job import Element
from harness.slurm.jobs import squeue
from harness.store import Store

_SIGNAL = 90
"""Seconds before its time limit at which a job is told; fewer where the limit is a few minutes."""

_OFFLINE = ("export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1",)
"""In the script, since the libraries look at it once, when they are imported."""

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


_ALWAYS = tuple(
    f"SBATCH_{name}" for name in ("ARRAY_INX", "OUTPUT", "ERROR", "OPEN_MODE", "NO_REQUEUE", "SIGNAL", "WAIT")
)
"""Variables with which sbatch would not do what every job is submitted for."""

_IRREGULAR: Mapping[str, Sequence[str]] = {
    "time": ("SBATCH_TIMELIMIT",),
    "mem": ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    "gpus_per_node": ("SBATCH_GPUS", "SBATCH_GPUS_PER_TASK"),
}
"""Variables that are not called after the flag."""


def submit(
    batch: Batch,
    store: Store,
    cluster: SlurmConfig,
    after: Collection[str],
    probe: str | None = None,
    avoided: Collection[str] = (),
) -> str:
    """Submit a batch that stands in the store; returns the job's id.

    Args:
        after: jobs that must have ended, however, before this one begins.
        probe: a job that must succeed before this one begins, and without whose success this one is cancelled.
        avoided: machines that it should not run on; where that leaves none, on any.

    Raises:
        ConfigError: sbatch refuses what the job asks for.
        SlurmError: it fails otherwise.
    """
    asked = parameters(batch, cluster, after, probe)
    try:
        if avoided:
            try:
                return _submit(batch, store, _elsewhere(asked, avoided))
            except (FailedJobError, FailedSubmissionError) as error:
                # Whatever else it says, such as that it got no answer: the job may be there.
                if not re.search(r"node", str(error), re.IGNORECASE):
                    raise
        return _submit(batch, store, asked)
    except (FailedJobError, FailedSubmissionError) as error:
        raise _refused(batch, store, cluster, str(error)) from None


def _submit(batch: Batch, store: Store, asked: Mapping[str, Any]) -> str:
    executor = SlurmExecutor(batches.folder(store, batch.name), max_num_timeout=batch.max_requeue)
    executor.update_parameters(**asked)
    elements = [Element(str(store.root), batch.name, number) for number in range(len(batch.elements))]
    # submitit prints what it also raises.
    with _without(_overriding(asked)), contextlib.redirect_stderr(io.StringIO()), executor.batch():
        submitted = [executor.submit(element) for element in elements]
    return str(submitted[0].job_id).partition("_")[0]


def _elsewhere(asked: Mapping[str, Any], avoided: Collection[str]) -> dict[str, Any]:
    """The same, on none of these machines nor of those that the user leaves out."""
    flags = asked["additional_parameters"]
    left_out = [*([str(flags["exclude"])] if "exclude" in flags else []), *sorted(avoided)]
    return {**asked, "additional_parameters": {**flags, "exclude": ",".join(left_out)}}


def parameters(batch: Batch, cluster: SlurmConfig, after: Collection[str], probe: str | None = None) -> dict[str, Any]:
    """What submitit is told of a batch's job."""
    asked = cluster.resources(batch.stage, scorer=batch.gpus > 0)
    assert asked.time_minutes is not None
    waits = [f"afterok:{probe}"] if probe else []
    waits += [f"afterany:{':'.join(sorted(after, key=int))}"] if after else []
    never = {"kill_on_invalid_dep": "yes"} if probe else {}
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
        "setup": [*(_OFFLINE if cluster.offline else ()), *(asked.setup or ())] or None,
        "dependency": ",".join(waits) or None,
        "stderr_to_stdout": True,
        # Since SLURM 22.05 a step no longer has its job's cores by itself.
        "srun_args": [f"--cpus-per-task={asked.cpus}", *(_ONE_OWNER if (asked.nodes or 1) > 1 else ())],
        # Whatever the cluster does by default: a job that is to end before its time comes again.
        "additional_parameters": {"requeue": True, **never, **(asked.extra or {})},
    }
    return {name: value for name, value in given.items() if value is not None}


def _overriding(given: Mapping[str, Any]) -> set[str]:
    """Variables of the environment that would override what a job is submitted with; others add to it."""
    flags = {*given, *given["additional_parameters"]}
    named = {f"SBATCH_{flag.replace('-', '_').upper()}" for flag in flags}
    return {*named, *_ALWAYS, *(name for flag in flags for name in _IRREGULAR.get(flag, ()))}


@contextlib.contextmanager
def _without(names: Collection[str]) -> Iterator[None]:
    """Let this process have no such variables for a while."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _refused(batch: Batch, store: Store, cluster: SlurmConfig, said: str) -> PrefsweepError:
    """Take back a batch that sbatch has failed on; returns what to say.

    The job may be there all the same, if only the answer was lost. It would not find its payload, which is called after
    the id that sbatch gives.
    """
    if found := squeue([batch.job]):
        scancel(sorted({job.main for job in found}))
    batches.withdraw(batch, store)
    return refusal(cluster, batch.stage, said, scorer=batch.gpus > 0)


def refusal(cluster: SlurmConfig, stage: str, said: str, *, scorer: bool = False) -> PrefsweepError:
    """What sbatch's words mean here: the field that asked for what it refuses."""
    said = " ".join(line.removeprefix("sbatch: error: ").strip() for line in said.splitlines() if line.strip())
    if re.search(r"array", said, re.IGNORECASE):
        return ConfigError(f"cluster.max_array: {cluster.max_array} is too large for this cluster; sbatch says: {said}")
    if re.search(r"submit limit|SubmitJob", said):
        return SlurmError(f"cluster.max_submit: {cluster.max_submit} is more than you may have; sbatch says: {said}")
    for pattern, field in _FIELDS.items():
        if re.search(pattern, said, re.IGNORECASE):
            value = getattr(cluster.resources(stage, scorer=scorer), field)
            return ConfigError(f"{cluster.place(stage, field)}: {value!r} is refused; sbatch says: {said}")
    return SlurmError(f"sbatch: {said}")
