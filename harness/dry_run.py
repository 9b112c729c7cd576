"""The plan as numbers: what there is to do, what sharing saves, and what it will take, as far as the store can tell."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from harness.cluster import SlurmConfig
from harness.config import ClusterConfig, KeepWeights
from harness.errors import ConfigError
from harness.judges.expected import ASKING, expected
from harness.plan import STAGES, Node, Plan
from harness.progress import Reporter
from harness.resources import places
from harness.resources.estimate import StageEstimate, estimate, problems
from harness.resources.rates import rates
from harness.store import Artifact, Store


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The counts of a plan; upper bounds where only the run will show that cells are equal."""

    points: int
    nodes: Mapping[str, int]
    """Units of work per stage."""
    naive: Mapping[str, int]
    """The same with one pipeline per point."""
    done: Mapping[str, int]
    alive: Mapping[str, int]
    """At work in another command right now."""
    todo: Mapping[str, int]
    undecided: Mapping[str, int] = field(default_factory=dict)
    """Of those to do, what a boundary will say whether it is needed: of two branches one is."""
    estimates: Mapping[str, Any] = field(default_factory=dict)


def counts(plan: Plan, store: Store) -> Outline:
    """What is done, in other hands, and to do."""
    return _outline(plan, *_standing(plan, store))


def outline(
    plan: Plan, store: Store, cluster: ClusterConfig | SlurmConfig, keep_weights: KeepWeights = "all"
) -> Outline:
    """The counts, with estimates of what is to do."""
    found, alive = _standing(plan, store)
    over = plan.not_needed(found)
    todo = [node for key, node in plan.nodes.items() if key not in found and key not in alive and key not in over]
    stages = estimate(todo, store, cluster, keep_weights)
    return _outline(plan, found, alive, {**_estimates(todo, store), **_plain(stages)})


def warnings(plan: Plan, store: Store, cluster: ClusterConfig | SlurmConfig) -> list[str]:
    """One line for each stage to do that does not fit the GPU that it is for, where that is known."""
    found, alive = _standing(plan, store)
    over = plan.not_needed(found)
    todo = [node for key, node in plan.nodes.items() if key not in found and key not in alive and key not in over]
    return problems(estimate(todo, store, cluster, costs=False)) if places.known(cluster) else []


def _plain(stages: Sequence[StageEstimate]) -> dict[str, Any]:
    """As JSON has it, for `plan.json`."""
    plain: dict[str, Any] = json.loads(json.dumps({"stages": [asdict(one) for one in stages]}))
    return {**plain, "problems": problems(stages)}


def _standing(plan: Plan, store: Store) -> tuple[Mapping[str, Artifact], Sequence[str]]:
    found = plan.found(store)
    return found, [key for key in plan.nodes if key not in found and store.owner(key) is not None]


def _outline(
    plan: Plan, found: Mapping[str, Artifact], alive: Sequence[str], estimates: Mapping[str, Any] | None = None
) -> Outline:
    nodes, done, busy = plan.count(), plan.count(list(found)), plan.count(alive)
    not_needed = plan.count([key for key in plan.not_needed(found) if key not in found and key not in alive])
    undecided = plan.count([key for key in plan.undecided(found) if key not in found and key not in alive])
    return Outline(
        points=len(plan.points),
        nodes=nodes,
        naive=plan.naive,
        done=done,
        alive=busy,
        todo={stage: nodes[stage] - done[stage] - busy[stage] - not_needed[stage] for stage in STAGES},
        undecided={stage: count for stage, count in undecided.items() if count},
        estimates=estimates or {},
    )


def _estimates(todo: Sequence[Node], store: Store) -> dict[str, Any]:
    """Hours, tokens, disk and judge calls of what is to do.

    Tokens are upper bounds out of the settings. Hours and bytes are those of the same work in this store (same policy,
    same settings as far as they cost), per response, answer or row; a stage without any has none, and is named.
    """
    by_stage: defaultdict[str, list[Node]] = defaultdict(list)
    for node in todo:
        by_stage[node.stage].append(node)
    measured = {stage: rates(stage, nodes, store) for stage, nodes in by_stage.items()}
    unknown = [stage for stage in STAGES if stage in measured and not measured[stage]]
    known = {
        stage: (median(seconds for seconds, _ in found), median(size for _, size in found))
        for stage, found in measured.items()
        if found
    }
    judging = expected(node for stage in ASKING for node in by_stage[stage])
    return {
        "hours": {stage: rate[0] * _units(by_stage[stage]) / 3600 for stage, rate in known.items()},
        "disk_bytes": {stage: rate[1] * _units(by_stage[stage]) for stage, rate in known.items()},
        "no_estimate": unknown,
        "tokens_at_most": sum(node.spec.max_new_tokens * node.units for node in todo if node.stage in _GENERATING),
        "judge_calls_at_most": judging.judgements,
        "judge_tokens": judging.tokens.total,
        "judge_cost": judging.cost_usd,
        "based_on": "this store's own manifests: one process, its machine" if known else "nothing: no stage was done",
    }


