"""The length-controlled win rates of a report: of each result that is AlpacaEval 2's, else the reason why not."""

from typing import Any, Final

import pandas as pd

from analysis.length_control import length_controlled_win_rate
from analysis.schema import LENGTHS, plain
from analysis.statistics import Estimate, StatisticsError
from analysis.tables import markdown_table

BENCHMARK: Final = "alpaca_eval2"
REFERENCES: Final = "gpt4_1106_preview"

COLUMNS: Final = (
    "length_controlled_win_rate",
    "length_controlled_low",
    "length_controlled_high",
    "length_controlled_standard_error",
    "length_controlled_note",
)
"""Fractions like `win_rate`, and how they were made, or why there are none."""


def length_controlled_columns(
    results: pd.DataFrame, verdicts: pd.DataFrame, *, difficulty: "pd.Series[float]", gamed: pd.DataFrame
) -> pd.DataFrame:
    """`COLUMNS` of each result, in the order of `results`; a result whose rate cannot be had says why."""
    rows = []
    by_result = dict(iter(verdicts.groupby("result")))
    for _, result in results.iterrows():
        found = _rate(result, by_result.get(result["result"]), difficulty, gamed)
        rows.append(_row(found) if isinstance(found, Estimate) else (None, None, None, None, found))
    return pd.DataFrame(rows, columns=list(COLUMNS), index=results.index)


def length_section(results: pd.DataFrame, columns: pd.DataFrame) -> str:
    """The rates as a section of the report, a row per result that is done."""
    done = columns[results["status"] == "done"]
    if done.empty:
        return ""
    rows = [
        {"result": str(results.at[row, "result"]), "length-controlled % [95 %]": _text(cell), "how, or why not": note}
        for (row, cell), note in zip(done.iterrows(), done[COLUMNS[-1]].map(str), strict=True)
    ]
    heading = "## Length-controlled win rates (AlpacaEval 2's regression, each trained model by itself)"
    return f"{heading}\n\n{markdown_table(pd.DataFrame(rows))}"


def _text(cell: "pd.Series[Any]") -> str:
    value, low, high = (cell[name] for name in COLUMNS[:3])
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if pd.notna(value) else "none"


def _rate(
    result: "pd.Series[Any]", verdicts: pd.DataFrame | None, difficulty: "pd.Series[float]", gamed: pd.DataFrame
) -> Estimate | str:
    if verdicts is None:
        return "no verdicts"
    for key, expected in (("evaluate.benchmark", BENCHMARK), ("evaluate.references", REFERENCES)):
        if plain(result.get(key)) != expected:
            return f"{key} is {plain(result.get(key)) or 'none'}, not {expected}: the difficulties are of another set"
    if absent := [name for name in LENGTHS if name not in verdicts.columns or verdicts[name].isna().all()]:
        return f"the verdicts have no {', '.join(absent)}"
    rows = verdicts[list(LENGTHS)].assign(preference=1 + verdicts["preference"].astype(float))
    try:
        return length_controlled_win_rate(rows, difficulty=difficulty, gamed=gamed)
    except StatisticsError as error:
        return str(error)


def _row(found: Estimate) -> tuple[object, ...]:
    percent = (found.value, found.low, found.high, found.standard_error)
    return (*(value / 100 for value in percent), found.method)
