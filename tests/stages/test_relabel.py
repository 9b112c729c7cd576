"""Relabelling by goals: what was wrong in the published code, the accounting, and equality with plain pairs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness import chat, goals, tables
from harness.errors import ConfigError, PrefsweepError
from harness.goals import ScaleConfig
from harness.stages import Context, Outcome, pairs, reference, relabel
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, manifest, written
from tests.test_goals import PUBLISHED, QUANTILES
from tests.tiny import TEMPLATE, save_tiny_policy

SPEC = relabel.Spec(
    chosen="max",
    rejected="min",
    n=4,
    score="reward",
    beta=None,
    attributes=(),
    scale=QUANTILES,
    decimals=1,
    half=None,
    constant=None,
    wording=PUBLISHED,
    trust_remote_code=False,
)
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
DROPS_SYSTEM = "{% for m in messages if m['role'] != 'system' %}"
REFERENCE = reference.Spec(max_length=600, dtype="float32", autocast="none", batch_tokens=2048, trust_remote_code=False)


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Policies by whether their chat template has system messages, refuses them, or leaves their text out."""
    body = TEMPLATE.removeprefix("{% for m in messages %}")
    templates = {"system": TEMPLATE, "refuses": NO_SYSTEM + body, "drops": DROPS_SYSTEM + body}
    folder = tmp_path_factory.mktemp("policies")
    return {name: save_tiny_policy(folder / name, template=text) for name, text in templates.items()}


class Policy(Artifact):
    """A model folder that stands where it stands."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, manifest("model", "policy"))
        self.path = path

    @property
    def model_path(self) -> Path:
        return self.path


Rewards = Mapping[str, tuple[float, ...]]
"""Rewards of a prompt's samples; max is the first sample, min the second."""

REWARDS: Rewards = {"a": (9.0, 2.0), "b": (6.0, 5.0), "c": (10.0, 1.0)}


def _picks(rewards: Rewards) -> list[Row]:
    return [
        {"prompt_id": p, "position": name, "sample_index": i, "reward": values[i], "z": 1.0 - 2 * i}
        for p, values in rewards.items()
        for i, name in enumerate(("max", "min"))
    ]


class Bench:
    """Runs the stages from picks to rows on a tiny policy."""

    def __init__(self, tmp_path: Path, policy: Path) -> None:
        self.shelf, self.policy = Shelf(tmp_path), Policy(policy)
        self.tokenizer = AutoTokenizer.from_pretrained(policy)

    def relabel(
        self,
        rewards: Rewards = REWARDS,
        spec: relabel.Spec = SPEC,
        name: str = "work",
        scored: Artifact | None = None,
        **inputs: Artifact,
    ) -> tuple[Outcome, list[Row], Context]:
        self.prompts = self.shelf.prompts({p: f"question {p}" for p in rewards})
        self.picks = self.shelf.put("select", {"picks": (tables.PICKS, _picks(rewards))})
        by_response = {(p, i): r for p, values in rewards.items() for i, r in enumerate(values)}
        inputs |= {"policy": self.policy, "picks": self.picks, "prompts": self.prompts}
        context = self.shelf.context(name, rewards=scored or self.shelf.rewards(by_response), **inputs)
        outcome = relabel.run(context, spec)
        return outcome, written(context, "relabelled"), context

    def pairs(self, rewards: Rewards, relabelled: list[Row] | None, name: str) -> tuple[Outcome, list[Row]]:
        """Rows out of relabelled pairs, or with None out of the plain ones."""
        sampled = self.shelf.put(
            "sample",
            {
                "responses": (tables.RESPONSES, [_response(p, i) for p, v in rewards.items() for i in range(len(v))]),
                "prompt_tokens": (tables.PROMPT_TOKENS, [self._prompt(p) for p in rewards]),
            },
        )
        given: dict[str, Artifact] = {"picks": self.picks}
        if relabelled is not None:
            given["relabelled"] = self.shelf.put("relabel", {"relabelled": (tables.RELABELLED, relabelled)})
        context = self.shelf.context(f"{name}_reference", policy=self.policy, responses=sampled, **given)
        reference.run(context, REFERENCE)
        schema = tables.REFERENCE if relabelled is None else tables.GOAL_REFERENCE
        logps = self.shelf.put(
            "reference", {"reference": (schema, written(context, "reference"))}, spec={}, inputs={"policy": ["0"]}
        )
        context = self.shelf.context(f"{name}_pairs", reference=logps, **given)
        return pairs.run(context, pairs.Spec(chosen="max", rejected="min")), written(context, "pairs")

    def _prompt(self, prompt_id: str) -> Row:
        messages = [{"role": "user", "content": f"question {prompt_id}"}]
        return {"prompt_id": prompt_id, "prompt_ids": chat.encode_prompt(self.tokenizer, messages)}

    def text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))


