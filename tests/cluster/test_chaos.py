"""The cluster falls to pieces under a small sweep, drawn from one seed; `tests.benchmarks.cluster_chaos` does more."""

from pathlib import Path

import pytest

from tests.benchmarks.cluster_chaos import Chaos
from tests.cluster import boot


def test_a_sweep_survives(tmp_path: Path) -> None:
    """On a cluster of its own: after all this SLURM gives no job all of its machines any more, though it has them."""
    if reason := boot.missing():
        pytest.skip(reason)
    with boot.booted() as cluster:
        tally = Chaos(cluster, tmp_path, cells=4, seconds=0.4, seed=3).run(20.0)
    assert tally.wrong == []
    assert tally.events.total() >= 3
