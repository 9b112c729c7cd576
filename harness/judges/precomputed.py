"""Verdicts that were made elsewhere: a file of annotations as alpaca_eval writes them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import import_rows
from harness.errors import ConfigError
from harness.import_rows import Place
from harness.judges import Comparison, Judge, Judgement, Order, Planned
from harness.judges.config import PrecomputedJudgeConfig
from harness.keys import digest
from harness.prompts import prompt_id
from harness.stages import Context

NOT_ANNOTATED = "not_annotated"
"""The file has no row about an instruction."""
ANNOTATED_AS_FAILED = "annotated_as_failed"
"""The file's row has no preference."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Annotations, named by their content."""

    engine: str
    annotator: str
    annotations: str
    """Hash of the rows."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One row."""

    preference: float | None
    """1 (the reference is better) to 2 (the model is); None where the judgement failed."""
    reference: str | None
    """The reference that was compared, where the row says so."""
    answer: str | None


def plan(config: PrecomputedJudgeConfig) -> Planned:
    """The annotations of a file.

    Raises:
        ConfigError: the file is not as it must be; names the row and the field.
    """
    rows = load(Path(config.path).expanduser())
    content = sorted([name, row.preference, row.reference, row.answer] for name, row in rows.items())
    spec = Spec(engine=config.engine, annotator=config.annotator, annotations=digest(content))
    return Planned(spec=spec, params={"annotations": rows, "max_failed_share": config.max_failed_share})


def load(path: Path) -> dict[str, Annotation]:
    """The rows of a file by the ids of their instructions.

    Raises:
        ConfigError: names the row and the field.
    """
    found: dict[str, Annotation] = {}
    numbers: dict[str, int] = {}
    try:
        source = import_rows.open_rows(path)
        for number, given, _ in source.rows:
            place = Place(str(path), source.name, number)
            name, row = _row(given, place)
            if name in found:
                raise ConfigError(f"{place}: the same instruction as in {source.name} {numbers[name]}")
            found[name], numbers[name] = row, number
    except ConfigError as error:
        raise ConfigError(f"judge.path: {error}") from None
    if not found:
        raise ConfigError(f"judge.path: {path} holds no annotations")
    return found


def _row(given: Any, place: Place) -> tuple[str, Annotation]:
    if not isinstance(given, dict):
        raise ConfigError(f"{place}: expected an object, got {type(given).__name__}")
    for name in ("instruction", "preference"):
        if name not in given:
            raise ConfigError(f"{place}, {name}: missing (expected alpaca_eval's annotations: instruction, preference)")
    instruction = _text(given["instruction"], "instruction", place)
    preference = import_rows.number_or_none(given["preference"], "preference", place)
    if preference is not None and not 1.0 <= preference <= 2.0:
        raise place.error("preference", "1 (the reference) to 2 (the model), or null if it failed", preference)
    sides = [None if given.get(name) is None else _text(given[name], name, place) for name in ("output_1", "output_2")]
    row = Annotation(preference=preference, reference=sides[0], answer=sides[1])
    return prompt_id([{"role": "user", "content": instruction}], str(place)), row


def _text(value: Any, field: str, place: Place) -> str:
    if not isinstance(value, str):
        raise place.error(field, "text", value)
    return value


def check_instructions(config: PrecomputedJudgeConfig, params: Mapping[str, Any], prompt_ids: Collection[str]) -> None:
    """Refuse annotations of another set of instructions.

    Raises:
        ConfigError: rows about foreign instructions, or too many instructions without a row.
    """
    rows: Mapping[str, Annotation] = params["annotations"]
    foreign = [number for number, name in enumerate(rows, 1) if name not in prompt_ids]
    missing = [name for name in prompt_ids if name not in rows]
    if foreign:
        raise ConfigError(
            f"judge.path: {config.path}: {len(foreign)} rows are about instructions that are not in the evaluation set "
            f"(first: row {foreign[0]})"
        )
    if len(missing) > config.max_failed_share * len(prompt_ids):
        raise ConfigError(
            f"judge.path: {config.path} has no row about {len(missing)} of the {len(prompt_ids)} instructions (first: "
            f"prompt_id {missing[0]}), more than judge.max_failed_share={config.max_failed_share:g} allows"
        )


class PrecomputedJudge:
    """Looks verdicts up."""

    order: Order = "given"

    def __init__(self, annotator: str, rows: Mapping[str, Annotation]) -> None:
        self.label = f"annotations by {annotator}"
        self._rows = rows
        self._checked = 0

    def judge(self, comparisons: Sequence[Comparison], advance: Callable[[int], None]) -> list[Judgement]:
        """The annotation of each.

        Raises:
            ConfigError: a row about other texts than those that are judged.
        """
        found = [self._judgement(comparison) for comparison in comparisons]
        advance(len(found))
        return found

    def _judgement(self, comparison: Comparison) -> Judgement:
        row = self._rows.get(comparison.prompt_id)
        if row is None:
            return Judgement(preference=None, failure=NOT_ANNOTATED)
        for name, given, judged in (
            ("output_2", row.answer, comparison.first),
            ("output_1", row.reference, comparison.second),
        ):
            if given is not None and given != judged:
                raise ConfigError(
                    f"judge.path: the annotation of {comparison.instruction[:60]!r} is about another {name} than the "
                    f"one that is judged: {given[:60]!r} instead of {judged[:60]!r}"
                )
        self._checked += row.answer is not None and row.reference is not None
        if row.preference is None:
            return Judgement(preference=None, failure=ANNOTATED_AS_FAILED)
        return Judgement(preference=row.preference - 1.0)

    def measures(self) -> Mapping[str, Any]:
        """How many rows carried the texts that they are about, and were checked against them."""
        return {"texts_checked": self._checked}


@contextmanager
def open_judge(spec: Spec, context: Context) -> Iterator[Judge]:
    """The annotations, as they were read when this was planned."""
    yield PrecomputedJudge(spec.annotator, context.params["annotations"])
