"""What the length-controlled win rate is made from, checked: verdicts, difficulties, gamed baselines.

Everything is joined by the official index of the instruction. What cannot give the right number is refused with
the reason.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.statistics.preferences import StatisticsError, as_numbers, as_preferences

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST_ROWS: Final = 400
"""Judged rows below which the regression says too little."""

VERDICT_COLUMNS: Final = ("index", "preference", "len_reference", "len_model")
GAMED_COLUMNS: Final = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Verdicts in the order of their instructions, each once."""

    index: npt.NDArray[Any]
    preference: Floats
    """In [0, 1]; NaN where the judgement failed."""
    delta: Floats
    """Length of the reference less that of the model."""
    unanswered: int
    """Rows left out since an answer does not exist; they have no preference either."""

    def take(self, places: npt.NDArray[np.intp]) -> "Rows":
        """Some of the rows; those left out count as before."""
        return replace(self, index=self.index[places], preference=self.preference[places], delta=self.delta[places])


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What the instruction set brings: difficulties of the verdicts' instructions, and the gamed baselines."""

    difficulty: Floats
    preference: Floats
    delta: Floats
    gamed_difficulty: Floats
    row: Integers
    """Place of each gamed row's instruction among the verdicts, -1 where it is not judged."""


def check_rows(verdicts: pd.DataFrame, *, official: bool = True) -> Rows:
    """The verdicts, checked and sorted by instruction, so that their order decides nothing."""
    if not isinstance(verdicts, pd.DataFrame):
        raise StatisticsError(f"verdicts: expected a data frame, got {type(verdicts).__name__}")
    _check_columns(verdicts, VERDICT_COLUMNS, "verdicts")
    preference = as_preferences(verdicts["preference"])
    lengths = [_lengths(verdicts, name, preference) for name in ("len_reference", "len_model")]
    index: npt.NDArray[Any]
    index = _indices(verdicts["index"], "verdicts") if official else verdicts["index"].astype(str).to_numpy(str)
    _check_unique(index, "verdicts")
    order = np.argsort(index, kind="stable")
    delta = lengths[0] - lengths[1]
    # An answer that does not exist has no length; its row says nothing, not even about the spread.
    order = order[~np.isnan(delta[order])]
    judged = int((~np.isnan(preference[order])).sum())
    if judged < LEAST_ROWS:
        raise StatisticsError(
            f"{judged} judged rows; a length-controlled win rate needs at least {LEAST_ROWS}: below that the "
            "regression says more about its penalty than about the model"
        )
    return Rows(
        index=index[order], preference=preference[order], delta=delta[order], unanswered=len(delta) - len(order)
    )


def _lengths(verdicts: pd.DataFrame, name: str, preference: Floats) -> Floats:
    expected = "a length in characters"
    values = as_numbers(verdicts[name], f"verdicts: {name}", expected)
    wrong = ~(np.isfinite(values) & (values >= 0)) & ~(np.isnan(values) & np.isnan(preference))
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise StatisticsError(
            f"verdicts: {name} in row {place} is {values[place]:g}, but the row has a preference; expected {expected}. "
            "An answer that is missing was not judged: give its row the preference None"
        )
    return values


