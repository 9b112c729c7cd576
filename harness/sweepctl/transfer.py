"""`sweepctl export` and `sweepctl import`: leaving and entering at any stage."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from harness import exports, imports
from harness.errors import PrefsweepError
from harness.export_answers import export_answers
from harness.progress import Reporter
from harness.stages.imported import KINDS
from harness.store import Store
from harness.sweepctl.terminal import Commands, add, count, open_store, say

_USE: Mapping[str, str] = {
    "responses": "sampler=imported sampler.imported={}",
    "rewards": "reward=imported reward.imported={}",
    "answers": "evaluate.answers={}",
    "model": "train=imported train.imported={}",
}
"""How a command uses an import of each kind."""


def register(commands: Commands) -> None:
    """Add the two commands."""
    parser = add(
        commands,
        "export",
        export,
        "write preference rows as a Hugging Face dataset or JSON lines, or judged answers in alpaca_eval's files",
        "docs/import-export.md lists the columns; docs/evaluation.md those of alpaca_eval's files.",
    )
    parser.add_argument(
        "cell", nargs="?", metavar="CELL", help="key of a training or of its rows, its beginning, or its folder"
    )
    parser.add_argument("--sweep", metavar="NAME", help="every cell of a sweep instead, with an index.csv")
    parser.add_argument(
        "--answers",
        action="store_true",
        help="the judged answers instead, in alpaca_eval's files: model_outputs.json, annotations.json, ...",
    )
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write; must not be there yet")
    parser.add_argument("--format", choices=("hf", "jsonl"), default="hf", help="hf: datasets.load_from_disk reads it")
    parser = add(
        commands,
        "import",
        import_,
        "take responses, rewards, answers or a model of your own into the store",
        "docs/import-export.md lists the columns, and how a command uses what was imported.",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path, metavar="FILE", help=".parquet, .jsonl or .json; a folder for a model")
    parser.add_argument("--as", dest="name", required=True, metavar="NAME", help="name by which settings use it")


def export(options: argparse.Namespace) -> int:
    """Export one cell, or a sweep.

    Raises:
        PrefsweepError: neither or both are named, or the export is refused.
    """
    store = open_store(options)
    if (options.cell is None) == (options.sweep is None):
        raise PrefsweepError("export: expected either the key of a cell, or --sweep NAME")
    if options.answers:
        if options.sweep is not None:
            raise PrefsweepError("export --answers: expected the key of a cell or of a judge node, not --sweep")
        say(f"wrote {count(export_answers(store, options.cell, options.to), 'answer')} to {options.to}")
        return 0
    if options.sweep is None:
        rows = exports.export_cell(store, options.cell, options.to, options.format)
        say(f"wrote {count(rows, 'row')} to {options.to}")
        return 0
    index = exports.export_sweep(store, options.sweep, options.to, options.format)
    written = sum(entry["status"] == "exported" for entry in index)
    say(f"wrote {written} of {count(len(index), 'cell')} to {options.to}; {options.to / 'index.csv'} lists them all")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Check a file or a model folder, and keep it in the store, which is made where there is none.

    Raises:
        PrefsweepError: the file is not as it must be, or the name is taken.
    """
    store = Store(options.store.expanduser()).prepare()
    brought = imports.bring(store, options.kind, options.file.expanduser(), options.name, Reporter())
    manifest = brought.artifact.manifest
    if not brought.new:
        say(f"import of {options.kind}: {options.name!r} is there already, with the same content ({manifest.key})")
        return 0
    what = "1 model" if options.kind == "model" else f"{manifest.rows['kept']} {options.kind}"
    say(f"imported {what} as {options.name!r} ({manifest.key}); use: {_USE[options.kind].format(options.name)}")
    return 0
