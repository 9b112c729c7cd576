"""Out of memory: smaller batches at the next attempt, whoever makes it, and a manifest that says so."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import memory
from harness.engines import models, training
from harness.progress import Reporter
from harness.schedule import ATTEMPTS
from harness.stages import Context, train
from harness.world import World
from tests.engines.test_generation import SAMPLED, _requests
from tests.engines.test_training import SPEC, rows_of
from tests.test_execute import FakeStages, fail, fake, node, plan_of

__all__ = ["fake"]  # a fixture


def test_each_attempt_takes_half_as_much_at_once_and_the_manifest_says_so(fake: FakeStages) -> None:
    parts: list[int] = []

    def too_much(context: Context) -> None:
        parts.append(context.parts)
        (context.work / "shard").touch()
        if context.parts < 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    fake.actions["a"] = too_much
    one = node("sample", "a")
    summary = fake.execute(plan_of(one))
    assert parts == [1, 2, 4]
    assert summary.retried["memory"] == 2
    manifest = fake.find(one).manifest
    assert manifest.provenance["batch_parts"] == 4
    assert sorted(manifest.files) == ["shard", "table.parquet"]


def test_the_next_command_goes_on_with_what_has_fitted(fake: FakeStages) -> None:
    fake.actions["a"] = fail(RuntimeError("CUDA out of memory"))
    one = node("sample", "a")
    assert fake.execute(plan_of(one)).failed[one.key].failure == "memory"
    assert len(fake.ran) == ATTEMPTS["memory"]
    fake.actions.clear()
    fake.execute(plan_of(one))
    assert fake.find(one).manifest.provenance["batch_parts"] == 2 ** ATTEMPTS["memory"]


def test_without_a_shortage_nothing_is_said_of_parts(fake: FakeStages) -> None:
    fake.actions["a"] = fail(OSError(5, "Input/output error"))
    one = node("sample", "a")
    fake.execute(plan_of(one))
    fake.actions.clear()
    fake.execute(plan_of(one))
    assert fake.seen["a"].parts == 1
    assert "batch_parts" not in fake.find(one).manifest.provenance


@pytest.mark.parametrize("text", ["", "x", "0", "-4"])
def test_a_note_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "out_of_memory").write_text(text)
    assert memory.parts(tmp_path) == 1
    memory.note(tmp_path)
    assert memory.parts(tmp_path) == 2


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_a_part_divides_the_batch(size: int, parts: int) -> None:
    part = memory.divisor(size, parts)
    assert size % part == 0
    assert part <= max(1, size // parts)


@pytest.mark.parametrize("parts", [2, 3, 8, 100])
def test_responses_are_the_same_in_parts(tiny_policy: Path, parts: int) -> None:
    from harness.engines import generation

    model, _, stops = models.load(tiny_policy, "float32", False)
    requests = _requests(tiny_policy)
    whole = generation.generate(model, stops, requests, 6, SAMPLED)
    split = generation.generate(model, stops, requests, 6, SAMPLED, parts)
    assert [(r.request_id, r.number, r.token_ids) for r in split] == [
        (r.request_id, r.number, r.token_ids) for r in whole
    ]


def test_training_in_parts_takes_the_same_steps(tiny_policy: Path, tmp_path: Path) -> None:
    rows = rows_of(tiny_policy)
    whole, split = (
        training.train(
            tiny_policy,
            rows,
            memory.smaller_training(SPEC, parts),
            tmp_path / str(parts),
            save_steps=0,
            reporter=Reporter(),
            label="",
        )
        for parts in (1, 2)
    )
    assert [row["step"] for row in whole] == [row["step"] for row in split]
    assert [row["loss"] for row in split[:2]] == pytest.approx([row["loss"] for row in whole[:2]], rel=1e-4)


def test_either_way_to_divide_a_step_gets_smaller() -> None:
    from dataclasses import replace

    assert memory.smaller_training(SPEC, 2).micro_batch == 1
    by_tokens = memory.smaller_training(replace(SPEC, micro_batch=None, batch_tokens=4096), 4)
    assert (by_tokens.micro_batch, by_tokens.batch_tokens) == (None, 1024)


def test_each_process_of_a_training_takes_less_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("harness.ranks.launch.train", lambda policy, rows, spec, *_, **__: given.append(spec))
    policy: Any = SimpleNamespace(model_path=tmp_path)
    context = Context(
        inputs={"policy": (policy,)},
        params={"save_steps": 0},
        store=tmp_path,
        work=tmp_path,
        reporter=Reporter(),
        label="",
        parts=2,
        world=World(processes=2),
    )
    train._train(context, [], SPEC)
    assert [(spec.micro_batch, spec.global_batch) for spec in given] == [(1, 4)]