def check_baselines(difficulty: "pd.Series[float]", gamed: pd.DataFrame, index: Integers) -> Baselines:
    """What the instruction set brings to verdicts on the instructions `index`, which are sorted.

    Raises StatisticsError where the two are not what they should be, or of another instruction set.
    """
    known = _known_difficulties(difficulty)
    if not isinstance(gamed, pd.DataFrame):
        raise StatisticsError(f"gamed: expected the frame of df_gamed.csv, got {type(gamed).__name__}")
    _check_columns(gamed, GAMED_COLUMNS, "gamed")
    instructions = _indices(gamed["index"], "gamed")
    for name, have in (("difficulty", known.index.to_numpy()), ("gamed", instructions)):
        if len(foreign := np.setdiff1d(index, have)):
            raise StatisticsError(
                f"{len(foreign)} instructions of the verdicts are not in {name}, such as {foreign[0]}: this is another "
                "instruction set than AlpacaEval 2's 805. See length_controlled_win_rate_without_difficulty"
            )
    values, counts = np.unique(instructions, return_counts=True)
    if (counts != 2).any():
        number = int(np.flatnonzero(counts != 2)[0])
        raise StatisticsError(
            f"gamed: instruction {values[number]} has {counts[number]} row(s); expected two, of the two gamed baselines"
        )
    if gamed["not_gamed_baseline"].astype(str).str.lower().isin({"true", "1", "1.0"}).any():
        raise StatisticsError("gamed: a row says not_gamed_baseline; expected rows of gamed baselines only")
    # As in the package, a baseline's row without a preference is left out.
    judged = ~np.isnan(_numbers_of(gamed, "preference"))
    preference, delta, hard = (_finite(gamed[judged], name) for name in GAMED_COLUMNS[1:4])
    if ((preference < 0) | (preference > 1)).any():
        raise StatisticsError("gamed: a preference lies outside [0, 1], the scale of df_gamed.csv")
    _check_one_set(known, instructions[judged], hard)
    places = pd.Series(np.arange(len(index)), index=index)
    return Baselines(
        difficulty=np.asarray(known.reindex(index), dtype=np.float64),
        preference=preference,
        delta=delta,
        gamed_difficulty=hard,
        row=places.reindex(instructions[judged]).fillna(-1).to_numpy(np.int64),
    )


def _known_difficulties(difficulty: "pd.Series[float]") -> "pd.Series[float]":
    if not isinstance(difficulty, pd.Series):
        raise StatisticsError(f"difficulty: expected a series by official index, got {type(difficulty).__name__}")
    numbers = as_numbers(difficulty, "difficulty", "a number")
    known = pd.Series(numbers, index=_indices(difficulty.index.to_series(), "difficulty"))
    _check_unique(known.index.to_numpy(), "difficulty")
    if not np.isfinite(numbers).all():
        raise StatisticsError("difficulty: a value is missing or not finite")
    return known


def _check_one_set(known: "pd.Series[float]", instructions: Integers, hard: Floats) -> None:
    """Refuse difficulties that contradict those beside the gamed rows: of another set, order or version."""
    expected = np.asarray(known.reindex(instructions), dtype=np.float64)
    # One that is not known belongs to an instruction without a verdict.
    apart = np.abs(expected - hard) > 1e-3
    if apart.any():
        place = int(np.flatnonzero(apart)[0])
        raise StatisticsError(
            f"difficulty of instruction {instructions[place]} is {expected[place]:g}, but {hard[place]:g} in gamed: "
            "they are not of one instruction set and version"
        )


def _numbers_of(frame: pd.DataFrame, name: str) -> Floats:
    """A column of the gamed frame as floats."""
    return as_numbers(frame[name], f"gamed: {name}", "a number")


def _finite(frame: pd.DataFrame, name: str) -> Floats:
    values = _numbers_of(frame, name)
    if not np.isfinite(values).all():
        raise StatisticsError(f"gamed: {name} is missing or not finite in a row")
    return values


def _indices(values: "pd.Series[Any]", name: str) -> Integers:
    """Official row numbers; text of digits and whole floats are such numbers, too."""
    numbers = pd.to_numeric(values.astype(object), errors="coerce").to_numpy(float)
    boolean = values.map(lambda value: isinstance(value, bool | np.bool_)).to_numpy(bool)
    wrong = ~np.isfinite(numbers) | (numbers != np.floor(numbers)) | boolean
    if wrong.any():
        place = int(np.flatnonzero(wrong)[0])
        raise StatisticsError(
            f"{name}: index in row {place} is {values.tolist()[place]!r}; expected AlpacaEval's official row number"
        )
    return numbers.astype(np.int64)


def _check_columns(frame: pd.DataFrame, required: tuple[str, ...], name: str) -> None:
    if absent := [column for column in required if column not in frame.columns]:
        raise StatisticsError(
            f"{name}: no column {', '.join(absent)}; expected {', '.join(required)}"
            + (". Rows are joined by instruction, never by position" if "index" in absent else "")
        )
    if repeated := [column for column in required if (frame.columns == column).sum() > 1]:
        raise StatisticsError(f"{name}: column {repeated[0]} stands there more than once")


def _check_unique(index: npt.NDArray[Any], name: str) -> None:
    values, counts = np.unique(index, return_counts=True)
    if (counts > 1).any():
        raise StatisticsError(f"{name}: instruction {values[counts > 1][0]} stands there more than once")
