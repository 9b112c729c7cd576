"""What each of several processes is dealt: together what one alone would do, step by step."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engines.sharding import Deal, layout
from harness.world import World


class Whole:
    """Batches of one process alone, in the order of its sampler."""

    def __init__(self, rows: int, batch: int) -> None:
        self.batches = [list(range(start, min(start + batch, rows))) for start in range(0, rows, batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_a_step_has_the_batches_of_one_process_each_once(rows: int, batch: int, size: int, each: int) -> None:
    whole = Whole(rows, batch)
    dealt = [list(Deal(whole, rank, size, each * size)) for rank in range(size)]
    assert {len(own) for own in dealt} == {len(Deal(whole, 0, size, each * size))}
    for step in range(0, len(whole), each * size):
        expected = whole.batches[step : step + each * size]
        first = step // size
        taken = [batch for own in dealt for batch in own[first : first + each]]
        assert sorted([row for row, _ in batch] for batch in taken if batch[0][1]) == sorted(expected)
        weights = [batch[0][1] for batch in taken]
        assert sum(weights) / len(weights) == pytest.approx(1.0)
        assert len({weight for weight in weights if weight}) == 1


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_the_pairs_of_a_step_are_dealt_out_and_count_alike(rows: int, batch: int, size: int) -> None:
    whole = Whole(rows, batch)
    dealt = [list(Deal(whole, rank, size, None)) for rank in range(size)]
    assert {len(own) for own in dealt} == {len(whole)}
    for number, step in enumerate(whole):
        taken = [own[number] for own in dealt]
        assert sorted(row for batch in taken for row, weight in batch if weight) == step
        # The mean over processes of each one's mean over its pairs, by weight: every pair has the same part in it.
        parts = {round(weight / len(batch) / size, 9) for batch in taken for _, weight in batch if weight}
        assert parts == {round(1 / len(step), 9)}


def test_whose_checkpoints_fit() -> None:
    """Whole weights fit any number of processes; parts fit as many as there are."""
    assert layout(None) == layout(World(processes=2, sharding="none")) == ""
    assert layout(World(processes=2)) == layout(World(machines=2)) != layout(World(machines=2, processes=2))
