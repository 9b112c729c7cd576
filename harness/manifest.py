"""The record of an artifact, which makes it one: without a manifest there is no artifact."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.keys import digest

_MAPPINGS = ("spec", "inputs", "rows", "measures", "files", "provenance", "made_from", "released")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of an artifact."""

    stage: str
    stage_version: int
    key: str
    content_id: str
    """Equal for artifacts of equal content: the node's own, or the hash of what it holds."""
    spec: Mapping[str, Any]
    inputs: Mapping[str, Any]
    """Keys of the inputs, by name."""
    rows: Mapping[str, Any]
    """`taken`, `kept` and `dropped` by reason."""
    measures: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    """Size and sha256 of every file, by its path in the artifact."""
    provenance: Mapping[str, Any]
    """Versions, code commit, device, threads, start, seconds."""
    alias_of: str | None = None
    """Folder in the store, relative to it, that holds the content."""
    digest: str = ""
    """Hash of the files' hashes when the artifact was published; an alias has its original's."""
    made_from: Mapping[str, str] = field(default_factory=dict)
    """The digest of every artifact that this one was made from, by key."""
    released: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Files that were whole once and were given up for their space; the node still counts as done."""


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None where it is absent or unreadable: no manifest, no artifact."""
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return manifest if _well_formed(manifest) else None


def _well_formed(manifest: Manifest) -> bool:
    """Whether a manifest, which anyone may have edited, has the shape that everything relies on."""
    if not all(isinstance(getattr(manifest, name), dict) for name in _MAPPINGS):
        return False
    records = (*manifest.files.values(), *manifest.released.values())
    return all(isinstance(r, dict) and r.keys() >= {"bytes", "sha256"} for r in records) and (
        manifest.rows.keys() >= {"taken", "kept", "dropped"} and isinstance(manifest.rows["dropped"], dict)
    )


def usable_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder whose files are all there in their recorded sizes; None otherwise."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != record["bytes"]:
            return None
    return manifest


def digest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of many files, by their names and hashes."""
    return digest({name: record["sha256"] for name, record in files.items()})
