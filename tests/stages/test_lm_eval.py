"""Tasks of lm-evaluation-harness as units of work: what is in a key, what is shared, what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness import record
from harness.engines import lm_eval as engine
from harness.errors import ConfigError
from harness.plan import Plan, make_plan
from harness.regressions import tasks_hash
from harness.stages import Context
from harness.stages.lm_eval import Spec, run
from harness.store import Artifact, Store
from tests.artifacts import Shelf, adds_up, written
from tests.configs import composed, point
from tests.quiz import NAME, write_quiz

PAPERS = ("regressions=papers",)


def lm_evals(plan: Plan) -> dict[str, str]:
    return {node.slug: key for key, node in plan.nodes.items() if node.stage == "lm_eval"}


def test_the_papers_tasks_run_on_every_model_and_once_on_the_policy() -> None:
    plan = make_plan([point(*PAPERS, f"pair={pair}") for pair in ("max_min", "max_mu")])
    assert plan.count()["lm_eval"] == 4 * 3
    one, other = plan.points
    assert one.beside["lm_eval_policy gsm8k"] is other.beside["lm_eval_policy gsm8k"]
    assert one.beside["lm_eval gsm8k"].inputs["model"] == (one.nodes["train"],)
    assert one.beside["lm_eval gsm8k"].spec.shots == 5


def test_they_are_no_part_of_a_points_identity_nor_of_any_other_key() -> None:
    without, with_tasks = (make_plan([point(*o)]) for o in ((), PAPERS))
    assert without.points[0].id == with_tasks.points[0].id
    assert without.nodes.keys() < with_tasks.nodes.keys()


def test_evaluate_lm_eval_is_the_usual_evaluation_with_the_papers_tasks() -> None:
    assert composed("evaluate=lm_eval")["regressions"] == composed(*PAPERS)["regressions"]
    assert composed("evaluate=lm_eval")["evaluate"] == composed()["evaluate"]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("regressions.limit=5", True),
        ("regressions.batch_size=1", True),
        ("regressions.seed=1", True),
        ("regressions.chat_template=true", True),
        ("regressions.tasks.gsm8k=4", True),
        ("policy.dtype=bfloat16", True),
        ("regressions.name=mine", False),
        ("cluster.python.lm_eval=/another/python", False),
        ("judge=shorter", False),
    ],
)
def test_what_decides_a_score_is_in_its_key(override: str, changed: bool) -> None:
    tasks = ("~regressions.tasks.hellaswag", "~regressions.tasks.truthfulqa_mc2", "~regressions.tasks.arc_challenge")
    before, after = (lm_evals(make_plan([point(*PAPERS, *tasks, *more)])) for more in ((), (override,)))
    assert (set(before.values()).isdisjoint(after.values())) == changed


def test_a_task_does_not_change_the_key_of_another() -> None:
    every, fewer = (lm_evals(make_plan([point(*PAPERS, *m)])) for m in ((), ("~regressions.tasks.gsm8k",)))
    assert fewer.items() < every.items()


def test_a_folder_of_tasks_is_named_by_all_that_lies_in_it(tmp_path: Path) -> None:
    settings = ("regressions=file", f"regressions.include={tmp_path / 'tasks'}", f"+regressions.tasks.{NAME}=null")
    write_quiz(tmp_path / "tasks")
    before = lm_evals(make_plan([point(*settings)]))
    (tmp_path / "tasks" / "questions.jsonl").write_text("")
    tasks_hash.cache_clear()
    after = lm_evals(make_plan([point(*settings)]))
    assert set(before.values()).isdisjoint(after.values())


@pytest.mark.parametrize("early", [False, True])
def test_win_rates_come_first_unless_weights_are_to_be_given_up(early: bool) -> None:
    plan = make_plan([point(*PAPERS, f"pair={p}") for p in ("max_min", "max_mu")], regressions_early=early)
    stages = [node.stage for node in plan.nodes.values() if node.stage in ("judge", "lm_eval")]
    assert (stages[:2] == ["judge", "judge"]) != early


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("regressions.limit=0",), "regressions.limit: expected 1 or more, got 0"),
        (("regressions.batch_size=0",), "regressions.batch_size: expected 1 or more, got 0"),
        (("regressions.tasks.gsm8k=-1",), "regressions.tasks.gsm8k: expected 0 or more examples, or null, got -1"),
        (("regressions.tasks.gsm8k=many",), "regressions.tasks.gsm8k: expected int, got 'many'"),
        (("regressions.include=/nowhere",), "regressions.include: there is no folder /nowhere"),
        (("evaluate.answers=mine",), "regressions.tasks: imported answers .* come without a model"),
    ],
)
def test_a_mistake_names_its_key(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        point(*PAPERS, *overrides)


def test_a_folder_without_a_named_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^regressions.tasks: none; expected those of"):
        point("regressions=file", f"regressions.include={tmp_path}")


def test_they_cannot_be_swept() -> None:
    with pytest.raises(ConfigError, match=r"^regressions: one choice for all points"):
        make_plan([point(), point(*PAPERS)])


def test_what_an_earlier_command_wanted_beside_a_point_stays_wanted(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").prepare()
    for overrides in (PAPERS, ()):
        record.write(make_plan([point(*overrides)]), "mine", "the command", store)
    (kept,) = record.read(store, "mine").points.values()
    assert {"appraise", "lm_eval gsm8k", "lm_eval_policy hellaswag"} <= kept["beside"].keys()


SCORE = {
    "task": NAME,
    "metric": "acc",
    "filter": "none",
    "value": 0.5,
    "stderr": 0.1,
    "higher_is_better": True,
    "shots": 0,
    "version": "1.5",
}
QUESTION = {"task": NAME, "metric": "acc", "filter": "none", "value": 1.0, "question": 0, "hash": "a"}
SPEC = Spec(
    task=NAME,
    shots=None,
    limit=None,
    batch_size=2,
    chat_template=False,
    seed=1,
    include=None,
    dtype="float32",
    trust_remote_code=False,
)


class Model(Artifact):
    """Weights somewhere."""

    def __init__(self, given: Artifact, path: Path) -> None:
        super().__init__(given.folder, given.manifest)
        self.__dict__["model_path"] = path


@pytest.fixture
def context(tmp_path: Path) -> Context:
    shelf = Shelf(tmp_path)
    trained, policy = (shelf.put(stage, {}) for stage in ("train", "model"))
    made = shelf.context()
    models = {"model": (Model(trained, tmp_path / "adapters"),), "reference": (Model(policy, tmp_path / "policy"),)}
    return dataclasses.replace(made, inputs=models, params={"include": None})


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What lm_eval was asked, in place of which stand fixed scores."""
    asked: list[dict[str, Any]] = []

    def evaluate(python: str | None, request: dict[str, Any], *_: object) -> dict[str, Any]:
        asked.append(request)
        versions = {"lm_eval": "0.4", "peft": None}
        questions = {NAME: {"original": 3, "effective": 1}}
        return {"scores": [SCORE], "samples": [QUESTION], "questions": questions, "versions": versions}

    monkeypatch.setattr(engine, "evaluate", evaluate)
    return asked


