"""Doing a plan, with stages that write tiny tables: order, resuming, failures, empty cells, equal content."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from rich.console import Console

from harness import execute as execution
from harness import perform, tables
from harness.config import ClusterConfig
from harness.errors import ConfigError
from harness.execute import drift, execute, failure_report
from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.retention import Retention
from harness.schedule import Summary
from harness.stages import Context, Outcome
from harness.store import Artifact, Rows, Store
from tests.artifacts import manifest


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A node's name decides all it does."""

    name: str


HERE = ClusterConfig(name="debug", workers=None, threads=1)


@dataclass
class FakeStages:
    """Every stage at once: writes one table, notes what ran, and misbehaves where told to."""

    store: Store
    ran: list[str] = field(default_factory=list)
    seen: dict[str, Context] = field(default_factory=dict)
    actions: dict[str, Callable[[Context], None]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows that a node drops of its two."""
    content: dict[str, str] = field(default_factory=dict)
    output: io.StringIO = field(default_factory=io.StringIO)

    def run(self, context: Context, spec: Spec) -> Outcome:
        self.ran.append(spec.name)
        self.seen[spec.name] = context
        if (action := self.actions.get(spec.name)) is not None:
            action(context)
        rows = [{"prompt_id": spec.name, "prompt_ids": [1]}]
        tables.write(tables.build(tables.PROMPT_TOKENS, rows), context.work / "table.parquet")
        lost = self.dropped.get(spec.name, 0)
        accounting = Rows(taken=2, kept=2 - lost, dropped={"equal_text": lost} if lost else {})
        return Outcome(rows=accounting, measures={"name": spec.name}, content=self.content.get(spec.name))

    def execute(self, plan: Plan) -> Summary:
        self.ran.clear()
        reporter = Reporter(Console(file=self.output, width=500))
        retention = Retention("all", plan, self.store)
        return execute(plan, self.store, reporter, HERE, retention, wait=False)

    def find(self, node: Node) -> Artifact:
        found = self.store.find(node.stage, node.key)
        assert found is not None
        return found


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    stages = FakeStages(Store(tmp_path / "store").prepare())
    monkeypatch.setattr(perform, "_stage", lambda name: stages)
    monkeypatch.setattr(execution, "prepare_process", lambda threads: None)  # would import torch
    monkeypatch.setattr(perform, "provenance", dict)
    return stages


def node(stage: str, name: str, uses: Mapping[str, tuple[Node, ...]] | None = None, **inputs: Node) -> Node:
    groups = {group: (parent,) for group, parent in inputs.items()}
    return Node(stage=stage, slug=name, spec=Spec(name=name), inputs=groups, uses=uses or {}, params={"told": name})


def plan_of(*nodes: Node) -> Plan:
    return Plan(points=(), nodes={n.key: n for n in nodes}, naive={})


@dataclass(frozen=True)
class Pipeline:
    """Two cells, `a` and `b`, of one pool."""

    nodes: dict[str, Node]
    plan: Plan

    def keys(self, *names: str) -> list[str]:
        return [self.nodes[name].key for name in names]


CELL = ("pairs", "train", "respond", "judge")


@pytest.fixture
def pipeline() -> Pipeline:
    nodes = {"model": node("model", "model"), "prompts": node("prompts", "prompts")}
    nodes["sample"] = node("sample", "sample", {"prompts": (nodes["prompts"],)}, policy=nodes["model"])
    nodes["base"] = node("respond", "base", model=nodes["model"])
    for cell in "ab":
        # The rows of both cells come of the same pool; what is trained on them has the same settings.
        rows = node("pairs", f"pairs_{cell}", sample=nodes["sample"])
        trained = Node(stage="train", slug=f"train_{cell}", spec=Spec(name="train"), inputs={"pairs": (rows,)})
        answers = Node(stage="respond", slug=f"respond_{cell}", spec=Spec(name="respond"), inputs={"model": (trained,)})
        inputs = {"answers": (answers,), "references": (nodes["base"],)}
        verdicts = Node(stage="judge", slug=f"judge_{cell}", spec=Spec(name="judge"), inputs=inputs)
        nodes |= {f"{stage}_{cell}": n for stage, n in zip(CELL, (rows, trained, answers, verdicts), strict=True)}
    return Pipeline(nodes, plan_of(*nodes.values()))


def test_every_node_is_done_once_after_what_it_needs(fake: FakeStages, pipeline: Pipeline) -> None:
    summary = fake.execute(pipeline.plan)
    assert summary.ok
    assert summary.computed == list(pipeline.plan.nodes)
    assert fake.ran.index("model") < fake.ran.index("sample") < fake.ran.index("pairs_a")
    assert fake.ran.count("train") == 2
    for made in pipeline.plan.nodes.values():
        assert fake.find(made).manifest.measures["name"] == made.spec.name


def test_a_stage_is_given_its_inputs_and_parameters(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.execute(pipeline.plan)
    context = fake.seen["sample"]
    assert context.params == {"told": "sample"}
    assert context.input("policy").manifest.key == pipeline.nodes["model"].key
    assert context.input("prompts").manifest.key == pipeline.nodes["prompts"].key


def test_a_manifest_says_what_made_the_artifact(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.dropped["sample"] = 1
    fake.execute(pipeline.plan)
    record = fake.find(pipeline.nodes["sample"]).manifest
    assert record.spec == {"name": "sample"}
    assert record.inputs == {"policy": pipeline.keys("model")}
    assert record.rows == {"taken": 2, "kept": 1, "dropped": {"equal_text": 1}}
    assert record.provenance["threads"] == 1
    assert record.provenance["seconds"] >= 0
    assert "1 of 2 rows (dropped: equal_text 1)" in fake.output.getvalue()


def test_a_second_run_computes_nothing(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.execute(pipeline.plan)
    summary = fake.execute(pipeline.plan)
    assert fake.ran == []
    assert summary.done == list(pipeline.plan.nodes)
    assert summary.computed == summary.aliased == summary.blocked == []
    assert summary.ok


def fail(error: BaseException) -> Callable[[Context], None]:
    def action(_: Context) -> None:
        raise error

    return action


def test_a_failure_stops_only_what_depends_on_it(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["pairs_a"] = fail(RuntimeError("the rows are wrong"))
    summary = fake.execute(pipeline.plan)
    assert not summary.ok
    assert list(summary.failed) == pipeline.keys("pairs_a")
    assert summary.blocked == pipeline.keys("train_a", "respond_a", "judge_a")
    assert set(pipeline.keys("pairs_b", "train_b", "respond_b", "judge_b")) <= set(summary.computed)
    del fake.actions["pairs_a"]
    again = fake.execute(pipeline.plan)
    assert again.ok
    assert again.computed == pipeline.keys("pairs_a", "train_a", "respond_a", "judge_a")


def test_a_failure_is_logged_with_its_traceback_and_reported(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["sample"] = fail(RuntimeError("out of [memory]\nsecond line"))
    summary = fake.execute(pipeline.plan)
    (ending,) = summary.failed.values()
    log = ending.log
    assert log is not None
    text = log.read_text()
    assert text.startswith(f"sample sample {pipeline.nodes['sample'].key}\n")
    assert "Traceback" in text
    assert "FAILED: out of [memory]\n" in fake.output.getvalue()
    report = list(failure_report(summary, pipeline.plan))
    assert report[0] == f"failed: sample sample (log: {log})"
    assert "    RuntimeError: out of [memory]" in report
    assert report[-1] == "not done, since something they need is not there: 8 nodes"


def test_failures_that_end_alike_are_told_once(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["pairs_a"] = fail(RuntimeError("the same of both"))
    fake.actions["pairs_b"] = fail(RuntimeError("the same of both"))
    summary = fake.execute(pipeline.plan)
    first, second = (ending.log for ending in summary.failed.values())
    report = list(failure_report(summary, pipeline.plan))
    slugs = [pipeline.plan.nodes[key].slug for key in summary.failed]
    assert [line for line in report if line.startswith("failed: ")] == [
        f"failed: pairs {slugs[0]} (log: {first})",
        f"failed: pairs {slugs[1]} (log: {second}), as {slugs[0]}",
    ]
    assert report.count("    RuntimeError: the same of both") == 1


def test_failures_with_other_causes_before_the_same_end_are_each_told(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["pairs_a"] = fail(ConfigError("the quota is used up\nthe engine ended"))
    fake.actions["pairs_b"] = fail(ConfigError("no such device\nthe engine ended"))
    report = list(failure_report(fake.execute(pipeline.plan), pipeline.plan))
    assert report.count("    the engine ended") == 2
    assert {"    the quota is used up", "    no such device"} <= set(report)


def test_a_users_error_is_logged_without_a_traceback(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["model"] = fail(ConfigError("policy.id: no such model"))
    (ending,) = fake.execute(pipeline.plan).failed.values()
    assert ending.log is not None
    assert ending.log.read_text() == f"model model {pipeline.nodes['model'].key}\npolicy.id: no such model\n"


def test_nothing_to_report_after_a_good_run(fake: FakeStages, pipeline: Pipeline) -> None:
    assert list(failure_report(fake.execute(pipeline.plan), pipeline.plan)) == []


def test_a_failed_node_leaves_no_artifact(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["model"] = fail(ValueError("late"))
    fake.execute(pipeline.plan)
    assert fake.store.find("model", pipeline.nodes["model"].key) is None
    assert not list(fake.store.root.glob("model/*"))


def test_a_cell_without_rows_is_empty_and_no_failure(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.dropped["pairs_a"] = 2
    for _ in range(2):
        summary = fake.execute(pipeline.plan)
        assert summary.ok
        reason = "no preference rows: 2 equal_text"
        assert summary.empty == dict.fromkeys(pipeline.keys("train_a", "respond_a", "judge_a"), reason)
        assert not set(summary.empty) & {*summary.computed, *summary.done}
    assert "train train_a: empty (no preference rows: 2 equal_text)" in fake.output.getvalue()


def test_cells_of_equal_content_are_done_once(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    summary = fake.execute(pipeline.plan)
    assert summary.ok
    assert fake.ran.count("train") == fake.ran.count("judge") == 1
    assert fake.ran.count("respond") == 1
    assert summary.aliased == pipeline.keys("train_b", "respond_b", "judge_b")
    original, alias = fake.find(pipeline.nodes["train_a"]), fake.find(pipeline.nodes["train_b"])
    assert alias.folder == original.folder
    assert alias.manifest.key == pipeline.nodes["train_b"].key
    assert alias.manifest.measures == original.manifest.measures
    assert fake.execute(pipeline.plan).done == list(pipeline.plan.nodes)


def test_cells_of_different_content_are_each_done(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "one", "pairs_b": "other"}
    assert fake.execute(pipeline.plan).aliased == []


def test_equal_content_of_an_earlier_command_is_found(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    of_a = [n for name, n in pipeline.nodes.items() if not name.endswith("_b")]
    assert fake.execute(plan_of(*of_a)).ok
    assert fake.execute(pipeline.plan).aliased == pipeline.keys("train_b", "respond_b", "judge_b")


def test_an_alias_keeps_nothing_of_an_interrupted_run(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    trained = pipeline.nodes["train_b"]
    with fake.store.claim(trained.key) as work:
        (work / "checkpoint").mkdir()
        (work / "checkpoint" / "weights").write_text("half")
        (work / "shard").write_text("half")
    fake.execute(pipeline.plan)
    folder = fake.store.folder("train", trained.slug, trained.key)
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_an_alias_is_whole_again_once_its_original_is(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    fake.execute(pipeline.plan)
    (fake.find(pipeline.nodes["train_a"]).folder / "table.parquet").unlink()
    summary = fake.execute(pipeline.plan)
    assert summary.ok
    assert fake.ran == ["train"]
    assert fake.find(pipeline.nodes["train_b"]).folder == fake.find(pipeline.nodes["train_a"]).folder


def test_an_alias_without_its_original_is_computed(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    fake.execute(pipeline.plan)
    (fake.find(pipeline.nodes["train_a"]).folder / "table.parquet").unlink()
    of_b = [n for name, n in pipeline.nodes.items() if not name.endswith("_a")]
    assert fake.execute(plan_of(*of_b)).computed == pipeline.keys("train_b")
    assert fake.find(pipeline.nodes["train_b"]).manifest.alias_of is None


def test_a_node_in_other_hands_is_not_done_and_not_failed(fake: FakeStages, pipeline: Pipeline) -> None:
    with fake.store.claim(pipeline.nodes["train_a"].key):
        summary = fake.execute(pipeline.plan)
    assert summary.failed == {}
    assert summary.alive == pipeline.keys("train_a", "respond_a", "judge_a")
    assert not summary.ok
    assert "is being worked on by process" in fake.output.getvalue()
    assert fake.execute(pipeline.plan).computed == pipeline.keys("train_a", "respond_a", "judge_a")


def test_what_another_process_does_meanwhile_is_not_done_again(fake: FakeStages, pipeline: Pipeline) -> None:
    prompts = pipeline.nodes["prompts"]

    def publish(_: Context) -> None:
        with fake.store.claim(prompts.key) as work:
            fake.store.publish(work, manifest("prompts", prompts.key), "theirs")

    fake.actions["model"] = publish
    summary = fake.execute(pipeline.plan)
    assert summary.ok
    assert "prompts" not in fake.ran
    assert prompts.key in summary.done


def test_an_interrupted_node_finds_its_work_again(fake: FakeStages, pipeline: Pipeline) -> None:
    def interrupted(context: Context) -> None:
        (context.work / "shard").write_text("first half")
        raise KeyboardInterrupt

    fake.actions["sample"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        fake.execute(pipeline.plan)
    found: list[str] = []
    fake.actions["sample"] = lambda context: found.append((context.work / "shard").read_text())
    assert fake.execute(pipeline.plan).ok
    assert found == ["first half"]


def test_a_damaged_artifact_is_named_and_made_again(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.execute(pipeline.plan)
    folder = fake.find(pipeline.nodes["sample"]).folder
    (folder / "table.parquet").write_bytes(b"")
    summary = fake.execute(pipeline.plan)
    assert fake.ran == ["sample"]
    assert summary.computed == pipeline.keys("sample")
    assert f"damaged: {folder} " in fake.output.getvalue()
    assert fake.store.verify(fake.find(pipeline.nodes["sample"])) == []


def test_rows_that_do_not_add_up_fail_the_node(fake: FakeStages, pipeline: Pipeline) -> None:
    def lose(_: Context) -> None:
        Rows(taken=3, kept=1)

    fake.actions["prompts"] = lose
    summary = fake.execute(pipeline.plan)
    assert list(summary.failed) == pipeline.keys("prompts")
    assert "rows do not add up: 3 in, 1 out" in fake.output.getvalue()


def test_what_a_failure_says_can_be_neither_obeyed_nor_unwritable(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["model"] = fail(RuntimeError("\x1b[31mred \ud800 end"))
    summary = fake.execute(pipeline.plan)
    (ending,) = summary.failed.values()
    assert ending.log is not None
    assert "\\ud800" in ending.log.read_text(encoding="utf-8")
    assert "FAILED: \\x1b[31mred \\ud800 end" in fake.output.getvalue()
    assert "\x1b" not in fake.output.getvalue()


def test_a_log_that_was_cleared_away_meanwhile_leaves_what_was_said(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.actions["model"] = fail(RuntimeError("no such luck"))
    summary = fake.execute(pipeline.plan)
    (ending,) = summary.failed.values()
    assert ending.log is not None
    ending.log.unlink()
    assert "    no such luck" in failure_report(summary, pipeline.plan)


def test_work_of_other_commits_is_named_in_one_line(fake: FakeStages, pipeline: Pipeline) -> None:
    fake.execute(pipeline.plan)
    found = pipeline.plan.found(fake.store)
    assert list(drift(found, "now")) == []  # what made it is not known
    for name, key in (("old", pipeline.keys("model")[0]), ("now", pipeline.keys("prompts")[0])):
        made = {**found[key].manifest.provenance, "commit": name}
        found[key] = Artifact(found[key].folder, replace(found[key].manifest, provenance=made))
    assert list(drift(found, None)) == []
    assert list(drift(found, "now")) == ["some of what is done was made by other commits (old; now now)"]
