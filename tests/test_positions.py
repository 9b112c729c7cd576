"""Positions and pairs: the grammar, the 21 pairs, and what is refused."""

import math

import pytest

from harness.errors import ConfigError
from harness.positions import PAIRS, POSITIONS, check_pair, parse


def test_positions_are_seven_and_ascend() -> None:
    assert POSITIONS == ("min", "mu-2s", "mu-1s", "mu", "mu+1s", "mu+2s", "max")
    levels = [parse(name).level for name in POSITIONS]
    assert levels == [-math.inf, -2, -1, 0, 1, 2, math.inf]


def test_pairs_are_every_higher_position_over_every_lower_one() -> None:
    assert len(PAIRS) == len(set(PAIRS)) == 21
    assert all(POSITIONS.index(chosen) > POSITIONS.index(rejected) for chosen, rejected in PAIRS)


@pytest.mark.parametrize(
    ("name", "kind", "level"),
    [
        ("mu-1.5s", "sigma", -1.5),
        ("mu+10s", "sigma", 10.0),
        ("mu+0.25s", "sigma", 0.25),
        ("q0", "quantile", 0.0),
        ("q0.05", "quantile", 0.05),
        ("q1", "quantile", 1.0),
    ],
)
def test_parse_reads_multiples_of_sigma_and_quantiles(name: str, kind: str, level: float) -> None:
    position = parse(name)
    assert (position.name, position.kind, position.level) == (name, kind, level)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "median",
        "MIN",
        "mu+s",
        "mu2s",
        "mu-2",
        "mu+.5s",
        "mu+1s ",
        "mu+1e3s",
        "q",
        "q-0.1",
        "q1.01",
        "q5",
        "q.5",
        "max\n",
    ],
)
def test_parse_refuses_what_is_no_position_and_lists_the_choices(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(name, "pair.chosen")
    message = str(caught.value)
    assert message.startswith(f"pair.chosen: {name!r} is not a position")
    assert all(choice in message for choice in (*POSITIONS, "mu-1.5s", "q0.05"))


@pytest.mark.parametrize(("chosen", "rejected"), PAIRS)
def test_check_pair_takes_each_pair_and_refuses_it_swapped(chosen: str, rejected: str) -> None:
    check_pair(chosen, rejected)
    with pytest.raises(ConfigError, match="must stand above"):
        check_pair(rejected, chosen)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("mu-1.5s", "mu-2s"),
        ("mu-1s", "mu-1.5s"),
        ("mu+3s", "mu+2s"),
        ("max", "mu+9s"),
        ("q0.9", "q0.1"),
        ("q1", "mu"),
        ("max", "q0.99"),
        ("q0.01", "min"),
        ("mu-2s", "q0"),
        ("max", "min"),
        ("q1", "q0"),
    ],
)
def test_check_pair_takes_ordered_positions_of_either_kind(chosen: str, rejected: str) -> None:
    check_pair(chosen, rejected)
    with pytest.raises(ConfigError, match="must stand above"):
        check_pair(rejected, chosen)


@pytest.mark.parametrize(("one", "other"), [("q0.5", "mu"), ("q0.9", "mu+1s"), ("q0.1", "mu-1.5s")])
def test_check_pair_leaves_a_quantile_against_a_multiple_of_sigma_to_the_rewards(one: str, other: str) -> None:
    check_pair(one, other)
    check_pair(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mu", "mu"),
        ("mu-2s", "mu-2.0s"),
        ("mu", "mu+0s"),
        ("q0.5", "q0.50"),
        ("max", "q1"),
        ("q1.0", "max"),
        ("min", "q0"),
    ],
)
def test_check_pair_refuses_one_position_under_two_names(one: str, other: str) -> None:
    with pytest.raises(ConfigError, match="must stand above"):
        check_pair(one, other)


@pytest.mark.parametrize(
    ("chosen", "rejected", "path"), [("best", "min", "pair.chosen"), ("max", "worst", "pair.rejected")]
)
def test_check_pair_names_the_side_that_is_no_position(chosen: str, rejected: str, path: str) -> None:
    with pytest.raises(ConfigError, match=f"^{path}: "):
        check_pair(chosen, rejected)
