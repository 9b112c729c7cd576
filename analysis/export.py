"""`python -m analysis export`: every frame of a store, or of one sweep in it, as a folder that needs no store.

What the machine's own paths would give away is left out: an absolute path becomes its last part and a short hash, so
that two files of one name stay two. Addresses lose what stands before `@`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import columns, schema
from analysis.answers import ANSWERS
from analysis.candidate_sets import load_boundary_measurements, load_candidate_sets, load_set_differences
from analysis.exported import FORMAT, MANIFEST
from analysis.frames import load_costs, load_picks, load_spreads, load_training
from analysis.load import load_answers, load_overlap, load_results, load_verdicts
from analysis.rankings import load_rankings
from analysis.regressions import differences_frame, load_regressions
from analysis.report.details import EXAMPLES, details_frame, load_details
from analysis.reward_z import load_reward_z
from analysis.rounds import load_on_share
from analysis.stores import MISSING, Reading
from analysis.tables import markdown_safe
from analysis.typed_columns import JSON, PLAIN, encode
from analysis.unlearning import load_changes
from harness import provenance, record
from harness.exports import new_folder

_PATH: Final = re.compile(r"(?<![\w/.~-])(?:file://)?~?/(?!/)[^\s/\"'<>|;,)\]}]+/[^\s\"'<>|;,)\]}]*")
_ACCOUNT: Final = re.compile(r"(?<=://)[^\s/@]+@")


UNTRUSTED: Final = (
    "**Untrusted texts**: `details.parquet` holds prompts and texts of models as they are. Show them as text only."
)

_TEXTS: Final = ("prompt", "chosen", "rejected", "instruction", "answer", "reference")
"""Fields of examples that are texts of prompts and models, which stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One kind of frame of an export."""

    name: str
    what: str
    """One row per what."""
    columns: Mapping[str, str]
    """What its columns mean; in `results` others are settings, in `overlap` cells."""
    load: Callable[[Reading, str | None], pd.DataFrame]
    index: str | None = None
    """Column in which the frame's index is kept."""


def _scores(store: Reading, sweep: str | None) -> pd.DataFrame:
    return load_regressions(store.root, sweep).scores


def _score_differences(store: Reading, sweep: str | None) -> pd.DataFrame:
    return differences_frame(load_regressions(store.root, sweep))


def _details(store: Reading, sweep: str | None) -> pd.DataFrame:
    return details_frame(load_details(store, sweep, examples=EXAMPLES))


def _bare_details(store: Reading, sweep: str | None) -> pd.DataFrame:
    return details_frame(load_details(store, sweep, examples=0))


FRAMES: Final[Sequence[Frame]] = (
    Frame(
        name="results",
        what="result, that is one cell under one evaluation",
        columns=schema.RESULTS,
        load=load_results,
    ),
    Frame(
        name="verdicts",
        what="result and instruction",
        columns=schema.VERDICTS | schema.LENGTHS,
        load=load_verdicts,
    ),
    Frame(name="answers", what="result and instruction that was answered", columns=ANSWERS, load=load_answers),
    Frame(name="training", what="training and step", columns=schema.TRAINING, load=load_training),
    Frame(name="spreads", what="pool and prompt", columns=schema.SPREADS, load=load_spreads),
    Frame(name="picks", what="pool and position", columns=schema.PICKS, load=load_picks),
    Frame(name="reward_z", what="pool and bin of realised z", columns=schema.REWARD_Z, load=load_reward_z),
    Frame(name="costs", what="stage", columns=schema.COSTS, load=load_costs),
    Frame(
        name="overlap",
        what="cell",
        columns={"cell": "key of the cell; the other columns are the share of its preference rows that they have, too"},
        load=load_overlap,
        index="cell",
    ),
    Frame(
        name="changes",
        what="result and held-out response",
        columns=columns.CHANGES,
        load=load_changes,
    ),
    Frame(name="on_share", what="result whose boundary was measured", columns=schema.ON_SHARE, load=load_on_share),
    Frame(
        name="boundary_measurements",
        what="result whose boundary was measured",
        columns=columns.BOUNDARY_MEASUREMENTS,
        load=load_boundary_measurements,
    ),
    Frame(
        name="candidate_sets",
        what="result and set of candidates",
        columns=columns.CANDIDATE_SETS,
        load=load_candidate_sets,
    ),
    Frame(
        name="set_differences",
        what="pair of sets and measure",
        columns=columns.SET_DIFFERENCES,
        load=load_set_differences,
    ),
    Frame(
        name="rankings",
        what="ranking of a pool",
        columns=columns.RANKINGS,
        load=load_rankings,
    ),
    Frame(name="scores", what="result and score of a benchmark", columns=columns.SCORES, load=_scores),
    Frame(
        name="score_differences",
        what="result, score and question",
        columns=columns.SCORE_DIFFERENCES,
        load=_score_differences,
    ),
    Frame(name="details", what="result", columns=columns.DETAILS, load=_details),
)
"""Every frame of an export, in the order of its README."""


