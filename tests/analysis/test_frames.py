"""Frames of a sweep that was drawn from a known truth, out of one store and out of several."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analysis import schema
from analysis.answers import ANSWERS
from analysis.frames import expected_low_draw, expected_z, load_costs, load_picks, load_spreads, load_training
from analysis.load import load_answers, load_results, load_verdicts
from analysis.schema import check_results, check_verdicts
from harness.errors import PrefsweepError
from harness.store import Store, StoreError
from tests.benchmarks.synthetic_store import Shape, Truth, build

SHAPE = Shape(
    pairs=(("mu-2s", "min"), ("max", "min"), ("max", "mu-2s"), ("mu+1s", "mu-1s")),
    sizes=(8, 16),
    policies=1,
    seeds=1,
    prompts=6,
    instructions=30,
    failed=1,
    missing=1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("synthetic") / "store"
    build(root, SHAPE)
    yield root
    shutil.rmtree(root)


def test_a_partial_sweep_loads_and_says_what_is_missing(store: Path) -> None:
    results = load_results(store)
    check_results(results)
    check_verdicts(load_verdicts(store))
    assert sorted(results["status"]) == ["done"] * 4 + ["empty"] * 2 + ["failed", "missing"]
    assert results.loc[results["status"] == "failed", "reason"].tolist() == ["train: no memory left"]
    same = results[
        (results["n"] == 8) & results["pair.rejected"].isin(["min", "mu-2s"]) & (results["status"] == "done")
    ]
    assert same["trained_id"].nunique() == 1


def test_every_frame_has_the_columns_that_its_schema_names(store: Path) -> None:
    for frame, columns in (
        (load_training(store), schema.TRAINING),
        (load_spreads(store), schema.SPREADS),
        (load_picks(store), schema.PICKS),
        (load_costs(store), schema.COSTS),
    ):
        assert list(frame.columns) == list(columns)
        assert len(frame)


def test_curves_stand_under_every_cell_that_is_trained(store: Path) -> None:
    results, training = load_results(store), load_training(store)
    done = set(results.loc[results["status"] == "done", "cell"])
    assert set(training["cell"]) == done
    assert set(training["step"]) == set(range(1, 17))


def test_answers_measured_in_other_processes_are_the_same(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load_answers(store)
    assert list(here.columns) == list(ANSWERS)
    assert len(here) == SHAPE.instructions * here["result"].nunique() > 0
    monkeypatch.setattr("analysis.load._MANY", 2)
    monkeypatch.setattr("analysis.parallel.cpus", lambda: 2)
    pd.testing.assert_frame_equal(load_answers(store), here)


def test_spreads_are_those_of_the_rewards(store: Path) -> None:
    spreads = load_spreads(store)
    assert sorted(spreads["n"].unique()) == [8, 16]
    assert len(spreads) == 2 * SHAPE.prompts
    assert spreads["normal_p"].between(0, 1).all()
    # Skewness and kurtosis of so few are bounded by their number.
    assert (spreads["skewness"].abs() <= np.sqrt(spreads["n"])).all()


def test_picks_at_small_n_are_where_normal_rewards_would_be(store: Path) -> None:
    picks = load_picks(store)
    low = picks[(picks["n"] == 8) & picks["position"].isin(["min", "mu-2s"])]
    assert low["z_mean"].nunique() == 1
    inside = picks["z_expected"].between(picks["z_low"] - 0.3, picks["z_high"] + 0.3)
    assert inside.all()


@pytest.mark.parametrize(
    ("position", "n", "ddof", "z"),
    [("max", 2, 0, 1.0), ("min", 2, 0, -1.0), ("max", 2, 1, 0.5**0.5), ("mu", 400, 0, 0.0), ("random", 8, 0, 0.0)],
)
def test_expected_z_where_it_is_known(position: str, n: int, ddof: int, z: float) -> None:
    assert expected_z(position, {n: 4}, ddof) == pytest.approx(z, abs=0.02)


def test_expected_z_is_that_of_the_usable_rewards() -> None:
    own = {count: expected_z("max", {count: 1}) for count in (4, 64)}
    assert own[64] > own[4] + 0.9
    assert expected_z("max", {4: 30, 64: 10}) == pytest.approx((3 * own[4] + own[64]) / 4, abs=0.02)


@pytest.mark.parametrize(
    ("prompts", "n", "z"),
    [({2: 5}, 2, -1.0), ({400: 5}, 400, -1.163), ({400: 5}, 800, -0.659)],
    ids=["all are drawn", "the least of five normals", "half of them usable"],
)
def test_expected_low_draw_where_it_is_known(prompts: dict[int, int], n: int, z: float) -> None:
    """The least of 5 to 1 normals stands at -1.163, -1.029, -0.846, -0.564 and 0; of 5 draws with as many usable as
    not, 5, 10, 10, 5 and 1 in 31 have so many."""
    assert expected_low_draw(prompts, n, min(n, 5)) == pytest.approx(z, abs=0.03)


def test_prompts_that_nothing_is_picked_from_have_no_expectation() -> None:
    assert expected_z("min", {1: 30, 4: 10}) == expected_z("min", {4: 10})
    assert expected_low_draw({0: 5, 1: 30, 4: 10}, 8, 3) == expected_low_draw({4: 10}, 8, 3)
    for prompts in ({1: 3}, {}):
        assert np.isnan(expected_z("min", prompts))
        assert np.isnan(expected_low_draw(prompts, 8, 3))


def test_picks_are_beside_what_their_own_deviation_would_give(store: Path, tmp_path: Path) -> None:
    """The same picks, said to be made with the other deviation."""
    other = tmp_path / "other"
    shutil.copytree(store, other)
    for path in (other / "select").glob("*/manifest.json"):
        said = json.loads(path.read_text())
        path.write_text(json.dumps(said | {"spec": said["spec"] | {"ddof": 1}}))
    ends = [frame[(frame["n"] == 8) & (frame["position"] == "max")] for frame in map(load_picks, (store, other))]
    assert ends[1]["z_expected"].iloc[0] == pytest.approx(ends[0]["z_expected"].iloc[0] * (7 / 8) ** 0.5)


def test_what_is_no_position_has_no_expectation() -> None:
    assert np.isnan(expected_z("mu-2s|max", {8: 1}))


def test_picks_of_prompts_with_fewer_rewards_are_beside_what_so_many_would_give(store: Path, tmp_path: Path) -> None:
    """Sampling that failed for half of the samples of each prompt: z cannot be as far out as n says."""
    other = tmp_path / "other"
    shutil.copytree(store, other)
    for path in (other / "select").glob("*/spreads.parquet"):
        spreads = pq.read_table(path)
        half = pc.cast(pc.divide(spreads["valid"], 2), spreads.schema.field("valid").type)
        pq.write_table(spreads.set_column(spreads.schema.get_field_index("valid"), "valid", half), path)
        manifest = path.with_name("manifest.json")
        said = json.loads(manifest.read_text())
        said["files"][path.name]["bytes"] = path.stat().st_size
        manifest.write_text(json.dumps(said))
    before, after = (frame[frame["position"] == "max"].set_index("n") for frame in map(load_picks, (store, other)))
    assert after.at[16.0, "z_expected"] == pytest.approx(before.at[8.0, "z_expected"], abs=0.01)
    assert after["z_mean"].equals(before["z_mean"])


def test_costs_count_shared_work_once(store: Path) -> None:
    costs = load_costs(store)
    sample = costs[costs["stage"] == "sample"].iloc[0].to_dict()
    assert sample["nodes"] == 2
    assert sample["unshared_seconds"] > 3 * sample["seconds"]
    assert sample["tokens"] > 0
    assert costs["money"].isna().all()


def test_two_stores_of_one_sweep_are_taken_together(store: Path, tmp_path: Path) -> None:
    """One that lacks a verdict, and one that has it: the point is taken from where it is done."""
    other = tmp_path / "other"
    shutil.copytree(store, other)
    results = load_results(store)
    done = results[results["status"] == "done"].set_index("result")["win_rate"].to_dict()
    for folder in (other / "judge").iterdir():
        shutil.rmtree(folder)
    assert (load_results(other)["status"] == "done").sum() == 0
    both = load_results([other, store])
    assert sorted(both["result"]) == sorted(results["result"])
    assert both[both["status"] == "done"].set_index("result")["win_rate"].to_dict() == done


def test_a_point_that_was_recorded_before_a_setting_came_is_the_same(store: Path, tmp_path: Path) -> None:
    """Its work is the same, but its name, the hash of its settings, is another."""
    other = tmp_path / "other"
    shutil.copytree(store, other)
    path = other / "sweeps" / "synthetic.json"
    recorded = json.loads(path.read_text())
    points = {f"{key[::-1]}": p | {"config": p["config"] | {"loss.new": None}} for key, p in recorded["points"].items()}
    path.write_text(json.dumps({**recorded, "points": points}))
    assert sorted(load_results([store, other])["result"]) == sorted(recorded["points"])
    assert sorted(load_results([other, store])["result"]) == sorted(points)


def test_stores_that_disagree_are_refused(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(store, other)
    path = next((other / "judge").iterdir()) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "digest": "another"}))
    with pytest.raises(PrefsweepError, match=r"result \w+ has different verdicts in .*; load the two stores apart"):
        load_results([store, other])


def test_no_store_at_all_and_an_unknown_sweep(store: Path, tmp_path: Path) -> None:
    with pytest.raises(PrefsweepError, match="at least one store"):
        load_results([])
    empty = Store(tmp_path / "empty").prepare().root
    with pytest.raises(StoreError, match="no store has a sweep 'yours'; they have synthetic"):
        load_results([store, empty], "yours")
    assert len(load_results([empty, store], "synthetic")) == len(load_results(store))


def test_the_truth_is_where_the_verdicts_are(store: Path) -> None:
    """Over all results the mean win rate is the truth's, up to the draw."""
    results = load_results(store)
    done = results[results["status"] == "done"]
    truth = [
        Truth().win_rate("synthetic-0", r["pair.chosen"], r["pair.rejected"], int(r["n"])) for _, r in done.iterrows()
    ]
    assert done["win_rate"].mean() == pytest.approx(
        np.mean(truth), abs=4 * 0.5 / np.sqrt(30 * done["trained_id"].nunique())
    )
