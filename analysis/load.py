"""From the store to tidy frames: one row per result, every configuration key a column.

The columns are those of `analysis.schema`. A partial sweep loads: a result that is missing has a status that says so,
and `attrs["missing"]` of every frame says in words what has no rows in it. In the place of a store every function takes
an exported folder (`python -m analysis export`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy import sparse

from analysis import answers, schema
from analysis.exported import exported
from analysis.kept_measures import content_of, keep, read_kept
from analysis.parallel import Workers
from analysis.recorded import each_point
from analysis.result_rows import cell_key, machine_time, result_row
from analysis.stores import Stores, points_of, say_missing
from harness.store import Artifact, Store


def load_results(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per result of a sweep, or of all sweeps in the store; `attrs["provenance"]` says what made them.

    Raises:
        StoreError: no store there, or no such sweep; lists the sweeps there are.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("results", schema.RESULTS, sweep)
    rows: list[dict[str, Any]] = []
    made: dict[str, dict[str, None]] = {}
    for opened, points in points_of(store, sweep):
        spent = {key: cost.facts() for key, cost in machine_time(opened, points).items()}
        own = [{**result_row(opened, k, point), "gpu_hours": spent[k]["gpu_hours"]} for k, point in points.items()]
        _add_provenance(made, opened, own)
        rows += own
    # Points may have keys of their own, such as the weights of their reward.
    configuration = list(dict.fromkeys(name for row in rows for name in row if name not in _FIXED))
    frame = pd.DataFrame(
        rows, columns=[*schema.IDENTITY, *configuration, *schema.LABELS, *schema.COMPARABLE, *schema.MEASURES]
    )
    frame[list(schema.MEASURES)] = frame[list(schema.MEASURES)].astype("float64")
    frame.attrs["provenance"] = {name: ", ".join(values) for name, values in made.items()}
    unfinished = frame.loc[frame["status"].isin(["failed", "missing"]), "result"]
    return say_missing(frame, unfinished, len(frame), "results are not done")


def load_verdicts(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per result and instruction, with `schema.LENGTHS` where the judge recorded them.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("verdicts", schema.VERDICTS, sweep)
    found: list[tuple[str, Artifact]] = []
    absent: dict[str, bool] = {}
    for opened, key, point in each_point(store, sweep):
        artifact = opened.find("judge", point["nodes"]["judge"])
        absent[key] = artifact is None
        if artifact is not None:
            found.append((key, artifact))
    read: dict[Path, pa.Table] = {}  # cells of equal content share their verdicts
    for _, artifact in found:
        if artifact.folder not in read:
            table = artifact.table("verdicts")
            names = [name for name in (*schema.VERDICTS, *schema.LENGTHS) if name in table.column_names]
            read[artifact.folder] = table.select(names)
    tables = [read[artifact.folder] for _, artifact in found]
    frame = pd.DataFrame(columns=list(schema.VERDICTS))
    if any(table.num_rows for table in tables):
        # Joined as Arrow tables: as frames, a thousand of them take three times as long.
        places = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
        joined = pa.concat_tables(tables, promote_options="default")
        frame = joined.add_column(0, "result", pa.array([key for key, _ in found]).take(places)).to_pandas()
    return _without(frame, absent, "verdicts")


def load_answers(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per result and instruction that was answered, with the columns of `analysis.answers.ANSWERS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    with Workers() as workers:
        return begin_answers(store, sweep, workers)()


def begin_answers(
    store: Stores, sweep: str | None, workers: Workers, kept: Path | None = None
) -> Callable[[], pd.DataFrame]:
    """`load_answers`, begun: where there are many, `workers` measure them until the frame is asked for.

    In the folder `kept` what was measured stays for the next time (`analysis.kept_measures`); where there are no
    answers, what is there stays.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return partial(folder.frame, "answers", answers.ANSWERS, sweep)
    # Cells of equal content share their answers, which are read and measured once.
    contents: dict[str, str] = {}
    given: dict[str, answers.Given] = {}
    absent: dict[str, bool] = {}
    for opened, key, point in each_point(store, sweep):
        found = _answered(opened, point)
        absent[key] = found["respond"] is None
        if not absent[key]:
            contents[key] = content_of(found)
            given.setdefault(contents[key], found)
    known = read_kept(kept) if kept is not None else {}
    unknown = [content for content in given if content not in known]
    under_way = workers.map(answers.read_answers, [given[content] for content in unknown], least=_MANY)

    def finish() -> pd.DataFrame:
        measured = {content: known[content] for content in given if content in known}
        measured |= zip(unknown, under_way, strict=True)
        if kept is not None and measured and measured.keys() != known.keys():
            keep(kept, measured)
        frame = answers.answers_frame({key: measured[content] for key, content in contents.items()})
        return _without(frame, absent, "answers")

    return finish


