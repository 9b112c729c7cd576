"""`sweepctl calibrate`: a judge on published models of AlpacaEval 2, beside the published verdicts."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness import app, benchmarks, imports, published
from harness.errors import PrefsweepError
from harness.progress import Reporter
from harness.store import Artifact, Store
from harness.sweepctl.terminal import Commands, add, say, table

_SWEEP = "calibration"


def register(commands: Commands) -> None:
    """Add the command."""
    parser = add(
        commands,
        "calibrate",
        run,
        "judge published models of AlpacaEval 2, and compare with the published verdicts",
        "docs/judges.md says what the numbers are. What was judged before is not judged again.",
    )
    parser.add_argument(
        "overrides", nargs="+", metavar="KEY=VALUE", help="the judge, as `python -m harness` takes it: judge=openai ..."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the published models and verdicts")
    parser.add_argument("--out", type=Path, default=Path("report/calibration"), metavar="DIR", help="figure and tables")


def run(options: argparse.Namespace) -> int:
    """Import the published answers, judge them, and report.

    Raises:
        PrefsweepError: the data or the judge are not as they must be.
    """
    data = options.data.expanduser()
    models = published.load(data)
    store = Store(options.store.expanduser()).prepare()
    texts = [p.instruction for p in benchmarks.load_instructions(str(data / published.BASELINE), None).prompts]
    with TemporaryDirectory() as folder:
        for model in models:
            path = Path(folder) / "outputs.json"
            rows = [{"instruction": texts[i], "output": output} for i, output in model.outputs.items()]
            path.write_text(json.dumps(rows))
            imports.bring(store, "answers", path, _import_name(model.name), Reporter())
    composed = [_compose(options, data, model.name) for model in models]
    if code := app.run(composed, Reporter()):
        return code
    report(store, models, composed, options.out.expanduser())
    return 0


def _import_name(model: str) -> str:
    return f"published-{model}"


def _compose(options: argparse.Namespace, data: Path, model: str) -> dict[str, Any]:
    """The point that judges one model's answers."""
    import hydra
    from hydra.errors import HydraException

    from harness import hydra_app

    ours = [
        "evaluate=alpaca_eval2",
        f"evaluate.path={data.absolute() / published.BASELINE}",
        f"evaluate.answers={_import_name(model)}",
        f"store={options.store.expanduser().absolute()}",
        f"sweep={_SWEEP}",
    ]
    hydra_app.register()
    try:
        with hydra.initialize_config_dir(config_dir=str(hydra_app.root() / "conf"), **hydra_app.BASE):
            return hydra_app.plain(hydra.compose("config", overrides=[*ours, *options.overrides]))
    except HydraException as error:
        raise PrefsweepError(hydra_app.refusal(error)) from None


def report(
    store: Store, models: Sequence[published.PublishedModel], composed: Sequence[dict[str, Any]], out: Path
) -> None:
    """Print the comparison, and write `models.csv`, `measures.json` and `calibration.png`."""
    from analysis import calibration
    from analysis.figures.canvas import new_axes, style_for
    from analysis.tables import spreadsheet_safe

    judged = [_verdicts(store, one) for one in composed]
    length = 1 + max(int(row["index"]) for artifact in judged for row in artifact.table("verdicts").to_pylist())
    arrays = np.full((4, len(models), length), np.nan)
    for place, (model, artifact) in enumerate(zip(models, judged, strict=True)):
        for row in artifact.table("verdicts").to_pylist():
            index, sides = row["index"], (row["preference_first"], row["preference_second"])
            arrays[0, place, index] = row["preference"]
            arrays[1, place, index] = model.preferences.get(index, np.nan) - 1.0
            arrays[2, place, index] = row["len_model"] - row["len_reference"]
            if None not in sides and not row["same_text"]:
                arrays[3, place, index] = 0.5 + (sides[0] - sides[1]) / 2
    found = calibration.calibrate([model.name for model in models], arrays[0], arrays[1], arrays[2], arrays[3])
    measures = [artifact.manifest.measures for artifact in judged]
    out.mkdir(parents=True, exist_ok=True)
    spreadsheet_safe(found.models).to_csv(out / "models.csv", index=False)
    summary = {
        "judge": measures[0]["label"],
        "measures": {name: vars(value) for name, value in found.measures.items()},
        "failed": sum(sum(measure["failures"].values()) for measure in measures),
        "tokens": sum(measure.get("prompt_tokens", 0) + measure.get("completion_tokens", 0) for measure in measures),
        "cost_usd": _sum([measure.get("cost_usd") for measure in measures]),
    }
    (out / "measures.json").write_text(json.dumps(summary, indent=1) + "\n")
    calibration.draw(found, measures[0]["label"], out / "calibration.png", new_axes, style_for(7))
    head = ["model", "comparisons", "published % [95 %]", "this judge % [95 %]", "agreement [95 %]"]
    rows = [
        [
            model["model"],
            model["comparisons"],
            _with_interval(model, "published_win_rate", "published_", 1),
            _with_interval(model, "win_rate", "", 1),
            _with_interval(model, "agreement", "agreement_", 2),
        ]
        for model in found.models.to_dict("records")
    ]
    say(f"Judge: {summary['judge']}. Intervals: 95 %, over instructions; they say nothing about other models.")
    for line in (*table([head, *rows]), *calibration.lines(found)):
        say(line)
    price = "not known" if summary["cost_usd"] is None else f"{summary['cost_usd']:.2f} USD"
    taken = f"judge's tokens: {summary['tokens']:,}, price {price}" if summary["tokens"] else "the judge took no tokens"
    say(f"failed comparisons: {summary['failed']}; {taken}")
    say(f"wrote models.csv, measures.json and calibration.png to {out}")


def _sum(costs: Sequence[float | None]) -> float | None:
    """The sum, if all are known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _with_interval(model: Mapping[Any, Any], name: str, prefix: str, decimals: int) -> str:
    value, low, high = (float(model[column]) for column in (name, f"{prefix}low", f"{prefix}high"))
    if np.isnan(value):
        return "none in common"
    if np.isnan(low):
        return f"{value:.{decimals}f} [all equal]"
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def _verdicts(store: Store, composed: dict[str, Any]) -> Artifact:
    """The verdicts on one model's answers."""
    from harness.plan import make_plan

    config, _ = app.split(composed)
    node = make_plan([config], store).points[0].nodes["judge"]
    artifact = store.find("judge", node.key)
    assert artifact is not None
    return artifact
