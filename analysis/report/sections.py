"""The report in words: sections of Markdown in which no text from a store can form markup."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Final

import pandas as pd

from analysis.beside_report import beside_section, warnings_section
from analysis.captions import construction_labels, detectable_sentence, labels_sentence, methods, scope, steps_sentence
from analysis.comparability import differences
from analysis.report.panels import Panel, heading
from analysis.schema import COMPARABLE
from analysis.tables import (
    cell_names,
    cell_table,
    markdown_safe,
    markdown_table,
    name_of,
    points_text,
    varying_settings,
)

MOST_NAMED: Final = 20
"""Cells that a list in the report names one by one; the table has them all."""

MOST_SENTENCES: Final = 4
"""Settings whose best cell has a sentence of its own; of more a table says the same."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section under its own heading."""

    title: str
    body: str
    """Markdown without its heading."""

    @property
    def markdown(self) -> str:
        return f"## {self.title}\n\n{self.body}"


def from_parts(parts: Sequence[str]) -> list[Section]:
    """The section that paragraphs of Markdown make whose first begins with its heading; none without paragraphs."""
    text = "\n\n".join(parts)
    if not text:
        return []
    title, _, body = text.removeprefix("## ").partition("\n\n")
    return [Section(title=title, body=body)]


def opening(cells: pd.DataFrame, panels: Sequence[Panel], beside: pd.DataFrame) -> str:
    """What the report begins with: how much is done, by what judge, which cells are the best, and warnings."""
    done = cells[cells["status"] == "done"]
    parts = [markdown_safe(summary(cells))]
    if len(done):
        parts += [f"**{markdown_safe(labels_sentence(done))}**", markdown_safe(scope_sentence(done))]
    parts += _comparisons(panels, _names_in_panels(cells, panels))
    return "\n\n".join(part for part in [*parts, *warnings_section(cells, beside)] if part)


def details(cells: pd.DataFrame, panels: Sequence[Panel], beside: pd.DataFrame) -> list[Section]:
    """The sections behind the table of cells."""
    names = _names_in_panels(cells, panels)
    against = [section for panel in panels for section in _against_best(panel, names)]
    return [*against, *from_parts(beside_section(cells, beside))]


def _names_in_panels(cells: pd.DataFrame, panels: Sequence[Panel]) -> dict[int, str]:
    """The panels' cells in words, by row label, without the settings that stand over a panel."""
    varying = varying_settings(cells)
    labels = {int(row): label for row, label in zip(cells.index, construction_labels(cells), strict=True)}
    return {
        int(row): name_of(labels[int(row)], cell, [name for name in varying if name not in panel.setting])
        for panel in panels
        for row, cell in zip(panel.cells.index, panel.cells[["n", *varying]].to_dict("records"), strict=True)
    }


def summary(cells: pd.DataFrame) -> str:
    """How many cells there are of each status."""
    counts = cells["status"].value_counts(sort=False)
    return f"Cells: {len(cells)} ({', '.join(f'{count} {status}' for status, count in counts.items())})."


def scope_sentence(done: pd.DataFrame) -> str:
    """What the intervals speak about, how they were made, and whether steps differ."""
    return " ".join(part for part in (scope(done), methods(done), steps_sentence(done)) if part)


