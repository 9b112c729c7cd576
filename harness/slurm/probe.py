"""A first small job: whether machines of the cluster see the store, can write to it, and have the Python that jobs run.

Asked once for each kind of machine, and remembered. Everything waits for its success, so that nothing runs where it
fails; a failure of which the store cannot tell shows in the exit code.

probes/<signature>.json           when and as which job it was asked last
probes/<signature>-<nonce>        written before the job, which looks for it
probes/<signature>-<nonce>.found  what the job found
"""

import json
import re
import secrets
import shlex
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.cluster import ResourcesConfig, SlurmConfig
from harness.files import write_json
from harness.keys import digest
from harness.slurm import commands, jobs
from harness.slurm.commands import SlurmError
from harness.slurm.jobs import Job
from harness.store import Store

VALID = 7 * 86400.0
"""Seconds for which an answer is believed: what machines mount changes rarely."""

WAIT = 15.0
"""Seconds that a command waits for the answer before it submits the rest behind the job."""

_POLL = 0.5
_MINUTES = 5
_MEMORY = "1G"

_SCRIPT = """\
#!/bin/bash
{setup}
machine=${{SLURMD_NODENAME:-$(hostname)}}
# A network file system may be mounted late, and show a new file late.
for _ in {{1..5}}; do [ -d {root} ] && break; sleep 1; done
[ -d {root} ] || exit 81
for _ in {{1..30}}; do [ -e {asked} ] && break; sleep 1; done
[ -e {asked} ] || exit 82
head -c 1048576 /dev/zero > {asked}.partial || exit 83
tell() {{
  printf '%s\\n%s\\n%s\\n' "$1" "$machine" "$2" > {asked}.partial && mv {asked}.partial {asked}.found || exit 83
}}
{checks}
tell ok ""
"""

_CHECK = 'said=$({command} 2>&1) || {{ tell {place} "$said"; exit 84; }}'

_MEANING: Mapping[int, str] = {
    81: "does not see the store {root}: it must be on a file system that all machines share (store=...)",
    82: "sees another folder than this machine at {root}: the store must be on a file system that all machines share",
    83: "cannot write to the store {root}: it is read-only there, full, or forbidden",
    84: "cannot run the Python that jobs need",
}

_ELSEWHERE = ("reservation", "nodelist", "exclude", "comment", "wckey")
"""Further flags of sbatch that say where a job runs, or without which none may."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was asked."""

    signature: str
    """Of the store, the kind of machine, and what runs there."""
    nonce: str
    asked: float
    """Seconds since the epoch."""
    number: str
    """The job's id."""
    place: str
    """The kind of machine, for people."""

    @property
    def job(self) -> str:
        """Name of its job."""
        return f"prefsweep-probe-{self.nonce}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a machine said."""

    machine: str
    trouble: str
    """Which interpreter fails; empty where all is well."""
    said: str


def needed(store: Store, cluster: SlurmConfig, stages: Collection[str], live: Mapping[str, Job]) -> dict[str, str]:
    """Ids of the jobs that jobs of a stage must wait for, by stage; without those whose answer is known.

    Args:
        live: probes that SLURM knows, by the name of the job.

    Raises:
        SlurmError: some machines cannot do the work; nothing should be submitted.
        ConfigError: sbatch refuses the job.
    """
    signatures = {stage: _signature(store, cluster, cluster.resources(stage)) for stage in stages}
    for old in every(store):
        waiting = live.get(old.job)
        if old.signature not in signatures.values() and (waiting is None or not waiting.alive):
            (store.root / "probes" / f"{old.signature}.json").unlink(missing_ok=True)  # nothing waits for it any more
    one = dict(zip(signatures.values(), signatures, strict=True))
    numbers = {signature: _needed(store, cluster, stage, live) for signature, stage in one.items()}
    return {stage: number for stage, key in signatures.items() if (number := numbers[key]) is not None}


def _needed(store: Store, cluster: SlurmConfig, stage: str, live: Mapping[str, Job]) -> str | None:
    asked = cluster.resources(stage)
    probe = read(store, _signature(store, cluster, asked))
    if probe is not None:
        answer = _answer(store, probe)
        if answer is not None and not answer.trouble and time.time() - probe.asked < VALID:
            return None
        waiting = live.get(probe.job)
        if answer is None and waiting is not None and waiting.alive:
            return probe.number
    probe = _submit(store, cluster, stage, asked)
    return probe.number if _pending(store, probe) else None


def every(store: Store) -> Iterator[Probe]:
    """All probes of a store that have not found all well."""
    for path in sorted((store.root / "probes").glob("*.json")):
        probe = read(store, path.stem)
        if probe is not None and ((answer := _answer(store, probe)) is None or answer.trouble):
            yield probe


