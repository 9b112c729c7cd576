"""Selection: the vectorised picks against an obvious loop, the drop rules, and the random draws."""

import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.errors import ConfigError
from harness.keys import stream
from harness.positions import POSITIONS
from harness.selection import MAX_REWARD, Picks, draw, pick

LEVELS = {"mu-2s": -2.0, "mu-1.5s": -1.5, "mu-1s": -1.0, "mu": 0.0, "mu+1s": 1.0, "mu+2s": 2.0}
QUANTILES = {"q0": 0.0, "q0.05": 0.05, "q0.25": 0.25, "q0.5": 0.5, "q1": 1.0}
NAMES = (*POSITIONS, "mu-1.5s", *QUANTILES)


def obvious_pick(rewards: list[float], valid: list[bool], name: str, ddof: int) -> tuple[int, float] | str:
    """One prompt, one position: the sample index and z of the pick, or why the prompt is dropped."""
    usable = [i for i, reward in enumerate(rewards) if valid[i] and math.isfinite(reward)]
    if len(usable) < 2:
        return "too_few"
    values = np.array([rewards[i] for i in usable])
    if max(values) == min(values):
        return "zero_spread"
    mu, sigma = values.mean(), values.std(ddof=ddof)
    if name in QUANTILES:
        target = sorted(values)[round(QUANTILES[name] * (len(values) - 1))]
    elif name in LEVELS:
        target = mu + LEVELS[name] * sigma
    else:
        target = {"min": min, "max": max}[name](values)
    best = usable[0]
    for i in usable:
        if abs(rewards[i] - target) < abs(rewards[best] - target):
            best = i
    return best, float((rewards[best] - mu) / sigma)


def assert_agrees(picks: Picks, rewards: list[list[float]], valid: list[list[bool]], ddof: int) -> None:
    for row, (values, mask) in enumerate(zip(rewards, valid, strict=True)):
        for column, name in enumerate(NAMES):
            expected = obvious_pick(values, mask, name, ddof)
            if isinstance(expected, str):
                assert picks.dropped[row] == expected
                assert picks.index[row, column] == -1
                assert np.isnan([picks.z[row, column], picks.mu[row], picks.sigma[row]]).all()
            else:
                assert picks.dropped[row] is None
                assert (int(picks.index[row, column]), float(picks.z[row, column])) == expected, name


REWARDS = st.one_of(
    st.integers(-3, 3).map(float),  # few values, so that ties and equal distances are common
    st.sampled_from([0.1, 0.2, 0.3, 1 / 3, -0.7]),
    st.integers(-100_000, 100_000).map(lambda i: i / 1000),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)


@st.composite
def matrices(draw_from: st.DrawFn) -> tuple[list[list[float]], list[list[bool]]]:
    """Rewards and mask of a few prompts."""
    prompts, n = draw_from(st.integers(0, 5)), draw_from(st.integers(1, 20))
    kind = draw_from(st.sampled_from([REWARDS, st.integers(-2, 2).map(float)]))
    rewards = draw_from(st.lists(st.lists(kind, min_size=n, max_size=n), min_size=prompts, max_size=prompts))
    flags = st.lists(st.sampled_from([True, True, True, False]), min_size=n, max_size=n)
    return rewards, draw_from(st.lists(flags, min_size=prompts, max_size=prompts))


@settings(deadline=None)
@given(matrices(), st.sampled_from([0, 1]))
def test_pick_agrees_with_an_obvious_loop(given_matrix: tuple[list[list[float]], list[list[bool]]], ddof: int) -> None:
    rewards, valid = given_matrix
    shape = (len(rewards), len(rewards[0]) if rewards else 3)
    picks = pick(np.reshape(rewards, shape), np.reshape(valid, shape), positions=NAMES, ddof=ddof)
    assert_agrees(picks, rewards, valid, ddof)


@pytest.mark.parametrize("ddof", [0, 1])
def test_pick_agrees_with_an_obvious_loop_over_several_chunks(ddof: int) -> None:
    generator = np.random.default_rng(7)
    rewards = generator.normal(size=(300, 400)).round(2)
    rewards[generator.random(rewards.shape) < 0.01] = np.nan
    rewards[::3] = generator.normal(size=(100, 400))
    picks = pick(rewards, positions=NAMES, ddof=ddof)
    assert_agrees(picks, rewards.tolist(), np.ones(rewards.shape, dtype=bool).tolist(), ddof)


def test_equal_distances_go_to_the_lowest_sample_index() -> None:
    # mu = 2 and sigma = 1: the target mu lies as far from 1 as from 3, and each extreme stands twice.
    picks = pick([[3.0, 1.0, 3.0, 1.0]], positions=("min", "mu-1s", "mu", "mu+1s", "max", "q0.5"))
    assert picks.index.tolist() == [[1, 1, 0, 0, 0, 0]]


