"""Doing a plan: what is neither done nor impossible, one node after the other, in this process."""

import ctypes
import importlib
import os
import platform
import shutil
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.errors import PrefsweepError
from harness.keys import canonical
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.stages import Context, Outcome, Stage
from harness.stages.pairs import why_empty
from harness.store import Artifact, BusyError, Manifest, Rows, Store

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, from malloc.h."""

_LOG_LINES = 5
"""Last lines of a failure's log that the end of a run shows."""


@dataclass(kw_only=True)
class Summary:
    """How each node of a plan ended, by key."""

    done: list[str] = field(default_factory=list)
    """Found in the store."""
    computed: list[str] = field(default_factory=list)
    aliased: list[str] = field(default_factory=list)
    """Equal in content to a node that is done."""
    empty: dict[str, str] = field(default_factory=dict)
    """Cells without rows, and what hangs on them, with the reason."""
    failed: dict[str, Path] = field(default_factory=dict)
    """Failed nodes, with their logs."""
    blocked: list[str] = field(default_factory=list)
    """Not tried, since something they need failed or is in other hands."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether everything that can exist exists."""
        return not self.failed and not self.blocked


def execute(plan: Plan, store: Store, reporter: Reporter, threads: int | None) -> Summary:
    """Do every node of a plan that is not done; a failure stops only what depends on it."""
    summary = Summary()
    started = time.monotonic()
    artifacts: dict[str, Artifact] = {}
    for key, node in plan.nodes.items():
        if (found := store.find(node.stage, key)) is not None:
            artifacts[key] = found
            summary.done.append(key)
    todo = [node for key, node in plan.nodes.items() if key not in artifacts]
    if todo:
        _prepare_process(threads)
    for number, node in enumerate(todo, 1):
        if (damaged := store.damaged(node.stage, node.key)) is not None:
            reporter.line(f"damaged: {damaged} misses files or has wrong sizes; it is made again")
        _settle(node, f"[{number}/{len(todo)}] {node.stage} {node.slug}", store, reporter, artifacts, summary, threads)
    summary.seconds = time.monotonic() - started
    return summary


def _settle(
    node: Node,
    label: str,
    store: Store,
    reporter: Reporter,
    artifacts: dict[str, Artifact],
    summary: Summary,
    threads: int | None,
) -> None:
    """Bring one node to its end, and enter it in the summary."""
    reason = next((summary.empty[p.key] for p in node.parents if p.key in summary.empty), None)
    if reason is not None:
        summary.empty[node.key] = reason
    elif any(p.key not in artifacts for p in node.parents):
        summary.blocked.append(node.key)
    elif node.stage == "train" and (reason := why_empty(artifacts[node.inputs["pairs"][0].key])):
        summary.empty[node.key] = reason
        reporter.line(f"{label}: empty ({reason})")
    else:
        started = time.monotonic()
        try:
            artifact, how = _do(node, label, store, reporter, artifacts, threads)
        except BusyError as error:
            summary.blocked.append(node.key)
            reporter.line(f"{label}: {error}")
        except Exception as error:  # one node's failure must not end the others' work; it is logged and reported
            summary.failed[node.key] = _log_failure(store, node, error)
            reporter.line(f"{label}: FAILED: {_first_line(error)}")
        else:
            artifacts[node.key] = artifact
            getattr(summary, how).append(node.key)
            note = "equal to one that is done" if how == "aliased" else f"{time.monotonic() - started:.1f} s"
            reporter.line(f"{label}: {note}{_accounting(artifact)}")


def _accounting(artifact: Artifact) -> str:
    rows = artifact.manifest.rows
    dropped = ", ".join(f"{reason} {count}" for reason, count in rows["dropped"].items())
    return f", {rows['kept']} of {rows['taken']} rows" + (f" (dropped: {dropped})" if dropped else "")