_SHOWN = 0.01
"""Smallest figure of hours or gigabytes that is shown."""

_GENERATING = ("sample", "respond")


def _units(nodes: Sequence[Node]) -> int:
    return sum(node.units for node in nodes)


def show(outline: Outline, reporter: Reporter) -> None:
    """Print units of work per stage, and the estimates where there are any."""
    reporter.line(f"{outline.points} points. Units of work per stage:")
    width = max(10, *(len(stage) + 1 for stage in STAGES if outline.naive[stage]))
    reporter.line(f"  {'stage':<{width}}{'unshared':>10}{'shared':>8}{'done':>7}{'alive':>7}{'to do':>7}")
    for stage in STAGES:
        if outline.naive[stage]:
            kinds = (outline.naive, outline.nodes, outline.done, outline.alive, outline.todo)
            row = [kind[stage] for kind in kinds]
            reporter.line(f"  {stage:<{width}}{row[0]:>10}{row[1]:>8}{row[2]:>7}{row[3]:>7}{row[4]:>7}")
    if outline.undecided:
        counts = ", ".join(f"{count} {stage}" for stage, count in outline.undecided.items())
        reporter.line(
            f"Upper bounds: a boundary will say which of these are needed, those of one branch of each round with auto "
            f"data: {counts}"
        )
    if outline.estimates:
        _show_estimates(outline.estimates, reporter)


def _show_estimates(estimates: Mapping[str, Any], reporter: Reporter) -> None:
    hours, size = sum(estimates["hours"].values()), sum(estimates["disk_bytes"].values())
    if estimates["hours"]:
        known = ", of the stages that it has any for" if estimates["no_estimate"] else ""
        reporter.line(
            f"To do, by this store's own figures{known}: {hours:.2f} hours in one process, {size / 1e9:.2f} GB "
            "(upper bounds: cells whose rows turn out equal are done once)"
        )
    _show_stages(estimates, reporter)
    if estimates["no_estimate"]:
        names = ", ".join(estimates["no_estimate"])
        reporter.line(f"Not done yet with this policy and settings, so that the store has no figures: {names}")
    reporter.line(
        f"At most {estimates['tokens_at_most']:,} tokens to generate and {estimates['judge_calls_at_most']:,} "
        f"comparisons; {_judge_cost(estimates['judge_tokens'], estimates['judge_cost'])}"
    )


def _show_stages(estimates: Mapping[str, Any], reporter: Reporter) -> None:
    """Memory, hours and disk by stage, and what does not fit."""
    if not estimates.get("stages"):
        return
    reporter.line("Estimates by stage (docs/resources.md), with all sequences as long as they may be:")
    width = max(10, *(len(one["stage"]) + 1 for one in estimates["stages"]))
    reporter.line(f"  {'stage':<{width}}{'GB on a GPU':>13}{'there':>8}  {'':<12}{'hours':>20}{'disk GB':>20}")
    for one in estimates["stages"]:
        needed, there = _gigabytes(one["needed_bytes"]), _gigabytes(one["memory_bytes"])
        cheap = one["verdict"] == "no model"
        hours = _range(one["hours"], 1.0, cheap=cheap) + (" *" if one["measured"] else "  ")
        disk = _range(one["disk_bytes"], 1e9, cheap=cheap)
        reporter.line(f"  {one['stage']:<{width}}{needed:>13}{there:>8}  {one['verdict']:<12}{hours:>20}{disk:>20}")
        for note in one["notes"]:
            reporter.line(f"            {note}")
    if any(one["measured"] for one in estimates["stages"]):
        reporter.line("  * as the same work took in this store, per process")
    for line in estimates["problems"]:
        reporter.line(line)


def _gigabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e9:.1f}"


def _range(ends: Sequence[float] | None, unit: float, *, cheap: bool) -> str:
    """Two ends in a unit; a dash for what costs next to nothing."""
    if ends is None:
        return "-" if cheap else "not known"
    low, high = (_rounded(end / unit) for end in ends)
    return low if low == high else f"{low} to {high}"


def _rounded(value: float) -> str:
    return "<0.01" if 0 < value < _SHOWN else f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _judge_cost(tokens: int, cost: float | None) -> str:
    """What the judge will cost, in words."""
    if not tokens:
        return "the judge costs nothing: it runs here"
    price = "their price is not known (judge.price_input)" if cost is None else f"{cost:.2f} USD"
    return f"about {tokens:,} tokens for the judge if no answer is shorter than its limit: {price}"


def write(outline: Outline, folder: Path, reporter: Reporter) -> None:
    """Write the outline to `plan.json` in a folder.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = folder / "plan.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(outline), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir: cannot write {path}: {error.strerror}") from None
    reporter.line(f"wrote {path}")