def test_scores_and_questions_are_kept_and_accounted_for(context: Context, said: list[dict[str, Any]]) -> None:
    outcome = run(context, SPEC)
    assert adds_up(outcome.rows, 3, 1, over_limit=2)
    assert written(context, "scores") == [SCORE]
    assert written(context, "questions") == [QUESTION]
    assert outcome.measures["versions"] == {"lm_eval": "0.4"}
    assert outcome.measures["task_versions"] == {NAME: "1.5"}
    assert {path.name for path in context.work.iterdir()} == {"scores.parquet", "questions.parquet"}
    assert said[0]["model"] == {
        "pretrained": str(context.input("model").model_path),
        "dtype": "float32",
        "trust_remote_code": False,
    }


@pytest.mark.parametrize(("parts", "size"), [(1, 2), (2, 1), (8, 1)])
def test_after_memory_ran_out_batches_are_smaller(
    context: Context, said: list[dict[str, Any]], parts: int, size: int
) -> None:
    run(dataclasses.replace(context, parts=parts), SPEC)
    assert said[0]["batch_size"] == size


def test_adapters_are_put_over_their_policy(context: Context, said: list[dict[str, Any]]) -> None:
    adapters = context.input("model").model_path
    adapters.mkdir()
    (adapters / "adapter_config.json").write_text("{}")
    run(context, SPEC)
    assert said[0]["model"]["pretrained"] == str(context.input("reference").model_path)
    assert said[0]["model"]["peft"] == str(adapters)


@pytest.mark.usefixtures("said")
def test_a_number_of_examples_that_lm_eval_passes_over_is_an_error(context: Context) -> None:
    with pytest.raises(ConfigError, match=rf"^regressions.tasks.{NAME}: 5 examples were asked for, .* with 0"):
        run(context, dataclasses.replace(SPEC, shots=5))


@pytest.mark.usefixtures("said")
def test_a_folder_that_has_changed_since_planning_is_refused(context: Context, tmp_path: Path) -> None:
    include = str(write_quiz(tmp_path / "tasks"))
    planned = dataclasses.replace(SPEC, include=tasks_hash(include))
    changed = dataclasses.replace(context, params={"include": include})
    (tmp_path / "tasks" / "more.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"^regressions.include: .* has changed since this was planned"):
        run(changed, planned)