def export(store: Path, folder: Path, sweep: str | None = None, *, texts: bool = True) -> str:
    """Write all frames into a folder that is not there yet; returns what was written, in words.

    Without `texts` there are no examples of prompts, responses and answers.

    Raises:
        StoreError: no store there, or no such sweep.
        PrefsweepError: the folder is there already, or cannot be written.
    """
    opened = Reading(store)
    opened.check()
    loaders = {frame.name: frame.load for frame in FRAMES} | ({} if texts else {"details": _bare_details})
    frames = {name: load(opened, sweep) for name, load in loaders.items()}
    hidden = _paths(frames["results"])
    with new_folder(folder, "export") as target:
        said = {frame.name: _write(target, frame, frames[frame.name], hidden) for frame in FRAMES}
        manifest = {
            "format": FORMAT,
            "sweep": sweep,
            "sweeps": record.names(opened) if sweep is None else [sweep],
            "written_by": {"commit": provenance.commit(), **provenance.software()["versions"]},
            "made_by": frames["results"].attrs["provenance"],
            "frames": said,
        }
        (target / "README.md").write_text(_readme(manifest, texts), encoding="utf-8")
        (target / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    missing = frames["results"].attrs[MISSING]
    return f"wrote {len(said)} frames of {len(frames['results'])} results to {folder}" + (
        f"; {missing}" if missing else ""
    )


def without_paths(text: str, known: Sequence[str] = ()) -> str:
    """`text` without absolute paths, those that are `known` found also where they have blanks, and without accounts."""
    if PurePath(text).is_absolute() or text.startswith("~/"):
        return _hidden(text)
    for path in known:
        text = text.replace(path, _hidden(path))
    return _ACCOUNT.sub("", _PATH.sub(lambda found: _hidden(found[0]), text))


def _hidden(path: str) -> str:
    return f"{PurePath(path).name}#{hashlib.sha256(path.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _paths(results: pd.DataFrame) -> list[str]:
    """The absolute paths among the settings, longest first."""
    values = [value for name in schema.configuration_columns(results) for value in results[name]]
    several = [one for value in values if isinstance(value, list) for one in value]
    found = {value for value in (*values, *several) if isinstance(value, str) and PurePath(value).is_absolute()}
    return sorted(found, key=len, reverse=True)


def _write(target: Path, frame: Frame, loaded: pd.DataFrame, hidden: Sequence[str]) -> dict[str, Any]:
    """Write one frame; returns what the manifest says of it."""
    kept = loaded if frame.index is None else loaded.rename_axis(frame.index).reset_index()
    arrays, said, fields = [], {}, []
    for name in map(str, kept.columns):
        values, kind = encode(_without_paths(kept[name], hidden))
        meaning = frame.columns.get(name)
        arrays.append(values)
        fields.append(pa.field(name, values.type, metadata={"meaning": meaning} if meaning else None))
        said[name] = {**kind, "meaning": meaning}
    path = target / f"{frame.name}.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), path, compression="zstd")
    return {
        "rows": len(kept),
        "one_row_per": frame.what,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "index": frame.index,
        "attrs": {name: _scrubbed(value, hidden) for name, value in loaded.attrs.items()},
        "columns": said,
    }


def _without_paths(column: "pd.Series[Any]", hidden: Sequence[str]) -> "pd.Series[Any]":
    """`without_paths` of what is text, each text looked at once: most stand there many times."""
    if str(column.dtype) in PLAIN:
        return column
    seen = {value: without_paths(value, hidden) for value in {v for v in column if isinstance(v, str)}}
    values = [seen[value] if isinstance(value, str) else _scrubbed(value, hidden) for value in column]
    return pd.Series(values, dtype=column.dtype, name=column.name)


def _scrubbed(value: Any, hidden: Sequence[str]) -> Any:
    if isinstance(value, str):
        return without_paths(value, hidden)
    if isinstance(value, Mapping):
        return {name: one if name in _TEXTS else _scrubbed(one, hidden) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(one, hidden) for one in value]
    return value


def _readme(manifest: Mapping[str, Any], texts: bool) -> str:
    sweep = manifest["sweep"] or ", ".join(manifest["sweeps"])
    made = {**manifest["made_by"], **{f"exported with {k}": v for k, v in manifest["written_by"].items() if v}}
    return "\n".join(
        [
            f"# {markdown_safe(f'Frames of {sweep}')}",
            "",
            "Written by `python -m analysis export`. Every function that loads a frame takes this folder in the place "
            'of a store, such as `analysis.load.load_results("FOLDER")`; without prefsweep, `pandas.read_parquet` or '
            "anything else that knows Parquet reads the files. Columns of type `json` hold JSON texts.",
            "",
            *([UNTRUSTED, ""] if texts else []),
            *(f"- {markdown_safe(f'{name}: {value}')}" for name, value in made.items()),
            *_missing(manifest["frames"]),
            *(line for name, said in manifest["frames"].items() for line in _described(name, said)),
        ]
    )


def _missing(frames: Mapping[str, Any]) -> Iterator[str]:
    lacking = {name: said["attrs"].get(MISSING) for name, said in frames.items()}
    if any(lacking.values()):
        yield from ("", "Missing when this was written:", "")
        yield from (f"- `{name}`: {markdown_safe(text)}" for name, text in lacking.items() if text)


def _described(name: str, said: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"## {name}.parquet", "")
    yield f"{said['rows']} rows, one per {said['one_row_per']}."
    yield from ("", "| column | type | meaning |", "| --- | --- | --- |")
    listed = {column: kind for column, kind in said["columns"].items() if kind["meaning"] is not None}
    for column, kind in listed.items():
        shown = JSON if kind["parquet"] == JSON else kind["parquet"].partition("<")[0]
        yield f"| {markdown_safe(column)} | {shown} | {markdown_safe(kind['meaning'])} |"
    if others := [column for column in said["columns"] if column not in listed]:
        named = "one per cell" if said["index"] else f"settings of the cells: {markdown_safe(', '.join(others))}"
        yield from ("", f"{len(others)} further columns, {named}.")
