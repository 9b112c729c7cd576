"""Doing one node in this process: claim it, find its content or compute it, publish it, or say why not."""

import ctypes
import errno
import gc
import importlib
import os
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness import memory
from harness.claims import BusyError, LostClaimError
from harness.cluster import TRAINING_STAGES
from harness.errors import PrefsweepError
from harness.keys import canonical
from harness.machine import accelerators
from harness.manifest import Manifest
from harness.plan import Node
from harness.progress import Reporter
from harness.provenance import cpus, hold, provenance
from harness.ranks.launch import RankDiedError, RankError
from harness.stages import Context, Outcome, Stage
from harness.store import UNUSABLE, Artifact, Rows, Store
from harness.world import ALONE, World

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, from malloc.h."""

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
"""What libraries say whose exceptions have no type of their own for it; torch says the second on a CPU."""

_PROBE = 1 << 20
"""Bytes that must still fit into a store that can be used."""

How = Literal["done", "computed", "aliased", "busy", "deferred", "failed"]
Failure = Literal["error", "memory", "io", "died", "store"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How one attempt at a node ended."""

    how: How
    """`done`: another process did it meanwhile; `busy`: another process is at it; `deferred`: another process is at
    a node of equal content."""
    text: str = ""
    """One line for the user: seconds and row accounting, or the reason."""
    failure: Failure | None = None
    """What kind of failure: an `error` in code or settings, out of `memory`, `io` trouble that passes or is the
    machine's own, a process that `died`, a `store` that cannot be written."""
    log: Path | None = None
    """Where a failure's whole story stands."""
    on: str | None = None
    """The machine that met `io` trouble."""


def perform(
    node: Node, store: Store, reporter: Reporter, label: str, threads: int, attempt: int = 1, world: World = ALONE
) -> Ending:
    """Bring one node to its end; only an interrupt gets out.

    Args:
        world: the processes of a training; this one alone does everything else.
    """
    started = time.monotonic()
    try:
        artifact, how = _do(node, store, reporter, label, threads, attempt, world)
    except (BusyError, LostClaimError) as error:
        return Ending(how="busy", text=str(error))
    except _DeferredError as error:
        return Ending(how="deferred", text=str(error))
    except Exception as error:  # one node's failure must not end the others' work; it is logged and reported
        kind, text = _kind(error, store), _first_line(error)
        on = error.machine if isinstance(error, RankError) else machine()
        if kind in ("io", "store"):  # that of this machine, it may be
            text = f"{text} (on {on})"
        log = log_failure(store, node, error)
        return Ending(how="failed", text=text, failure=kind, log=log, on=on if kind == "io" else None)
    note = "equal to one that is done" if how == "aliased" else f"{time.monotonic() - started:.1f} s"
    return Ending(how=how, text=f"{note}{_accounting(artifact)}")


class _DeferredError(Exception):
    """A node of equal content is in other hands."""


def _do(
    node: Node, store: Store, reporter: Reporter, label: str, threads: int, attempt: int, world: World
) -> tuple[Artifact, How]:
    """Compute a node, or find that its content stands already; returns the artifact and which of the two it was."""
    artifacts = {parent.key: _input(store, parent) for parent in node.needed(store)}
    content = node.content_key(artifacts)
    with store.claim(node.key) as work:
        if (found := store.find(node.stage, node.key)) is not None:  # done by another process in the meantime
            return found, "done"
        if content == node.key:
            return _compute(node, store, reporter, label, threads, attempt, world, artifacts, content, work), "computed"
        if (equal := store.find_content(content)) is not None:
            return _publish_alias(node, store, work, equal, artifacts), "aliased"
        try:
            with store.claim(content):
                if (equal := store.find_content(content)) is not None:
                    return _publish_alias(node, store, work, equal, artifacts), "aliased"
                return _compute(
                    node, store, reporter, label, threads, attempt, world, artifacts, content, work
                ), "computed"
        except BusyError:
            raise _DeferredError("another process is at a node of equal content") from None


def _input(store: Store, parent: Node) -> Artifact:
    found = store.find(parent.stage, parent.key)
    if found is None:
        raise PrefsweepError(f"{parent.stage} {parent.slug}-{parent.key}, which this needs, is no longer whole")
    return found


def _compute(
    node: Node,
    store: Store,
    reporter: Reporter,
    label: str,
    threads: int,
    attempt: int,
    world: World,
    artifacts: Mapping[str, Artifact],
    content: str,
    work: Path,
) -> Artifact:
    groups = node.groups(artifacts)
    context = Context(
        inputs={name: tuple(artifacts[p.key] for p in parents) for name, parents in groups.items()},
        params=node.params,
        store=store.root,
        work=work,
        reporter=reporter,
        label=label,
        parts=memory.parts(work),
        world=world,
    )
    started, clock = time.time(), time.monotonic()
    try:
        outcome = _stage(node.stage).run(context, node.spec)
    except Exception as error:
        if any(map(_out_of_memory, _chain(error))):
            memory.note(work)
        raise
    memory.forget(work)
    made = {
        **provenance(),
        "threads": threads,
        **_processes(node, world),
        "attempt": attempt,
        **({"batch_parts": context.parts} if context.parts > 1 else {}),
        "started": started,
        "seconds": time.monotonic() - clock,
    }
    return store.publish(work, _manifest(node, outcome, outcome.content or content, made, artifacts), node.slug)


