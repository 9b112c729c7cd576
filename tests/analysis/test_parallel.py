"""Work in several processes: its order, when processes start, and what they are told."""

import os
from math import sqrt

import pytest

from analysis.parallel import Workers


def test_little_work_is_done_here_as_its_values_are_taken() -> None:
    done: list[int] = []
    with Workers() as workers:
        found = workers.map(done.append, [1, 2], least=3)
        assert done == []
        assert list(found) == [None, None]
    assert done == [1, 2]


def test_much_work_keeps_its_order_and_each_process_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.parallel.cpus", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with Workers() as workers:
        assert list(workers.map(sqrt, range(100), least=100)) == [sqrt(value) for value in range(100)]
        assert list(workers.map(os.getenv, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"], least=100)) == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_what_fails_elsewhere_fails_here() -> None:
    with pytest.raises(ValueError, match=r"domain|nonnegative"), Workers() as workers:
        list(workers.map(sqrt, [-1.0], least=1))
