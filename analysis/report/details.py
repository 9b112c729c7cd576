"""What stands behind each number: keys, row accounting, and examples of the pairs and of the judged answers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import prod
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.answers import reference_texts
from analysis.columns import DETAILS
from analysis.exported import exported
from analysis.stores import Stores, points_of
from harness.plan import STAGES
from harness.store import Artifact, Store

EXAMPLES: Final = 3
"""Preference rows, and judged answers, that are shown of a cell."""

MOST_WITH_EXAMPLES: Final = 500
"""With more cells than this each shows one example, so that a page stays small; with ten times as many none."""

LONGEST_TEXT: Final = 600
"""Characters of a text that are shown."""

_ORDER: Final = {stage: place for place, stage in enumerate(STAGES)}

Example = dict[str, str | float | None]


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What is known of one result; empty where nothing is done yet."""

    keys: Mapping[str, str] = field(default_factory=dict)
    """Node keys by stage."""
    rows: Sequence[Mapping[str, Any]] = ()
    """`stage`, `taken`, `kept` and `dropped` by reason, in the order of the data."""
    pairs: Sequence[Example] = ()
    """`prompt`, `chosen`, `rejected`, `chosen_reward` and `rejected_reward` of preference rows."""
    answers: Sequence[Example] = ()
    """`instruction`, `answer`, `reference`, `preference` and `failure` of judged answers."""

    @property
    def degenerate(self) -> float | None:
        """Share of the prompts or rows that gave no preference row, over selection and pairs; None where unknown."""
        before = list(takewhile(lambda row: row["stage"] not in ("train", "respond", "judge"), self.rows))
        shares = [row["kept"] / row["taken"] if row["taken"] else 0.0 for row in before]
        return 1.0 - prod(shares) if before else None


def load_details(
    store: Stores,
    sweep: str | None = None,
    examples_of: Collection[str] | None = None,
    *,
    examples: int | None = None,
) -> dict[str, Detail]:
    """The details of every result of a sweep, or of all sweeps in the store, by its id.

    The examples are the first by prompt id, so that cells show the same ones. `examples_of` are the results that have
    any; None: all. `examples` is how many of each; None: as many as their results leave room for.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return _of_frame(folder.frame("details", DETAILS, sweep), examples_of, examples)
    found: dict[str, Detail] = {}
    for opened, points in points_of(store, sweep):
        texts = _Texts(opened)
        wanted = points.keys() if examples_of is None else points.keys() & set(examples_of)
        count = _examples(len(wanted)) if examples is None else examples
        for key, point in points.items():
            nodes = dict(sorted(point["nodes"].items(), key=lambda node: _ORDER.get(node[0], len(_ORDER))))
            own = {stage: opened.find(stage, node) for stage, node in nodes.items()}
            shown = count if key in wanted else 0
            found[key] = Detail(
                keys=nodes,
                rows=list(_rows(opened, point, own)),
                pairs=_pairs(texts, point, own.get("pairs"), shown),
                answers=_answers(texts, point, own.get("respond"), own.get("judge"), shown),
            )
    return found


def details_frame(details: Mapping[str, Detail]) -> pd.DataFrame:
    """The details as a frame, with the columns of `analysis.columns.DETAILS`."""
    rows = [{"result": key, **vars(detail)} for key, detail in details.items()]
    return pd.DataFrame(rows, columns=list(DETAILS)).astype(object)


def _of_frame(frame: pd.DataFrame, examples_of: Collection[str] | None, examples: int | None) -> dict[str, Detail]:
    """`details_frame` turned back, with the examples that are asked for."""
    wanted = set(frame["result"]) if examples_of is None else set(frame["result"]) & set(examples_of)
    count = _examples(len(wanted)) if examples is None else examples
    shown = frame["result"].isin(wanted) * count
    return {
        row["result"]: Detail(
            keys=row["keys"], rows=row["rows"], pairs=row["pairs"][:most], answers=row["answers"][:most]
        )
        for most, row in zip(shown, frame.to_dict("records"), strict=True)
    }


def cut(text: str) -> str:
    """The beginning of a text, with how much of it is left out."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]} […{len(text) - LONGEST_TEXT} more characters]"


def _examples(cells: int) -> int:
    if cells > 10 * MOST_WITH_EXAMPLES:
        return 0
    return EXAMPLES if cells <= MOST_WITH_EXAMPLES else 1


