"""Batches within a budget: their order, their size, and what running out of memory does to them."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.batches import BudgetedBatches, pad

LENGTHS = st.lists(st.integers(0, 40), max_size=40)


class Device:
    """A device that holds so many padded tokens at once, and notes the batches it has done."""

    def __init__(self, lengths: list[int], room: float = float("inf"), error: BaseException | None = None) -> None:
        self.lengths, self.room = lengths, room
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.sizes: list[int] = []

    def __call__(self, rows: Any) -> Any:
        size = len(rows) * max(self.lengths[i] for i in rows)
        if size > self.room:
            raise self.error
        self.sizes.append(size)
        return rows[:, None] * 2.0


@given(LENGTHS, st.integers(1, 200))
def test_every_sequence_is_run_once_within_the_budget(lengths: list[int], budget: int) -> None:
    device = Device(lengths)
    out = BudgetedBatches(budget).run(lengths, device, 1)
    assert out[:, 0].tolist() == [2.0 * i for i in range(len(lengths))]
    assert all(size <= max(budget, *lengths) for size in device.sizes)


@given(LENGTHS, st.integers(40, 200), st.integers(40, 100))
def test_a_batch_that_does_not_fit_is_made_smaller(lengths: list[int], budget: int, room: int) -> None:
    device = Device(lengths, room)
    batches = BudgetedBatches(budget)
    out = batches.run(lengths, device, 1)
    assert out[:, 0].tolist() == [2.0 * i for i in range(len(lengths))]
    assert all(size <= room for size in device.sizes)


def test_a_smaller_budget_grows_again() -> None:
    lengths = [10] * 200
    device = Device(lengths, room=60)
    batches = BudgetedBatches(200)
    batches.run(lengths[:20], device, 1)
    assert batches.retries == 2
    assert max(device.sizes) == 50
    device.room = 1000  # whatever else was on the device is gone
    batches.run(lengths, device, 1)
    assert max(device.sizes) == 200
    assert batches.retries == 2


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_cpu_runs_out_of_memory_in_other_words(error: BaseException) -> None:
    batches = BudgetedBatches(100)
    batches.run([10] * 10, Device([10] * 10, 50, error), 1)
    assert batches.retries == 1


def test_a_single_sequence_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        BudgetedBatches(100).run([10, 60], Device([10, 60], 50), 1)


def test_another_error_is_not_tried_again() -> None:
    device = Device([10] * 4, 0, RuntimeError("device-side assert"))
    batches = BudgetedBatches(100)
    with pytest.raises(RuntimeError, match="device-side assert"):
        batches.run([10] * 4, device, 1)
    assert batches.retries == 0


def test_padding_stands_on_the_right() -> None:
    ids, mask = pad([[5, 6, 7], [8]], 9, "cpu")
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
