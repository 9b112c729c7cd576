"""The pairs stage: each reason to drop a row, the accounting, and the hash of what training sees."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import tables
from harness.errors import PrefsweepError
from harness.keys import digest
from harness.stages import Context, Outcome
from harness.stages.pairs import SOURCES, ChosenSpec, MixedSpec, Spec, is_static_row, run
from harness.stages.select import nth
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, written

SPEC = Spec(chosen="max", rejected="min")
REFERENCE: dict[str, Any] = {"spec": {"max_length": 64}, "inputs": {"policy": ["0123"]}}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def pick(prompt_id: str, position: str, index: int, reward: float) -> Row:
    return {"prompt_id": prompt_id, "position": position, "sample_index": index, "reward": reward, "z": reward / 2}


def response(prompt_id: str, index: int, text: str, logp: float = -3.0) -> Row:
    return {
        "prompt_id": prompt_id,
        "sample_index": index,
        "text": text,
        "prompt_ids": [1, 2],
        "response_ids": [ord(c) for c in text],
        "finish_reason": "stop",
        "truncated": False,
        "logp": logp,
    }


def pair(prompt_id: str, chosen: tuple[int, float] = (0, 2.0), rejected: tuple[int, float] = (1, 1.0)) -> list[Row]:
    return [pick(prompt_id, "max", *chosen), pick(prompt_id, "min", *rejected), pick(prompt_id, "mu", 2, 1.5)]


def two(prompt_id: str, *texts: str, logp: float = -3.0) -> list[Row]:
    return [response(prompt_id, i, text, logp) for i, text in enumerate(texts or ("good", "bad"))]


def make(
    shelf: Shelf,
    picks: list[Row],
    responses: list[Row],
    name: str = "work",
    reference: Mapping[str, Any] = REFERENCE,
    others: tuple[Artifact, ...] = (),
    spec: Spec = SPEC,
) -> tuple[Outcome, Context]:
    context = shelf.context(
        name,
        picks=shelf.put("select", {"picks": (tables.PICKS, picks)}),
        reference=shelf.put("reference", {"reference": (tables.REFERENCE, responses)}, **reference),
        **({"others": others} if others else {}),
    )
    return run(context, spec), context


def test_a_row_joins_picks_tokens_and_log_probabilities(shelf: Shelf) -> None:
    responses = [response("a", 1, "bad", -7.0), response("a", 0, "good", -4.0), response("b", 0, "other")]
    outcome, context = make(shelf, pair("a"), responses)
    assert adds_up(outcome.rows, 1, 1)
    assert written(context, "pairs") == [
        {
            "prompt_id": "a",
            "prompt_ids": [1, 2],
            "chosen_index": 0,
            "chosen_text": "good",
            "chosen_ids": [103, 111, 111, 100],
            "chosen_reward": 2.0,
            "chosen_z": 1.0,
            "rejected_index": 1,
            "rejected_text": "bad",
            "rejected_ids": [98, 97, 100],
            "rejected_reward": 1.0,
            "rejected_z": 0.5,
            "ref_chosen_logp": -4.0,
            "ref_rejected_logp": -7.0,
        }
    ]
    expected = {"chosen_z": 1.0, "rejected_z": 0.5, "chosen_reward": 2.0, "rejected_reward": 1.0, "margin": 1.0}
    assert outcome.measures == {**expected, "chosen_tokens": 4.0, "rejected_tokens": 3.0}


def test_other_positions_make_other_rows(shelf: Shelf) -> None:
    responses = [*two("a"), response("a", 2, "middling")]
    _, context = make(shelf, pair("a"), responses, spec=Spec(chosen="mu", rejected="min"))
    assert [(r["chosen_index"], r["rejected_index"]) for r in written(context, "pairs")] == [(2, 1)]


@pytest.mark.parametrize(
    ("reason", "picks", "responses"),
    [
        ("same_response", pair("x", (0, 2.0), (0, 2.0)), two("x")),
        ("same_response", pair("x", (0, 2.0), (0, 2.0)), []),
        ("equal_text", pair("x"), two("x", "same", "same")),
        ("equal_reward", pair("x", (0, 2.0), (1, 2.0)), two("x")),
        ("chosen_below_rejected", pair("x", (0, 1.0), (1, 2.0)), two("x")),
        ("prompt_fills_max_length", pair("x"), []),
        ("prompt_fills_max_length", pair("x"), two("x", "only the chosen one")),
    ],
)
def test_a_row_is_dropped_for_a_named_reason(shelf: Shelf, reason: str, picks: list[Row], responses: list[Row]) -> None:
    outcome, context = make(shelf, [*picks, *pair("good")], [*responses, *two("good")])
    assert adds_up(outcome.rows, 2, 1, **{reason: 1})
    assert [r["prompt_id"] for r in written(context, "pairs")] == ["good"]


def test_reasons_are_counted_apart_and_add_up(shelf: Shelf) -> None:
    picks = [*pair("a"), *pair("b", (0, 1.0), (0, 1.0)), *pair("c", (0, 1.0), (0, 1.0)), *pair("d")]
    outcome, _ = make(shelf, picks, [*two("a"), *two("b"), *two("c"), *two("d", "t", "t")])
    assert adds_up(outcome.rows, 4, 1, same_response=2, equal_text=1)


def test_a_cell_may_have_no_rows(shelf: Shelf) -> None:
    outcome, context = make(shelf, pair("a", (0, 1.0), (0, 1.0)), two("a"))
    assert adds_up(outcome.rows, 1, 0, same_response=1)
    assert written(context, "pairs") == []
    assert outcome.measures == {}


def test_common_rows_are_those_that_every_cell_kept(shelf: Shelf) -> None:
    kept = []
    for name, prompts in {"one": "abc", "other": "bcd"}.items():
        picks = [row for p in prompts for row in pair(p)]
        _, context = make(shelf, picks, [row for p in prompts for row in two(p)], name=name)
        kept.append(shelf.put("pairs", {"pairs": (tables.PAIRS, written(context, "pairs"))}))
    picks = [row for p in "abcde" for row in pair(p)]
    picks[12:] = pair("e", (0, 1.0), (0, 1.0))
    responses = [row for p in "abcde" for row in two(p)]
    empty = shelf.put("pairs", {"pairs": (tables.PAIRS, [])})  # no experiment, so without a say
    outcome, context = make(shelf, picks, responses, others=(*kept, empty))
    assert adds_up(outcome.rows, 5, 2, not_common=2, same_response=1)
    assert [r["prompt_id"] for r in written(context, "pairs")] == ["b", "c"]


def content(shelf: Shelf, name: str, picks: list[Row], responses: list[Row], **reference: Any) -> str | None:
    return make(shelf, picks, responses, name, {**REFERENCE, **reference})[0].content


def test_equal_rows_have_equal_content_whatever_else_differs(shelf: Shelf) -> None:
    base = content(shelf, "base", [*pair("a"), *pair("b")], [*two("a"), *two("b")])
    assert base
    reordered = content(shelf, "reordered", [*pair("b"), *pair("a")], [*two("b"), *two("a")])
    rounded = content(shelf, "rounded", [*pair("a"), *pair("b")], [*two("a", logp=-3.0000001), *two("b")])
    rescored = content(shelf, "rescored", [*pair("a", (0, 9.0)), *pair("b")], [*two("a"), *two("b")])
    more_dropped = [*pair("a"), *pair("b"), *pair("c", (0, 1.0), (0, 1.0))]
    dropped = content(shelf, "dropped", more_dropped, [*two("a"), *two("b")])
    assert base == reordered == rounded == rescored == dropped


def test_content_differs_where_training_would(shelf: Shelf) -> None:
    contents = {
        content(shelf, "base", pair("a"), two("a")),
        content(shelf, "other text", pair("a"), two("a", "good", "worse")),
        content(shelf, "swapped", pair("a"), two("a", "bad", "good")),
        content(shelf, "other prompt", pair("b"), two("b")),
        content(shelf, "more rows", [*pair("a"), *pair("b")], [*two("a"), *two("b")]),
        content(shelf, "truncation", pair("a"), two("a"), spec={"max_length": 32}),
        content(shelf, "version", pair("a"), two("a"), stage_version=2),
        content(shelf, "policy", pair("a"), two("a"), inputs={"policy": ["4567"]}),
        content(shelf, "empty", pair("a", (0, 1.0), (0, 1.0)), two("a")),
    }
    assert len(contents) == 9


def test_several_pairs_of_a_prompt_share_no_response(shelf: Shelf) -> None:
    def several(prompt_id: str, *places: tuple[str, int]) -> list[Row]:
        return [pick(prompt_id, name, index, {0: 4.0, 1: 3.0, 2: 2.0, 3: 1.0}[index]) for name, index in places]

    names = ("max", "max#2", "max#3", "min", "min#2", "min#3")
    picks = several("a", *zip(names, (0, 1, 2, 3, 2, 1), strict=True))
    picks += several("b", ("max", 0), ("max#2", 1), ("min", 1), ("min#2", 0))
    responses = [response(p, i, f"text {i}") for p in "ab" for i in range(4)]
    given = Spec(chosen="max", rejected="min", pairs_per_prompt=3)
    outcome, context = make(shelf, picks, responses, spec=given)
    rows = [(r["prompt_id"], r["chosen_index"], r["rejected_index"]) for r in written(context, "pairs")]
    assert rows == [("a", 0, 3), ("a", 1, 2), ("b", 0, 1)]
    assert adds_up(outcome.rows, 6, 3, chosen_below_rejected=2, no_response_at_position=1)
    assert outcome.measures["prompts"] == 2
    nearer = several("c", ("max", 0), ("max#2", 1), ("min", 3), ("min#2", 3))
    twice = Spec(chosen="max", rejected="min", pairs_per_prompt=2)
    outcome, _ = make(shelf, nearer, [response("c", i, f"text {i}") for i in range(4)], "nearer", spec=twice)
    assert adds_up(outcome.rows, 2, 1, response_in_nearer_pair=1)


def test_rows_of_too_little_margin_are_dropped(shelf: Shelf) -> None:
    picks = [*pair("a"), *pair("b", (0, 2.0), (1, 1.25)), *pair("c", (0, 1.0), (1, 1.0))]
    responses = [*two("a"), *two("b"), *two("c")]
    given = Spec(chosen="max", rejected="min", min_margin=1.0)
    outcome, context = make(shelf, picks, responses, spec=given)
    assert adds_up(outcome.rows, 3, 1, below_min_margin=1, equal_reward=1)
    assert [r["prompt_id"] for r in written(context, "pairs")] == ["a"]


def test_mixed_rows_take_each_prompt_from_its_own_source_alone(shelf: Shelf) -> None:
    ids = [digest(["prompt", i]) for i in range(40)]
    spec = MixedSpec(chosen="max", rejected="min", static_share=0.5, seed=3)
    drawn = {i for i in ids if is_static_row(spec, i)}
    own, given = ids[:30], ids[10:]  # some prompts only the one source has, some only the other
    on_policy, static = (
        {
            "picks": shelf.put("select", {"picks": (tables.PICKS, [row for i in there for row in pair(i)])}),
            "reference": shelf.put(
                "reference",
                {
                    "reference": (
                        tables.REFERENCE,
                        [row for i in there for row in two(i, f"{name} good", f"{name} bad")],
                    )
                },
                **REFERENCE,
            ),
        }
        for name, there in (("own", own), ("static", given))
    )
    context = shelf.context(**{name: [on_policy[name], static[name]] for name in ("picks", "reference")})
    outcome = run(context, spec)
    rows = {r["prompt_id"]: r for r in written(context, "pairs")}
    expected = {i: "own" for i in own if i not in drawn} | {i: "static" for i in given if i in drawn}
    assert {i: r["chosen_text"].split()[0] for i, r in rows.items()} == expected
    assert {i: r["rejected_text"].split()[0] for i, r in rows.items()} == expected
    assert 0 < len(expected) < 40  # a prompt that its source lacks has no row of the other
    counted = {name: outcome.measures[f"{name}_rows"] for name in SOURCES}
    assert counted == {
        source: list(expected.values()).count(name) for source, name in zip(SOURCES, ("own", "static"), strict=True)
    }
    assert adds_up(outcome.rows, len(expected), sum(counted.values()))
    sources = {r["prompt_id"]: (r["source"], r["dropped"]) for r in written(context, "sources")}
    assert sources == {i: ("static" if name == "static" else "on_policy", None) for i, name in expected.items()}


def test_a_mixed_prompt_with_a_row_is_not_said_to_be_dropped_whichever_of_its_pairs_made_it(shelf: Shelf) -> None:
    spec = MixedSpec(chosen="max", rejected="min", pairs_per_prompt=2, static_share=0.5, seed=3)
    ids = [digest(["prompt", i]) for i in range(20)]
    one = next(i for i in ids if not is_static_row(spec, i))
    places = [("max", 0, 1.0), ("min", 1, 1.0), (nth("max", 2), 2, 2.0), (nth("min", 2), 3, 0.0)]
    picks = [pick(one, position, index, reward) for position, index, reward in places]
    texts = [response(one, index, f"text {index}") for _, index, _ in places]
    there, nothing = (
        (
            shelf.put("select", {"picks": (tables.PICKS, rows)}),
            shelf.put("reference", {"reference": (tables.REFERENCE, responses)}, **REFERENCE),
        )
        for rows, responses in ((picks, texts), ([], []))
    )
    context = shelf.context(picks=[there[0], nothing[0]], reference=[there[1], nothing[1]])
    outcome = run(context, spec)
    assert adds_up(outcome.rows, 2, 1, equal_reward=1)
    assert [(r["prompt_id"], r["dropped"]) for r in written(context, "sources")] == [(one, None)]


def test_rows_of_a_round_carry_their_policys_own_log_probabilities_by_id(shelf: Shelf) -> None:
    own = [response("b", 1, "bad", -1.5), response("a", 1, "bad", -7.5), response("a", 0, "good", -4.5)]
    own += [response("b", 0, "good", -2.5)]
    context = shelf.context(
        picks=shelf.put("select", {"picks": (tables.PICKS, pair("a") + pair("b"))}),
        reference=shelf.put("reference", {"reference": (tables.REFERENCE, two("a") + two("b"))}, **REFERENCE),
        initial=shelf.put("reference", {"reference": (tables.REFERENCE, own)}),
    )
    assert adds_up(run(context, SPEC).rows, 2, 2)
    sides = ("initial_chosen_logp", "initial_rejected_logp", "ref_chosen_logp")
    assert [[row[name] for name in sides] for row in written(context, "pairs")] == [
        [-4.5, -7.5, -3.0],
        [-2.5, -1.5, -3.0],
    ]


def chosen_by(shelf: Shelf, stage: str | None, name: str, **others: Any) -> tuple[Outcome, Context]:
    """Rows of prompt a are static, those of b and c on-policy."""
    measures = {"stage": stage, "on_share": 0.4, "low": 0.3, "high": 0.55}
    branches = {}
    for data, prompts in (("static", "a"), ("on_policy", "bc")):
        picks = [row for prompt_id in prompts for row in pair(prompt_id)]
        outcome, context = make(shelf, picks, [row for p in prompts for row in two(p)], f"{name}-{data}")
        rows = (tables.PAIRS, written(context, "pairs"))
        facts = {"taken": outcome.rows.taken, "kept": outcome.rows.kept, "dropped": dict(outcome.rows.dropped)}
        inputs = {"reference": [context.input("reference").manifest.key]}
        branches[data] = shelf.put("pairs", {"pairs": rows}, content=outcome.content, rows=facts, inputs=inputs)
    context = shelf.context(name, boundary=shelf.put("judge", {}, measures=measures), **branches, **others)
    return run(context, ChosenSpec(between=("static", "on_policy"))), context


@pytest.mark.parametrize(("stage", "ids"), [("injection", ["a"]), ("fine_tuning", ["b", "c"])])
def test_a_boundary_takes_the_rows_of_its_stage_as_if_they_had_been_named(
    shelf: Shelf, stage: str, ids: list[str]
) -> None:
    outcome, context = chosen_by(shelf, stage, "work")
    assert [row["prompt_id"] for row in written(context, "pairs")] == ids
    assert adds_up(outcome.rows, len(ids), len(ids))
    data = {"injection": "static", "fine_tuning": "on_policy"}[stage]
    assert outcome.content == context.input(data).manifest.content_id
    assert outcome.measures["data"] == data
    assert (outcome.measures["boundary_on_share"], outcome.measures["boundary_stage"]) == (0.4, stage)
    assert outcome.measures["margin"] == 1.0


def test_rows_that_a_boundary_took_are_those_that_all_cells_have(shelf: Shelf) -> None:
    other = shelf.put("pairs", {"pairs": (tables.PAIRS, written(make(shelf, pair("b"), two("b"), "b")[1], "pairs"))})
    outcome, context = chosen_by(shelf, "fine_tuning", "work", others=(other,))
    assert [row["prompt_id"] for row in written(context, "pairs")] == ["b"]
    assert adds_up(outcome.rows, 2, 1, not_common=1)
    assert outcome.content != context.input("on_policy").manifest.content_id
    # A cell whose data are named trains on the very rows: one of the two is trained.
    picks, responses = [*pair("b"), *pair("c")], [*two("b"), *two("c")]
    named, _ = make(shelf, picks, responses, "named", others=(other,))
    assert outcome.content == named.content


def test_rows_whose_log_probabilities_have_left_the_store_are_an_experiment_of_their_own(shelf: Shelf) -> None:
    other = shelf.put("pairs", {"pairs": (tables.PAIRS, written(make(shelf, pair("b"), two("b"), "b")[1], "pairs"))})
    _, context = chosen_by(shelf, "fine_tuning", "first", others=(other,))
    for folder in shelf.store.folders("reference"):
        shutil.rmtree(folder)
    again = dataclasses.replace(context, work=shelf.context("again").work)
    assert run(again, ChosenSpec(between=("static", "on_policy"))).content is None


@pytest.mark.parametrize("stage", [None, "other"])
def test_a_boundary_that_names_no_stage_takes_no_rows(shelf: Shelf, stage: str | None) -> None:
    with pytest.raises(PrefsweepError, match="expected one of injection, fine_tuning; name the round's data"):
        chosen_by(shelf, stage, "work")


def test_log_probabilities_under_equal_policies_are_equal_content(shelf: Shelf) -> None:
    """A policy that was trained twice has one content, though two keys; of any other the content is the key."""
    contents = [
        make(shelf, pair("a"), two("a"), name, {**REFERENCE, "inputs": {"policy": [key]}, "measures": measures})[0]
        for name, key, measures in (
            ("plain", "0123", {}),
            ("trained", "aaaa", {"policy": ["0123"]}),
            ("again", "bbbb", {"policy": ["0123"]}),
            ("other", "cccc", {"policy": ["4567"]}),
        )
    ]
    plain, trained, again, other = (outcome.content for outcome in contents)
    assert plain == trained == again != other
