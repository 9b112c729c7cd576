"""Fast composing ends in what Hydra composes, or in its error, whatever the overrides."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import hydra_app
from harness.compose import Composer


def outcome(compose: Callable[[], Any]) -> str:
    """What composing ends in: the data with its types and order, or the error."""
    try:
        return json.dumps(compose())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


CHOICES = [
    "construction=sweet_spot",
    "evaluate=embedded",
    "judge=shorter",
    "loss=ipo",
    "pair=mu+2s_mu-2s",
    "policy=local",
    "prompts=file",
    "reward=longer",
    "sampler=laptop",
    "train=lora",
    "train=nonsense",
    "~judge",
    "+sweeps=control",
    "+sweeps=demo",
]
EDITS = [
    "+train.extra=3",
    "++train.seed=7",
    "++train.lora={r: 2, more: [1, {x: 2}]}",
    "+train.lora.extra={a: b}",
    "+n=8",
    "~train.lora",
    "~train.seed",
    "~n=16",
    "reward.weights={relevance: 1.0}",
    "train={seed: 3}",
    "train.lora=5",
    "train.lora.r.x=5",
    "train.lora.r=[{a: 1}]",
    "train.sed=1",
    "train=3",
    "n=${train.seed}",
    "train.seed=${n}",
    "train.seed=???",
    "n@train=3",
]
KEYS = [
    "n",
    "sweep",
    "dry_run",
    "policy.id",
    "policy.revision",
    "prompts.path",
    "prompts.limit",
    "construction.seed",
    "pair.chosen",
    "reward.weights.relevance",
    "train.seed",
    "train.learning_rate",
    "train.lora.r",
    "train.lora.target_modules",
]
VALUES = [
    "0",
    "-3",
    "1_000",
    "0.0",
    "-0.5",
    "1e-5",
    "1e5",
    "nan",
    "-inf",
    "true",
    "FALSE",
    "null",
    "",
    "text",
    "mu-2s",
    "'8'",
    '"it\'s, = [quoted] {text}"',
    r"a\,b\=c\ d",
    "/some/folder:x?*%@",
    "[1,-2.5,null,'x y',[a,true]]",
    "[]",
    "[${n}]",
]

CHOSEN, EDITED = st.sampled_from(CHOICES), st.sampled_from(EDITS)
SET = st.builds(
    "{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES) | st.integers().map(str) | st.floats().map(str)
)


def assert_composed_as_by_hydra(composer: Composer, lines: list[str]) -> None:
    expected = outcome(lambda: hydra_app.plain(composer.loader.load_sweep_config(composer.command, lines)))
    assert outcome(lambda: composer.compose(lines)) == expected


@settings(max_examples=25, deadline=None)
@given(lines=st.lists(CHOSEN | EDITED | SET, max_size=5))
def test_any_overrides_compose_as_by_hydra(composer: Composer, lines: list[str]) -> None:
    assert_composed_as_by_hydra(composer, lines)


@settings(max_examples=25, deadline=None)
@given(choice=CHOSEN, values=st.lists(SET, max_size=8))
def test_values_are_set_as_by_hydra(composer: Composer, choice: str, values: list[str]) -> None:
    assert_composed_as_by_hydra(composer, [*values, choice])


@pytest.mark.parametrize(
    "lines",
    [
        ["train.seed=1", "++train.seed=2"],
        ["++train.seed=2", "train.seed=1"],
        ["train.lora.r=1", "++train.lora={r: 2}"],
        ["train.seed=1", "train={seed: 3}"],
        ["train={seed: 3}", "train.seed=1"],
        ["++train.lora.r=1", "train.lora.r=2", "train.seed=3"],
        ["~train.lora.r", "train.lora.r=2"],
        ["train.lora.r=2", "~train.lora.r"],
        ["+train.extra=1", "train.extra=2"],
        ["train.extra=2", "+train.extra=1"],
        ["train.seed=3", "train=lora", "train.seed=4"],
        ["n=8", "n=${train.seed}", "train.seed=5"],
        ["n=8", "train.seed=${n}"],
        ["policy=local"],
        ["policy=local", "policy.id=x"],
        ["policy=local", "policy.id=???"],
        ["n=8", "train.sed=1", "pair=nonsense"],
        ["n=8,16"],
        ["reward.weights={words: 2}", "reward=longer", "reward.weights.words=-1"],
    ],
    ids=" ".join,
)
def test_order_and_errors_are_those_of_hydra(composer: Composer, lines: list[str]) -> None:
    assert_composed_as_by_hydra(composer, lines)


@pytest.mark.parametrize("set_count", [[], ["typed.count=2"], ["typed.count='3'"], ["typed.count=text"]], ids=str)
def test_declared_types_are_respected(composer: Composer, set_count: list[str]) -> None:
    assert_composed_as_by_hydra(composer, ["+typed=one", "n=8", *set_count])
