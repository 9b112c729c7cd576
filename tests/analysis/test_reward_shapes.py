"""Realised z beside normal rewards, and the check of normality: against closed forms, simulation and known shapes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import schema
from analysis.frames import load_picks, load_spreads
from analysis.normality import normality, quantiles, shape_histograms
from analysis.reward_z import EDGES, load_reward_z, normal_counts, normal_share
from harness.store import Store
from tests.benchmarks.synthetic_store import Shape, build

SHAPE = Shape(pairs=(("max", "min"),), sizes=(8, 16), policies=1, seeds=1, prompts=6, instructions=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "store"
    build(root, SHAPE)
    return root


def pool(rewards: np.ndarray, n: float = 16) -> pd.DataFrame:
    """Spreads of a pool with these rewards, [prompts x n], by the frame's own code."""
    from analysis.frames import _shape

    facts = {"pool": f"pool{n}", "policy.name": "policy", "reward.name": "reward", "n": n, "scored_by": "reward"}
    prompts = [f"p{i}" for i in range(len(rewards))]
    return pd.DataFrame({**facts, "prompt_id": prompts, "valid": np.isfinite(rewards).sum(axis=1), **_shape(rewards)})


def test_every_reward_of_a_kept_prompt_is_counted_once(store: Path) -> None:
    frame = load_reward_z(store)
    assert list(frame.columns) == list(schema.REWARD_Z)
    for n in SHAPE.sizes:
        own = frame[frame["n"] == n]
        assert own["responses"].sum() == n * SHAPE.prompts
        assert own["expected"].sum() == pytest.approx(own["responses"].sum())
        # Realised z have mean 0 and deviation 1 within every prompt, up to the width of a bin.
        mean = (own["z"] * own["responses"]).sum() / own["responses"].sum()
        assert mean == pytest.approx(0, abs=0.03)
        assert ((own["z"] - mean) ** 2 * own["responses"]).sum() / own["responses"].sum() == pytest.approx(1, abs=0.05)


def test_a_pool_that_is_not_asked_for_is_not_read(store: Path) -> None:
    picks = load_picks(store)
    only = sorted(set(picks.loc[picks["n"] == 16, "pool"]))
    assert sorted(set(load_reward_z(store, only=only)["pool"])) == only


def test_picks_say_what_scored_and_sampled_them(store: Path) -> None:
    picks = load_picks(store)
    assert set(picks["reward_label"]) == {"synthetic reward"}
    assert set(picks["decoding"]) == {"synthetic"}
    assert set(picks["scored_by"]) == {"reward"}


def test_shapes_of_some_prompts_are_those_of_all(store: Path) -> None:
    every, some = (load_spreads(store, shapes=shapes).set_index(["n", "prompt_id"]) for shapes in (None, 2))
    measured = some["skewness"].notna()
    assert measured.groupby("n").sum().tolist() == [2, 2]
    pd.testing.assert_frame_equal(some[measured], every[measured])
    assert some["mu"].notna().all()


def test_rewards_that_are_gone_leave_a_pool_without_shapes(store: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "store"
    shutil.copytree(store, other)
    shutil.rmtree(next((other / "score").iterdir()))
    assert load_spreads(other)["skewness"].isna().any()
    assert len(load_reward_z(other)) < len(load_reward_z(store))
    assert Store(other).check()


@given(st.integers(3, 12), st.sampled_from([0, 1]))
def test_z_of_few_normal_rewards_are_thompsons(rewards: int, ddof: int) -> None:
    draws = np.random.default_rng(rewards).standard_normal((4000, rewards))
    z = (draws - draws.mean(axis=1, keepdims=True)) / draws.std(axis=1, ddof=ddof, keepdims=True)
    for at in (-1.2, -0.3, 0.0, 0.8):
        share = float(normal_share(np.array([at]), rewards, ddof)[0])
        assert (z <= at).mean() == pytest.approx(share, abs=4 * 0.5 / np.sqrt(4000))


def test_two_rewards_stand_at_plus_and_minus_one() -> None:
    counts = normal_counts({2: 5}, ddof=0)
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    assert counts.sum() == 10
    assert np.abs(np.abs(middles[counts > 0]) - 1) == pytest.approx(0.025, abs=1e-9)


def test_the_test_rejects_normal_prompts_as_often_as_it_says_and_skewed_ones_mostly() -> None:
    rng = np.random.default_rng(0)
    normal = normality(pool(rng.standard_normal((800, 16)))).iloc[0]
    assert normal["low"] < 0.05 < normal["high"]
    assert normal["skewness_low"] < 0 < normal["skewness_high"]
    assert normal["excess_kurtosis"] == pytest.approx(normal["excess_kurtosis_expected"], abs=0.1)
    assert normal["excess_kurtosis_expected"] == pytest.approx(-6 / 17)
    skewed = normality(pool(rng.exponential(size=(200, 16)))).iloc[0]
    assert skewed["low"] > 0.5
    assert skewed["skewness_low"] > 0.5


def test_prompts_without_a_test_are_counted_apart() -> None:
    rewards = np.random.default_rng(1).standard_normal((5, 16))
    rewards[0] = 2.0  # no spread
    rewards[1, 4:] = np.nan  # too few
    row = normality(pool(rewards)).iloc[0]
    assert (row["prompts"], row["untested"]) == (3, 2)
    assert "over prompts" in row["method"]
    nothing = normality(pool(np.full((2, 16), 1.0))).iloc[0]
    assert nothing["prompts"] == 0
    assert np.isnan(nothing["rejected"])


def test_histograms_hold_every_prompt_and_what_normal_ones_would_be() -> None:
    spreads = pool(np.random.default_rng(2).standard_normal((3000, 16)))
    histograms = shape_histograms(spreads)
    shares = histograms.groupby("measure")[["share", "expected"]].sum()
    assert shares.to_numpy() == pytest.approx(1.0)
    assert (histograms["share"] - histograms["expected"]).abs().max() < 0.03
    gaps = np.random.default_rng(2).standard_normal((50, 16))
    gaps[0, 0] = np.nan
    assert shape_histograms(pool(gaps))["expected"].isna().all()
    assert shape_histograms(pool(np.full((2, 16), 1.0))).empty


def test_quantiles_are_those_of_the_rewards_up_to_a_bin() -> None:
    z = np.random.default_rng(3).standard_t(5, 20_000)
    counts = np.histogram(np.clip(z, -7.99, 7.99), EDGES)[0]
    frame = pd.DataFrame({"z": (EDGES[:-1] + EDGES[1:]) / 2, "responses": counts, "expected": counts})
    found = quantiles(frame)
    inner = found[found["share"].between(0.005, 0.995)]
    assert inner["realised"].to_numpy() == pytest.approx(np.quantile(z, inner["share"]), abs=0.05)
    assert (found["realised"] == found["expected"]).all()
    assert quantiles(frame.assign(responses=0.0)).empty
