"""Writing a report: every file whole or not at all, so that a page may be open while it is rewritten."""

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd
from rich.console import Console

from analysis.answers import ANSWERS
from analysis.beside import beside_win_rates
from analysis.beside_report import beside_frame, flags, warnings
from analysis.candidate_sets import candidate_sets_section
from analysis.captions import provenance_text
from analysis.estimates import estimate_cells, preference_table, result_intervals
from analysis.findings import findings_section
from analysis.length_report import length_controlled_columns, length_section
from analysis.parallel import ready
from analysis.rankings import ranking_section, ranking_warnings
from analysis.regressions import Regressions, regression_cells, regression_frame, regression_section
from analysis.report import page, sections
from analysis.report.details import Detail
from analysis.report.drawings import Analysed, Drawn, draw, drawings
from analysis.report.panels import Provenance, panels
from analysis.report.sections import Section
from analysis.report.terminal import print_table
from analysis.schema import check_results, check_verdicts
from analysis.tables import cell_table, markdown_safe, markdown_table, spreadsheet_safe
from analysis.unlearning import unlearning_cells, unlearning_frame, unlearning_section
from harness.errors import PrefsweepError

LengthInputs = tuple["pd.Series[float]", pd.DataFrame]
"""Instruction difficulties by official index, and the gamed baselines, of AlpacaEval 2."""

Details = Callable[[Collection[str]], Mapping[str, Detail]]
"""Details by result, with examples for the results that are given."""

Findings = Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]
"""Findings of cells and preferences, as `analysis.findings.find` makes them."""

MANY_FIGURES: Final = 12
"""Figures from which several processes draw them: each takes a second."""


def write_report(
    results: pd.DataFrame,
    verdicts: pd.DataFrame,
    out: Path,
    *,
    answers: pd.DataFrame | None = None,
    regressions: Regressions | None = None,
    rankings: pd.DataFrame | None = None,
    candidate_sets: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    changes: pd.DataFrame | None = None,
    details: Details | None = None,
    findings: Findings | None = None,
    provenance: Provenance = None,
    console: Console | None = None,
    length_control: LengthInputs | None = None,
    refresh: int | None = None,
) -> list[Path]:
    """Write the figures, `results.csv`, `report.md` and `report.html` into `out`, print the table, return the paths.

    The frames are those of `analysis.schema`, `answers` that of `analysis.answers`, for which there is `beside.csv`;
    scores of `regressions` stand in `regressions.csv`, `rankings` of `analysis.rankings` in `rankings.csv`,
    `candidate_sets` (of `analysis.candidate_sets`: the sets, and the boundaries) in `candidate_sets.csv` and
    `boundary.csv`, what `changes` (of `analysis.unlearning`) show in `unlearning.csv`, what `findings` says of
    published claims in `findings.csv`, and `details` behind the cells on the page. With `length_control` each result of
    AlpacaEval 2 also has its length-controlled win rate. `provenance` (sweep, commit, versions) becomes the small
    print. A page with `refresh` loads itself anew after so many seconds.
    Raises PrefsweepError when there are no results, or the frames break their contract.
    """
    check_results(results)
    check_verdicts(verdicts)
    if results.empty:
        raise PrefsweepError("there are no results to report")
    table = preference_table(results, verdicts)
    cells = estimate_cells(results, table)
    out.mkdir(parents=True, exist_ok=True)
    beside = beside_win_rates(cells, pd.DataFrame(columns=list(ANSWERS)) if answers is None else answers)
    # In the small print of every figure: a heatmap is shown without its report.
    provenance = {**(provenance or {}), **flags(cells, beside)}
    planned = drawings(Analysed(cells=cells, table=table, beside=beside, provenance=provenance))
    with ready(len(planned) >= MANY_FIGURES) as start:
        drawing = start(partial(draw, out), planned)
        tables, numbers = _scores(
            results.join(result_intervals(results, table)), verdicts, cells, regressions, length_control
        )
        made, more, warned = _of_data(cells, rankings, candidate_sets, changes)
        tables |= made
        numbers += more
        if answers is not None:
            tables["beside.csv"] = beside_frame(cells, beside)
        answered = list[Section]()
        if findings is not None:
            tables["findings.csv"] = findings(cells, table)
            answered = sections.from_parts(findings_section(tables["findings.csv"]))
        compared = panels(cells, table)
        content = page.Content(
            cells=cells,
            panels=compared,
            opening=sections.opening(cells, compared, beside),
            unfinished=sections.unfinished(cells),
            findings=answered,
            sections=[*sections.details(cells, compared, beside), *numbers],
            comparing=sections.comparing(cells),
            beside=beside,
            details=details(page.shown_results(cells)) if details is not None else {},
            provenance=provenance,
            refresh=refresh,
        )
        figures = list(drawing)
    paths = [path for figure in figures for path in figure.paths]
    paths += [replace(out / name, spreadsheet_safe(frame).to_csv(index=False)) for name, frame in tables.items()]
    paths.append(replace(out / "report.md", _markdown(content, figures)))
    paths.append(replace(out / "report.html", page.render(content, figures, [path.name for path in paths])))
    print_table(cells, console, [*warnings(cells, beside), *warned])
    return paths


