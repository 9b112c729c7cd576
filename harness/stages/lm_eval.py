"""One task of lm-evaluation-harness on one model: a number to see by what training has cost elsewhere."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import machine, memory, tables
from harness.errors import ConfigError
from harness.regressions import tasks_hash
from harness.stages import Context, Outcome
from harness.store import Artifact, Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A task and how it is asked. Which lm_eval runs it is not known when planning; the artifact records it."""

    task: str
    shots: int | None
    """None: as the task has it."""
    limit: int | None
    batch_size: int
    chat_template: bool
    seed: int
    include: str | None
    """Hash of the user's folder of tasks."""
    dtype: str
    trust_remote_code: bool


def run(context: Context, spec: Spec) -> Outcome:
    """Answer every question of the task; what was answered before an interruption is not asked again.

    Raises:
        ConfigError: the task cannot be set up, or its folder has changed since this was planned.
        EngineError: lm_eval died; ends with its last words.
    """
    from harness.engines import lm_eval, loaded

    include = context.params["include"]
    tasks_hash.cache_clear()
    if include is not None and tasks_hash(include) != spec.include:
        raise ConfigError(f"regressions.include: {include} has changed since this was planned; plan it anew")
    loaded.release()
    cache = context.work / "cache"
    cache.mkdir(exist_ok=True)
    mine = machine.mine()
    with context.reporter.task(context.label, 1, "tasks") as task:
        found = lm_eval.evaluate(
            mine.python.lm_eval,
            {**_asked(spec, context.parts), "model": _model(context, spec), "cache": str(cache / "answers")},
            include,
            context.work,
            mine.threads,
        )
        task.advance(1)
    _check_shots(found["scores"], spec)
    shutil.rmtree(cache)
    tables.write(tables.build(tables.LM_EVAL_SCORES, found["scores"]), context.work / "scores.parquet")
    tables.write(tables.build(tables.LM_EVAL_QUESTIONS, found["samples"]), context.work / "questions.parquet")
    return Outcome(rows=_rows(found["questions"]), measures=_measures(found, spec))


def _asked(spec: Spec, parts: int) -> dict[str, Any]:
    names = ("task", "shots", "limit", "chat_template", "seed")
    given = {name: getattr(spec, name) for name in names}
    return {**given, "batch_size": memory.smaller(spec.batch_size, parts)}


def _model(context: Context, spec: Spec) -> dict[str, Any]:
    """Arguments of lm_eval's Hugging Face model: weights, or adapters over the policy's."""
    answering, base = context.input("model"), context.input("reference")
    weights = answering.model_path
    adapters = (weights / "adapter_config.json").exists()
    trusted = spec.trust_remote_code and (adapters or not _is_foreign(answering))
    return {
        "pretrained": str(base.model_path if adapters else weights),
        "dtype": spec.dtype,
        "trust_remote_code": trusted,
        **({"peft": str(weights)} if adapters else {}),
    }


def _is_foreign(answering: Artifact) -> bool:
    """Whether a model is nothing of the policy's, whose code is trusted."""
    return answering.manifest.stage == "imported"


def _check_shots(scores: Sequence[Mapping[str, Any]], spec: Spec) -> None:
    """lm_eval passes over a number of examples where a task's own file says 0."""
    for row in scores:
        if spec.shots is not None and row["shots"] is not None and row["shots"] != spec.shots:
            raise ConfigError(
                f"regressions.tasks.{spec.task}: {spec.shots} examples were asked for, but lm_eval runs {row['task']} "
                f"with {row['shots']}, as the task's own file says; set it to {row['shots']} or null"
            )


def _rows(questions: Mapping[str, Mapping[str, int]]) -> Rows:
    taken = sum(count["original"] for count in questions.values())
    kept = sum(count["effective"] for count in questions.values())
    return Rows(taken=taken, kept=kept, dropped={"over_limit": taken - kept} if taken > kept else {})


def _measures(found: Mapping[str, Any], spec: Spec) -> dict[str, Any]:
    own = [row for row in found["scores"] if row["task"] == spec.task]
    return {
        "task": spec.task,
        "scores": {f"{row['metric']},{row['filter']}": row["value"] for row in own},
        "task_versions": {row["task"]: row["version"] for row in found["scores"]},
        "versions": {name: version for name, version in found["versions"].items() if version is not None},
    }
