"""Where frames are loaded from: one store, or several whose results are taken together.

An exported folder (`analysis.exported`) may stand in the place of a store.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from harness import record
from harness.errors import PrefsweepError
from harness.keys import digest
from harness.store import Artifact, Store, StoreError

Points = Mapping[str, Any]
"""Recorded points by the hash of their configuration, each with the record of its `sweep`."""


class Reading(Store):
    """A store that nothing is written to: what was found or read once is not looked for again."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._found: dict[tuple[str, str], Artifact | None] = {}
        self._sweeps: dict[str, record.Sweep] = {}

    def find(self, stage: str, key: str) -> Artifact | None:
        """The whole artifact of a node; None where there is none."""
        if (stage, key) not in self._found:
            self._found[stage, key] = super().find(stage, key)
        return self._found[stage, key]

    def sweep(self, name: str) -> record.Sweep:
        """What the store knows of a sweep."""
        if name not in self._sweeps:
            self._sweeps[name] = record.read(self, name)
        return self._sweeps[name]


def reading(store: "Path | str | Reading") -> Reading:
    """The store in a folder, or one that is opened already.

    Raises:
        StoreError: no store there.
    """
    opened = store if isinstance(store, Reading) else Reading(Path(store))
    opened.check()
    return opened


Stores = Path | str | Reading | Sequence[Path | str | Reading]
"""A store's folder, or several; one that is opened here reads its manifests once for several frames."""


MISSING: Final = "missing"
"""Of a frame's `attrs`: what of the sweep has no rows in it, in words; empty where nothing lacks."""


def say_missing(frame: pd.DataFrame, absent: Iterable[str], asked: int, what: str) -> pd.DataFrame:
    """Leave in `attrs` which of the `asked` have no rows; `what` continues "3 of 8": "results have no verdicts"."""
    names = sorted(set(absent))
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    frame.attrs[MISSING] = f"{len(names)} of {asked} {what} ({shown})" if names else ""
    return frame


def points_of(stores: Stores, sweep: str | None) -> Iterator[tuple[Store, Points]]:
    """Every store with the points that are taken from it: of one sweep, or of all, the latest record winning.

    A point that several stores know is taken from the first that has its verdicts, or else from the first.

    Raises:
        StoreError: a folder is no store, or no store has the sweep; lists the sweeps there are.
        PrefsweepError: two stores have verdicts of one point that differ.
    """
    given = [stores] if isinstance(stores, str | Path | Reading) else stores
    opened = [reading(store) for store in given]
    if not opened:
        raise PrefsweepError("expected at least one store")
    known = {store.root: record.names(store) for store in opened}
    if sweep is not None and not any(sweep in names for names in known.values()):
        _no_sweep(opened, known, sweep)
    found = {store.root: _recorded(store, sweep, known[store.root]) for store in opened}
    same = _identities(found.values()) if len(opened) > 1 else {}
    owners: dict[str, tuple[Store, str | None]] = {}
    for store in opened:
        for result, point in found[store.root].items():
            key, judged = same.get(result, result), None if len(opened) == 1 else _verdicts(store, point)
            if key not in owners or (owners[key][1] is None and judged is not None):
                owners[key] = store, judged
            elif judged is not None and judged != owners[key][1]:
                raise PrefsweepError(
                    f"result {result} has different verdicts in {owners[key][0].root} and in {store.root}; "
                    "load the two stores apart, or forget the sweep in one of them"
                )
    for store in opened:
        own = found[store.root]
        yield store, {key: point for key, point in own.items() if owners[same.get(key, key)][0] is store}


def _identities(found: Iterable[Points]) -> dict[str, str]:
    """Each point by the name under which it counts once.

    A point of the same work, recorded under settings that had not all been there yet, is the later one.
    """
    by_work: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for points in found:
        for key, point in points.items():
            by_work[digest(point["nodes"])][key] = point["config"]
    return {
        key: max((len(other), name) for name, other in alike.items() if config.items() <= other.items())[1]
        for alike in by_work.values()
        for key, config in alike.items()
    }


def _recorded(store: Reading, sweep: str | None, names: Sequence[str]) -> dict[str, Any]:
    points: dict[str, Any] = {}
    for name in names if sweep is None else [name for name in names if name == sweep]:
        recorded = store.sweep(name)
        points |= {key: {**point, "sweep": recorded} for key, point in recorded.points.items()}
    return points


def _no_sweep(opened: Sequence[Store], known: Mapping[Path, Sequence[str]], sweep: str) -> None:
    if len(opened) == 1:
        record.read(opened[0], sweep)  # whose error lists what there is
    names = sorted({name for each in known.values() for name in each})
    raise StoreError(f"no store has a sweep {sweep!r}; they have {', '.join(names) or 'none'}")


def _verdicts(store: Store, point: Mapping[str, Any]) -> str | None:
    artifact = store.find("judge", point["nodes"]["judge"])
    return None if artifact is None else artifact.manifest.digest


def ancestry(sweep: record.Sweep, keys: Iterable[str], known: dict[str, frozenset[str]]) -> set[str]:
    """The nodes of a sweep with everything that they stand on.

    Args:
        known: what was found before, by node; a key means the same in every sweep. It is added to.
    """
    needed: set[str] = set()
    for key in keys:
        needed |= _ancestry(sweep, key, known)
    return needed


def _ancestry(sweep: record.Sweep, key: str, known: dict[str, frozenset[str]]) -> frozenset[str]:
    waiting = [key]
    while waiting:
        parents = list(sweep.parents(waiting[-1]))
        if unknown := [parent for parent in parents if parent not in known]:
            waiting += unknown
        else:
            own = waiting.pop()
            known[own] = frozenset({own}).union(*(known[parent] for parent in parents))
    return known[key]
