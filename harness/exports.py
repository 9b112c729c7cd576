"""Preference rows as others read them: a Hugging Face dataset for stock TRL, or JSON lines.

A cell is named by the key of its training or of its rows, by the beginning of one, or by an artifact's folder. Next to
the rows `export.json` says where they come from.
"""

import csv
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from harness import goals, prompts, record
from harness.errors import PrefsweepError
from harness.keys import KEY_DIGITS
from harness.stages.pairs import why_empty
from harness.store import Artifact, Store

Format = Literal["hf", "jsonl"]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
    ]
)
"""Columns of an export; those between the ids and the scores are TRL's, in its conversational form."""

JSONL = "preferences.jsonl"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell that can be exported, as the store's records know it."""

    key: str
    """Of the training, or of the rows where only they were asked for."""
    slug: str
    pairs: str
    """Key of the rows."""
    settings: Mapping[str, Any]
    """Settings that all points with these rows agree in."""
    sweeps: tuple[str, ...]


def export_cell(store: Store, text: str, target: Path, form: Format) -> int:
    """Write a cell's rows into a folder that is not there yet; returns their number.

    Raises:
        PrefsweepError: no such cell, several of them, no rows yet or none at all, or the folder is there already.
    """
    cell = _find(store, text)
    rows, why = _rows_of(store, cell)
    if rows is None:
        raise PrefsweepError(f"cell {cell.slug}-{cell.key}: {why}")
    with new_folder(target) as folder:
        return _write(store, cell, rows, folder, form)


def export_sweep(store: Store, name: str, target: Path, form: Format) -> list[dict[str, Any]]:
    """Write the rows of every cell of a sweep into folders of their own, with an index; returns the index.

    Raises:
        PrefsweepError: no such sweep, or the folder is there already.
    """
    points = record.read(store, name).points.values()
    cells = {cell.key: cell for cell in _cells(store, name)}
    varying = _varying([point["config"] for point in points])
    first: dict[str, str] = {}
    with new_folder(target) as folder:
        index = []
        for cell in cells.values():
            rows, why = _rows_of(store, cell)
            entry = {"key": cell.key, **{n: cell.settings.get(n) for n in varying}, "rows": 0, "status": why}
            if rows is not None:
                own = f"{cell.slug}-{cell.key}"
                entry |= {"rows": _write(store, cell, rows, folder / own, form), "status": "exported", "folder": own}
                same = first.setdefault(rows.manifest.content_id, cell.key)
                entry["identical_to"] = same if same != cell.key else None
            index.append(entry)
        index += [_imported(point, varying) for point in points if "pairs" not in point["nodes"]]
        columns = ["key", "folder", "rows", "status", "identical_to", *varying]
        _write_index(index, columns, folder / "index.csv")
    return index


def _imported(point: Mapping[str, Any], varying: Sequence[str]) -> dict[str, Any]:
    settings = {name: point["config"].get(name) for name in varying}
    return {"key": point["nodes"]["imported"], **settings, "rows": 0, "status": "imported: it has no preference rows"}


def _find(store: Store, text: str) -> Cell:
    """The one cell whose training or rows have a key that begins so, or stands at the end of a folder's name."""
    prefix = text.rstrip("/").rpartition("-")[2].lower()
    known: dict[str, Cell] = {}
    for name in record.names(store):
        for cell in _cells(store, name):
            pairs = Cell(key=cell.pairs, slug=cell.slug, pairs=cell.pairs, settings=cell.settings, sweeps=cell.sweeps)
            for one in (cell, pairs):
                known[one.key] = _joined(known[one.key], one) if one.key in known else one
    known = {key: cell for key, cell in known.items() if prefix and key.startswith(prefix)}
    known = {**{cell.key: cell for cell in _unrecorded(store, prefix)}, **known}
    found = sorted(known)
    if len(found) != 1:
        what = "is no cell" if not found else f"is the beginning of {len(found)} keys ({', '.join(found[:3])})"
        raise PrefsweepError(
            f"{text!r} {what} of {store.root}; expected the key of a training or of preference rows "
            f"({KEY_DIGITS} hex digits, the end of the folder's name), its beginning, or the folder"
        )
    return known[found[0]]


