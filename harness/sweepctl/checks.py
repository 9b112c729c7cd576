"""Whether an artifact is what its manifest says: files, key, accounting, and the artifacts it was made from."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.keys import node_key
from harness.manifest import Manifest, digest_of, read_manifest
from harness.store import SET_ASIDE, Artifact, Rows, mixed
from harness.sweepctl.catalogue import Catalogue, key_of

_CHUNK = 4 << 20
"""Bytes hashed between two signs of progress."""


@dataclass(kw_only=True)
class Finding:
    """What was found in one folder."""

    folder: Path
    manifest: Manifest | None = None
    faults: list[str] = field(default_factory=list)
    """What makes the artifact unusable."""
    strangers: list[str] = field(default_factory=list)
    """Why it does not belong to the artifacts that are there now."""
    extra: list[str] = field(default_factory=list)
    """Files that are not in the manifest: no damage."""
    files: int = 0
    set_aside: bool = False
    """It was set aside earlier."""

    @property
    def bad(self) -> bool:
        """Whether the artifact must not be used."""
        return bool(self.faults or self.strangers)


class Meter:
    """Counts bytes of several threads, and reports whole megabytes."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._lock = advance, threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            before, self.bytes = self.bytes, self.bytes + count
            self._advance(self.bytes // 1_000_000 - before // 1_000_000)


def inspect(folder: Path, meter: Meter) -> Finding:
    """Check one folder by itself."""
    try:
        return _inspect(folder, meter)
    except FileNotFoundError as error:
        return Finding(folder=folder, faults=[f"{error.filename}: removed while it was read"])


def _inspect(folder: Path, meter: Meter) -> Finding:
    if not (folder / "manifest.json").exists():
        aside = (folder / SET_ASIDE).exists()
        return Finding(folder=folder, set_aside=aside, faults=[] if aside else ["manifest.json: missing"])
    manifest = read_manifest(folder)
    if manifest is None:
        return Finding(folder=folder, faults=["manifest.json: cannot be read"])
    return Finding(
        folder=folder,
        manifest=manifest,
        faults=[*_manifest_faults(folder, manifest), *_file_faults(folder, manifest, meter)],
        extra=sorted(_extra(folder, manifest)),
        files=len(manifest.files),
    )


def _manifest_faults(folder: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.stage != folder.parent.name:
        yield f"manifest.json: is of stage {manifest.stage}, but stands in {folder.parent.name}"
    if not folder.name.endswith(f"-{manifest.key}"):
        yield f"manifest.json: has key {manifest.key}, which the folder's name does not end with"
    try:
        key = node_key(manifest.stage, manifest.stage_version, manifest.spec, manifest.inputs)
    except (TypeError, ValueError):
        key = "none at all"
    if key != manifest.key:
        yield f"manifest.json: stage, version, spec and inputs give the key {key}, not {manifest.key}"
    try:
        Rows(**manifest.rows)
    except (TypeError, ValueError) as error:
        yield f"manifest.json: {error}"
    whole = {**manifest.files, **manifest.released}
    if manifest.alias_of is None and manifest.digest != digest_of(whole):
        yield "manifest.json: its digest is not that of its files"


def _file_faults(folder: Path, manifest: Manifest, meter: Meter) -> Iterator[str]:
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
        elif (found := path.stat().st_size) < record["bytes"]:
            yield f"{name}: truncated ({found} of {record['bytes']} bytes)"
        elif found > record["bytes"] or _sha256(path, meter) != record["sha256"]:
            yield f"{name}: changed"


def _sha256(path: Path, meter: Meter) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            meter.add(len(chunk))
    return hasher.hexdigest()


def _extra(folder: Path, manifest: Manifest) -> Iterator[str]:
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in manifest.files and name != "manifest.json":
            yield name


def judge_aliases(catalogue: Catalogue, findings: Mapping[Path, Finding]) -> None:
    """Enter the aliases that lead to nothing, or to another artifact than they were made for.

    One whose original is damaged is whole again as soon as that is made again, and not at fault.
    """
    for finding in findings.values():
        manifest = finding.manifest
        if manifest is None or manifest.alias_of is None:
            continue
        home = catalogue.store.root / manifest.alias_of
        original = findings[home].manifest if home in findings else read_manifest(home)
        if not home.is_dir():
            finding.faults.append(f"is an alias of {manifest.alias_of}, which is not there")
        elif original is not None and original.alias_of is not None:
            finding.faults.append(f"is an alias of {manifest.alias_of}, which is an alias itself")
        elif original is not None and (original.content_id, original.digest) != (manifest.content_id, manifest.digest):
            finding.strangers.append(f"is an alias of {manifest.alias_of}, which has another content now")


def judge_origins(catalogue: Catalogue, findings: Mapping[Path, Finding]) -> None:
    """Enter the artifacts that were made from others than those that are there now, and all that is made of them.

    What is made of a stranger would be a stranger once that is made anew, so that one pass names everything. A parent
    that is damaged says nothing: it will be made anew.
    """
    whole = {f.manifest.key: f for f in findings.values() if f.manifest is not None and not f.faults}
    damaged = {key_of(f.folder) for f in findings.values() if f.faults}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for key, finding in whole.items():
        assert finding.manifest is not None
        for parent in finding.manifest.made_from:
            children[parent].append(key)
            held = catalogue.find(parent) if parent not in damaged else None
            if held is not None and mixed(Artifact(finding.folder, finding.manifest), [held.artifact]):
                finding.strangers.append(f"was made from another {catalogue.name(parent)}")
    strangers = [key for key, finding in whole.items() if finding.strangers]
    for stranger in strangers:
        for child in children[stranger]:
            if not whole[child].strangers:
                whole[child].strangers.append(f"was made from {catalogue.name(stranger)}, which does not belong")
                strangers.append(child)


def still_bad(catalogue: Catalogue, finding: Finding, strangers: set[str]) -> bool:
    """Whether what was found holds for what stands there now.

    Args:
        strangers: keys of artifacts that did not belong, and are set aside by now.
    """
    again = _settled(finding)
    if again.bad or again.manifest is None:
        return again.bad
    judge_aliases(catalogue, {again.folder: again})
    return again.bad or _is_stranger(catalogue, again.manifest, strangers)


def _settled(finding: Finding) -> Finding:
    """What is found in a folder that has not changed meanwhile; nothing where it is gone."""
    while finding.folder.is_dir():
        before = read_manifest(finding.folder)
        again = inspect(finding.folder, Meter(lambda _: None))
        if read_manifest(finding.folder) == before == again.manifest or not again.bad:
            return again
    return Finding(folder=finding.folder)


def _is_stranger(catalogue: Catalogue, manifest: Manifest, strangers: set[str]) -> bool:
    """Whether an artifact was made from others than those that are there now."""
    for key in manifest.made_from:
        node = catalogue.node(key)
        held = catalogue.store.find(node.stage, key) if node is not None else None
        if key in strangers or (held is not None and mixed(Artifact(Path(), manifest), [held])):
            return True
    return False