def test_z_is_the_realised_standardised_reward() -> None:
    picks = pick([[0.0, 1.0, 2.0, 3.0, 4.0]], positions=("mu-2s", "mu", "max"))
    assert picks.mu.tolist() == [2.0]
    assert picks.sigma == pytest.approx([math.sqrt(2.0)])
    assert picks.z[0] == pytest.approx([-math.sqrt(2.0), 0.0, math.sqrt(2.0)])


def test_ddof_changes_sigma_and_can_change_the_pick() -> None:
    rewards = [[-1.5, -1.1, 0.0, 2.6]]
    population, sample = (pick(rewards, positions=("mu-1s",), ddof=ddof) for ddof in (0, 1))
    assert population.sigma == pytest.approx(np.std(rewards))
    assert sample.sigma == pytest.approx(np.std(rewards, ddof=1))
    assert (population.index.item(), sample.index.item()) == (0, 0)
    moved = [[-1.0, -0.6, 0.0, 1.6]]
    assert pick(moved, positions=("mu-0.8s",), ddof=0).index.item() == 1
    assert pick(moved, positions=("mu-0.8s",), ddof=1).index.item() == 0


@pytest.mark.parametrize("rewards", [[math.nan] * 3, [1.0, math.nan, math.inf], [-math.inf, math.inf, 2.0]])
def test_a_prompt_with_fewer_than_two_valid_rewards_is_too_few(rewards: list[float]) -> None:
    picks = pick([rewards])
    assert picks.dropped.tolist() == ["too_few"]
    assert (picks.index == -1).all()
    assert np.isnan(picks.z).all()


def test_the_mask_makes_a_reward_invalid() -> None:
    picks = pick([[9.0, 1.0, 2.0]], valid=[[False, True, True]], positions=("max",))
    assert picks.index.tolist() == [[2]]
    assert pick([[9.0, 1.0]], valid=[[False, True]]).dropped.tolist() == ["too_few"]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-8, -7.7, 1e100])
@pytest.mark.parametrize("n", [3, 6, 10, 400])
def test_equal_rewards_are_zero_spread_whatever_the_rounding_of_sigma(value: float, n: int) -> None:
    picks = pick([[value] * n, [value] * (n - 1) + [math.nan]])
    assert picks.dropped.tolist() == ["zero_spread", "zero_spread"]
    assert (picks.index == -1).all()


def test_rounding_does_leave_a_sigma_above_zero_where_all_rewards_are_equal() -> None:
    assert np.std([0.1] * 3) > 0  # what a test of sigma == 0 would miss


def test_a_spread_whose_square_underflows_is_zero_spread() -> None:
    assert pick([[0.0, 1e-200, 0.0]]).dropped.tolist() == ["zero_spread"]


def test_prompts_do_not_influence_each_other() -> None:
    generator = np.random.default_rng(3)
    rewards = generator.integers(-4, 5, size=(200, 12)).astype(float)
    rewards[generator.random(rewards.shape) < 0.2] = np.nan
    order = generator.permutation(len(rewards))
    straight, permuted = pick(rewards, positions=NAMES), pick(rewards[order], positions=NAMES)
    np.testing.assert_array_equal(straight.index[order], permuted.index)
    np.testing.assert_array_equal(straight.z[order], permuted.z)
    np.testing.assert_array_equal(straight.dropped[order], permuted.dropped)


def test_a_smaller_n_sees_only_the_prefix() -> None:
    rewards = np.random.default_rng(5).normal(size=(50, 32))
    changed = rewards.copy()
    changed[:, 16:] = 99.0
    np.testing.assert_array_equal(pick(rewards[:, :16]).index, pick(changed[:, :16]).index)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int8, np.uint8, np.bool_])
def test_other_number_types_are_taken_by_value(kind: type[Any]) -> None:
    rewards = np.random.default_rng(1).integers(0, 2, size=(40, 9)).astype(kind)
    narrow, wide = pick(rewards), pick(rewards.astype(np.float64))
    np.testing.assert_array_equal(narrow.index, wide.index)
    np.testing.assert_array_equal(narrow.z, wide.z)


def test_float32_is_computed_in_float64() -> None:
    rewards = (1e4 + np.random.default_rng(2).normal(size=(50, 100))).astype(np.float32)
    np.testing.assert_array_equal(pick(rewards).sigma, pick(rewards.astype(np.float64)).sigma)


