"""From the store to tidy frames: one row per result, every configuration key a column.

The columns are those of `analysis.schema`. A partial sweep loads: a result that is missing has a status that says so,
and `attrs["missing"]` of every frame says in words what has no rows in it. In the place of a store every function takes
an exported folder (`python -m analysis export`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from scipy import sparse

from analysis import answers, schema
from analysis.comparability import comparable_facts
from analysis.exported import exported
from analysis.kept_measures import content_of, keep, read_kept
from analysis.parallel import Workers
from analysis.stores import Reading, Stores, ancestry, points_of, say_missing
from harness import cost, record
from harness.judges.models import SELECTED
from harness.keys import digest
from harness.stages.pairs import why_empty
from harness.stages.train import OF_LAST_STEP
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
        spent = _spent(opened, points)
        own = [{**_row(opened, k, point), "gpu_hours": spent[k].facts()["gpu_hours"]} for k, point in points.items()]
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
    for opened, key, point in _each(store, sweep):
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

    In the folder `kept` what was measured stays for the next time (`analysis.kept_measures`).

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return partial(folder.frame, "answers", answers.ANSWERS, sweep)
    # Cells of equal content share their answers, which are read and measured once.
    contents: dict[str, str] = {}
    given: dict[str, answers.Given] = {}
    absent: dict[str, bool] = {}
    for opened, key, point in _each(store, sweep):
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
        if kept is not None and measured.keys() != known.keys():
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


def read_beside(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, str]]:
    """Keys of what stands beside each result, by name; see `harness.plan.Point.beside`.

    Raises:
        StoreError: no such sweep.
    """
    return {key: point.get("beside", {}) for _, key, point in _each(store, sweep)}


def read_measured(store: Reading, name: str, sweep: str | None = None) -> dict[str, list[str]]:
    """Keys of all that commands wanted beside each result under one name, the last first; see `harness.record.beside`.

    Raises:
        StoreError: no such sweep.
    """
    return {key: record.beside(point, name) for _, key, point in _each(store, sweep)}


def read_nodes(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Every recorded node of a sweep, or of all, by key; see `harness.record.Sweep.nodes`.

    Raises:
        StoreError: no such sweep.
    """
    recorded = {point["sweep"].name: point["sweep"] for _, _, point in _each(store, sweep)}
    return {key: node for one in recorded.values() for key, node in one.nodes.items()}


def read_settings(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, Any]]:
    """What each result was made with, by dotted key.

    Raises:
        StoreError: no such sweep.
    """
    return {key: point["config"] for _, key, point in _each(store, sweep)}


def read_ancestors(store: Reading, sweep: str | None, stage: str) -> dict[str, list[str]]:
    """Keys of the nodes of a stage that each result rests on, its judge's own left out.

    Raises:
        StoreError: no such sweep.
    """
    found: dict[str, list[str]] = {}
    for _, key, point in _each(store, sweep):
        recorded, pairs = point["sweep"], point["nodes"].get("pairs")
        above = recorded.ancestors(pairs) if pairs is not None else []
        found[key] = [one for one in above if recorded.nodes[one]["stage"] == stage]
    return found


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
    for opened, _, point in _each(store, sweep):
        cell, pairs = _cell(point["nodes"]), point["nodes"].get("pairs")
        cells |= {cell} if pairs is not None else set()
        artifact = None if cell in rows or pairs is None else opened.find("pairs", pairs)
        if artifact is not None:
            if artifact.folder not in read:
                table = artifact.table("pairs", ["prompt_ids", "chosen_ids", "rejected_ids"]).to_pandas()
                keys = {_row_digest(row) for row in table.itertuples(index=False)}
                read[artifact.folder] = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
            rows[cell] = read[artifact.folder]
    sizes = np.array([len(own) for own in rows.values()], dtype=np.int64)
    places = np.repeat(np.arange(len(rows)), sizes)
    columns = np.concatenate([*rows.values(), np.zeros(0, dtype=np.int64)])
    has = sparse.csr_array((np.ones(len(columns)), (places, columns)), shape=(len(rows), len(known)))
    with np.errstate(invalid="ignore"):
        shares = (has @ has.T).toarray() / sizes[:, None]
    frame = pd.DataFrame(shares, index=list(rows), columns=list(rows))
    return say_missing(frame, cells - rows.keys(), len(cells), "cells have no preference rows yet")


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


