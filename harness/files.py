"""Files that are whole or absent, whatever happens meanwhile, and the records by which they are known again."""

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either absent, old, or whole."""
    # Process ids are the same on many machines.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=1, sort_keys=True, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_record(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256 of a file."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Records of all files below a folder, each flushed to disk; leftovers of interrupted writes are removed."""
    records = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if name.endswith(".partial") or name == "manifest.json":
            path.unlink()
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
        records[name] = file_record(path)
    return records


def sync_folder(folder: Path) -> None:
    """Flush to disk which files a folder has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