def _unrecorded(store: Store, prefix: str) -> Iterator[Cell]:
    """Cells of sweeps whose record was replaced; of their settings nothing is known."""
    for stage in ("train", "pairs"):
        for folder in store.folders(stage):
            slug, _, key = folder.name.rpartition("-")
            if prefix and key.startswith(prefix) and (artifact := store.find(stage, key)) is not None:
                pairs = key if stage == "pairs" else artifact.manifest.inputs["pairs"][0]
                yield Cell(key=key, slug=slug, pairs=pairs, settings={}, sweeps=())


def _cells(store: Store, sweep: str) -> Iterator[Cell]:
    """The cells of a sweep that train on rows, once per training."""
    recorded = record.read(store, sweep)
    cells: dict[str, Cell] = {}
    for point in recorded.points.values():
        if "train" in point["nodes"]:
            key, pairs = point["nodes"]["train"], point["nodes"]["pairs"]
            slug = recorded.nodes[key]["slug"]
            cell = Cell(key=key, slug=slug, pairs=pairs, settings=point["config"], sweeps=(sweep,))
            cells[key] = _joined(cells[key], cell) if key in cells else cell
    yield from cells.values()


def _joined(one: Cell, other: Cell) -> Cell:
    """The same cell as two points have it: under another evaluation, or with the same rows in another training."""
    settings = {n: value for n, value in one.settings.items() if n in other.settings and other.settings[n] == value}
    sweeps = tuple(dict.fromkeys([*one.sweeps, *other.sweeps]))
    return Cell(key=one.key, slug=one.slug, pairs=one.pairs, settings=settings, sweeps=sweeps)


def _rows_of(store: Store, cell: Cell) -> tuple[Artifact | None, str]:
    """The artifact of a cell's rows, or why there is none to export."""
    rows = store.find("pairs", cell.pairs)
    if rows is None:
        return None, "not done: its preference rows are not there yet"
    why = why_empty(rows)
    return (None, f"empty: {why}") if why else (rows, "")


def _write(store: Store, cell: Cell, pairs: Artifact, folder: Path, form: Format) -> int:
    rows = preference_rows(store, pairs)
    folder.mkdir(exist_ok=True)
    if form == "hf":
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()
        Dataset(pa.Table.from_pylist(rows, schema=SCHEMA)).save_to_disk(folder)
    else:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with (folder / JSONL).open("w", encoding="utf-8") as file:
            file.writelines(lines)
    described = json.dumps(describe(store, cell, pairs), indent=1, ensure_ascii=False)
    (folder / "export.json").write_text(described + "\n", encoding="utf-8")
    return len(rows)


def preference_rows(store: Store, pairs: Artifact) -> list[dict[str, Any]]:
    """Rows of a cell with the messages of their prompts, in the order of prompt ids.

    Raises:
        PrefsweepError: a prompt that is not there or not the one its id names, or another number of rows than recorded.
    """
    columns = ["prompt_id", *(f"{s}_{n}" for s in ("chosen", "rejected") for n in ("index", "text", "reward"))]
    made = _taken(store, pairs)
    placement = _placement(store, made)
    columns += ["goal_text"] if placement is not None else []
    given = sorted(pairs.table("pairs", columns).to_pylist(), key=lambda r: str(r["prompt_id"]))
    kept = pairs.manifest.rows["kept"]
    named = {(r["prompt_id"], r["chosen_index"], r["rejected_index"], r.get("goal_text")) for r in given}
    if len(given) != kept or len(named) != kept:
        raise PrefsweepError(f"pairs {pairs.manifest.key}: {len(given)} rows, but its manifest says {kept}")
    messages = _messages(store, made)
    return [
        {
            "prompt_id": r["prompt_id"],
            "prompt": _asked(_checked(r["prompt_id"], messages), r, placement),
            "chosen": [{"role": "assistant", "content": r["chosen_text"]}],
            "rejected": [{"role": "assistant", "content": r["rejected_text"]}],
            "score_chosen": r["chosen_reward"],
            "score_rejected": r["rejected_reward"],
        }
        for r in given
    ]


