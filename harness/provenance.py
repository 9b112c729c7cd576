"""What made an artifact: package versions, code commit, machine."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("prefsweep", "torch", "transformers", "trl", "peft", "numpy", "pyarrow")
"""Packages whose version can change a result."""


_HELD = {"share": 1.0}
"""Part of an accelerator that this process has to itself."""


def hold(share: float) -> None:
    """Enter which part of an accelerator this process may use."""
    _HELD["share"] = share
    provenance.cache_clear()


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """Versions, commit, device and host of this process, and the GPUs that it holds."""
    device = _device()
    return {**software(), "device": device, "gpus": 0 if device.startswith("cpu") else _HELD["share"]}


def software() -> dict[str, Any]:
    """Versions, commit and host, for what needs no device and no torch."""
    return {
        "versions": {package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "commit": commit(),
        "host": platform.node(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=1)
def commit() -> str | None:
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


def cpus() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
