"""The table of a report: a row per cell, as text that is safe in a terminal, Markdown and a spreadsheet."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from analysis.captions import construction_label, construction_labels
from analysis.estimates import comparison_columns
from analysis.schema import plain, strip_control, varying_columns
from analysis.statistics import Interval

WIN_RATE: Final = "win rate % [95 %]"
JUDGED: Final = "judged"
"""Instructions that a win rate rests on; a column where some cell's judgements failed."""

_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters, ASCII and full-width, that make a spreadsheet read a cell as a formula."""


def cell_table(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells (of `estimates.estimate_cells`) as text for a reader; a setting has a column if it varies."""
    varying = varying_settings(cells)
    incomplete = bool((cells["excluded"].astype(float) > 0).any())
    rows = [
        {"construction": label, "n": plain(cell["n"])}
        | {name: plain(cell[name]) for name in varying}
        | _numbers(cell)
        | ({JUDGED: _judged(cell)} if incomplete else {})
        | {"status": _status(cell)}
        for label, (_, cell) in zip(construction_labels(cells), cells.iterrows(), strict=True)
    ]
    return pd.DataFrame(rows)


def varying_settings(cells: pd.DataFrame) -> list[str]:
    """The settings, construction, pair and n aside, that differ among the cells."""
    return varying_columns(cells, comparison_columns(cells))


def cell_name(cell: "pd.Series[Any]", cells: pd.DataFrame) -> str:
    """A cell in words: construction, pair, n and the settings that vary among `cells`."""
    return name_of(construction_label(cell, cells), cell.to_dict(), varying_settings(cells))


def cell_names(cells: pd.DataFrame) -> dict[int, str]:
    """`cell_name` of each of the cells, by its row label."""
    varying, labels = varying_settings(cells), construction_labels(cells)
    rows = zip(cells.index, labels, cells[["n", *varying]].to_dict("records"), strict=True)
    return {int(row): name_of(label, cell, varying) for row, label, cell in rows}


def name_of(construction: str, cell: Mapping[Any, Any], varying: Sequence[str]) -> str:
    """A cell in words: its construction's label, n and the settings that vary."""
    settings = [f"{name}={plain(cell[name])}" for name in varying]
    size = [f"n={plain(cell['n'])}"] if plain(cell["n"]) else []
    return ", ".join([construction, *size, *settings])


def spreadsheet_safe(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with an apostrophe before each text that a spreadsheet would run; numbers stay numbers."""
    return frame.map(_without_formula).rename(columns=lambda name: _without_formula(str(name)))


def markdown_table(table: pd.DataFrame) -> str:
    """A Markdown table of text cells, in which no text can form markup."""
    lines = [list(map(str, table.columns)), *table.to_numpy().tolist()]
    header, *body = ("| " + " | ".join(map(markdown_safe, line)) + " |" for line in lines)
    return "\n".join([header, "|" + " --- |" * table.shape[1], *body])


def markdown_safe(text: str) -> str:
    """`text` as literal Markdown on one line: no HTML, link, emphasis or table cell comes out of it."""
    escaped = html.escape(strip_control(text), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#!" else letter for letter in escaped)


def points_text(interval: Interval) -> str:
    """A difference of win rates in points, with its interval."""
    if math.isnan(interval.estimate):
        return ""
    middle, low, high = (
        f"{100 * value:+.1f}" if round(100 * value, 1) else "0"
        for value in (interval.estimate, interval.low, interval.high)
    )
    return f"{middle} [{low}, {high}]"


def _numbers(cell: "pd.Series[Any]") -> dict[str, str]:
    return {
        WIN_RATE: _win_rate(cell),
        "rows": _number(cell["rows"], 0),
        "steps": _number(cell["steps"], 0),
        "changed %": _number(100 * cell["share_changed"], 0),
        "tokens (base)": _beside(cell["answer_tokens"], cell["base_tokens"], " ({})"),
        "KL": _number(cell["kl"], 2),
        "z chosen / rejected": _beside(cell["z_chosen"], cell["z_rejected"], " / {}", decimals=2),
    }


def _judged(cell: "pd.Series[Any]") -> str:
    if math.isnan(float(cell["excluded"])):
        return ""
    return f"{int(cell['instructions'])} of {int(cell['instructions'] + cell['excluded'])}"


def _win_rate(cell: "pd.Series[Any]") -> str:
    if math.isnan(cell["win_rate"]):
        return ""
    if math.isnan(cell["low"]):
        return f"{100 * cell['win_rate']:.1f} [no interval]"
    return f"{100 * cell['win_rate']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"


def _status(cell: "pd.Series[Any]") -> str:
    if cell["status"] != "done":
        return ": ".join(part for part in (str(cell["status"]), plain(cell["reason"])) if part)
    if cell["planned"] == 1:
        return "done"
    return f"{cell['seeds']}/{cell['planned']} seeds"


def _number(value: float, decimals: int) -> str:
    return "" if math.isnan(value) else f"{value:.{decimals}f}"


def _beside(first: float, second: float, form: str, decimals: int = 1) -> str:
    """Two numbers in one column; nothing where neither is known."""
    if math.isnan(first) and math.isnan(second):
        return ""
    return (_number(first, decimals) or "?") + form.format(_number(second, decimals) or "?")


def _without_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = strip_control(value)
    # Looked at without leading blanks, which spreadsheets skip.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
