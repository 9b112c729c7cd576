"""One result as a row: its configuration, how it stands, and its measures as far as they exist."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from analysis import schema
from analysis.comparability import comparable_facts
from analysis.stores import ancestry
from harness import cost
from harness.judges.models import SELECTED
from harness.keys import digest
from harness.stages.pairs import why_empty
from harness.stages.train import OF_LAST_STEP
from harness.store import Artifact, Store


def cell_key(nodes: Mapping[str, str]) -> str:
    """Key of a cell: of its training, or of what was imported instead."""
    return nodes["train"] if "train" in nodes else nodes["imported"]


def result_row(store: Store, key: str, point: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a result, under the columns of `analysis.schema`; what is not known yet is None."""
    nodes = point["nodes"]
    found = {"pairs": None, "train": None} | {stage: store.find(stage, node) for stage, node in nodes.items()}
    trained = found["train"] or found.get("imported")
    status, reason = _status(store, point, found)
    configuration = {**point["config"], **_rounds(point["config"])}
    verdicts = found["judge"]
    references = None if verdicts is None else verdicts.manifest.inputs["references"][0]
    return {
        "result": key,
        "cell": cell_key(nodes),
        "status": status,
        "reason": reason,
        "rows_id": found["pairs"].manifest.content_id if found["pairs"] else None,
        "trained_id": _experiment(trained, found["respond"]) if trained else None,
        **configuration,
        **_labels(store, configuration, found),
        **comparable_facts(verdicts, found["respond"], references, trained),
        **_measures(store, found),
    }


def _experiment(trained: Artifact, answers: Artifact | None) -> str:
    """What was trained, and the goal it is asked for, if there is one: two goals are two experiments."""
    asked = answers.manifest.spec.get("asked") if answers is not None else None
    return trained.manifest.content_id + (f"+{digest(asked)}" if asked else "")


def _status(store: Store, point: Mapping[str, Any], found: Mapping[str, Artifact | None]) -> tuple[str, str | None]:
    if found["judge"] is not None:
        return "done", None
    pairs = found["pairs"]
    if pairs is not None and (reason := why_empty(pairs)):
        return "empty", reason
    unfinished = [key for stage, key in point["nodes"].items() if found[stage] is None]
    nodes: Mapping[str, Any] = point["sweep"].nodes
    for key in dict.fromkeys([*point["sweep"].ancestors(unfinished[-1]), *unfinished]):
        stage = nodes[key]["stage"]
        log = store.root / "logs" / f"{stage}-{key}.log"
        if log.exists() and store.find(stage, key) is None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            return "failed", f"{stage}: {lines[-1].strip()}"
    return "missing", "not done yet"