def _processes(node: Node, world: World) -> dict[str, Any]:
    """What a node's record says of the processes that did it, where they were several."""
    if node.stage not in TRAINING_STAGES or world.size == 1:
        return {}
    shape = {"processes": world.size, "machines": world.machines, "sharding": world.sharding}
    return {**shape, "threads": world.threads}


def _stage(name: str) -> Stage:
    module: Any = importlib.import_module(f"harness.stages.{name}")
    return module  # type: ignore[no-any-return]


def _manifest(
    node: Node, outcome: Outcome, content: str, made: Mapping[str, Any], artifacts: Mapping[str, Artifact]
) -> Manifest:
    return Manifest(
        stage=node.stage,
        stage_version=node.version,
        key=node.key,
        content_id=content,
        spec=canonical(node.spec),
        inputs=node.input_keys,
        rows=asdict(outcome.rows),
        measures=dict(outcome.measures),
        files={},
        provenance=dict(made),
        made_from={key: artifact.manifest.digest for key, artifact in artifacts.items()},
    )


def _publish_alias(
    node: Node, store: Store, work: Path, equal: Artifact, artifacts: Mapping[str, Artifact]
) -> Artifact:
    """Name an artifact of equal content as this node's; nothing is copied."""
    for leftover in work.iterdir():  # of an interrupted run; an alias holds nothing of its own
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    original = equal.manifest
    outcome = Outcome(rows=Rows(**original.rows), measures=original.measures)
    manifest = _manifest(node, outcome, original.content_id, original.provenance, artifacts)
    folder = str(equal.folder.relative_to(store.root))
    published = store.publish(work, replace(manifest, alias_of=folder, digest=original.digest), node.slug)
    return Artifact(equal.folder, published.manifest)


def _accounting(artifact: Artifact) -> str:
    rows = artifact.manifest.rows
    dropped = ", ".join(f"{reason} {count}" for reason, count in rows["dropped"].items())
    warning = artifact.manifest.measures.get("warning")
    return (
        f", {rows['kept']} of {rows['taken']} rows"
        + (f" (dropped: {dropped})" if dropped else "")
        + (f"; WARNING: {warning}" if warning else "")
    )


def _kind(error: BaseException, store: Store) -> Failure:
    """What kind of failure an exception is; a library may have wrapped what the system said."""
    chain = list(_chain(error))
    if not _takes(store.root / "work"):
        return "store"
    if any(_full(e) for e in chain):
        return "io" if _of_the_machine(chain, store) else "store"
    if any(_out_of_memory(e) for e in chain):
        return "memory"
    if isinstance(error, RankDiedError):
        return "died"
    first = error.__cause__ if isinstance(error, RankError) else error
    if isinstance(first, OSError) and not isinstance(first, FileNotFoundError):
        return "io"
    return "error"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _full(error: BaseException) -> bool:
    said = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return said or any(text in str(error) for text in ("No space left on device", "Disk quota exceeded"))


def _out_of_memory(error: BaseException) -> bool:
    said = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    return said or any(text in str(error).lower() for text in _MEMORY)


def _of_the_machine(chain: list[BaseException], store: Store) -> bool:
    """Whether it is not the store that is full, but a disk of this machine."""
    said = [e.filename for e in chain if isinstance(e, OSError) and _full(e) and isinstance(e.filename, str)]
    if said:
        return not any(Path(name).absolute().is_relative_to(store.root) for name in said)
    return not _takes(Path(tempfile.gettempdir()))


def machine() -> str:
    """This machine's name, on a cluster as that knows it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def _takes(folder: Path) -> bool:
    """Whether a folder can be written to."""
    probe = folder / f"probe.{os.getpid()}.partial"
    try:
        probe.write_bytes(bytes(_PROBE))
    except OSError as error:
        return error.errno not in UNUSABLE
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return True


def prepare_process(threads: int, share: float = 1.0, *, one_device: bool = True) -> None:
    """Fix the number of CPU threads (float32 results are the same only for the same number) and keep freed memory.

    Called before anything is computed by several threads.

    Args:
        one_device: see the first accelerator only; otherwise who calls has one of several for itself.
        share: part of the accelerator's memory that this process may take. Without a limit the first process keeps
            what it has freed for itself, and others on the same accelerator run out.
    """
    import torch

    from harness.engines import first_calls

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if one_device and (devices := accelerators()):  # with several in sight the trainer would multiply the batch
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[0]
    torch.set_num_threads(threads)
    first_calls.make()
    hold(share)
    if share < 1.0 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
    if platform.libc_ver()[0] == "glibc":
        # By default glibc hands every large block back to the kernel and faults it in anew, page by page: a
        # quarter or more of a training's time on a CPU, whose temporaries are hundreds of megabytes.
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory() -> None:
    """Drop everything that this process keeps for later nodes."""
    if "torch" in sys.modules:
        from harness.engines import loaded, vllm_engine

        vllm_engine.close()
        loaded.forget()
    gc.collect()


def default_threads(threads: int | None, share: int = 1) -> int:
    """CPU threads of one of `share` processes: as told, or an equal part of the cores."""
    return threads or max(1, cpus() // share)


def log_failure(store: Store, node: Node, error: BaseException | str) -> Path | None:
    """Keep the whole story of a failure; a user's error needs no traceback. None where the store cannot be written."""
    path = store.root / "logs" / f"{node.stage}-{node.key}.log"
    plain = isinstance(error, str | PrefsweepError)
    detail = str(error) if plain else "".join(traceback.format_exception(error))  # type: ignore[arg-type]
    try:
        story = f"{node.stage} {node.slug} {node.key}\n{detail.rstrip()}\n"
        path.write_text(story, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return path


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