class _Texts:
    """Texts of prompts and of reference answers, each table read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prompts: dict[tuple[str, ...], Mapping[str, str]] = {}
        self._references: dict[Path, Mapping[Any, str]] = {}

    def prompts(self, sweep: Any, node: str) -> Mapping[str, str]:
        """The prompts that a node stands on, by prompt id."""
        keys = tuple(key for key in sweep.ancestors(node) if sweep.nodes[key]["stage"] == "prompts")
        if keys not in self._prompts:
            found = [artifact for key in keys if (artifact := self._store.find("prompts", key)) is not None]
            tables = [artifact.table("prompts", ["prompt_id", "messages"]) for artifact in found]
            self._prompts[keys] = {
                row["prompt_id"]: _conversation(row["messages"]) for table in tables for row in table.to_pylist()
            }
        return self._prompts[keys]

    def references(self, sweep: Any, judge: str) -> Mapping[Any, str]:
        """What the answers were judged against, by prompt id."""
        (key,) = sweep.nodes[judge]["inputs"]["references"]
        found = self._store.find(sweep.nodes[key]["stage"], key)
        if found is None:
            return {}
        if found.folder not in self._references:
            self._references[found.folder] = reference_texts(found).to_dict()
        return self._references[found.folder]


def _conversation(messages: Sequence[Mapping[str, str]]) -> str:
    """A prompt's messages as text; a single one without its role."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _rows(store: Store, point: Mapping[str, Any], own: Mapping[str, Artifact | None]) -> Iterator[dict[str, Any]]:
    """Row accounting from what the pairs are made of to the verdicts, as far as it is done."""
    sweep, pairs = point["sweep"], point["nodes"].get("pairs")
    before = [] if pairs is None else [key for group in sweep.nodes[pairs]["inputs"].values() for key in group]
    made_of = {key: sweep.nodes[key]["stage"] for key in before}
    artifacts = [store.find(stage, key) for key, stage in made_of.items() if stage != "reference"]
    for artifact in [*artifacts, *own.values()]:
        if artifact is not None and "taken" in artifact.manifest.rows:
            yield {"stage": artifact.manifest.stage, **artifact.manifest.rows}


def _pairs(texts: _Texts, point: Mapping[str, Any], artifact: Artifact | None, count: int) -> list[Example]:
    if artifact is None or not count:
        return []
    numbers = ["chosen_reward", "rejected_reward"]
    table = _first(artifact.table("pairs", ["prompt_id", "chosen_text", "rejected_text", *numbers]), count)
    prompts = texts.prompts(point["sweep"], point["nodes"]["pairs"])
    return [
        {
            "prompt": cut(prompts.get(row["prompt_id"], "")),
            "chosen": cut(str(row["chosen_text"])),
            "rejected": cut(str(row["rejected_text"])),
            **{name: _number(row[name]) for name in numbers},
        }
        for row in table
    ]


def _answers(
    texts: _Texts, point: Mapping[str, Any], artifact: Artifact | None, verdicts: Artifact | None, count: int
) -> list[Example]:
    if artifact is None or verdicts is None or not count:
        return []
    judged = _first(verdicts.table("verdicts"), count)
    answers = artifact.table("answers", ["prompt_id", "instruction", "text"])
    shown = pc.is_in(answers["prompt_id"], pa.array([row["prompt_id"] for row in judged], pa.string()))
    given = {row["prompt_id"]: row for row in answers.filter(shown).to_pylist()}
    references = texts.references(point["sweep"], point["nodes"]["judge"])
    return [
        {
            "instruction": cut(str(given[row["prompt_id"]]["instruction"])),
            "answer": cut(str(given[row["prompt_id"]]["text"])),
            "reference": cut(str(references.get(row["prompt_id"], ""))),
            "preference": _number(row.get("preference")),
            "failure": None if row.get("failure") is None else cut(str(row["failure"])),
        }
        for row in judged
        if row["prompt_id"] in given
    ]


def _first(table: pa.Table, count: int) -> list[dict[str, Any]]:
    """The first rows of a table by prompt id."""
    rows: list[dict[str, Any]] = table.take(pc.sort_indices(table["prompt_id"])[:count]).to_pylist()
    return rows


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
