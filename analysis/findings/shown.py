"""The findings for readers: a table in the terminal, a section of the report, a file of Markdown."""

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any, Final

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.schema import plain, strip_control
from analysis.tables import markdown_safe, markdown_table

EXPLANATION: Final = (
    "An effect is a weighted sum of win rates over cells that share all else, in the unit beside it. The intervals of "
    "all tests of this table hold together at 95 %: where nothing is different, some verdict is wrong in at most 5 % "
    "of such sweeps. Claims are about constructions, so that with fewer than three training seeds they are neither "
    "supported nor contradicted. What would tell is for 80 % power, if the estimate is the truth; it is as uncertain "
    "as that. The claims are published, their statistics are ours."
)

OUT_OF_REACH: Final = 100_000
"""Instructions or seeds above which a number is no plan."""


def findings_table(findings: pd.DataFrame) -> pd.DataFrame:
    """The findings (of `FINDINGS`) as text for a reader; settings and notes have a column where there are any."""
    rows = [
        {
            "claim": f"{row['statement']} ({row['source']})",
            "setting": row["setting"] or "",
            "n": row["n"] or "",
            "effect [95 % together]": _effect(row),
            "verdict": row["verdict"],
            "seeds": plain(row["seeds"]),
            "instructions": plain(row["instructions"]),
            "what would tell": _needed(row),
            "note": row["note"] or "",
        }
        for row in findings.to_dict("records")
    ]
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in ("setting", "note") if not table[name].any()])


def findings_section(findings: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing where nothing was tested."""
    if findings["effect"].isna().all():
        return []
    words = map(markdown_safe, [EXPLANATION, *_judges(findings)])
    return ["## Findings", *words, markdown_table(findings_table(findings))]


def print_findings(findings: pd.DataFrame, console: Console | None = None) -> None:
    """Print the table; texts cannot steer the terminal."""
    rows = findings_table(findings)
    foot = Text("\n".join(map(strip_control, [EXPLANATION, *_judges(findings)])))
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, caption=foot, caption_justify="left", show_lines=True)
    for name in rows.columns:
        grid.add_column(Text(str(name)), overflow="fold")
    for values in rows.itertuples(index=False):
        # Text, not str: a str would be read as rich's own markup.
        grid.add_row(*(Text(strip_control(str(value))) for value in values))
    (console or _console()).print(grid)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=180)


def _judges(findings: pd.DataFrame) -> list[str]:
    """Judge, references and decoding of the win rates, each combination once."""
    judged = findings[findings["judge_label"].notna()][["judge_label", "reference", "decoding"]].drop_duplicates()
    return [f"Judge: {judge}. Against: {reference}. Answers: {how}." for judge, reference, how in judged.to_numpy()]


def _effect(row: Mapping[Any, Any]) -> str:
    if isnan(row["effect"]):
        return ""
    ends = "no interval" if isnan(row["low"]) else f"{row['low']:+.2f}, {row['high']:+.2f}"
    return f"{row['effect']:+.2f} [{ends}] {row['unit']}"


def _needed(row: Mapping[Any, Any]) -> str:
    words = [
        f"{value:,.0f} {name}"
        for name in ("instructions", "seeds")
        if isfinite(value := row[f"{name}_needed"]) and value <= OUT_OF_REACH
    ]
    if words:
        return " or ".join(words)
    return "" if isnan(row["seeds_needed"]) else "neither more instructions nor more seeds alone"
