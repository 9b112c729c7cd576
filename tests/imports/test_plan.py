"""Imports in a plan: contradictions, unknown and damaged ones, and what they make needless."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness import imports
from harness.config import used
from harness.errors import ConfigError
from harness.plan import make_plan
from harness.store import Store
from tests.configs import point
from tests.imports.rows import ANSWERS, ROWS, bring, model_folder, write


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.imported=x"], "sampler.imported: 'x' would do nothing with sampler.engine=transformers"),
        (["reward.imported=x"], "reward.imported: 'x' would do nothing with reward.engine=embedded"),
        (["sampler.engine=imported"], "sampler.imported: must be given with sampler.engine=imported"),
        (["reward.engine=imported"], "reward.imported: must be given with reward.engine=imported"),
        (["reward=imported", "reward.imported=x", "+reward.weights.a=1"], "reward.weights: would do nothing"),
        (["train=imported", "train.imported=x", "evaluate.answers=y"], "evaluate.answers: imported answers"),
        (["sampler=imported"], r"sampler.imported: must be given \(sampler.imported=...\)"),
        (["reward=imported"], r"reward.imported: must be given \(reward.imported=...\)"),
        (["train=imported"], r"train.imported: must be given \(train.imported=...\)"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        point(*overrides)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["sampler=imported", "sampler.imported=yours"], "sampler.imported: no imported responses"),
        (["reward=imported", "reward.imported=yours"], "reward.imported: no imported rewards"),
        (["train=imported", "train.imported=yours"], "train.imported: no imported model"),
        (["evaluate.answers=yours"], "evaluate.answers: no imported answers"),
    ],
)
def test_an_unknown_name_lists_the_imports_of_its_kind(
    tmp_path: Path, store: Store, overrides: list[str], key: str
) -> None:
    for kind, rows in ROWS.items():
        bring(store, kind, write(tmp_path / f"{kind}.jsonl", rows), f"my_{kind}")
    bring(store, "model", model_folder(tmp_path / "m"), "my_model")
    kind = key.rsplit(maxsplit=1)[-1]
    with pytest.raises(ConfigError, match=rf"^{key} 'yours' in .*; it has my_{kind} \(sweepctl import {kind}"):
        make_plan([point(*overrides)], store)
    with pytest.raises(ConfigError, match=rf"^{key} 'yours' in no store"):
        make_plan([point(*overrides)])


DAMAGED: Mapping[str, list[str]] = {
    "responses": ["sampler=imported", "sampler.imported=mine"],
    "rewards": ["reward=imported", "reward.imported=mine"],
    "model": ["train=imported", "train.imported=mine"],
    "answers": ["evaluate.answers=mine"],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_import_is_said_to_be_damaged_until_it_is_imported_again(
    tmp_path: Path, store: Store, kind: str
) -> None:
    path = model_folder(tmp_path / "m") if kind == "model" else write(tmp_path / "rows.jsonl", ROWS[kind])
    folder = bring(store, kind, path).folder
    file = next(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError) as raised:
        make_plan([point(*DAMAGED[kind])], store)
    key = DAMAGED[kind][-1].partition("=")[0]
    assert str(raised.value) == (
        f"{key}: the import 'mine' of {kind} is damaged ({folder}) and must be imported again "
        f"(sweepctl import {kind} FILE --as mine)"
    )
    bring(store, kind, path)
    assert imports.find(store, kind, "mine", key).folder == folder


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_damaged_import_of_two_names_is_mended_by_importing_it_again(
    tmp_path: Path, store: Store, first: str
) -> None:
    path = write(tmp_path / "rows.jsonl", ANSWERS)
    original = bring(store, "answers", path, "one")
    bring(store, "answers", path, "two")
    (original.folder / "answers.parquet").write_bytes(b"")
    for name in ("one", "two"):
        with pytest.raises(ConfigError, match=rf"the import '{name}' of answers is damaged"):
            imports.find(store, "answers", name, "key")
    bring(store, "answers", path, first)
    if first == "one":
        assert imports.find(store, "answers", "two", "key").table("answers").num_rows == 2
    for name in ("one", "two"):
        bring(store, "answers", path, name)
        assert imports.find(store, "answers", name, "key").table("answers").num_rows == 2


@pytest.mark.parametrize(
    ("kind", "override"), [("responses", ["sampler=imported", "sampler.imported=mine"]), ("answers", [])]
)
def test_an_import_about_none_of_the_prompts_is_refused(
    tmp_path: Path, store: Store, kind: str, override: list[str]
) -> None:
    bring(store, kind, write(tmp_path / "a.jsonl", ROWS[kind]))
    with pytest.raises(ConfigError, match=rf"the imported {kind} 'mine' are about none of the 32 prompts"):
        make_plan([point(*(override or ["evaluate.answers=mine"]))], store)


def test_an_imported_model_has_neither_pool_nor_pairs(tmp_path: Path, store: Store) -> None:
    bring(store, "model", model_folder(tmp_path / "m"))
    overrides = ("train=imported", "train.imported=mine")
    plan = make_plan([point(*overrides), point(*overrides, "n=8", "pair=mu_min", "loss.beta=0.2")], store)
    (made,) = plan.points
    assert list(made.nodes) == ["imported", "respond", "judge"]
    counts = {stage: count for stage, count in plan.count().items() if count}
    assert counts == {"imported": 1, "model": 1, "prompts": 1, "respond": 2, "judge": 1}
    assert plan.naive == plan.count()
    settings = {name for name, value in made.settings.items() if value is not None}
    assert {name.split(".")[0] for name in settings} == {"policy", "train", "evaluate", "judge"}
    assert {name for name in settings if name.startswith("train")} == {"train.imported"}


def test_imported_answers_against_given_references_need_no_policy(tmp_path: Path, store: Store) -> None:
    bring(store, "answers", write(tmp_path / "a.jsonl", ANSWERS))
    held_out = write(tmp_path / "held_out.jsonl", [{"prompt": "a"}, {"prompt": "c"}])
    references = write(tmp_path / "r.jsonl", [{"prompt": "a", "answer": "x"}, {"prompt": "c", "answer": "y"}])
    config = point("evaluate.answers=mine", f"evaluate.path={held_out}", f"evaluate.references={references}")
    plan = make_plan([config], store)
    assert {node.stage for node in plan.nodes.values()} == {"imported", "prompts", "respond", "judge"}
    assert used(config)["evaluate.max_new_tokens"] is None


def test_the_name_of_an_import_is_in_no_key(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "c", "answer": "x"}])
    held_out = write(tmp_path / "held_out.jsonl", [{"prompt": "c"}])
    keys = set()
    for name in ("one", "two"):
        bring(store, "answers", path, name)
        plan = make_plan([point(f"evaluate.answers={name}", f"evaluate.path={held_out}")], store)
        keys.add(plan.points[0].nodes["judge"].key)
    assert len(keys) == 1
