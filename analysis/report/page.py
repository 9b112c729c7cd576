"""The report as one HTML page that needs nothing else: no network, no server, no second file."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import isnan
from typing import Any, Final

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis.beside import near_constant
from analysis.beside_report import beside_table
from analysis.estimates import comparison_columns
from analysis.report.details import EXAMPLES, LONGEST_TEXT, Detail
from analysis.report.drawings import Drawn
from analysis.report.panels import Panel, Provenance, heading
from analysis.report.sections import Section
from analysis.report.untrusted import script_json, visible
from analysis.report.vector import inline
from analysis.schema import configuration_columns, plain
from analysis.tables import cell_names, cell_table, points_text

MOST_SHOWN: Final = 2
"""Figures of a kind that are open at once; the others unfold."""

LONGEST_OPEN: Final = 4_000
"""Characters of a section that stands open; a longer one unfolds."""

_NUMBER: Final = re.compile(r"[-+]?\d+(\.\d+)?")

_POLICY: Final = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
"""Styles may stand inline, since figures and the table set them; nothing can be loaded from or sent anywhere."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the page shows."""

    cells: pd.DataFrame
    panels: Sequence[Panel]
    opening: str
    """Markdown."""
    unfinished: Sequence[Section]
    findings: Sequence[Section]
    """At most one; without any where no claim was tested."""
    sections: Sequence[Section]
    comparing: Section
    beside: pd.DataFrame
    not_drawn: Sequence[str]
    """Which figures there are not, and why."""
    details: Mapping[str, Detail]
    """By result."""
    provenance: Provenance
    refresh: int | None
    """Seconds after which the page loads itself anew."""


