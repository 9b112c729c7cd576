"""Command line, `python -m analysis`: `report` writes figures and tables, `findings` answers, `export` keeps frames."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.candidate_sets import load_boundary_measurements, load_candidate_sets
from analysis.comparability import check_comparable
from analysis.compare import compare, compare_grids
from analysis.export import export
from analysis.exported import exported
from analysis.findings import NOT_TESTED, find, findings_section, load_findings, print_findings, untested_list
from analysis.hub_files import load_difficulty, load_gamed
from analysis.load import begin_answers, load_overlap, load_results, load_verdicts
from analysis.parallel import Workers
from analysis.rankings import load_rankings
from analysis.regressions import load_regressions
from analysis.report import Frames, LengthInputs, Sources, load_details, replace, watch, write_report
from analysis.rounds import load_on_share, rounds
from analysis.stores import Reading
from analysis.tables import spreadsheet_safe
from analysis.unlearning import load_changes
from harness.command_parser import CommandParser, parse
from harness.errors import PrefsweepError

HUB = "hub"
"""In place of a folder: the files of the model hub."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on stderr when there is nothing to report."""
    options = parse(parser(), arguments)
    try:
        if said := options.run(options):
            print(said)
    except PrefsweepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(options: argparse.Namespace) -> str:
    length_control = None
    if options.length_control is not None:
        folder = None if options.length_control == HUB else Path(options.length_control)
        length_control = (load_difficulty(folder), load_gamed(folder))
    own = {"together": options.together, "length_control": length_control, "published": options.published}
    if options.watch is not None and options.store.is_dir() and exported(options.store):
        raise PrefsweepError(f"--watch: {options.store} is an exported folder, in which nothing changes")
    if options.watch is None:
        paths = report(options.store, options.sweep, options.out, **own)
        return f"wrote {len(paths)} files to {options.out}"

    def write(opened: Reading) -> bool:
        missing = int((load_results(opened, options.sweep)["status"] == "missing").sum())
        report(opened, options.sweep, options.out, refresh=options.watch if missing else None, **own)
        print(f"wrote {options.out}; results missing: {missing}", flush=True)
        return missing == 0

    try:
        times = watch(options.store, write, seconds=options.watch)
    except KeyboardInterrupt:
        return f"stopped; {options.out} is as it was written last"
    return f"nothing is missing any more; {options.out} was written {times} times"


def _compare(options: argparse.Namespace) -> str:
    _check_store(options.store)
    return compare(options.store, options.first, options.second, options.sweep)


def _difference(options: argparse.Namespace) -> str:
    for store in filter(None, (options.store, options.second_store)):
        _check_store(store)
    return compare_grids(options.store, options.first, options.second, options.out, second_store=options.second_store)


def _rounds(options: argparse.Namespace) -> str:
    _check_store(options.store)
    return rounds(options.store, options.sweep)


def _findings(options: argparse.Namespace) -> str:
    _check_store(options.store)
    found = load_findings(options.store, options.sweep)
    if found["verdict"].eq(NOT_TESTED).all() and "done" not in set(
        load_results(options.store, options.sweep)["status"]
    ):
        raise PrefsweepError(f"--store {options.store}: no result is judged yet")
    print_findings(found)
    if options.out is None:
        return ""
    options.out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(findings_section(found) or ["## Findings", *untested_list(found)])
    replace(options.out / "findings.md", f"{text}\n")
    replace(options.out / "findings.csv", spreadsheet_safe(found).to_csv(index=False))
    return f"wrote findings.md and findings.csv into {options.out}"


def _export(options: argparse.Namespace) -> str:
    _check_store(options.store)
    return export(options.store, options.folder, options.sweep, texts=not options.without_texts)


def report(
    store: Path | Reading,
    sweep: str | None,
    out: Path,
    *,
    together: bool = False,
    length_control: LengthInputs | None = None,
    published: bool = False,
    refresh: int | None = None,
) -> list[Path]:
    """Write the report on a store, or on one sweep in it, into `out`, with the cells' overlap beside it.

    `together` refuses results that are not comparable, which otherwise get panels of their own. `length_control`
    are the difficulties and gamed baselines of AlpacaEval 2; `published` curves lie under the scaling curves. A page
    with `refresh` loads itself anew after so many seconds. The loader may leave what made the results (commit,
    versions) in `results.attrs["provenance"]`. Raises PrefsweepError when the store or the sweep does not exist or
    holds no results.
    """
    opened = store if isinstance(store, Reading) else Reading(store)
    _check_store(opened.root)
    with Workers() as workers:
        answers = begin_answers(opened, sweep, workers, out)  # first: they are measured meanwhile
        results = load_results(opened, sweep=sweep)
        if results.empty:
            where = f"sweep {sweep}" if sweep else "the store"
            raise PrefsweepError(f"--store {opened.root}: {where} has no results yet")
        if together:
            check_comparable(results, "--together")
        provenance = {"sweep": sweep} if sweep else {}
        overlap, changes = load_overlap(opened, sweep), load_changes(opened, sweep)
        sources = Sources(
            answers=answers,
            regressions=load_regressions(opened, sweep),
            rankings=load_rankings(opened, sweep),
            candidate_sets=(load_candidate_sets(opened, sweep), load_boundary_measurements(opened, sweep)),
            changes=changes,
            details=partial(load_details, opened, sweep),
            findings=partial(find, changes=changes, on_share=load_on_share(opened, sweep)),
            frames=Frames(opened, sweep),
            overlap=overlap,
            length_control=length_control,
            published=published,
        )
        paths = write_report(
            results,
            load_verdicts(opened, sweep),
            out,
            sources,
            provenance=provenance | results.attrs.get("provenance", {}),
            refresh=refresh,
            workers=workers,
        )
        return [*paths, replace(out / "overlap.csv", overlap.to_csv(index_label="cell"))]


