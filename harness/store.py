"""The store: artifacts that are whole or absent, each with a manifest that says what made it.

store/<stage>/<slug>-<key>/     tables or weights, and manifest.json, written last
store/content/<content id>      where content that equals a finished node's lives
store/work/<key>/               work in hand, and who holds the right to it; see `harness.claims`
store/judgements/<judge>/       what judges have said, as it arrives; see `harness.judges.journal` and `known`
store/sweeps/<name>.json        the points and nodes of a sweep; see `harness.record`
store/logs/<stage>-<key>.log    the last failure of a node
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from harness import claims, tables
from harness.claims import BusyError, LostClaimError, Owner
from harness.errors import PrefsweepError
from harness.files import file_record, inventory, sync_folder, write_json
from harness.manifest import Manifest, digest_of, read_manifest, usable_manifest

FORMAT = 2
"""Version of the layout; a store of another version is refused."""


UNUSABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""What an operating system says where no node can be done: disk full, over quota, read-only, forbidden."""

SET_ASIDE = "manifest.damaged.json"
"""What a manifest is called once its artifact was found damaged."""

_SETTLED = 2.0
"""Seconds after which a change of a folder has surely got another time stamp than the one before."""

_LOCK_POLL = 0.05


class StoreError(PrefsweepError):
    """A store that cannot be used, or an artifact that is damaged."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Row accounting of one node: what came in is what went out and what was dropped, by reason."""

    taken: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.taken != self.kept + sum(self.dropped.values()):
            raise ValueError(f"rows do not add up: {self.taken} in, {self.kept} out, dropped {dict(self.dropped)}")


class Artifact:
    """A finished node's output."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Read one table, shards in order."""
        return tables.read(self.table_path(name), columns)

    def table_path(self, name: str) -> Path:
        """Where a table is: a folder of shards, or one file."""
        path = self.folder / name
        return path if path.is_dir() else path.with_suffix(".parquet")

    @cached_property
    def model_path(self) -> Path:
        """Folder of the weights that this artifact holds or points to.

        Raises:
            StoreError: the weights were released.
        """
        if self.manifest.released:
            raise StoreError(f"the weights of {self.folder.name} were released; {RETRY.format(self.manifest.key)}")
        pointer = json.loads((self.folder / "model.json").read_text())
        path = Path(pointer["path"])
        return path if path.is_absolute() else (self.folder / path).resolve()


RETRY = "`sweepctl retry {}`, then the same command again, makes them anew"
"""What to do about released weights; formatted with the key."""