def render(content: Content, drawn: Sequence[Drawn], files: Sequence[str]) -> str:
    """The page, with the names of the files beside it.

    Texts are escaped, and what would mislead a reader is shown by its code point.
    """
    environment = Environment(
        loader=PackageLoader("analysis.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_vendored("tabulator.min.js"), _own("page.js")]
    table = cell_table(content.cells)
    return environment.get_template("page.html").render(
        policy=_POLICY.format(scripts=" ".join(f"'sha256-{_hash(script)}'" for script in scripts)),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own files
        styles=[Markup(style) for style in (_vendored("tabulator_simple.min.css"), _own("page.css"))],  # noqa: S704
        title=_title(content.provenance),
        refresh=content.refresh,
        opening=_html(content.opening),
        unfinished=[_shown(section) for section in content.unfinished],
        findings=[_shown(section) for section in content.findings],
        figures=_figures(drawn),
        not_drawn=content.not_drawn,
        columns=list(table.columns),
        rows=table.to_numpy().tolist(),
        sections=[_shown(section) for section in content.sections],
        comparing=_shown(content.comparing),
        provenance={plain(name): plain(value) for name, value in (content.provenance or {}).items()},
        files=files,
        examples=EXAMPLES,
        longest=LONGEST_TEXT,
        data=Markup(script_json(_data(content, table))),  # noqa: S704 - no < in it
    )


def _data(content: Content, table: pd.DataFrame) -> dict[str, Any]:
    """What the table and the view of one cell are made from."""
    cells = content.cells
    settings = [name for name in configuration_columns(cells) if name in _settings(cells)]
    texts = {name: cells[name].map(plain) for name in settings}
    varying = [name for name in settings if texts[name].nunique() > 1]
    names, flagged = cell_names(cells), near_constant(content.beside)
    against = {row: interval for panel in content.panels for row, interval in panel.against_best.items()}
    measured = beside_table(cells, content.beside) if len(content.beside) else pd.DataFrame()
    beside = dict(zip(dict.fromkeys(content.beside["cell"]), measured.to_dict("records"), strict=True))
    return {
        "columns": [{"title": str(name), "numeric": _numeric(table[name])} for name in table.columns],
        "rows": [[[text, _sort_key(text)] for text in row] for row in table.to_numpy().tolist()],
        "shared": [[name, texts[name].iloc[0]] for name in settings if name not in varying],
        "cells": [
            {
                "name": names[row],
                "settings": [[name, texts[name].at[row]] for name in varying],
                "against": points_text(against[row]) if row in against else "",
                "warning": _warning(flagged.get(row)),
                "note": plain(cells.at[row, "note"]),
                "beside": [[k, v] for k, v in beside.get(row, {}).items() if k != "cell" and v],
                **_detail(content.details, asked, shown),
            }
            for row, asked, shown in zip(map(int, cells.index), cells["asked"], shown_results(cells), strict=True)
        ],
    }


def shown_results(cells: pd.DataFrame) -> list[str]:
    """The result of each cell whose rows and examples the page shows: the first that is done, or else the first."""
    return [str((done or asked)[0]) for done, asked in zip(cells["results"], cells["asked"], strict=True)]


def _detail(details: Mapping[str, Detail], asked: Sequence[str], shown: str) -> dict[str, Any]:
    """Keys of every result of a cell; rows and examples of one."""
    own = details.get(shown, Detail())
    return {
        "results": [{"result": name, "keys": list(details[name].keys.items())} for name in asked if name in details],
        "rows": [
            [row["stage"], row["taken"], row["kept"], [[k, v] for k, v in row["dropped"].items()]] for row in own.rows
        ],
        "degenerate": None if own.degenerate is None else round(100 * own.degenerate, 1),
        "pairs": list(own.pairs),
        "answers": list(own.answers),
    }


def _settings(cells: pd.DataFrame) -> set[str]:
    """Configuration columns of cells, and not what was estimated of them."""
    own = {name for name in map(str, cells.columns) if name.startswith(("construction.", "ranker.", "rounds."))}
    return {*comparison_columns(cells), *own, "n", "pair.chosen", "pair.rejected"} - {"status", "reason"}


def _warning(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} % of the answers are near-copies of one text."


def _figures(drawn: Sequence[Drawn]) -> list[dict[str, Any]]:
    """The figures by kind: some open, the others folded."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for number, figure in enumerate(drawn):
        kind, title = figure.drawing.kind, heading(figure.drawing.setting)
        label = visible(f"{kind}{f', {title}' if title else ''}. The table of cells has its numbers.")
        svg = Markup(visible(inline(figure.svg, f"figure{number}-", label)))  # noqa: S704 - serialised XML
        kinds.setdefault(kind, []).append({"title": title, "svg": svg})
    return [
        {"kind": kind, "open": entries[:MOST_SHOWN], "folded": entries[MOST_SHOWN:]} for kind, entries in kinds.items()
    ]


def _shown(section: Section) -> dict[str, Any]:
    return {"title": _inline_html(section.title), "body": _html(section.body), "long": len(section.body) > LONGEST_OPEN}


def _html(markdown: str) -> Markup:
    """Our own Markdown as HTML: no markup of a text's passes, and no link or picture."""
    return Markup(visible(_markdown().render(markdown)))  # noqa: S704 - HTML is off in the parser


def _inline_html(markdown: str) -> Markup:
    return Markup(visible(_markdown().renderInline(markdown)))  # noqa: S704 - HTML is off in the parser


def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])


def _title(provenance: Provenance) -> str:
    sweep = plain((provenance or {}).get("sweep"))
    return f"Sweep {sweep}" if sweep else "Sweep report"


def _numeric(column: "pd.Series[Any]") -> bool:
    return all(_NUMBER.match(text) for text in column.map(str) if text)


def _sort_key(text: str) -> float | None:
    found = _NUMBER.match(text)
    return float(found[0]) if found and not isnan(float(found[0])) else None


def _own(name: str) -> str:
    return resources.files("analysis.report").joinpath("templates", name).read_text(encoding="utf-8")


def _vendored(name: str) -> str:
    return resources.files("analysis").joinpath("_vendor", "tabulator", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