def _without(frame: pd.DataFrame, absent: Mapping[str, bool], what: str) -> pd.DataFrame:
    """The frame with a word on the results that have none."""
    return say_missing(frame, (key for key, none in absent.items() if none), len(absent), f"results have no {what}")


def _answered(store: Store, point: Mapping[str, Any]) -> dict[str, Artifact | None]:
    """A point's answers, what they are judged against, and the selecting reward on both."""
    nodes, beside = point["nodes"], point.get("beside", {})
    (references,) = point["sweep"].nodes[nodes["judge"]]["inputs"]["references"]
    stage = point["sweep"].nodes[references]["stage"]
    appraised = {name: beside.get(name) for name in ("appraise", "appraise_references")}
    return {
        "respond": store.find("respond", nodes["respond"]),
        "references": store.find(stage, references),
        **{name: store.find("appraise", key) if key is not None else None for name, key in appraised.items()},
    }


def load_overlap(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """How much cells share: share of the row's preference rows that the column's cell has too, [cells x cells].

    Rows are the same where the tokens of prompt, chosen and rejected are: a prompt with a goal is another one. Indexed
    by cell key; cells without rows are NaN.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("overlap", (), sweep)
    known: dict[bytes, int] = {}
    read: dict[Path, npt.NDArray[np.int64]] = {}  # training seeds share their pairs
    rows: dict[str, npt.NDArray[np.int64]] = {}
    cells: set[str] = set()
    for opened, _, point in each_point(store, sweep):
        cell, pairs = cell_key(point["nodes"]), point["nodes"].get("pairs")
        cells |= {cell} if pairs is not None else set()
        artifact = None if cell in rows or pairs is None else opened.find("pairs", pairs)
        if artifact is not None:
            if artifact.folder not in read:
                table = artifact.table("pairs", ["prompt_ids", "chosen_ids", "rejected_ids"]).to_pandas()
                keys = {_row_digest(row) for row in table.itertuples(index=False)}
                read[artifact.folder] = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
            rows[cell] = read[artifact.folder]
    frame = _shares(rows, len(known))
    return say_missing(frame, cells - rows.keys(), len(cells), "cells have no preference rows yet")


def _shares(rows: Mapping[str, npt.NDArray[np.int64]], known: int) -> pd.DataFrame:
    """Share of each cell's rows, given as numbers below `known`, that each cell has; NaN of a cell without any."""
    sizes = np.array([len(own) for own in rows.values()], dtype=np.int64)
    places = np.repeat(np.arange(len(rows)), sizes)
    columns = np.concatenate([*rows.values(), np.zeros(0, dtype=np.int64)])
    has = sparse.csr_array((np.ones(len(columns)), (places, columns)), shape=(len(rows), known))
    with np.errstate(invalid="ignore"):
        shares = (has @ has.T).toarray() / sizes[:, None]
    return pd.DataFrame(shares, index=list(rows), columns=list(rows))


def _row_digest(row: Iterable[npt.NDArray[np.int32]]) -> bytes:
    """A row by its tokens, in 16 bytes: a large cell's tokens are a hundred megabytes."""
    whole = blake2b(digest_size=16)
    for tokens in row:
        whole.update(len(tokens).to_bytes(8))
        whole.update(tokens.tobytes())
    return whole.digest()


_MANY = 100
"""Models whose answers are measured in several processes: each takes some hundredths of a second."""

_FIXED = {*schema.IDENTITY, *schema.LABELS, *schema.COMPARABLE, *schema.MEASURES}


def _add_provenance(seen: dict[str, dict[str, None]], store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note commits and versions of the code that trained the models; several where they differ."""
    for row in rows:
        if (artifact := store.find("train", row["cell"])) is not None:
            made = artifact.manifest.provenance
            seen.setdefault("commit", {})[str(made["commit"])] = None
            for package in ("prefsweep", "torch", "transformers", "trl"):
                seen.setdefault(package, {})[made["versions"][package]] = None