def _do(
    node: Node,
    label: str,
    store: Store,
    reporter: Reporter,
    artifacts: Mapping[str, Artifact],
    threads: int | None,
) -> tuple[Artifact, str]:
    """Compute a node, or find that its content stands already; returns the artifact and which of the two it was."""
    content = node.key_with({n: [artifacts[p.key].manifest.content_id for p in ps] for n, ps in node.inputs.items()})
    with store.claim(node.key) as work:
        if (found := store.find(node.stage, node.key)) is not None:  # done by another process in the meantime
            return found, "done"
        if content != node.key and (equal := store.find_content(content)) is not None:
            return _publish_alias(node, store, work, equal), "aliased"
        groups = {**node.inputs, **node.uses}
        context = Context(
            inputs={name: tuple(artifacts[p.key] for p in parents) for name, parents in groups.items()},
            params=node.params,
            work=work,
            reporter=reporter,
            label=label,
        )
        started, clock = time.time(), time.monotonic()
        outcome = _stage(node.stage).run(context, node.spec)
        provenance = {
            **_versions(),
            "threads": threads or os.cpu_count(),
            "started": started,
            "seconds": time.monotonic() - clock,
        }
        manifest = _manifest(node, outcome, outcome.content or content, provenance)
        return store.publish(work, manifest, node.slug), "computed"


def _stage(name: str) -> Stage:
    module: Any = importlib.import_module(f"harness.stages.{name}")
    return module  # type: ignore[no-any-return]


def _manifest(node: Node, outcome: Outcome, content: str, provenance: Mapping[str, Any]) -> Manifest:
    return Manifest(
        stage=node.stage,
        stage_version=node.version,
        key=node.key,
        content_id=content,
        spec=canonical(node.spec),
        inputs={name: [p.key for p in parents] for name, parents in node.inputs.items()},
        rows=asdict(outcome.rows),
        measures=dict(outcome.measures),
        files={},
        provenance=dict(provenance),
    )


def _publish_alias(node: Node, store: Store, work: Path, equal: Artifact) -> Artifact:
    """Name an artifact of equal content as this node's; nothing is copied."""
    for leftover in work.iterdir():  # of an interrupted run; an alias holds nothing of its own
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    original = equal.manifest
    outcome = Outcome(rows=Rows(**original.rows), measures=original.measures)
    manifest = _manifest(node, outcome, original.content_id, original.provenance)
    alias = Manifest(**{**asdict(manifest), "alias_of": str(equal.folder.relative_to(store.root))})
    return Artifact(equal.folder, store.publish(work, alias, node.slug).manifest)


def _prepare_process(threads: int | None) -> None:
    """Fix the number of CPU threads (float32 results are the same only for the same number) and keep freed memory."""
    import torch

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # One process, one device: with several in sight the trainer would multiply the batch.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    torch.set_num_threads(threads or os.cpu_count() or 1)
    if platform.libc_ver()[0] == "glibc":
        # By default glibc hands every large block back to the kernel and faults it in anew, page by page: a
        # quarter or more of a training's time on a CPU, whose temporaries are hundreds of megabytes.
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@lru_cache(maxsize=1)
def _versions() -> dict[str, Any]:
    """What made an artifact: package versions, code commit, machine."""
    packages = ("prefsweep", "torch", "transformers", "trl", "peft", "numpy", "pyarrow")
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {
        "versions": found,
        "python": platform.python_version(),
        "commit": _commit(),
        "device": _device(),
        "host": platform.node(),
    }


def _commit() -> str | None:
    """Commit of the code, with `+` where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu ({platform.machine()})"


def _log_failure(store: Store, node: Node, error: Exception) -> Path:
    """Keep the whole story of a failure; a user's error needs no traceback."""
    path = store.root / "logs" / f"{node.stage}-{node.key}.log"
    detail = str(error) if isinstance(error, PrefsweepError) else "".join(traceback.format_exception(error))
    path.write_text(f"{node.stage} {node.slug} {node.key}\n{detail.rstrip()}\n")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def failure_report(summary: Summary, plan: Plan) -> Sequence[str]:
    """Every failure with the last lines of its log."""
    lines: list[str] = []
    for key, path in summary.failed.items():
        node = plan.nodes[key]
        lines.append(f"failed: {node.stage} {node.slug} (log: {path})")
        lines += [f"    {line}" for line in path.read_text().splitlines()[-_LOG_LINES:]]
    if summary.blocked:
        lines.append(f"not done, since something they need is not there: {len(summary.blocked)} nodes")
    return lines
