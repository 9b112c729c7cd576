"""Loading results: every point a row, whatever it shares with others."""

from pathlib import Path

import pytest

from analysis.load import load_overlap, load_results, load_verdicts
from analysis.result_rows import judge_label
from analysis.schema import check_results, check_verdicts
from harness import record
from harness.judges.models import SELECTED
from harness.plan import Plan, make_plan
from harness.store import Store, StoreError
from tests.configs import point


def _record(store: Path, sweep: str, *points: tuple[str, ...]) -> Plan:
    """Points of a sweep of which nothing is done."""
    plan = make_plan([point(*overrides) for overrides in points])
    record.write(plan, sweep, "the command", Store(store))
    return plan


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Store(tmp_path / "store").prepare().root


def test_points_with_equal_nodes_are_rows_of_their_own(store: Path) -> None:
    _record(store, "mine", ("pair=max_min",), ("construction=max_min",))
    results = load_results(store)
    check_results(results)
    check_verdicts(load_verdicts(store))
    assert results["status"].tolist() == ["missing", "missing"]
    assert results.set_index("construction.name")["pair.chosen"].to_dict()["position"] == "max"
    assert results.set_index("construction.name")["pair.chosen"].isna()["max_min"]


def test_keys_that_only_some_points_have_are_columns(store: Path) -> None:
    _record(store, "mine", ("reward=embedded",), ("reward=longer",))
    results = load_results(store).set_index("reward.name")
    assert results["reward.weights.words"].to_dict() == pytest.approx(
        {"embedded": float("nan"), "longer": 1.0}, nan_ok=True
    )
    assert results["reward.weights.relevance"]["embedded"] == pytest.approx(0.3)


def test_a_failure_far_upstream_is_the_points_reason(store: Path) -> None:
    plan = _record(store, "mine", ())
    sampled = next(node for node in plan.nodes.values() if node.stage == "sample")
    (store / "logs" / f"sample-{sampled.key}.log").write_text("sample x\nno memory left\n")
    results = load_results(store, "mine")
    assert results["status"].tolist() == ["failed"]
    assert results["reason"].tolist() == ["sample: no memory left"]


def test_an_unknown_sweep_lists_those_there_are(store: Path) -> None:
    _record(store, "mine", ())
    with pytest.raises(StoreError, match="no sweep 'yours'; it has mine"):
        load_results(store, "yours")
    assert load_overlap(store, "mine").empty


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no prefsweep store"):
        load_results(tmp_path)


def test_a_judge_that_selected_the_data_says_so_in_every_cell() -> None:
    """Cells of equal rows share their verdicts, whichever reward selected them."""
    model = {"source": "hub", "id": "org/model", "revision": "c0ffee"}
    judge = {f"judge.model.{name}": value for name, value in model.items()}
    reward = {f"reward.model.{name}": value for name, value in model.items()}
    assert judge_label({**judge, **reward}, "a judge") == f"a judge; {SELECTED}"
    assert judge_label({**judge, **reward}, f"a judge; {SELECTED}") == f"a judge; {SELECTED}"
    assert judge_label({**judge, **reward, "reward.model.revision": "other"}, "a judge") == "a judge"
    assert judge_label({"judge.engine": "embedded"}, "a judge") == "a judge"
    assert judge_label({**judge, **reward}, None) is None