def replace(path: Path, text: str) -> Path:
    """Write a file at once: a reader sees the old text or the new one."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    # Lone surrogates, which a manifest's JSON may hold, have no UTF-8.
    waiting.write_text(text, encoding="utf-8", errors="replace")
    waiting.replace(path)
    return path


def _scores(
    results: pd.DataFrame,
    verdicts: pd.DataFrame,
    cells: pd.DataFrame,
    regressions: Regressions | None,
    length_control: LengthInputs | None,
) -> tuple[dict[str, pd.DataFrame], list[Section]]:
    """The spreadsheets by file name and the sections of length-controlled win rates and of regressions."""
    tables, found = {"results.csv": results}, list[Section]()
    if length_control is not None:
        difficulty, gamed = length_control
        controlled = length_controlled_columns(results, verdicts, difficulty=difficulty, gamed=gamed)
        tables["results.csv"] = results.join(controlled)
        found += sections.from_parts([length_section(results, controlled)])
    if regressions is not None and not regressions.scores.empty:
        scores = regression_cells(cells, regressions)
        tables["regressions.csv"] = regression_frame(cells, scores)
        found += sections.from_parts(regression_section(cells, scores))
    return tables, found


def _of_data(
    cells: pd.DataFrame,
    rankings: pd.DataFrame | None,
    candidate_sets: tuple[pd.DataFrame, pd.DataFrame] | None,
    changes: pd.DataFrame | None,
) -> tuple[dict[str, pd.DataFrame], list[Section], list[str]]:
    """The spreadsheets by file name, the sections and the warnings about how the data were made and what they did."""
    tables, found, warned = dict[str, pd.DataFrame](), list[Section](), list[str]()
    if rankings is not None and not rankings.empty:
        tables["rankings.csv"] = rankings
        found += sections.from_parts(ranking_section(rankings))
        warned += ranking_warnings(rankings)
    if candidate_sets is not None:
        named = zip(("candidate_sets.csv", "boundary.csv"), candidate_sets, strict=True)
        tables |= {name: frame for name, frame in named if not frame.empty}
        found += sections.from_parts(candidate_sets_section(*candidate_sets))
    if changes is not None and not changes.empty:
        unlearnt = unlearning_cells(cells, changes)
        tables["unlearning.csv"] = unlearning_frame(cells, unlearnt)
        found += sections.from_parts(unlearning_section(cells, unlearnt))
    return tables, found, warned


def _markdown(content: page.Content, figures: list[Drawn]) -> str:
    """The report as Markdown; figures are named relative to it."""
    parts = ["# Sweep report", content.opening, *(section.markdown for section in content.unfinished)]
    parts += [section.markdown for section in content.findings]
    parts += ["## Cells", markdown_table(cell_table(content.cells))]
    parts += [section.markdown for section in (*content.sections, content.comparing)]
    names = [figure.drawing.stem for figure in figures]
    parts += ["## Figures"] * bool(names) + [f"![{name}]({name}.png)" for name in names]
    if content.provenance:
        parts.append(f"<small>{markdown_safe(provenance_text(content.provenance))}</small>")
    return "\n\n".join(parts) + "\n"