def _taken(store: Store, pairs: Artifact) -> Artifact:
    """The rows as they were made, where a boundary has chosen between two ways of making them."""
    data = pairs.manifest.measures.get("data")
    if data is None:
        return pairs
    (taken,) = _inputs(store, pairs, (data, "pairs"))
    return taken


def _placement(store: Store, pairs: Artifact) -> Literal["system", "user"] | None:
    """Where the goals of relabelled rows stand; None for rows that ask for nothing."""
    if "relabelled" not in pairs.manifest.inputs:
        return None
    (relabelled,) = _inputs(store, pairs, ("relabelled", "relabel"))
    placement: Literal["system", "user"] = relabelled.manifest.measures["placement"]
    return placement


def _asked(
    messages: list[dict[str, str]], row: Mapping[str, Any], placement: Literal["system", "user"] | None
) -> list[dict[str, str]]:
    return messages if placement is None else goals.conditioned(messages, row["goal_text"], placement)


def _checked(prompt_id: str, messages: Mapping[str, list[dict[str, str]]]) -> list[dict[str, str]]:
    found = messages.get(prompt_id)
    if found is None or prompts.prompt_id(found, f"prompt {prompt_id}") != prompt_id:
        raise PrefsweepError(f"the store's prompts do not hold prompt {prompt_id}, which rows are about")
    return found


def _messages(store: Store, pairs: Artifact) -> dict[str, list[dict[str, str]]]:
    """Messages by prompt id, out of the tables that the responses were made for."""
    messages: dict[str, list[dict[str, str]]] = {}
    seen: set[str] = set()
    for responses in _inputs(store, pairs, ("reference", "reference"), ("responses", "sample")):
        for key in set(responses.manifest.made_from) - seen:
            seen.add(key)
            if (table := store.find("prompts", key)) is not None:
                rows = table.table("prompts", ["prompt_id", "messages"]).to_pylist()
                messages |= {row["prompt_id"]: row["messages"] for row in rows}
    return messages


def _inputs(store: Store, artifact: Artifact, *way: tuple[str, str]) -> list[Artifact]:
    """What an artifact was made from, some steps back: each step is the name of an input and its stage, or stages."""
    found = [artifact]
    for name, stage in way:
        keys = dict.fromkeys(key for one in found for key in one.manifest.inputs[name])
        stages = stage.split()
        parents = {key: next(filter(None, (store.find(one, key) for one in stages)), None) for key in keys}
        missing = [key for key, parent in parents.items() if parent is None]
        if missing:
            raise PrefsweepError(f"{stage} {missing[0]}, which the rows were made from, is no longer in the store")
        found = [parent for parent in parents.values() if parent is not None]
    return found


def describe(store: Store, cell: Cell, pairs: Artifact) -> dict[str, Any]:
    """Where a cell's rows come from."""
    manifest = pairs.manifest
    rewards = _inputs(store, _taken(store, pairs), ("picks", "select"), ("rewards", "score rank"))
    return {
        "cell": cell.key,
        "name": cell.slug,
        "pairs": cell.pairs,
        "sweeps": list(cell.sweeps),
        "rows": dict(manifest.rows),
        "columns": {field.name: str(field.type) for field in SCHEMA},
        "reward": "; ".join(dict.fromkeys(filter(None, (r.manifest.measures.get("label") for r in rewards)))) or None,
        "settings": dict(cell.settings),
        "measures": dict(manifest.measures),
        "versions": manifest.provenance.get("versions"),
        "commit": manifest.provenance.get("commit"),
    }


def _varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in which points differ."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({json.dumps(one.get(name)) for one in settings}) > 1]


def _write_index(index: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_inert(entry.get(column)) for column in columns] for entry in index)


def _inert(value: Any) -> Any:
    """A text that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


@contextmanager
def new_folder(target: Path, option: str = "--to") -> Iterator[Path]:
    """A folder beside `target` that takes its name once everything is in it.

    Raises:
        PrefsweepError: `target` is there already, or cannot be written.
    """
    target = target.absolute()
    if target.exists() or target.is_symlink():
        raise PrefsweepError(f"{option}: {target} is there already; an export does not write over anything")
    partial = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except OSError as error:
        raise PrefsweepError(f"{option}: cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