class Store:
    """A folder of artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._seen: dict[str, tuple[int, dict[str, list[str]]]] = {}

    def prepare(self) -> "Store":
        """Create the folders, and refuse a store of another format.

        Raises:
            StoreError: not writable, or another format.
        """
        marker = self.root / "store.json"
        try:
            for name in ("content", "work", "sweeps", "logs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                write_json(marker, {"format": FORMAT})
        except OSError as error:
            raise StoreError(f"store: cannot write to {self.root}: {error.strerror}") from None
        self.check()
        return self

    def check(self) -> "Store":
        """Refuse a folder that is no store of this format.

        Raises:
            StoreError: no store there, or another format.
        """
        try:
            found = json.loads((self.root / "store.json").read_text())["format"]
        except (OSError, ValueError, TypeError, KeyError):
            why = "it has no store.json that can be read" if self.root.is_dir() else "there is no such folder"
            raise StoreError(
                f"store: {self.root} is no prefsweep store: {why}; expected the folder of a sweep's store=... "
                "(default: ./store)"
            ) from None
        if found != FORMAT:
            raise StoreError(f"store: {self.root} has format {found}; this version reads format {FORMAT}")
        return self

    def folder(self, stage: str, slug: str, key: str) -> Path:
        """Where a node's artifact stands once it is whole."""
        return self.root / stage / f"{slug}-{key}"

    def find(self, stage: str, key: str) -> Artifact | None:
        """The whole artifact of a node, following an alias; None where there is none."""
        for folder in self._folders(stage, key):
            if (manifest := usable_manifest(folder)) is None:
                continue
            if manifest.alias_of is None:
                return Artifact(folder, manifest)
            original = usable_manifest(self.root / manifest.alias_of)
            if original is not None:
                # What was released of the original is not there for its aliases either.
                return Artifact(self.root / manifest.alias_of, replace(manifest, released=original.released))
        return None

    def damaged(self, stage: str, key: str) -> Path | None:
        """The folder of a node's artifact that is there but cannot be used; None where it is absent or whole."""
        folders = self._folders(stage, key)
        return folders[0] if folders and self.find(stage, key) is None else None

    def forget(self) -> None:
        """Look afresh at every folder, whatever its time stamp says."""
        self._seen.clear()

    def folders(self, stage: str) -> list[Path]:
        """Every folder of a stage, whole or not, by name."""
        return [self.root / stage / name for names in self._names(stage).values() for name in sorted(names)]

    def stages(self) -> list[str]:
        """Stages of which the store has anything."""
        own = {"batches", "content", "judgements", "logs", "probes", "sweeps", "work"}
        return sorted(e.name for e in os.scandir(self.root) if e.is_dir() and e.name not in own)

    def _folders(self, stage: str, key: str) -> list[Path]:
        return [self.root / stage / name for name in self._names(stage).get(key, ())]

    def _names(self, stage: str) -> dict[str, list[str]]:
        """Folder names of a stage by key; the folder is read again only after it has changed."""
        folder = self.root / stage
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        seen = self._seen.get(stage)
        if seen is not None and seen[0] == changed and time.time() - changed / 1e9 > _SETTLED:
            return seen[1]
        names: dict[str, list[str]] = {}
        for name in os.listdir(folder):
            names.setdefault(name.rpartition("-")[2], []).append(name)
        self._seen[stage] = changed, names
        return names

    def find_content(self, content_id: str) -> Artifact | None:
        """An artifact with this content, whichever node made it."""
        pointer = self.root / "content" / content_id
        if not pointer.exists():
            return None
        folder = self.root / pointer.read_text().strip()
        manifest = usable_manifest(folder)
        return Artifact(folder, manifest) if manifest else None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait for, and hold, the one right to rewrite what `name` stands for.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            with ExitStack() as held:
                while True:
                    try:
                        held.enter_context(claims.hold(self.root / "work" / name))
                        break
                    except BusyError:
                        time.sleep(_LOCK_POLL)
                yield
        except OSError as error:
            if error.errno not in UNUSABLE:
                raise
            raise StoreError(f"store: cannot write to {self.root}: {error.strerror}") from None

    @contextmanager
    def claim(self, key: str) -> Iterator[Path]:
        """Hold the one right to work on a node; yields its work folder, which outlives a crash.

        Raises:
            BusyError: a living process holds it.
        """
        with claims.hold(self.root / "work" / key) as claim:
            self.forget()
            yield claim.work

    def owner(self, key: str) -> Owner | None:
        """Who is at work on a node right now; None where nobody is."""
        return claims.alive(self.root / "work" / key)

    def publish(self, work: Path, manifest: Manifest, slug: str) -> Artifact:
        """Turn a work folder into an artifact: hash its files, write the manifest, then rename.

        Raises:
            StoreError: the artifact exists already.
        """
        files = inventory(work)
        whole = replace(manifest, files=files, digest=manifest.digest or digest_of(files))
        write_json(work / "manifest.json", asdict(whole))
        sync_folder(work)
        target = self.folder(manifest.stage, slug, manifest.key)
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.find(manifest.stage, manifest.key) is None:
            for folder in self._folders(manifest.stage, manifest.key):
                if folder == target or usable_manifest(folder) is None:  # an alias is whole again once its original is
                    shutil.rmtree(folder)  # never used, so nothing is lost
        if manifest.alias_of is None:
            # Before the rename: a pointer to nothing counts as absent, but content without one would be made again.
            self._index(manifest.content_id, target)
        try:
            work.rename(target)
        except FileNotFoundError:
            if read_manifest(target) == whole:  # the answer to a first request got lost
                return Artifact(target, whole)
            raise LostClaimError(f"node {manifest.key}: another process took it over; its result counts") from None
        except OSError as error:
            if error.errno in UNUSABLE:
                raise
            raise StoreError(f"store: cannot publish {target}: {error.strerror}") from None
        sync_folder(target.parent)
        return Artifact(target, whole)

    def _index(self, content_id: str, folder: Path) -> None:
        pointer = self.root / "content" / content_id
        partial = pointer.with_name(f"{content_id}.{secrets.token_hex(4)}.partial")
        partial.write_text(str(folder.relative_to(self.root)) + "\n")
        partial.replace(pointer)

    def release(self, artifact: Artifact, folder: str) -> int:
        """Give up the files below `folder` of an artifact, for their space; returns the bytes.

        The manifest is written first: it says at no moment that a file is there which is not.
        """
        released = {name: r for name, r in artifact.manifest.files.items() if name.startswith(f"{folder}/")}
        kept = {name: r for name, r in artifact.manifest.files.items() if name not in released}
        manifest = replace(artifact.manifest, files=kept, released={**artifact.manifest.released, **released})
        write_json(artifact.folder / "manifest.json", asdict(manifest))
        shutil.rmtree(artifact.folder / folder, ignore_errors=True)
        return sum(record["bytes"] for record in released.values())

    def set_aside(self, folder: Path) -> None:
        """Take an artifact out of use, so that its node is made again; its files stay until then."""
        if (folder / "manifest.json").exists():
            (folder / "manifest.json").rename(folder / SET_ASIDE)
        else:
            (folder / SET_ASIDE).touch()

    def remove(self, folder: Path) -> None:
        """Delete an artifact; its manifest goes first, so that it is at no moment there in part."""
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder)

    def verify(self, artifact: Artifact) -> list[str]:
        """Names of the artifact's files that are missing or changed, by size and sha256."""
        expected = artifact.manifest.files
        if artifact.manifest.alias_of is not None:
            original = read_manifest(artifact.folder)
            expected = original.files if original else {}
        return [
            name
            for name, record in expected.items()
            if not (artifact.folder / name).is_file() or file_record(artifact.folder / name) != dict(record)
        ]


def mixed(artifact: Artifact, parents: Sequence[Artifact]) -> list[str]:
    """Keys of the parents that are not those which an artifact was made from: parts of two stores have been mixed."""
    made_from = artifact.manifest.made_from
    return [p.manifest.key for p in parents if made_from.get(p.manifest.key, p.manifest.digest) != p.manifest.digest]
