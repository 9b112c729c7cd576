"""Writing a report: every file whole or not at all, so that a page may be open while it is rewritten."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
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
from analysis.parallel import Workers
from analysis.rankings import ranking_section, ranking_warnings
from analysis.regressions import Regressions, regression_cells, regression_frame, regression_section
from analysis.report import page, sections
from analysis.report.details import Detail
from analysis.report.drawings import Analysed, Drawn, NotDrawn, draw, plan_figures, plan_kinds, reasons
from analysis.report.frames import Frames
from analysis.report.panels import Panel, Provenance, panels
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
"""Figures from which several processes draw them: each takes half a second."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a report is made from beside results and verdicts; None where there is nothing of a kind."""

    answers: pd.DataFrame | Callable[[], pd.DataFrame] | None = None
    """The frame of `analysis.answers`, or what waits for it: it becomes `beside.csv`."""
    regressions: Regressions | None = None
    """Scores of lm-evaluation-harness: `regressions.csv`."""
    rankings: pd.DataFrame | None = None
    """Of `analysis.rankings`: `rankings.csv`."""
    candidate_sets: tuple[pd.DataFrame, pd.DataFrame] | None = None
    """Of `analysis.candidate_sets`, the sets and the boundaries: `candidate_sets.csv` and `boundary.csv`."""
    changes: pd.DataFrame | None = None
    """Of `analysis.unlearning`, what they show: `unlearning.csv`."""
    details: Details | None = None
    """What stands behind the cells on the page."""
    findings: Findings | None = None
    """What is said of published claims: `findings.csv`."""
    frames: Frames | None = None
    """What figures of rewards, training, rounds and costs are drawn from."""
    overlap: pd.DataFrame | None = None
    """Of `load.load_overlap`, for a figure."""
    length_control: LengthInputs | None = None
    """With it each result of AlpacaEval 2 also has its length-controlled win rate."""
    published: bool = False
    """Published curves lie under the scaling curves."""


NOTHING: Final = Sources()