def _each(store: Stores, sweep: str | None) -> Iterator[tuple[Store, str, Mapping[str, Any]]]:
    """Every point with its store and its id."""
    for opened, points in points_of(store, sweep):
        for key, point in points.items():
            yield opened, key, point


def _spent(store: Store, points: Mapping[str, Any]) -> dict[str, cost.Cost]:
    """Machine time by point; an artifact counts once, however many nodes it is the content of."""
    homes: dict[str, str] = {}
    costs: dict[str, cost.Cost] = {}
    needed: dict[str, set[str]] = {}
    known: dict[str, frozenset[str]] = {}
    for point_id, point in points.items():
        sweep = point["sweep"]
        keys = ancestry(sweep, point["nodes"].values(), known)
        for key in keys - homes.keys():
            if (found := store.find(sweep.nodes[key]["stage"], key)) is not None:
                homes[key] = str(found.folder)
                costs[homes[key]] = cost.of(found.manifest.provenance)  # an alias has its original's
        needed[point_id] = {homes[key] for key in keys if key in homes}
    return cost.split(needed, costs)


def _cell(nodes: Mapping[str, str]) -> str:
    """Key of a cell: of its training, or of what was imported instead."""
    return nodes["train"] if "train" in nodes else nodes["imported"]


def _row(store: Store, key: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """One result: its configuration, how it stands, and its measures as far as they exist."""
    nodes = point["nodes"]
    found = {"pairs": None, "train": None} | {stage: store.find(stage, node) for stage, node in nodes.items()}
    trained = found["train"] or found.get("imported")
    status, reason = _status(store, point, found)
    configuration = {**point["config"], **_rounds(point["config"])}
    verdicts = found["judge"]
    references = None if verdicts is None else verdicts.manifest.inputs["references"][0]
    return {
        "result": key,
        "cell": _cell(nodes),
        "status": status,
        "reason": reason,
        "rows_id": found["pairs"].manifest.content_id if found["pairs"] else None,
        "trained_id": _experiment(trained, found["respond"]) if trained else None,
        **configuration,
        **_labels(store, configuration, found),
        **comparable_facts(verdicts, found["respond"], references, trained),
        **_measures(store, found),
    }


def _experiment(trained: Artifact, answers: Artifact | None) -> str:
    """What was trained, and the goal it is asked for, if there is one: two goals are two experiments."""
    asked = answers.manifest.spec.get("asked") if answers is not None else None
    return trained.manifest.content_id + (f"+{digest(asked)}" if asked else "")


def _status(store: Store, point: Mapping[str, Any], found: Mapping[str, Artifact | None]) -> tuple[str, str | None]:
    if found["judge"] is not None:
        return "done", None
    pairs = found["pairs"]
    if pairs is not None and (reason := why_empty(pairs)):
        return "empty", reason
    unfinished = [key for stage, key in point["nodes"].items() if found[stage] is None]
    nodes: Mapping[str, Any] = point["sweep"].nodes
    for key in dict.fromkeys([*point["sweep"].ancestors(unfinished[-1]), *unfinished]):
        stage = nodes[key]["stage"]
        log = store.root / "logs" / f"{stage}-{key}.log"
        if log.exists() and store.find(stage, key) is None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            return "failed", f"{stage}: {lines[-1].strip()}"
    return "missing", "not done yet"


def _rounds(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The rounds up to a cell's own: records of earlier versions, and plain pipelines, have one."""
    path = configuration.get(schema.PATH) or ()
    return {schema.ROUND: max(1, len(path)), schema.PATH: " > ".join(path) or None}


def _of(artifact: Artifact | None) -> Mapping[str, Any]:
    return artifact.manifest.measures if artifact is not None else {}


def _input(store: Store, artifact: Artifact | None, name: str, stages: Sequence[str]) -> Artifact | None:
    """The artifact that `artifact` was made from, under that name of its inputs."""
    if artifact is None:
        return None
    key = artifact.manifest.inputs[name][0]
    return next((found for stage in stages if (found := store.find(stage, key)) is not None), None)


def _taken(store: Store, pairs: Artifact | None) -> Artifact | None:
    """The rows themselves, where a boundary has chosen between two ways of making them."""
    data = _of(pairs).get("data")
    return pairs if data is None else _input(store, pairs, data, ["pairs"])


def _labels(
    store: Store, configuration: Mapping[str, Any], found: Mapping[str, Artifact | None]
) -> dict[str, str | None]:
    taken = _taken(store, found["pairs"])
    labelled = [_input(store, picks, "rewards", ["score", "rank"]) for picks in _picks(store, taken)]
    rewards = [_of(artifact).get("label") for artifact in labelled]
    given = configuration["evaluate.references"]
    return {
        "judge_label": _judge_label(configuration, _of(found["judge"]).get("label")),
        "reward_label": "; ".join(dict.fromkeys(label for label in rewards if label)) or None,
        "decoding": _of(found["respond"]).get("decoding"),
        "reference": f"answers of {Path(given).name}" if given else "untrained policy",
    }


def _picks(store: Store, pairs: Artifact | None) -> list[Artifact]:
    """The picks that rows are made of: two where some are on-policy and some static."""
    keys = pairs.manifest.inputs["picks"] if pairs is not None else []
    return [picks for key in keys if (picks := store.find("select", key)) is not None]


def _judge_label(configuration: Mapping[str, Any], label: str | None) -> str | None:
    """The judge's label; that it is what selected the data is said of each cell for itself, since cells of equal rows
    share their verdicts."""
    if label and configuration.get("construction.name") == "ranking":
        return label if SELECTED in label or not _same_judge(configuration) else f"{label}; {RANKED}"
    own_scores = configuration.get("construction.static_share") == 1 and configuration["candidates.rewards"] == "data"
    selected = (configuration.get("judge.model.id") is not None and not own_scores) and all(
        configuration.get(f"judge.model.{name}") == configuration.get(f"reward.model.{name}")
        for name in ("source", "id", "revision")
    )
    return f"{label}; {SELECTED}" if label and selected and SELECTED not in label else label


RANKED: Final = "the judge that ranked the training data"
"""Said where the judge of the answers also ranked the responses: it measures how well it was optimised, no more."""


def _same_judge(configuration: Mapping[str, Any]) -> bool:
    """Whether judge and ranker are one: by their model where they have one of ours, else by all that decides."""
    judge, ranker = (
        {name.removeprefix(f"{group}."): value for name, value in configuration.items() if name.startswith(f"{group}.")}
        for group in ("judge", "ranker")
    )
    names = [name for name in ("model", "model.source", "model.id", "model.revision") if judge.get(name) is not None]
    return all(judge.get(name) == ranker.get(name) for name in ("engine", *names))


def _measures(store: Store, found: Mapping[str, Artifact | None]) -> dict[str, Any]:
    pairs, trained, answers, verdicts = (found[stage] for stage in ("pairs", "train", "respond", "judge"))
    references = _input(store, verdicts, "references", ["respond"])
    row: dict[str, Any] = dict.fromkeys(schema.MEASURES)
    if pairs is not None:
        rows = pairs.manifest.rows["kept"]
        names = {"z_chosen": "chosen_z", "z_rejected": "rejected_z"}
        same = ("margin", "chosen_tokens", "rejected_tokens")
        prompts = _of(pairs).get("prompts", rows)
        row |= {"rows": rows, "prompts": prompts} | {m: _of(pairs).get(names.get(m, m)) for m in (*names, *same)}
    if trained is not None:
        row |= {name: _of(trained).get(name) for name in ("steps", "train_loss", *OF_LAST_STEP)}
        row["seconds"] = trained.manifest.provenance["seconds"]
    if answers is not None:
        row |= {"answer_tokens": _of(answers).get("tokens")}
        row |= {name: _of(answers).get(name) for name in ("share_finished", "kl")}
    if verdicts is not None:
        judged = verdicts.manifest.rows["kept"]
        row |= {name: _of(verdicts).get(name) for name in ("win_rate", "ties", "share_changed")}
        row["instructions"] = judged
        row["order_disagreement"] = _of(verdicts)["order_disagreement"] / judged if judged else None
        row["base_tokens"] = _of(references).get("tokens")
    return row


def _add_provenance(seen: dict[str, dict[str, None]], store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note commits and versions of the code that trained the models; several where they differ."""
    for row in rows:
        if (artifact := store.find("train", row["cell"])) is not None:
            made = artifact.manifest.provenance
            seen.setdefault("commit", {})[str(made["commit"])] = None
            for package in ("prefsweep", "torch", "transformers", "trl"):
                seen.setdefault(package, {})[made["versions"][package]] = None