@pytest.mark.parametrize("gaps", [False, True])
def test_the_input_is_not_changed(gaps: bool) -> None:
    rewards = np.random.default_rng(4).normal(size=(20, 8))
    valid = np.ones(rewards.shape, dtype=bool)
    if gaps:
        rewards[0, 0], valid[1, 1] = np.nan, False
    before = rewards.copy(), valid.copy()
    pick(rewards, valid, positions=NAMES)
    np.testing.assert_array_equal(rewards, before[0])
    np.testing.assert_array_equal(valid, before[1])


def gaussian_picks(n: int, prompts: int) -> Picks:
    return pick(np.random.default_rng(n).normal(size=(prompts, n)))


def coincide(picks: Picks, one: str, other: str) -> float:
    columns = picks.index[:, POSITIONS.index(one)] == picks.index[:, POSITIONS.index(other)]
    return float(columns.mean())


def test_of_eight_gaussian_rewards_the_lowest_is_always_the_one_at_mu_minus_two_sigma() -> None:
    picks = gaussian_picks(8, 5000)
    assert coincide(picks, "min", "mu-2s") == 1.0
    rewards = picks.mu + picks.sigma * picks.z[:, POSITIONS.index("mu-2s")]
    assert rewards.mean() == pytest.approx(-1.42, abs=0.03)  # of the unit Gaussian, as tabulated for the lowest of 8


@pytest.mark.parametrize(("n", "share"), [(16, 0.96), (60, 0.30), (200, 0.006)])
def test_min_and_mu_minus_two_sigma_part_as_n_grows(n: int, share: float) -> None:
    assert coincide(gaussian_picks(n, 4000), "min", "mu-2s") == pytest.approx(share, abs=0.03)


def test_of_200_gaussian_rewards_the_picks_stand_where_their_names_say() -> None:
    z = dict(zip(POSITIONS, gaussian_picks(200, 4000).z.mean(axis=0), strict=True))
    assert z["min"] == pytest.approx(-2.75, abs=0.03)
    assert z["max"] == pytest.approx(2.75, abs=0.03)
    assert [z[name] for name in POSITIONS[1:-1]] == pytest.approx([-1.99, -1, 0, 1, 1.99], abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": [1.0, 2.0]}, r"rewards: expected shape \[prompts, n\], got \(2,\)"),
        ({"rewards": [[1.0, 2.0]], "valid": [[True]]}, r"valid: expected shape \(1, 2\)"),
        ({"rewards": [[1.0, 2.0]], "ddof": 2}, "ddof: expected 0 or 1, got 2"),
        ({"rewards": [[1.0, 2 * MAX_REWARD]]}, "cannot be standardised"),
        ({"rewards": [[1.0, -2 * MAX_REWARD]]}, "cannot be standardised"),
    ],
)
def test_pick_refuses_wrong_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick(**arguments)


def test_pick_names_the_position_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"^positions\[1\]: 'mean'"):
        pick([[1.0, 2.0]], positions=("min", "mean"))


def streams(seed: int, prompts: int) -> npt.NDArray[np.uint64]:
    return np.array([stream(seed, f"prompt {i}") for i in range(prompts)], dtype=np.uint64)


def test_draw_is_without_replacement_ascending_and_in_range() -> None:
    drawn = draw(9, 5, streams(0, 500))
    assert drawn.shape == (500, 5)
    assert (np.diff(drawn, axis=1) > 0).all()
    assert drawn.min() == 0
    assert drawn.max() == 8


def test_drawing_all_is_every_sample() -> None:
    assert draw(5, 5, streams(0, 3)).tolist() == [[0, 1, 2, 3, 4]] * 3


def test_a_draw_depends_on_its_own_stream_alone() -> None:
    many = streams(0, 50)
    np.testing.assert_array_equal(draw(16, 5, many)[10:20], draw(16, 5, many[10:20]))
    np.testing.assert_array_equal(draw(16, 5, many), draw(16, 5, many))


def test_the_seed_changes_the_draw() -> None:
    one, other = (draw(16, 5, streams(seed, 200)) for seed in (0, 1))
    assert (one != other).any(axis=1).mean() > 0.95


@pytest.mark.parametrize("consecutive", [False, True])
def test_every_set_of_samples_is_drawn_equally_often(consecutive: bool) -> None:
    seeds = np.arange(20_000, dtype=np.uint64) if consecutive else streams(0, 20_000)
    counts = Counter(map(tuple, draw(6, 3, seeds).tolist()))
    observed = [counts[chosen] for chosen in combinations(range(6), 3)]
    assert sum(observed) == 20_000
    assert stats.chisquare(observed).pvalue > 1e-3


def test_more_draws_than_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot draw 5 of 4 samples"):
        draw(4, 5, streams(0, 1))
