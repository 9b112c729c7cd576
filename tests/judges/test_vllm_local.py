"""A judge that vLLM serves on this machine: the real server on SmolLM2 where vLLM is installed."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import machine
from harness.cluster import PythonConfig, VllmConfig
from harness.engines import loaded, vllm_server
from harness.engines.vllm_server import Endpoint
from harness.errors import ConfigError
from harness.judges.config import VllmJudgeConfig
from harness.judges.engines import plan_judge
from harness.judges.vllm_local import INPUT
from harness.plan import make_plan
from harness.stages import Context
from harness.stages.judge import run
from tests.artifacts import Shelf, adds_up, written
from tests.configs import point
from tests.judges import server


def configured(folder: Path, **settings: object) -> VllmJudgeConfig:
    shipped = point("judge=vllm_local", "judge.model.source=local", f"judge.model.id={folder}").judge
    assert isinstance(shipped, VllmJudgeConfig)
    model = dataclasses.replace(shipped.model, dtype="float32")
    return dataclasses.replace(shipped, model=model, context=1024, **settings)  # type: ignore[arg-type]


def node(shelf: Shelf, weights: Path, matches: int, params: Mapping[str, Any], name: str = "work") -> Context:
    """What a judge node is given: answers, references, and the judge's weights."""
    model = shelf.put("model", {})
    (model.folder / "model.json").write_text(json.dumps({"path": str(weights)}))
    context = shelf.context(
        name,
        answers=shelf.answers({f"p{i}": f"The answer is {i}." for i in range(matches)}),
        references=shelf.answers({f"p{i}": f"I think that it is {i + 1}, but who knows?" for i in range(matches)}),
        instructions=shelf.prompts({f"p{i}": f"Count to {i}." for i in range(matches)}),
        **{INPUT: model},
    )
    return dataclasses.replace(context, params=params)


def test_the_server_runs_while_there_is_something_to_ask(
    tmp_path: Path, tiny_policy: Path, judge: server.Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Around a server that is none: what it is told, when it starts and that it ends."""
    events: list[Any] = []
    judge.model = "judge"

    @contextmanager
    def serve(model: Path, **options: Any) -> Iterator[Endpoint]:
        events.append((model, options["name"], options["dtype"], options["context"]))
        yield Endpoint(base_url=judge.url, token=server.KEY, model="judge")
        events.append("ended")

    monkeypatch.setattr(vllm_server, "serve", serve)
    planned, shelf = plan_judge(configured(tiny_policy)), Shelf(tmp_path)
    outcome = run(node(shelf, tiny_policy, 4, planned.params), planned.spec)
    assert events == [(tiny_policy, "judge", "float32", 1024), "ended"]
    assert adds_up(outcome.rows, 4, 4)
    assert set(judge.paid.values()) == {1}
    assert outcome.measures["cost_usd"] is None
    again = run(node(shelf, tiny_policy, 3, planned.params, "again"), planned.spec)
    assert again.measures["judgements"] == 6
    assert len(events) == 2  # everything was in the store


def test_the_server_takes_of_the_gpus_what_the_machine_gives(
    tmp_path: Path, tiny_policy: Path, judge: server.Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of this process's models or engines stands in its way."""
    events: list[Any] = []
    judge.model = "judge"

    @contextmanager
    def serve(model: Path, **options: Any) -> Iterator[Endpoint]:
        events.append((options["arguments"], options["variables"]))
        yield Endpoint(base_url=judge.url, token=server.KEY, model="judge")

    monkeypatch.setattr(vllm_server, "serve", serve)
    monkeypatch.setattr(loaded, "release", lambda: events.append("released"))
    planned, shelf = plan_judge(configured(tiny_policy)), Shelf(tmp_path)
    given = VllmConfig(tensor_parallel=2, sequences=8, eager=True)
    monkeypatch.setattr(machine, "_MINE", [machine.Machine(visible="4,5,6", share=0.5, vllm=given)])
    run(node(shelf, tiny_policy, 1, planned.params), planned.spec)
    arguments = "--max-num-seqs 8 --gpu-memory-utilization 0.45 --tensor-parallel-size 2 --enforce-eager"
    assert events == ["released", (arguments.split(), {"CUDA_VISIBLE_DEVICES": "4,5"})]


def test_thirty_comparisons_in_both_orders_by_a_real_server(
    tmp_path: Path, smollm2: Path, vllm_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_MINE", [machine.Machine()])
    machine.use(python=PythonConfig(vllm=vllm_python), vllm=VllmConfig(), threads=1)
    # The tiny model seldom has either letter among its likely first tokens.
    planned = plan_judge(configured(smollm2, max_failed_share=0.99, concurrency=30))
    context = node(Shelf(tmp_path), smollm2, 30, planned.params)
    outcome = run(context, planned.spec)
    rows = written(context, "judgements")
    assert len(rows) == 60
    failed = outcome.measures["failures"].get("no_choice", 0)
    assert adds_up(outcome.rows, 30, 30 - failed, **({"failed_judgement": failed} if failed else {}))
    assert outcome.measures["served_models"] == {"judge": 60}
    assert all(len(row["logprobs"]) >= 20 and row["prompt_tokens"] > 200 for row in rows)
    assert all(row["completion_tokens"] == 1 for row in rows)
    good = [row for row in written(context, "verdicts") if row["failure"] is None]
    assert all(0 < row["preference"] < 1 for row in good)
    assert not any(b"Bearer" in path.read_bytes() for path in tmp_path.rglob("*.json*") if path.is_file())
    # Everything is in the store now: no server is needed, so a machine without vLLM can do it.
    machine.use(python=PythonConfig(vllm="/nowhere"), vllm=VllmConfig(), threads=1)
    again = run(context, planned.spec)
    assert again.measures["win_rate"] == outcome.measures["win_rate"]
    assert again.measures["judgements_asked"] == 0


def test_the_judges_weights_are_a_node_and_decide_the_key(tiny_policy: Path, tmp_path: Path) -> None:
    settings = ("judge=vllm_local", "judge.model.source=local", f"judge.model.id={tiny_policy}")
    node = make_plan([point(*settings)]).points[0].nodes["judge"]
    (weights,) = node.inputs[INPUT]
    assert weights.stage == "model"
    assert weights.spec.revision == node.spec.revision
    other = make_plan([point(*settings, "judge.context=512", "judge.concurrency=2")]).points[0].nodes["judge"]
    assert other.key == node.key
    assert make_plan([point(*settings, "judge.model.dtype=float32")]).points[0].nodes["judge"].key != node.key


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^judge\.model\.id: .* is no model folder"):
        plan_judge(configured(tmp_path))
    with pytest.raises(ConfigError, match=r"^judge\.model\.revision: 'main' is no commit"):
        point("judge=vllm_local", "judge.model.source=hub", "judge.model.id=a/b", "judge.model.revision=main")
    assert os.environ.get("VLLM_API_KEY") is None
