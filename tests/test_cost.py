"""Machine time: what shared work costs each of its users, and that nothing counts twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cost
from harness.cost import Cost


@pytest.mark.parametrize(
    ("made", "gpus"),
    [
        ({"device": "NVIDIA H100", "gpus": 8}, 8.0),
        ({"device": "NVIDIA H100", "gpus": 0.25}, 0.25),
        ({"device": "NVIDIA H100"}, 1.0),
        ({"device": "NVIDIA H100", "gpus": 1.0, "processes": 4, "threads": 1}, 4.0),
        ({"device": "cpu (x86_64)"}, 0.0),
        ({}, 0.0),
    ],
)
def test_time_is_multiplied_by_what_was_held(made: dict[str, object], gpus: float) -> None:
    spent = cost.of({"seconds": 10.0, "threads": 4, **made})
    assert (spent.seconds, spent.gpu_seconds, spent.core_seconds) == (10.0, 10.0 * gpus, 40.0)


def test_shared_work_is_split_evenly_and_ones_own_is_not() -> None:
    costs = {"pool": Cost(seconds=60.0), "train a": Cost(seconds=5.0)}
    parts = cost.split({"a": ["pool", "train a"], "b": ["pool", "train b"], "c": ["pool"]}, costs)
    assert {user: part.seconds for user, part in parts.items()} == {"a": 25.0, "b": 20.0, "c": 20.0}


@given(
    st.dictionaries(st.integers(0, 5), st.sets(st.sampled_from("abcdef")), min_size=1),
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1e6)),
)
def test_the_parts_are_the_whole(needed: dict[int, set[str]], seconds: dict[str, float]) -> None:
    costs = {key: Cost(seconds=value) for key, value in seconds.items()}
    parts = cost.split({str(user): keys for user, keys in needed.items()}, costs)
    used = set().union(*needed.values())
    assert sum(part.seconds for part in parts.values()) == pytest.approx(
        sum(value for key, value in seconds.items() if key in used)
    )
