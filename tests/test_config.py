"""Configurations: what `read` and `check` refuse, and how the message names it."""

import copy
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import pytest

from harness.config import Config, RunOptions, check, flatten, read
from harness.errors import ConfigError
from tests.configs import OPTIONS, composed, point


@dataclass(frozen=True, kw_only=True)
class Leaf:
    of_the_class: typing.ClassVar[int] = 1

    rate: float
    kind: Literal["full", "lora"]


@dataclass(frozen=True, kw_only=True)
class Tree:
    n: int
    flag: bool
    limit: int | None
    text: str
    weights: Mapping[str, float]
    leaf: Leaf


GOOD: dict[str, Any] = {
    "n": 3,
    "flag": False,
    "limit": None,
    "text": "t",
    "weights": {"a": 1},
    "leaf": {"rate": 0.5, "kind": "full"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    *groups, name = path.split(".")
    at = data
    for group in groups:
        at = at[group]
    at[name] = value
    return data


def test_read_builds_the_whole_tree() -> None:
    expected = Tree(n=3, flag=False, limit=None, text="t", weights={"a": 1.0}, leaf=Leaf(rate=0.5, kind="full"))
    assert read(Tree, GOOD) == expected


def test_an_int_is_taken_for_a_float_and_becomes_one() -> None:
    tree = read(Tree, changed("leaf.rate", 2))
    assert type(tree.leaf.rate) is float
    assert type(tree.weights["a"]) is float


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("leaf.rat", 1.0, "leaf.rat: unknown key; valid keys are kind, rate; did you mean rate?"),
        ("size", 1, "size: unknown key; valid keys are flag, leaf, limit, n, text, weights"),
        ("n", 3.0, "n: expected int, got 3.0"),
        ("n", True, "n: expected int, got True"),
        ("n", None, "n: expected int, got None"),
        ("n", "3", "n: expected int, got '3'"),
        ("flag", 1, "flag: expected bool, got 1"),
        ("limit", "all", "limit: expected int, got 'all'"),
        ("text", 5, "text: expected str, got 5"),
        ("leaf.rate", "high", "leaf.rate: expected float, got 'high'"),
        ("leaf.rate", True, "leaf.rate: expected float, got True"),
        ("leaf.rate", float("nan"), "leaf.rate: expected a finite number, got nan"),
        ("leaf.rate", float("inf"), "leaf.rate: expected a finite number, got inf"),
        ("leaf.kind", "half", "leaf.kind: 'half' is not valid; choose one of full, lora"),
        ("leaf.kind", ["full"], "leaf.kind: ['full'] is not valid; choose one of full, lora"),
        ("weights", [1.0], "weights: expected names with values, got [1.0]"),
        ("weights", {"a": "x"}, "weights.a: expected float, got 'x'"),
        ("leaf", 3, "leaf: expected a group of keys, got 3"),
    ],
)
def test_read_names_the_dotted_path_and_what_is_valid(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Tree, changed(path, value))
    assert str(caught.value) == message


@pytest.mark.parametrize("path", ["leaf.kind", "n", "weights"])
def test_a_missing_key_is_named(path: str) -> None:
    data = copy.deepcopy(GOOD)
    group, _, name = path.rpartition(".")
    del (data[group] if group else data)[name]
    with pytest.raises(ConfigError, match=f"^{path}: missing$"):
        read(Tree, data)