def _check_store(store: Path) -> None:
    if not store.is_dir():
        raise PrefsweepError(
            f"--store {store}: there is no such folder; expected that of the sweep's store=... (default: ./store)"
        )


def _seconds(text: str) -> int:
    try:
        seconds = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number of seconds, got {text!r}") from None
    if seconds < 1:
        raise argparse.ArgumentTypeError(f"expected at least one second, got {seconds}")
    return seconds


def _folder(text: str) -> Path:
    """A folder to write into, refused before the work if it cannot be one."""
    folder = Path(text)
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{nearest} is a file; expected a folder, which need not be there yet")
    return folder


def _add_of_report(command: argparse.ArgumentParser) -> None:
    """What only a report takes."""
    command.add_argument("--out", type=_folder, default=Path("report"), metavar="DIR", help="default: ./report")
    command.add_argument(
        "--together",
        action="store_true",
        help="fail, naming the field, where results differ in judge, references, instructions, decoding or versions "
        "(default: separate panels)",
    )
    command.add_argument(
        "--length-control",
        metavar="DIR",
        help="add AlpacaEval 2's length-controlled win rates, from instruction_difficulty.csv and df_gamed.csv in DIR; "
        f"{HUB} fetches them",
    )
    command.add_argument(
        "--published",
        action="store_true",
        help="draw the published curves of arXiv 2502.16825 under the scaling curves, on an axis of their own",
    )
    command.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=30,
        metavar="SECONDS",
        help="rewrite the report whenever the store has changed, looking every SECONDS (default: 30), until nothing is "
        "missing",
    )


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    whole = argparse.ArgumentParser(prog="python -m analysis", description="Figures and tables of stored results.")
    commands = whole.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)
    command = commands.add_parser("report", help="report.html, figures, report.md, results.csv, overlap.csv")
    _add_of_report(command)
    command.set_defaults(run=_report)
    other = commands.add_parser("compare", help="the difference of two cells' win rates, with its interval")
    other.add_argument("first", metavar="FIRST", help="a cell: the beginning of its key, or of the id of a result")
    other.add_argument("second", metavar="SECOND", help="the cell that it is compared with")
    other.set_defaults(run=_compare)
    grids = commands.add_parser("difference", help="a heatmap of the difference of two sweeps, or of two settings")
    for name, what in (("first", "a sweep, or SWEEP:key=value,..."), ("second", "what is subtracted from it")):
        grids.add_argument(name, metavar=name.upper(), help=what)
    grids.add_argument("--out", type=_folder, default=Path("difference"), metavar="DIR", help="default: ./difference")
    grids.add_argument("--second-store", type=Path, metavar="DIR", help="the store of SECOND (default: that of FIRST)")
    grids.add_argument("--store", type=Path, default=Path("store"), metavar="DIR", help="default: ./store")
    grids.set_defaults(run=_difference)
    third = commands.add_parser("rounds", help="what each round gains, and on-policy over static data, with intervals")
    third.set_defaults(run=_rounds)
    fourth = commands.add_parser("findings", help="what the sweep says about published claims, with intervals")
    fourth.add_argument("--out", type=_folder, metavar="DIR", help="also write findings.md and findings.csv there")
    fourth.set_defaults(run=_findings)
    fifth = commands.add_parser(
        "export", help="every frame as Parquet in a folder that needs no store: --store FOLDER, load_results(FOLDER)"
    )
    fifth.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that is not there yet")
    fifth.add_argument("--without-texts", action="store_true", help="without the examples of prompts and answers")
    fifth.set_defaults(run=_export)
    for each in (command, other, third, fourth, fifth):
        each.add_argument(
            "--store", type=Path, default=Path("store"), metavar="DIR", help="the store of the sweep (default: ./store)"
        )
        each.add_argument("--sweep", metavar="NAME", help="one sweep only (default: all results in the store)")
    return whole


if __name__ == "__main__":
    sys.exit(main())
