"""Command line: `python -m analysis report [--store DIR] [--sweep NAME] [--out DIR]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.load import load_answers, load_overlap, load_results, load_verdicts
from analysis.regressions import load_regressions
from analysis.report import write_report
from harness.errors import PrefsweepError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 with one line on stderr when there is nothing to report."""
    options = _parser().parse_args(arguments)
    try:
        paths = report(options.store, options.sweep, options.out)
    except PrefsweepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {len(paths)} files to {options.out}")
    return 0


def report(store: Path, sweep: str | None, out: Path) -> list[Path]:
    """Write the report on a store, or on one sweep in it, into `out`, with the cells' overlap beside it.

    Raises PrefsweepError when the store or the sweep does not exist or holds no results. The loader may leave
    what made the results (commit, versions) in `results.attrs["provenance"]`.
    """
    if not store.is_dir():
        raise PrefsweepError(f"--store {store}: there is no such folder")
    results = load_results(store, sweep=sweep)
    if results.empty:
        where = f"sweep {sweep}" if sweep else "the store"
        raise PrefsweepError(f"--store {store}: {where} has no results yet")
    provenance = {"sweep": sweep} if sweep else {}
    made = provenance | results.attrs.get("provenance", {})
    paths = write_report(
        results,
        load_verdicts(store, sweep),
        out,
        answers=load_answers(store, sweep),
        regressions=load_regressions(store, sweep),
        provenance=made,
    )
    overlap = out / "overlap.csv"
    load_overlap(store, sweep).to_csv(overlap, index_label="cell")
    return [*paths, overlap]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Figures and tables of stored results.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="heatmaps, scaling curves, report.md, results.csv, overlap.csv")
    command.add_argument(
        "--store", type=Path, default=Path("store"), metavar="DIR", help="the store of the sweep (default: ./store)"
    )
    command.add_argument("--sweep", metavar="NAME", help="one sweep only (default: all results in the store)")
    command.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: ./report")
    return parser


if __name__ == "__main__":
    sys.exit(main())