def trouble(store: Store, probe: Probe, job: Job | None) -> str:
    """Why the machines cannot do the work; an empty text where they can, or where that is not known yet.

    Args:
        job: what SLURM says of the probe's job.
    """
    answer = _answer(store, probe)
    if answer is not None:
        if not answer.trouble:
            return ""
        return f"{_head(probe, answer.machine)} cannot run {answer.trouble}: {_last(answer.said)}"
    if job is None or job.alive:
        return ""
    code, machine = jobs.ended(job)
    if code == 0:  # its answer is on the way
        return ""
    if code is not None and code in _MEANING:
        return f"{_head(probe, machine)} {_MEANING[code].format(root=store.root)}"
    return (
        f"{_head(probe, machine)} gave no answer (job {job.id} ended as {job.state}, exit code {code}); the same "
        "command asks again, and with cluster.probe=false does not ask"
    )


def read(store: Store, signature: str) -> Probe | None:
    """What was asked last; None where nothing was."""
    try:
        return Probe(**json.loads((store.root / "probes" / f"{signature}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _head(probe: Probe, machine: str) -> str:
    return f"cluster: {machine or 'a machine'} of {probe.place}"


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["it says nothing"])[-1]


def _answer(store: Store, probe: Probe) -> Answer | None:
    try:
        text = (store.root / "probes" / f"{probe.signature}-{probe.nonce}.found").read_text(errors="replace")
    except OSError:
        return None
    how, machine, said = (*text.split("\n", 2), "", "")[:3]
    return Answer(machine=machine, trouble="" if how == "ok" else how, said=said)


def _signature(store: Store, cluster: SlurmConfig, asked: ResourcesConfig) -> str:
    extra = {name: value for name, value in (asked.extra or {}).items() if name in _ELSEWHERE}
    kind = [asked.partition, asked.constraint, list(asked.setup or ()), extra, cluster.interpreters()]
    return digest([str(store.root), kind])


def _submit(store: Store, cluster: SlurmConfig, stage: str, asked: ResourcesConfig) -> Probe:
    """Ask; the script is read by sbatch, so that it need not be seen elsewhere, as the output must not be."""
    signature, nonce = _signature(store, cluster, asked), secrets.token_hex(4)
    folder = store.root / "probes"
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{signature}-*"):
        old.unlink(missing_ok=True)
    (folder / f"{signature}-{nonce}").touch()
    place = f"partition {asked.partition}" if asked.partition else "the default partition"
    probe = Probe(signature=signature, nonce=nonce, asked=time.time(), number="", place=place)
    with TemporaryDirectory() as private:
        path = Path(private, "probe.sh")
        path.write_text(script(store, cluster, asked, probe))
        said = _sbatch(_flags(probe, asked), path, cluster, stage)
    probe = Probe(**{**asdict(probe), "number": said})
    write_json(folder / f"{signature}.json", asdict(probe))
    return probe


def script(store: Store, cluster: SlurmConfig, asked: ResourcesConfig, probe: Probe) -> str:
    """What the job does."""
    checks = [
        _CHECK.format(command=shlex.join([python, "-c", code]), place=shlex.quote(f"{place} ({python})"))
        for place, (python, code) in cluster.interpreters().items()
    ]
    return _SCRIPT.format(
        setup="\n".join(asked.setup or ()),
        root=shlex.quote(str(store.root)),
        asked=shlex.quote(str(store.root / "probes" / f"{probe.signature}-{probe.nonce}")),
        checks="\n".join(checks),
    )


def _flags(probe: Probe, asked: ResourcesConfig) -> list[str]:
    given = {
        "job-name": probe.job,
        "output": "/dev/null",
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": 1,
        "mem": _MEMORY,
        "time": _MINUTES,
        **{name: value for name, value in (asked.extra or {}).items() if name in _ELSEWHERE},
    }
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def _sbatch(flags: list[str], path: Path, cluster: SlurmConfig, stage: str) -> str:
    from harness.slurm.submit import refusal

    try:
        said = commands.ask(["sbatch", *flags, str(path)])
    except SlurmError as error:
        raise refusal(cluster, stage, str(error).removeprefix("sbatch: ")) from None
    number = re.search(r"\d+", said)
    if number is None:
        raise SlurmError(f"sbatch: expected the number of a job, got {said.strip()!r}")
    return number[0]


def _job(probe: Probe) -> Job | None:
    return next((job for job in jobs.squeue([probe.job]) if job.name == probe.job), None)


def _pending(store: Store, probe: Probe) -> bool:
    """Give the job a few seconds; says whether the answer is still to come.

    Raises:
        SlurmError: the answer is bad.
    """
    until = time.monotonic() + WAIT
    while _answer(store, probe) is None and time.monotonic() < until:
        job = _job(probe)
        if job is not None and not job.alive:
            break
        time.sleep(_POLL)
    if _answer(store, probe) is None:
        job = _job(probe)
        if said := trouble(store, probe, job):
            raise SlurmError(said)
        return True
    if said := trouble(store, probe, None):
        raise SlurmError(said)
    return False