def write_report(
    results: pd.DataFrame,
    verdicts: pd.DataFrame,
    out: Path,
    sources: Sources = NOTHING,
    *,
    provenance: Provenance = None,
    console: Console | None = None,
    refresh: int | None = None,
    workers: Workers | None = None,
) -> list[Path]:
    """Write the figures, `results.csv`, `report.md` and `report.html` into `out`, print the table, return the paths.

    Args:
        results: with the verdicts, the frames of `analysis.schema`.
        provenance: sweep, commit and versions, for the small print.
        refresh: seconds after which the page loads itself anew.
        workers: processes that have started already.

    Raises:
        PrefsweepError: there are no results, or the frames break their contract.
    """
    check_results(results)
    check_verdicts(verdicts)
    if results.empty:
        raise PrefsweepError("there are no results to report")
    out.mkdir(parents=True, exist_ok=True)
    with Workers() if workers is None else nullcontext(workers) as own:
        found = _estimate(results, verdicts, sources, provenance or {})
        # Processes that have started draw one kind while the next one is planned.
        kinds = plan_kinds(found.analysed) if own.started else iter([plan_figures(found.analysed)])
        drawing, left_out = list[Iterable[Drawn]](), list[NotDrawn]()
        for planned, missing in kinds:
            drawing.append(own.map(partial(draw, out), planned, least=MANY_FIGURES))
            left_out += missing
        content = _content(found, left_out, sources, refresh)
        texts = {name: spreadsheet_safe(frame).to_csv(index=False) for name, frame in found.tables.items()}
        figures = list(chain.from_iterable(drawing))
    paths = [path for figure in figures for path in figure.paths]
    paths += [replace(out / name, text) for name, text in texts.items()]
    paths.append(replace(out / "report.md", _markdown(content, figures)))
    paths.append(replace(out / "report.html", page.render(content, figures, [path.name for path in paths])))
    print_table(content.cells, console, [*warnings(content.cells, content.beside), *found.warned])
    return paths


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What was estimated for a report."""

    analysed: Analysed
    panels: list[Panel]
    tables: dict[str, pd.DataFrame]
    """The spreadsheets by file name."""
    findings: list[Section]
    numbers: list[Section]
    warned: list[str]


def _estimate(results: pd.DataFrame, verdicts: pd.DataFrame, sources: Sources, made: Mapping[str, object]) -> _Found:
    # What needs no answers comes first: they may still be measured.
    table = preference_table(results, verdicts)
    cells = estimate_cells(results, table)
    compared = panels(cells, table)
    tables, numbers, warned = _numbers(results.join(result_intervals(results, table)), verdicts, cells, sources)
    if sources.frames is not None:
        sources.frames.load()
    answers = sources.answers() if callable(sources.answers) else sources.answers
    beside = beside_win_rates(cells, pd.DataFrame(columns=list(ANSWERS)) if answers is None else answers)
    if answers is not None:
        tables["beside.csv"] = beside_frame(cells, beside)
    answered = list[Section]()
    if sources.findings is not None:
        tables["findings.csv"] = sources.findings(cells, table)
        answered = sections.from_parts(findings_section(tables["findings.csv"]))
    # In the small print of every figure: a heatmap is shown without its report.
    provenance = {**made, **flags(cells, beside)}
    analysed = Analysed(
        cells=cells,
        table=table,
        beside=beside,
        provenance=provenance,
        results=results,
        changes=sources.changes,
        frames=sources.frames,
        overlap=sources.overlap,
        published=sources.published,
    )
    return _Found(analysed=analysed, panels=compared, tables=tables, findings=answered, numbers=numbers, warned=warned)


def _content(found: _Found, left_out: Sequence[NotDrawn], sources: Sources, refresh: int | None) -> page.Content:
    """What the page shows but figures."""
    cells, beside = found.analysed.cells, found.analysed.beside
    return page.Content(
        cells=cells,
        panels=found.panels,
        opening=sections.opening(cells, found.panels, beside),
        unfinished=sections.unfinished(cells),
        findings=found.findings,
        sections=[*sections.details(cells, found.panels, beside), *found.numbers],
        comparing=sections.comparing(cells),
        beside=beside,
        not_drawn=reasons(left_out),
        details=sources.details(page.shown_results(cells)) if sources.details is not None else {},
        provenance=found.analysed.provenance,
        refresh=refresh,
    )


def replace(path: Path, text: str) -> Path:
    """Write a file at once: a reader sees the old text or the new one."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}")
    # Lone surrogates, which a manifest's JSON may hold, have no UTF-8.
    waiting.write_text(text, encoding="utf-8", errors="replace")
    waiting.replace(path)
    return path


def _numbers(
    results: pd.DataFrame, verdicts: pd.DataFrame, cells: pd.DataFrame, sources: Sources
) -> tuple[dict[str, pd.DataFrame], list[Section], list[str]]:
    """The spreadsheets by file name, the sections and the warnings of what there is beside cells and answers."""
    tables, found = {"results.csv": results}, list[Section]()
    if sources.length_control is not None:
        difficulty, gamed = sources.length_control
        controlled = length_controlled_columns(results, verdicts, difficulty=difficulty, gamed=gamed)
        tables["results.csv"] = results.join(controlled)
        found += sections.from_parts([length_section(results, controlled)])
    if sources.regressions is not None and not sources.regressions.scores.empty:
        scores = regression_cells(cells, sources.regressions)
        tables["regressions.csv"] = regression_frame(cells, scores)
        found += sections.from_parts(regression_section(cells, scores))
    made, more, warned = _of_data(cells, sources.rankings, sources.candidate_sets, sources.changes)
    return tables | made, found + more, warned


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
    if content.not_drawn:
        lines = [f"- {markdown_safe(line)}" for line in content.not_drawn]
        parts += ["## Figures that are not drawn", "\n".join(lines)]
    if content.provenance:
        parts.append(f"<small>{markdown_safe(provenance_text(content.provenance))}</small>")
    return "\n\n".join(parts) + "\n"
