"""The cluster falls to pieces under a small sweep, drawn from one seed; `tests.benchmarks.cluster_chaos` does more."""

from pathlib import Path

from tests.benchmarks.cluster_chaos import Chaos
from tests.cluster.boot import Cluster
from tests.cluster.conftest import Site


def test_a_sweep_survives(site: Site, cluster: Cluster, tmp_path: Path) -> None:
    tally = Chaos(cluster, tmp_path, cells=4, seconds=0.4, seed=3).run(20.0)
    assert tally.wrong == []
    assert tally.events.total() >= 3