def _rounds(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The rounds up to a cell's own: records of earlier versions, and plain pipelines, have one."""
    path = configuration.get(schema.PATH) or ()
    return {schema.ROUND: max(1, len(path)), schema.PATH: " > ".join(path) or None}


def _of(artifact: Artifact | None) -> Mapping[str, Any]:
    return artifact.manifest.measures if artifact is not None else {}


def _input(store: Store, artifact: Artifact | None, name: str, stages: Sequence[str]) -> Artifact | None:
    """The artifact that `artifact` was made from, under that name of its inputs."""
    if artifact is None:
        return None
    key = artifact.manifest.inputs[name][0]
    return next((found for stage in stages if (found := store.find(stage, key)) is not None), None)


def _taken(store: Store, pairs: Artifact | None) -> Artifact | None:
    """The rows themselves, where a boundary has chosen between two ways of making them."""
    data = _of(pairs).get("data")
    return pairs if data is None else _input(store, pairs, data, ["pairs"])


def _labels(
    store: Store, configuration: Mapping[str, Any], found: Mapping[str, Artifact | None]
) -> dict[str, str | None]:
    taken = _taken(store, found["pairs"])
    labelled = [_input(store, picks, "rewards", ["score", "rank"]) for picks in _picks(store, taken)]
    rewards = [_of(artifact).get("label") for artifact in labelled]
    given = configuration["evaluate.references"]
    return {
        "judge_label": judge_label(configuration, _of(found["judge"]).get("label")),
        "reward_label": "; ".join(dict.fromkeys(label for label in rewards if label)) or None,
        "decoding": _of(found["respond"]).get("decoding"),
        "reference": f"answers of {Path(given).name}" if given else "untrained policy",
    }


def _picks(store: Store, pairs: Artifact | None) -> list[Artifact]:
    """The picks that rows are made of: two where some are on-policy and some static."""
    keys = pairs.manifest.inputs["picks"] if pairs is not None else []
    return [picks for key in keys if (picks := store.find("select", key)) is not None]


def judge_label(configuration: Mapping[str, Any], label: str | None) -> str | None:
    """The judge's label; that it is what selected the data is said of each cell for itself, since cells of equal rows
    share their verdicts."""
    if label and configuration.get("construction.name") == "ranking":
        return label if SELECTED in label or not _same_judge(configuration) else f"{label}; {RANKED}"
    own_scores = configuration.get("construction.static_share") == 1 and configuration["candidates.rewards"] == "data"
    selected = (configuration.get("judge.model.id") is not None and not own_scores) and all(
        configuration.get(f"judge.model.{name}") == configuration.get(f"reward.model.{name}")
        for name in ("source", "id", "revision")
    )
    return f"{label}; {SELECTED}" if label and selected and SELECTED not in label else label


RANKED: Final = "the judge that ranked the training data"
"""Said where the judge of the answers also ranked the responses: it measures how well it was optimised, no more."""


def _same_judge(configuration: Mapping[str, Any]) -> bool:
    """Whether judge and ranker are one: by their model where they have one of ours, else by all that decides."""
    judge, ranker = (
        {name.removeprefix(f"{group}."): value for name, value in configuration.items() if name.startswith(f"{group}.")}
        for group in ("judge", "ranker")
    )
    names = [name for name in ("model", "model.source", "model.id", "model.revision") if judge.get(name) is not None]
    return all(judge.get(name) == ranker.get(name) for name in ("engine", *names))


def _measures(store: Store, found: Mapping[str, Artifact | None]) -> dict[str, Any]:
    pairs, trained, answers, verdicts = (found[stage] for stage in ("pairs", "train", "respond", "judge"))
    references = _input(store, verdicts, "references", ["respond"])
    row: dict[str, Any] = dict.fromkeys(schema.MEASURES)
    if pairs is not None:
        rows = pairs.manifest.rows["kept"]
        names = {"z_chosen": "chosen_z", "z_rejected": "rejected_z"}
        same = ("margin", "chosen_tokens", "rejected_tokens")
        prompts = _of(pairs).get("prompts", rows)
        row |= {"rows": rows, "prompts": prompts} | {m: _of(pairs).get(names.get(m, m)) for m in (*names, *same)}
    if trained is not None:
        row |= {name: _of(trained).get(name) for name in ("steps", "train_loss", *OF_LAST_STEP)}
        row["seconds"] = trained.manifest.provenance["seconds"]
    if answers is not None:
        row |= {"answer_tokens": _of(answers).get("tokens")}
        row |= {name: _of(answers).get(name) for name in ("share_finished", "kl")}
    if verdicts is not None:
        judged = verdicts.manifest.rows["kept"]
        row |= {name: _of(verdicts).get(name) for name in ("win_rate", "ties", "share_changed")}
        row["instructions"] = judged
        row["order_disagreement"] = _of(verdicts)["order_disagreement"] / judged if judged else None
        row["base_tokens"] = _of(references).get("tokens")
    return row


def machine_time(store: Store, points: Mapping[str, Any]) -> dict[str, cost.Cost]:
    """Machine time by point; an artifact counts once, however many nodes it is the content of."""
    homes: dict[str, str] = {}
    costs: dict[str, cost.Cost] = {}
    needed: dict[str, set[str]] = {}
    known: dict[str, frozenset[str]] = {}
    for point_id, point in points.items():
        sweep = point["sweep"]
        keys = ancestry(sweep, point["nodes"].values(), known)
        for key in keys - homes.keys():
            if (found := store.find(sweep.nodes[key]["stage"], key)) is not None:
                homes[key] = str(found.folder)
                costs[homes[key]] = cost.of(found.manifest.provenance)  # an alias has its original's
        needed[point_id] = {homes[key] for key in keys if key in homes}
    return cost.split(needed, costs)