def _response(prompt_id: str, index: int) -> Row:
    text = f"{index}{prompt_id}"
    ids = [3 + ord(letter) for letter in text]
    return {
        "prompt_id": prompt_id,
        "sample_index": index,
        "text": text,
        "token_ids": ids,
        "tokens": len(ids),
        "finish_reason": "stop",
        "logp": None,
    }


@pytest.fixture(params=["system", "refuses", "drops"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, policies: dict[str, Path]) -> Bench:
    return Bench(tmp_path, policies[request.param])


@pytest.fixture
def one(tmp_path: Path, policies: dict[str, Path]) -> Bench:
    """With system messages only."""
    return Bench(tmp_path, policies["system"])


def test_a_pair_makes_two_rows_and_the_second_is_turned_round(bench: Bench) -> None:
    outcome, rows, _ = bench.relabel()
    assert adds_up(outcome.rows, 6, 6)
    assert [(r["prompt_id"], r["order"], r["chosen_index"], r["rejected_index"], r["goal"]) for r in rows] == [
        ("a", "kept", 0, 1, [9.0]),
        ("a", "reversed", 1, 0, [2.0]),
        ("b", "kept", 0, 1, [6.0]),
        ("b", "reversed", 1, 0, [5.0]),
        ("c", "kept", 0, 1, [10.0]),
        ("c", "reversed", 1, 0, [1.0]),
    ]


def test_every_row_chooses_the_response_whose_score_is_its_goal(bench: Bench) -> None:
    """R(x, y, g) = -(g - r)^2: the chosen response is at the goal, the rejected one away from it."""
    _, rows, _ = bench.relabel()
    for row in rows:
        chosen, rejected = (REWARDS[row["prompt_id"]][row[f"{side}_index"]] for side in ("chosen", "rejected"))
        (goal,) = row["goal"]
        assert -((goal - chosen) ** 2) > -((goal - rejected) ** 2)


def test_the_goal_stands_in_each_prompt_once_and_in_no_response(bench: Bench) -> None:
    """Of the published code the path without a system role has the text twice, and prompt text in a completion."""
    _, relabelled, _ = bench.relabel()
    _, rows = bench.pairs(REWARDS, relabelled, "once")
    assert len(rows) == 6
    for row in rows:
        prompt = bench.text(row["prompt_ids"])
        assert prompt.count(row["goal_text"]) == prompt.count("target scores") == prompt.count("question") == 1
        for side in ("chosen", "rejected"):
            assert row[f"{side}_text"] == f"{row[f'{side}_index']}{row['prompt_id']}"
            assert row[f"{side}_ids"] == _response(row["prompt_id"], row[f"{side}_index"])["token_ids"]


def test_the_text_stands_where_the_chat_template_has_a_place(bench: Bench) -> None:
    outcome, rows, _ = bench.relabel()
    system = "system" in (bench.tokenizer.chat_template or "")
    expected = "user" if system else "system"  # both templates without system messages name the role
    assert outcome.measures["placement"] == expected
    prompt = bench.text(rows[0]["prompt_ids"])
    goal = rows[0]["goal_text"]
    where = (
        f"<|im_start|>system\n{goal}<|im_end|>" if expected == "system" else f"<|im_start|>user\n{goal}\n\nquestion a"
    )
    assert where in prompt


def test_a_place_that_the_chat_template_has_not_is_refused(tmp_path: Path, policies: dict[str, Path]) -> None:
    spec = dataclasses.replace(SPEC, wording=dataclasses.replace(PUBLISHED, placement="system"))
    for number, name in enumerate(("refuses", "drops")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ConfigError, match=r"^construction.placement: with system the policy's chat template"):
            Bench(folder, policies[name]).relabel(spec=spec)


def test_responses_are_joined_by_id_whatever_the_order(one: Bench) -> None:
    _, rows, _ = one.relabel()
    _, again, _ = one.relabel(dict(sorted(REWARDS.items(), reverse=True)), name="again")
    assert rows == again


def test_ties_make_no_rows_and_are_counted(one: Bench) -> None:
    """Also ties of what the text shows: two rows under one prompt with opposite labels never exist."""
    rewards = {**REWARDS, "tie": (4.0, 4.0), "close": (4.02, 4.01)}
    outcome, rows, _ = one.relabel(rewards)
    assert adds_up(outcome.rows, 10, 6, equal_reward=2, equal_goal=2)
    labels = {(r["prompt_id"], r["goal_text"]): r["chosen_index"] for r in rows}
    assert len(labels) == len(rows)


def test_finer_goals_tell_more_responses_apart(one: Bench) -> None:
    rewards = {**REWARDS, "close": (4.02, 4.01)}
    outcome, _, _ = one.relabel(rewards, dataclasses.replace(SPEC, decimals=3))
    assert adds_up(outcome.rows, 8, 8)


def test_the_scale_is_of_the_whole_pool_up_to_n_and_recorded(one: Bench) -> None:
    rewards = {"a": (9.0, 2.0, 20.0, -3.0, 100.0)}  # the fifth is beyond n = 4
    outcome, rows, _ = one.relabel(rewards)
    assert outcome.measures["scale"] == {"Overall": [-3.0, 20.0]}
    assert [r["goal"] for r in rows] == [[5.7], [3.0]]


def test_half_takes_half_of_the_pairs_and_the_same_whatever_else_there_is(one: Bench) -> None:
    rewards = {f"p{i}": (5.0 + i, 1.0) for i in range(9)}
    half = dataclasses.replace(SPEC, half=0)
    outcome, rows, _ = one.relabel(rewards, half)
    assert adds_up(outcome.rows, 18, 10, other_half=8)
    kept = {r["prompt_id"] for r in rows}
    assert [r["order"] for r in rows if r["prompt_id"] == min(kept)] == ["kept", "reversed"]
    _, others, _ = one.relabel(rewards, dataclasses.replace(SPEC, half=1), name="other")
    assert kept != {r["prompt_id"] for r in others}
    _, more, _ = one.relabel({**rewards, "p9": (20.0, 1.0)}, half, name="more")
    assert len(kept - {r["prompt_id"] for r in more}) <= 1


def test_one_constant_goal_is_plain_dpo_with_a_constant_prefix(bench: Bench) -> None:
    rewards = {**REWARDS, "tie": (4.0, 4.0)}
    constant = dataclasses.replace(SPEC, constant=10.0, score=None, scale=None)
    outcome, relabelled, _ = bench.relabel(rewards, constant)
    assert adds_up(outcome.rows, 4, 3, equal_reward=1)
    _, rows = bench.pairs(rewards, relabelled, "constant")
    _, plain = bench.pairs(rewards, None, "plain")
    assert len(rows) == len(plain) == 3
    (text,) = {row["goal_text"] for row in rows}
    assert text == goals.goal_text(PUBLISHED, {"Overall": 10.0})
    for row, other in zip(rows, plain, strict=True):
        own = {"prompt_ids", "goal", "goal_text", "order", "ref_chosen_logp", "ref_rejected_logp"}
        assert {k: v for k, v in row.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
        messages = goals.conditioned(
            [{"role": "user", "content": f"question {row['prompt_id']}"}], text, _placed(bench)
        )
        assert row["prompt_ids"] == chat.encode_prompt(bench.tokenizer, messages)
        assert row["ref_chosen_logp"] != other["ref_chosen_logp"]


def _placed(bench: Bench) -> Any:
    return "user" if "system" in bench.tokenizer.chat_template else "system"


def test_measures_are_those_of_the_pairs_not_of_their_mirror_images(one: Bench) -> None:
    _, relabelled, _ = one.relabel()
    outcome, rows = one.pairs(REWARDS, relabelled, "measures")
    assert adds_up(outcome.rows, 6, 6)
    assert outcome.measures["margin"] == pytest.approx(17 / 3)
    assert outcome.measures["prompts"] == 3
    turned = next(r for r in rows if r["order"] == "reversed")
    assert (turned["chosen_reward"], turned["rejected_reward"]) == (2.0, 9.0)


def test_rows_that_a_boundary_took_are_measured_by_their_pairs_too(one: Bench) -> None:
    """Mirror images would cancel every margin out."""
    _, relabelled, _ = one.relabel()
    outcome, rows = one.pairs(REWARDS, relabelled, "own")
    counts = {"taken": len(rows), "kept": len(rows), "dropped": {}}
    taken = one.shelf.put("pairs", {"pairs": (tables.GOAL_PAIRS, rows)}, rows=counts, content=outcome.content)
    boundary = one.shelf.put("boundary", {}, measures={"stage": "injection"})
    context = one.shelf.context("chosen", boundary=boundary, static=taken)
    chosen = pairs.run(context, pairs.ChosenSpec(between=("static", "on_policy")))
    assert chosen.measures["margin"] == pytest.approx(17 / 3)
    assert outcome.measures.items() <= chosen.measures.items()


def test_a_prompt_that_a_goal_makes_too_long_is_dropped_and_counted(
    one: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, relabelled, _ = one.relabel()
    shortest = min(len(r["prompt_ids"]) for r in relabelled)
    monkeypatch.setattr("tests.stages.test_relabel.REFERENCE", dataclasses.replace(REFERENCE, max_length=shortest + 1))
    outcome, rows = one.pairs(REWARDS, relabelled, "short")
    assert outcome.rows.dropped == {"prompt_fills_max_length": 6 - len(rows)}
    assert outcome.rows.taken == 6
    assert 0 < len(rows) < 6


def _attributes(one: Bench, values: Mapping[tuple[str, int], tuple[float, float]]) -> Artifact:
    rows = [
        {"prompt_id": p, "sample_index": i, "reward": 0.0, "attribute_brief": brief, "attribute_kind": kind}
        for (p, i), (brief, kind) in values.items()
    ]
    return one.shelf.put("score", {"rewards": (tables.rewards_schema(("brief", "kind")), rows)})


def test_goals_of_several_attributes(one: Bench) -> None:
    """Each attribute has a scale of its own; a tie is a tie in all of them; a missing score makes no rows."""
    scores = {
        ("a", 0): (0.0, 50.0),
        ("a", 1): (1.0, 100.0),
        ("b", 0): (0.5, 0.0),
        ("b", 1): (0.5, 0.0),
        ("c", 0): (0.5, float("nan")),
        ("c", 1): (0.5, 0.0),
    }
    spec = dataclasses.replace(SPEC, attributes=("brief", "kind"))
    outcome, rows, _ = one.relabel(REWARDS, spec, scored=_attributes(one, scores))
    assert adds_up(outcome.rows, 6, 2, equal_goal=2, no_score=2)
    assert outcome.measures["scale"] == {"Brief": [0.0, 1.0], "Kind": [0.0, 100.0]}
    assert [r["goal"] for r in rows] == [[1.0, 5.5], [10.0, 10.0]]
    assert rows[0]["goal_text"].endswith("Brief score: 1.\nKind score: 5.5.")


def test_attributes_that_the_rewards_have_not_are_named(one: Bench) -> None:
    spec = dataclasses.replace(SPEC, attributes=("funny",))
    with pytest.raises(ConfigError, match=r"the rewards have no 'funny'; they have no attributes"):
        one.relabel(REWARDS, spec)
    scores = {(p, i): (1.0, 2.0) for p in REWARDS for i in (0, 1)}
    with pytest.raises(ConfigError, match=r"the rewards have no 'funny'; they have brief, kind"):
        one.relabel(REWARDS, spec, "other", scored=_attributes(one, scores))


IMPLICIT = dataclasses.replace(SPEC, score="implicit", beta=0.1)


def _changes(one: Bench, changes: Mapping[tuple[str, int], float], autocast: str = "none") -> Artifact:
    rows = [
        {
            "prompt_id": p,
            "sample_index": i,
            "reward": 0.0,
            "tokens": 1,
            "truncated": False,
            "policy_logp": -100.0,
            "model_logp": change - 100.0,
        }
        for (p, i), change in changes.items()
    ]
    spec = {"dtype": "float32", "autocast": autocast}
    return one.shelf.put("change", {"changes": (tables.CHANGES, rows)}, spec=spec)


def test_an_implicit_reward_is_beta_times_the_change(one: Bench) -> None:
    """The two responses may stand the other way round in it: each is still at its own goal."""
    changes = {("a", 0): 4.0, ("a", 1): 9.0, ("b", 0): 6.0, ("b", 1): 6.0, ("c", 0): 10.0, ("c", 1): 1.0}
    scale = ScaleConfig(rule="range", low=0.1, high=1.0)
    spec = dataclasses.replace(IMPLICIT, scale=scale)
    outcome, rows, _ = one.relabel(REWARDS, spec, changes=_changes(one, changes))
    assert adds_up(outcome.rows, 6, 4, equal_goal=2)
    assert [(r["chosen_index"], r["goal"]) for r in rows] == [(0, [4.0]), (1, [9.0]), (0, [10.0]), (1, [1.0])]


@pytest.mark.parametrize(("step", "autocast"), [(0.0, "none"), (1e-4, "none"), (0.05, "bfloat16")])
def test_no_goals_are_made_of_rounding(one: Bench, step: float, autocast: str) -> None:
    """A model that has hardly moved has implicit rewards that tell responses apart by chance alone."""
    responses = [(p, i) for p in REWARDS for i in (0, 1)]
    hardly = _changes(one, {response: step * place for place, response in enumerate(responses)}, autocast)
    message = r"^construction.score=implicit: .* hardly moved; .* differ by .* nats, .*; train longer \(train.epochs"
    with pytest.raises(PrefsweepError, match=message):
        one.relabel(REWARDS, IMPLICIT, changes=hardly)
    moved = _changes(one, {response: 1.0 * place for place, response in enumerate(responses)}, autocast)
    outcome, _, _ = one.relabel(REWARDS, IMPLICIT, "moved", changes=moved)
    assert outcome.rows.kept == 6


def test_a_response_with_two_scores_is_refused(one: Bench) -> None:
    twice = one.shelf.put(
        "score",
        {
            "rewards": (
                tables.rewards_schema(()),
                [{"prompt_id": "a", "sample_index": 0, "reward": float(i)} for i in range(2)],
            )
        },
    )
    with pytest.raises(PrefsweepError, match="a response has two scores"):
        one.relabel(REWARDS, scored=twice)
