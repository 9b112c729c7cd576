"""What a benchmark says of targets that it missed."""

import pytest

from tests.benchmarks.bench_grid import missed

WALL = {"grid": 600.0}


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ({"pipelines": 7.0, "training and answering, stock": 2.5}, []),
        ({"pipelines": 7.0, "training and answering, stock": 1.5}, ["training and answering, stock: 1.5, not 2.0"]),
        ({"pipelines": 7.0}, ["training and answering, stock: not compared: no vLLM (--python)"]),
    ],
)
def test_a_target_that_was_not_measured_has_no_ratio(ratios: dict[str, float], said: list[str]) -> None:
    assert missed({"ratios": ratios, "wall": WALL}) == said