def unfinished(cells: pd.DataFrame) -> list[Section]:
    """What is missing: cells that are not done, and seeds that done cells still lack."""
    partial = (cells["status"] == "done") & (cells["seeds"] < cells["planned"])
    rows = cells[(cells["status"] != "done") | partial]
    if rows.empty:
        return []
    names = cell_names(cells)
    lines = [
        f"- {markdown_safe(names[int(row)])}: {markdown_safe(status)}"
        for row, status in zip(rows.index, cell_table(rows)["status"], strict=True)
    ]
    more = [f"- and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    return [Section(title="Not complete", body="\n".join(lines[:MOST_NAMED] + more))]


def comparing(cells: pd.DataFrame) -> Section:
    """How the numbers may and may not be compared."""
    done = cells[cells["status"] == "done"]
    lines = [
        "Cells of one figure, and of one table of differences, may be compared: they share judge, reference answers, "
        "instructions, decoding and package versions.",
        "Intervals of single cells may overlap although the cells differ, since all answer the same instructions: what "
        'tells two cells apart is an interval of their difference ("Against the best", or python -m analysis compare).',
        "The highest of many win rates is too high by chance. Intervals that allow for the choice say so.",
        "Win rates may be compared with published ones only where judge, judge prompt, instructions and reference "
        "answers are the published ones; another judge moves win rates by ten points.",
        "Cells that carry a letter or stand as one experiment trained on the same rows: their equality is no finding.",
    ]
    if len(done) and (done["seeds"] < 3).any():
        lines.append(
            "With fewer than three training seeds an interval speaks about these trained models only, not about "
            "the construction."
        )
    for name, values in differences(done).items():
        shown = " / ".join(value if len(value) <= 60 else f"{value[:48]}…" for value in values)
        lines.append(f"Not comparable across: {COMPARABLE[name]} ({name}) differs: {shown}.")
    return Section(
        title="How these numbers may be compared", body="\n".join(f"- {markdown_safe(line)}" for line in lines)
    )


def _comparisons(panels: Sequence[Panel], names: dict[int, str]) -> list[str]:
    """The best cell of each panel, with an interval that pays for its choice: a sentence each, or of many a table."""
    # None where the cells share no judged instruction.
    compared = [panel for panel in panels if panel.intervals and panel.experiments > 1]
    if len(compared) <= MOST_SENTENCES:
        return [markdown_safe(_comparison(panel, names)) for panel in compared]
    varying = dict.fromkeys(name for panel in compared for name in panel.setting)
    rows = [
        {name: (panel.setting[name] or "none") if name in panel.setting else "" for name in varying}
        | {
            "highest win rate": names[panel.best],
            "% [95 %]": f"{100 * best.estimate:.1f} [{100 * best.low:.1f}, {100 * best.high:.1f}]",
            "experiments": str(panel.experiments),
            "not told apart": str(len(panel.rivals)),
            "detectable, points": "" if isnan(panel.detectable) else f"{100 * panel.detectable:.1f}",
            "instructions": str(best.n),
            "speaks about": best.scope,
        }
        for panel in compared
        for best in (panel.intervals[panel.best],)
    ]
    note = (
        "The cell with the highest win rate of each setting: its interval allows for choosing among the setting's "
        "experiments; how many of the others are not told apart from it; the smallest difference that one comparison "
        "can detect (80\N{NO-BREAK SPACE}% power); and the instructions that all its cells were judged on."
    )
    return [markdown_safe(note), markdown_table(pd.DataFrame(rows))]


def _comparison(panel: Panel, names: dict[int, str]) -> str:
    """The best cell of one panel in words."""
    interval = panel.intervals[panel.best]
    where = f"{heading(panel.setting)}: " if panel.setting else ""
    # The cells' own win rates, which stand in the table, may rest on more.
    shared = f", over the {interval.n} instructions that all were judged on" if interval.excluded else ""
    return (
        f"{where}Highest win rate {100 * interval.estimate:.1f}\N{NO-BREAK SPACE}%: {names[panel.best]}{shared} "
        f"(95\N{NO-BREAK SPACE}% interval that allows for choosing among {panel.experiments} experiments: "
        f"{100 * interval.low:.1f} to {100 * interval.high:.1f}; {interval.scope}). "
        f"Not told apart from it: {len(panel.rivals)} of {panel.experiments - 1} others. "
        f"{detectable_sentence(panel.detectable)}"
    )


def _against_best(panel: Panel, names: dict[int, str]) -> list[Section]:
    """How far each cell is from the best of the others, and how often it would be the first."""
    if not panel.against_best or any(interval.n == 0 for interval in panel.against_best.values()):
        return []
    rows = pd.DataFrame(
        {
            "construction": names[row],
            "less the best other, points [95 %]": points_text(interval),
            "first in % of resamples": f"{100 * panel.first[row]:.0f}",
        }
        for row, interval in panel.against_best.items()
    )
    note = (
        "The intervals hold together. One that ends at 0 is of a cell that is not the best, one that begins at 0 of "
        f"the cell that is. They speak about {panel.grid.scope}."
    )
    where = f" ({heading(panel.setting)})" if panel.setting else ""
    return [Section(title=f"Against the best{markdown_safe(where)}", body=f"{note}\n\n{markdown_table(rows)}")]
