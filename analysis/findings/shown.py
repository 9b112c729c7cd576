"""The findings for readers: a table in the terminal, a section of the report, a file of Markdown."""

from collections.abc import Mapping
from math import isfinite, isnan
from typing import Any, Final

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.findings.claims import NOT_TESTED, POINTS
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
    """What was tested, of findings with the columns `FINDINGS`, as text for a reader.

    Settings and notes have a column where there are any.
    """
    rows = [
        {
            "claim": f"{row['statement']} ({row['source']})",
            "setting": row["setting"],
            "n": _sizes(row["n"]),
            "verdict": row["verdict"],
            "effect [95 % together]": _effect(row),
            "what would tell": _needed(row),
            "seeds": plain(row["seeds"]),
            "instructions": plain(row["instructions"]),
            "note": row["note"],
        }
        for row in _tested(findings).to_dict("records")
    ]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.drop(columns=[name for name in ("setting", "note") if not table[name].any()])


_COLUMNS: Final = (
    "claim",
    "setting",
    "n",
    "verdict",
    "effect [95 % together]",
    "what would tell",
    "seeds",
    "instructions",
    "note",
)


def findings_section(findings: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing where nothing was tested."""
    if _tested(findings).empty:
        return []
    words = map(markdown_safe, [EXPLANATION, *_judges(findings)])
    return ["## Findings", *words, markdown_table(findings_table(findings)), *untested_list(findings)]


def untested_list(findings: pd.DataFrame) -> list[str]:
    """What was not tested, and why, as a list in Markdown with its heading."""
    lines = [f"- {markdown_safe(line)}" for line in _untested(findings)]
    return ["Not tested:", "\n".join(lines)] if lines else []


def print_findings(findings: pd.DataFrame, console: Console | None = None) -> None:
    """Print table and list; texts cannot steer the terminal."""
    printed = console or _console()
    rows = findings_table(findings)
    if len(rows):
        foot = Text("\n".join(map(strip_control, [EXPLANATION, *_judges(findings)])))
        grid = Table(box=SIMPLE_HEAD, pad_edge=False, caption=foot, caption_justify="left", show_lines=True)
        for name in rows.columns:
            grid.add_column(Text(str(name)), overflow="fold")
        for values in rows.itertuples(index=False):
            # Text, not str: a str would be read as rich's own markup.
            grid.add_row(*(Text(strip_control(str(value))) for value in values))
        printed.print(grid)
    elif len(findings):
        printed.print("Nothing could be tested:")
    for line in _untested(findings):
        printed.print(Text(strip_control(f"not tested: {line}")))


def _tested(findings: pd.DataFrame) -> pd.DataFrame:
    return findings[findings["verdict"] != NOT_TESTED]


def _untested(findings: pd.DataFrame) -> list[str]:
    rows = findings[findings["verdict"] == NOT_TESTED].to_dict("records")
    return [f"{row['statement']}{_where(row['setting'])} ({row['source']}): {row['note']}" for row in rows]


def _where(setting: str) -> str:
    return f", {setting}" if setting else ""


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=180)


def _judges(findings: pd.DataFrame) -> list[str]:
    """Judge, references and decoding of the win rates, each combination once."""
    judged = findings[findings["judge_label"].notna()][["judge_label", "reference", "decoding"]].drop_duplicates()
    return [f"Judge: {judge}. Against: {reference}. Answers: {how}." for judge, reference, how in judged.to_numpy()]


def _sizes(text: str) -> str:
    """Several n by their ends; the frame has them all."""
    first, *others = text.split(", ")
    return f"{first} to {others[-1]}" if others else first


def _effect(row: Mapping[Any, Any]) -> str:
    form = "+.2f" if row["unit"].startswith(POINTS) else "+.3g"
    effect, low, high = (format(row[name], form) for name in ("effect", "low", "high"))
    return f"{effect} [{low}, {high}] {row['unit']}"


def _needed(row: Mapping[Any, Any]) -> str:
    if row["seeds"] <= 1 and isfinite(row["seeds_needed"]):
        # One seed does not say what others differ by, hence not how many would tell.
        return f"{_about(row['seeds_needed'])} seeds at least"
    words = [
        f"{_about(value)} {name}"
        for name in ("instructions", "seeds")
        if isfinite(value := row[f"{name}_needed"]) and value <= OUT_OF_REACH
    ]
    if words:
        return f"about {' or '.join(words)}"
    times = row["times_needed"]
    if isnan(times):
        return ""
    return f"about {_about(times)} times as many of both" if times <= OUT_OF_REACH else "out of reach"


def _about(number: float) -> str:
    """To two digits: more of it is noise."""
    return f"{float(format(number, '.2g')):,g}"
