"""`sweepctl verify`: whether everything in a store is still what it was when it was made."""

import argparse
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import record
from harness.claims import BusyError
from harness.manifest import read_manifest
from harness.plan import STAGES
from harness.progress import Reporter
from harness.provenance import cpus
from harness.store import Store, StoreError
from harness.sweepctl.catalogue import IMPORTED, Catalogue, is_key, key_of
from harness.sweepctl.checks import Finding, Meter, inspect, judge_aliases, judge_origins, still_bad
from harness.sweepctl.terminal import Commands, add, count, open_store, say, size

_JOBS = 8
"""Files read at a time by default, at most: more gain nothing on a disk."""


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "verify",
        run,
        "re-hash every file, and check that all artifacts belong together",
        "What is damaged (a file missing, truncated or changed; a manifest that does not fit its key or does not add "
        "up) or does not belong (made from another artifact than the one that is there now) is named and set aside, so "
        "that the next run makes it again. Exit code: 1 if anything was found.",
    )
    parser.add_argument("--sweep", metavar="NAME", help="only what this sweep needs (default: everything)")
    parser.add_argument(
        "--jobs", type=int, default=min(_JOBS, cpus()), metavar="N", help="threads (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="name what is wrong, and leave it where it is")


def run(options: argparse.Namespace) -> int:
    """Check, name, set aside; returns 1 if anything was found."""
    store = open_store(options)
    if options.jobs < 1:
        raise StoreError(f"--jobs: expected 1 or more, got {options.jobs}")
    wanted = set(record.read(store, options.sweep).nodes) if options.sweep is not None else None
    catalogue = Catalogue(store)
    findings = _inspect_all(catalogue, sorted(_folders(catalogue, wanted)), options.jobs)
    judge_aliases(catalogue, findings)
    judge_origins(catalogue, findings)
    for line in _told(findings.values(), store):
        say(line)
    bad = [finding for finding in findings.values() if finding.bad]
    pointers = [] if wanted is not None else list(_wrong_pointers(store))
    for pointer, why in pointers:
        say(f"wrong: content/{pointer.name}: {why}")
    bad = _confirmed(catalogue, bad, dry=options.dry_run)
    if not options.dry_run:
        for pointer, _ in pointers:
            pointer.unlink(missing_ok=True)
    _conclude(catalogue, bad, dry=options.dry_run)
    return int(bool(bad or pointers))


def _folders(catalogue: Catalogue, wanted: set[str] | None) -> set[Path]:
    """Artifacts to check: all, whatever their names, or those of a sweep with the originals of its aliases."""
    store = catalogue.store
    if wanted is None:
        everything = [folder for stage in store.stages() for folder in store.folders(stage)]
        return {f for f in everything if is_key(key_of(f)) or (f / "manifest.json").exists()}
    own = {folder for key in wanted for folder in catalogue.folders.get(key, ())}
    return own | {home for key in wanted for home in catalogue.homes(key) if home.is_dir()}


def _inspect_all(catalogue: Catalogue, folders: list[Path], jobs: int) -> dict[Path, Finding]:
    """Findings by folder, with progress while they are made and a rate at the end."""
    recorded = [m for m in map(read_manifest, folders) if m is not None]
    total = sum(record["bytes"] for manifest in recorded for record in manifest.files.values())
    started = time.monotonic()
    with Reporter().task("verify", max(1, total // 1_000_000), "MB") as task, ThreadPoolExecutor(jobs) as pool:
        meter = Meter(task.advance)
        try:
            findings = list(pool.map(lambda folder: inspect(folder, meter), folders))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    seconds = max(time.monotonic() - started, 1e-9)
    say(
        f"{count(len(folders), 'artifact')}, {count(sum(f.files for f in findings), 'file')}, {size(meter.bytes)} "
        f"read in {seconds:.1f} s ({meter.bytes / 1e9 / seconds:.2f} GB/s)"
    )
    return {finding.folder: finding for finding in findings}


def _told(findings: Iterable[Finding], store: Store) -> Iterator[str]:
    for finding in findings:
        name = finding.folder.relative_to(store.root)
        yield from (f"damaged: {name}: {fault}" for fault in finding.faults)
        yield from (f"does not belong: {name}: {why}" for why in finding.strangers)
        yield from (f"not in the manifest: {name}/{file}" for file in finding.extra)
        if finding.set_aside:
            yield f"set aside earlier: {name}"


def _wrong_pointers(store: Store) -> Iterator[tuple[Path, str]]:
    """Content pointers that would have another content taken for theirs; those to nothing count as absent."""
    for pointer in sorted((store.root / "content").iterdir()):
        if pointer.name.endswith(".partial"):
            continue
        target = pointer.read_text(errors="replace").strip()
        manifest = read_manifest(store.root / target)
        if manifest is not None and manifest.content_id != pointer.name:
            yield pointer, f"leads to {target}, whose content is {manifest.content_id}"


def _confirmed(catalogue: Catalogue, bad: list[Finding], *, dry: bool) -> list[Finding]:
    """Those that are still bad, set aside; hashing took its time, and others may have been at work meanwhile."""
    # An alias is compared with its original before that is set aside, and what was made of a stranger goes after it.
    left, gone, before = sorted(bad, key=_order), [], -1
    strangers: set[str] = set()
    while len(strangers) > before:
        before = len(strangers)
        for finding in tuple(left):
            if _settle(catalogue, finding, strangers, dry=dry):
                left.remove(finding)
                gone.append(finding)
                if finding.strangers and not finding.faults:
                    strangers.add(key_of(finding.folder))
    for finding in left:
        say(f"made whole, replaced or removed meanwhile: {finding.folder.relative_to(catalogue.store.root)}")
    return gone


def _order(finding: Finding) -> tuple[bool, int]:
    """Aliases first, then by stage."""
    stage = finding.folder.parent.name
    is_alias = finding.manifest is not None and finding.manifest.alias_of is not None
    return not is_alias, STAGES.index(stage) if stage in STAGES else -1


def _settle(catalogue: Catalogue, finding: Finding, strangers: set[str], *, dry: bool) -> bool:
    """Whether an artifact is still bad; it is set aside then, under its claim."""
    if dry:
        return still_bad(catalogue, finding, strangers)
    try:
        with catalogue.store.claim(key_of(finding.folder)):
            bad = still_bad(catalogue, finding, strangers)
            if bad:
                catalogue.store.set_aside(finding.folder)
            return bad
    except BusyError:
        bad = still_bad(catalogue, finding, strangers)
        if bad:
            say(f"left where it is, since it is being made again: {finding.folder}")
        return bad


def _conclude(catalogue: Catalogue, bad: list[Finding], *, dry: bool) -> None:
    if not bad:
        say("every artifact is whole and belongs to the others")
        return
    damaged = [key_of(f.folder) for f in bad if f.faults]
    say(
        f"{len(damaged)} damaged, {len(bad) - len(damaged)} that do not belong; "
        + ("left where they are (--dry-run)" if dry else "set aside, so that the next run makes them again")
    )
    out = {key_of(f.folder) for f in bad}
    heirs = [key for key in catalogue.descendants(damaged) if key not in out and catalogue.find(key) is not None]
    if heirs:
        say(
            f"{count(len(heirs), 'artifact')} made from damaged ones are kept, since the damage may have come later; "
            f"`sweepctl retry --dependents {' '.join(damaged)}` has all of them made anew"
        )
    for imported in [f.folder for f in bad if f.folder.parent.name == IMPORTED]:
        say(f"nothing can make {imported.name} anew but the import that it came by")
    for sweep in catalogue.sweeps_of(out):
        for command in sweep.commands(out):
            say(f"to make them again ({sweep.name}): {command}")