def test_a_config_that_is_no_group_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^config: expected a group of keys, got 'x'"):
        read(Tree, "x")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["n=65"], r"n: 65 is out of range; expected 2 <= n <= sampler.pool = 64"),
        (["n=1"], r"n: 1 is out of range"),
        (["pair.chosen=min"], r"pair: chosen 'min' must stand above rejected 'mu-2s'"),
        (["pair.rejected=best"], r"pair.rejected: 'best' is not a position"),
        (["construction=sweet_spot", "construction.among=17"], r"construction: .*draws = 5, among = 17, n = 16"),
        (["construction=sweet_spot", "construction.draws=6"], r"construction: .*draws = 6, among = 5"),
        (["construction=sweet_spot", "construction.draws=1"], r"construction: .*draws = 1"),
        (["train.micro_batch=5"], r"train.micro_batch: 5 does not divide train.global_batch = 16"),
        (["train.batch_tokens=0"], r"train.batch_tokens: expected a number above 0"),
        (["train.weights_dtype=bfloat16"], r"train.weights_dtype: full fine-tuning needs float32"),
        (
            ["policy=hub", "policy.id=some/model", "policy.revision=main"],
            r"policy.revision: 'main' is no commit; expected its 40 hex digits",
        ),
        (["sampler.temperature=0"], r"sampler.temperature: expected a number above 0, got 0"),
        (["sampler.sample_block=0"], r"sampler.sample_block: expected a number above 0"),
        (["prompts.limit=0"], r"prompts.limit: expected a number above 0"),
        (["loss.beta=-0.1"], r"loss.beta: expected a number above 0, got -0.1"),
        (["train.epochs=0"], r"train.epochs: expected a number above 0"),
        (["train.lora.r=0"], r"train.lora.r: expected a number above 0"),
        (["train.max_steps=-1"], r"train.max_steps: expected 0 or more, got -1"),
        (["train.seed=-1"], r"train.seed: expected 0 or more, got -1"),
        (["evaluate.temperature=-1"], r"evaluate.temperature: expected 0 or more"),
        (["sampler.top_p=0"], r"sampler.top_p: expected a value from 0 to 1 without 0, got 0"),
        (["evaluate.top_p=1.5"], r"evaluate.top_p: expected a value from 0 to 1 without 0, got 1.5"),
        (["train.warmup_ratio=2"], r"train.warmup_ratio: expected a value from"),
        (["train.warmup_ratio=1"], r"train.warmup_ratio: expected a value from 0 to 1 without 1, got 1"),
        (["loss.label_smoothing=0.1"], r"loss.label_smoothing: 0.1 would do nothing with loss.type=sigmoid"),
        (["loss=simpo", "loss.margin=null"], r"loss.margin: must be given with loss.type=simpo"),
        (["loss.type=slic_hf"], r"loss.margin: must be given with loss.type=slic_hf"),
        (["loss=simpo", "loss.margin=-1"], r"loss.margin: expected 0 or more, got -1"),
        (["loss=bcr", "loss.delta=-1"], r"loss.delta: expected 0 or more, got -1"),
        (["loss=bcr", "loss.weight=0"], r"loss.weight: expected a number above 0, got 0"),
        (["loss.regulariser=bcr"], r"loss.weight: must be given with loss.regulariser=bcr"),
        (["loss=bcr", "loss.per=null"], r"loss.per: must be given with loss.regulariser=bcr"),
        (["loss=bcr", "loss.per=word"], r"loss.per: 'word' is not valid; choose one of sequence, token"),
        (["loss=dpo_positive", "loss.weight=null"], r"loss.weight: must be given with loss.type=dpo_positive"),
        (
            ["loss=dpo_positive", "loss.regulariser=bcr"],
            r"loss.regulariser: bcr cannot stand beside loss.type=dpo_positive, whose own penalty",
        ),
        (["loss.label_smoothing=0.6"], r"loss.label_smoothing: expected a value from 0 to 0.5"),
        (["construction.ddof=2"], r"construction.ddof: expected a value from 0 to 1, got 2"),
        (["construction.name=[max_min]"], r"construction.name: \['max_min'\] is not valid; choose one of"),
    ],
)
def test_check_refuses_a_contradiction_by_its_key(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        point(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["n=64"],
        ["n=2"],
        ["train.max_steps=0"],
        ["train=lora", "train.weights_dtype=bfloat16"],
        ["construction=max_min", "pair.chosen=min"],  # the pair is not used there
        ["n=4", "construction.among=5"],  # nor are the draws
        ["construction=sweet_spot", "construction.among=16"],
        ["policy=hub", "policy.id=some/model", f"policy.revision={'a' * 40}"],
        ["pair.chosen=mu+1.5s", "pair.rejected=q0.05"],
    ],
)
def test_check_takes_what_is_no_contradiction(overrides: list[str]) -> None:
    config = point(*overrides)
    assert check(config) is config


def test_flatten_names_every_leaf_once() -> None:
    flat = flatten(read(Tree, GOOD))
    assert flat == {
        "n": 3,
        "flag": False,
        "limit": None,
        "text": "t",
        "weights.a": 1.0,
        "leaf.rate": 0.5,
        "leaf.kind": "full",
    }
    assert list(flat) == ["n", "flag", "limit", "text", "weights.a", "leaf.rate", "leaf.kind"]


def test_the_composed_keys_are_the_fields_of_the_dataclasses() -> None:
    data = composed()
    assert set(OPTIONS) == {f.name for f in fields(RunOptions)}
    assert set(data) == {f.name for f in fields(Config)} | set(OPTIONS)


def documented(kind: type[Any]) -> set[type[Any]]:
    hints = typing.get_type_hints(kind).values()
    choices = {choice for hint in hints for choice in (typing.get_args(hint) or (hint,))}
    nested = {choice for choice in choices if is_dataclass(choice) and isinstance(choice, type)}
    return {kind}.union(*(documented(inner) for inner in nested))


def test_configurations_are_frozen_and_keyword_only() -> None:
    kinds = documented(Config) | documented(RunOptions)
    assert len(kinds) >= 13
    for kind in kinds:
        parameters = kind.__dataclass_params__
        assert parameters.frozen, kind
        assert all(f.kw_only for f in fields(kind)), kind
