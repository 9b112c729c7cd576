"""Reward-augmented cells: what they share with plain ones, what a setting decides, what is refused; and a real run."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from analysis.__main__ import main as analyse
from analysis.load import load_overlap, load_results
from analysis.unlearning import load_changes
from harness import app, imports
from harness.errors import ConfigError
from harness.exports import preference_rows
from harness.plan import Node, Plan, make_plan
from harness.plan.cells import asked_of
from harness.prompts import prompt_id
from harness.store import Artifact, Store
from tests.analysis.exported import check_export
from tests.artifacts import quiet
from tests.configs import composed, point
from tests.test_candidates import completion

AUGMENTED = "construction=reward_augmented"
CONSTANT = (AUGMENTED, "construction.constant=10")


def keys(plan: Plan, *stages: str) -> set[str]:
    return {key for key, node in plan.nodes.items() if node.stage in stages}


def of(*overrides: str) -> Plan:
    return make_plan([point(*overrides)])


def nodes(plan: Plan, stage: str) -> list[Node]:
    return [node for node in plan.nodes.values() if node.stage == stage]


def test_everything_up_to_the_picks_is_that_of_the_plain_pairs() -> None:
    plain, augmented = of("construction=max_min"), of(AUGMENTED)
    shared = ("model", "prompts", "sample", "score", "select")
    assert keys(plain, *shared) == keys(augmented, *shared)
    assert not keys(plain, "reference", "pairs", "train") & keys(augmented, "reference", "pairs", "train")


@pytest.mark.parametrize("pairs", ["position", "sweet_spot", "max_min"])
def test_pairs_of_every_construction_can_be_relabelled(pairs: str) -> None:
    plan = of(AUGMENTED, f"construction@construction.pairs={pairs}")
    assert keys(plan, "select") == keys(of(f"construction={pairs}"), "select")
    (relabelled,) = nodes(plan, "relabel")
    spec = relabelled.spec
    expected = {"position": ("max", "mu-2s"), "sweet_spot": ("max", "low_draw"), "max_min": ("max", "min")}
    assert (spec.chosen, spec.rejected) == expected[pairs]


@pytest.mark.parametrize(
    ("base", "override", "first"),
    [
        ((AUGMENTED,), "construction.decimals=0", "relabel"),
        ((AUGMENTED,), "construction.scale.high=0.9", "relabel"),
        ((AUGMENTED,), "construction.attributes=[relevance]", "relabel"),
        ((AUGMENTED,), "construction.share=half", "relabel"),
        ((AUGMENTED, "construction.share=half"), "construction.seed=1", "relabel"),
        ((AUGMENTED,), "construction.placement=user", "relabel"),
        ((AUGMENTED,), "construction.ask=9", "respond"),
        ((AUGMENTED,), "construction.ask=null", "respond"),
        ((AUGMENTED,), "construction.ask=10", ""),
        ((AUGMENTED,), "construction.seed=1", ""),
        (CONSTANT, "construction.scale.high=0.9", ""),
        (CONSTANT, "construction.ask=9", ""),
        (CONSTANT, "construction.score=implicit", ""),
    ],
)
def test_a_setting_changes_what_it_decides(base: tuple[str, ...], override: str, first: str) -> None:
    before, after = of(*base), of(*base, override)
    changed = {
        stage for stage in ("select", "relabel", "train", "respond") if keys(before, stage) != keys(after, stage)
    }
    expected = {"relabel": {"relabel", "train", "respond"}, "respond": {"respond"}, "": set()}
    assert changed == expected[first]


def test_goals_of_one_training_are_points_of_their_own() -> None:
    plan = make_plan([point(AUGMENTED, f"construction.ask={ask}") for ask in (3, 6, 9, "max", "null")])
    assert len(plan.points) == 5
    assert plan.count()["train"] == 1
    assert plan.count()["respond"] == 5 + 1  # and the untrained policy's answers, asked without a goal
    (references,) = {made.nodes["judge"].inputs["references"][0].key for made in plan.points}
    assert plan.nodes[references].spec.asked is None
    texts = [made.nodes["respond"].spec.asked for made in plan.points]
    assert [text.text.splitlines()[-1] if text else None for text in texts] == [
        *(f"Overall score: {goal}." for goal in (3, 6, 9, 10)),
        None,
    ]


def test_several_attributes_are_asked_for_together() -> None:
    made = of(AUGMENTED, "construction.attributes=[relevance,non_repetitive]", "construction.ask=7.5").points[0]
    asked = made.nodes["respond"].spec.asked
    assert asked.text.endswith("Relevance score: 7.5.\nNon repetitive score: 7.5.")


def test_a_constant_goal_is_asked_for_and_needs_no_scores() -> None:
    plan = of(AUGMENTED, "construction.constant=4.5")
    assert plan.points[0].nodes["respond"].spec.asked.text.endswith("Overall score: 4.5.")
    (relabelled,) = nodes(plan, "relabel")
    assert set(relabelled.inputs) == {"policy", "picks"}


def test_an_implicit_reward_is_that_of_the_plain_cell_which_is_trained_once() -> None:
    plain, implicit = point("construction=max_min"), point(AUGMENTED, "construction.score=implicit")
    both = make_plan([plain, implicit])
    assert both.count()["train"] == 2
    (trained,) = nodes(make_plan([plain]), "train")
    (relabelled,) = nodes(both, "relabel")
    (changes,) = relabelled.inputs["changes"]
    assert changes.inputs["model"][0].key == trained.key
    assert set(relabelled.inputs) == {"policy", "picks", "changes"}


def test_common_rows_are_those_of_the_pairs() -> None:
    settings = ("construction.rows=common",), (AUGMENTED, "construction.pairs.rows=common")
    plan = make_plan([point("construction=max_min", *settings[0]), point(*settings[1])])
    for made in plan.points:
        assert len(made.nodes["pairs"].inputs["others"]) == 2


def test_unlearning_stands_beside_a_point_and_is_no_part_of_it() -> None:
    without, measured = of(AUGMENTED), of(AUGMENTED, "unlearning.samples=12")
    assert without.points[0].id == measured.points[0].id
    assert without.nodes.keys() < measured.nodes.keys()
    change = measured.points[0].beside["change"]
    assert change.inputs["model"] == (measured.points[0].nodes["train"],)
    assert change.spec.asked == measured.points[0].nodes["respond"].spec.asked
    # Held-out responses are the same for every cell.
    other = of("construction=max_min", "unlearning.samples=12").points[0].beside["change"]
    assert [n.key for n in change.inputs["responses"]] == [n.key for n in other.inputs["responses"]]
    assert other.spec.asked is None


def test_unlearning_of_a_later_rounds_adapters_is_that_of_the_model_they_stand_on() -> None:
    first, second = of("train=lora", "rounds.path=[on_policy,on_policy]", "unlearning.samples=12").points
    assert first.beside["change"].inputs["model"] == (first.nodes["train"],)
    change = second.beside["change"]
    (model,) = change.inputs["model"]
    assert model.stage == "model"
    assert model.inputs["adapters"] == (second.nodes["train"],)
    assert change.inputs["policy"] == first.beside["change"].inputs["policy"]


def test_unlearning_is_one_choice_for_a_command() -> None:
    with pytest.raises(ConfigError, match=r"^unlearning: one choice for all points"):
        make_plan([point("unlearning.samples=4"), point("pair=max_min")])


def test_a_model_that_was_imported_is_asked_without_a_goal() -> None:
    assert asked_of(point(AUGMENTED, "train.imported=mine")) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["construction.ask=11"], r"^construction.ask: 11 is outside the scale of goals, 1 to 10"),
        (["construction.ask=0"], r"^construction.ask: 0 is outside the scale of goals, 1 to 10"),
        (["construction.ask=7.25"], r"^construction.ask: 7.25 has more decimals than construction.decimals=1"),
        (["construction.ask=most"], r"^construction.ask: 'most' is not valid; expected a number, or one of max$"),
        (
            ["construction@construction.pairs=ranking"],
            r"^construction.pairs.name: 'ranking' is not valid; choose one of position, max_min, sweet_spot$",
        ),
        (
            ["construction@construction.pairs=reward_augmented"],
            r"^construction.pairs.name: 'reward_augmented' is not valid; choose one of position, max_min, sweet_spot$",
        ),
        (["construction.constant=0.5"], r"^construction.constant: 0.5 is outside the scale of goals"),
        (["construction.decimals=4"], r"^construction.decimals: expected 0 to 3, got 4"),
        (["construction.scale.rule=given"], r"^construction.scale: low and high would do nothing with rule=given"),
        (["construction.scale.low=0.99"], r"^construction.scale: expected low < high with rule=quantiles"),
        (["construction.scale.high=2"], r"^construction.scale: expected quantiles from 0 to 1"),
        (
            ["construction.scale.rule=range", "construction.scale.low=null"],
            r"^construction.scale: expected low < high with rule=range, got low = None",
        ),
        (["construction.text=a goal"], r"^construction.text: expected {scores} in it once, got 'a goal'"),
        (["construction.line=a goal"], r"^construction.line: expected {score} in it once, got 'a goal'"),
        (
            ["construction.line='{score}'", "construction.attributes=[relevance,non_repetitive]"],
            r"^construction.line: expected {name} in it once",
        ),
        (["construction.attributes=[finished,finished]"], r"^construction.attributes: two of finished, finished read"),
        (
            ["construction.attributes=[finished]", "construction.score=implicit"],
            r"^construction.attributes: an implicit reward has none",
        ),
        (["construction.pairs.ddof=2"], r"^construction.pairs.ddof: expected a value from 0 to 1, got 2"),
        (["unlearning.samples=-1"], r"^unlearning.samples: -1 is out of range"),
        (
            ["unlearning.samples=4", "reward=imported", "reward.imported=mine"],
            r"^unlearning.samples: reward.engine=imported has nothing for held-out responses",
        ),
    ],
)
def test_bad_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        point(AUGMENTED, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"the stage score gives no 'funny' with reward.engine=embedded; this reward has relevance"),
        (
            ["reward=shorter"],
            r"the stage score gives no 'funny' with reward.engine=length; this reward has tokens, words",
        ),
        (["reward=armorm"], r"with reward.engine=armorm; this reward has helpsteer-helpfulness"),
        (
            ["reward=skywork_llama3_1_8b_v0_2"],
            r"with reward.engine=sequence_classification; reward=embedded or armorm has some",
        ),
    ],
)
def test_attributes_that_no_stage_gives_are_refused_before_any_work(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^construction.attributes: .*{message}"):
        make_plan([point(AUGMENTED, "construction.attributes=[funny]", *overrides)])


def test_attributes_that_static_data_have_not_are_refused_before_any_work(tmp_path: Path) -> None:
    static = (AUGMENTED, "construction@construction.pairs=static", "candidates.rewards=data")
    with pytest.raises(
        ConfigError, match=r"^construction.attributes: the static data have no 'funny'; candidates.rewards"
    ):
        make_plan([point(*static, "construction.attributes=[funny]")])
    path = tmp_path / "flan.jsonl"
    completions = [completion("Four.", 9.0), completion("Five.", 2.0)]
    path.write_text(json.dumps({"source": "flan", "instruction": "Two and two?", "completions": completions}) + "\n")
    published = [f"{group}=ultrafeedback" for group in ("prompts", "candidates")]
    published += [f"{group}.path={path}" for group in ("prompts", "candidates")]
    with pytest.raises(ConfigError, match=r"'funny'; they have instruction_following, honesty, truthfulness, helpful"):
        make_plan([point(*static, *published, "construction.attributes=[honesty,funny]")])
    assert make_plan([point(*static, *published, "construction.attributes=[honesty]")]).count()["relabel"] == 1


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (
            {},
            r"the imported rewards 'mine' have no 'funny'; the stage score gives some with reward=embedded or armorm$",
        ),
        ({"attribute_brief": 1.0}, r"the imported rewards 'mine' have no 'funny'; they have brief$"),
    ],
)
def test_attributes_that_were_not_imported_are_refused_before_any_work(
    tmp_path: Path, further: dict[str, float], message: str
) -> None:
    store, path = Store(tmp_path / "store").prepare(), tmp_path / "rewards.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "sample_index": 0, "reward": 1.0, **further}) + "\n")
    imports.bring(store, "rewards", path, "mine", quiet())
    imported = ("reward=imported", "reward.imported=mine")
    with pytest.raises(ConfigError, match=rf"^construction.attributes: {message}"):
        make_plan([point(AUGMENTED, "construction.attributes=[funny]", *imported)], store)


def small(policy: Path, store: Path) -> list[str]:
    return [
        *("policy=local", f"policy.id={policy}", "reward=shorter", "judge=shorter", f"store={store}", "n=8"),
        *("prompts.limit=4", "evaluate.limit=3", "sampler.max_new_tokens=16", "evaluate.max_new_tokens=4"),
        *("sampler.max_prompt_tokens=600", "evaluate.max_prompt_tokens=600", "train=lora", "train.epochs=1"),
        *(
            "train.max_length=1000",
            "train.global_batch=4",
            "train.micro_batch=4",
            "train.warmup_ratio=0",
            "unlearning.samples=4",
        ),
        *("sweep=goals", "reward.weights.words=-0.001", "+reward.weights.tokens=-1.0"),
    ]


@pytest.fixture(scope="module")
def finished(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Plain DPO, reward-augmented data asked for 3 and 9, and those of the implicit reward, on a tiny policy."""
    folder = tmp_path_factory.mktemp("goals") / "store"
    cells = (
        ("construction=max_min",),
        (AUGMENTED, "construction.ask=3"),
        (AUGMENTED, "construction.ask=9"),
        (AUGMENTED, "construction.score=implicit"),
    )
    assert app.run([composed(*cell, *small(tiny_policy, folder)) for cell in cells]) == 0
    return Store(folder)


def all_of(store: Store, stage: str) -> list[Artifact]:
    found = [json.loads((f / "manifest.json").read_text())["key"] for f in store.folders(stage)]
    artifacts = [store.find(stage, key) for key in found]
    return [artifact for artifact in artifacts if artifact is not None]


def test_every_cell_is_judged_and_the_goals_share_a_training(finished: Store) -> None:
    results = load_results(finished.root, "goals")
    assert results["status"].tolist() == ["done"] * 4
    own = results[results["construction.name"] == "reward_augmented"]
    assert own["cell"].nunique() == 2
    assert own["trained_id"].nunique() == 3  # asked for another goal, the same model is another experiment
    assert set(own["construction.ask"]) == {3.0, 9.0, "max"}
    plain = results[results["construction.name"] == "max_min"].iloc[0]
    assert (own["rows"] <= 2 * plain["rows"]).all()
    assert (own["rows"] == 2 * own["prompts"]).all()
    assert (own["margin"] > 0).all()


def test_rows_with_a_goal_are_other_rows(finished: Store) -> None:
    results = load_results(finished.root, "goals").drop_duplicates("cell").set_index("cell")
    overlap = load_overlap(finished.root, "goals")
    assert set(overlap.index) == set(results.index)
    plain = results.index[results["construction.name"] == "max_min"][0]
    assert overlap.at[plain, plain] == 1
    assert (overlap.drop(index=plain)[plain] == 0).all()


def test_no_text_is_tokenised_twice(finished: Store) -> None:
    """Response ids are the pool's; a prompt's are those of its messages under its goal, by the chat template."""
    pool = {
        (r["prompt_id"], r["sample_index"]): r["token_ids"]
        for artifact in all_of(finished, "sample")
        for r in artifact.table("responses").to_pylist()
    }
    augmented = [a for a in all_of(finished, "pairs") if "relabelled" in a.manifest.inputs]
    assert len(augmented) == 2
    for artifact in augmented:
        for row in artifact.table("pairs").to_pylist():
            for side in ("chosen", "rejected"):
                assert row[f"{side}_ids"] == pool[row["prompt_id"], row[f"{side}_index"]]


def test_exported_rows_carry_their_goal(finished: Store, tiny_policy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    pairs = next(a for a in all_of(finished, "pairs") if "relabelled" in a.manifest.inputs)
    rows = preference_rows(finished, pairs)
    tokens = {(r["prompt_id"], r["goal_text"]): r["prompt_ids"] for r in pairs.table("pairs").to_pylist()}
    assert len(rows) == pairs.manifest.rows["kept"] == len(tokens)
    for row in rows:
        goal, *rest = row["prompt"]
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        assert ids == tokens[row["prompt_id"], goal["content"]]
        assert prompt_id(rest, "prompt") == row["prompt_id"]


def test_the_report_shows_what_was_unlearnt(finished: Store, tmp_path: Path) -> None:
    changes = load_changes(finished.root, "goals")
    assert changes.groupby("result").size().tolist() == [12] * 4
    check_export(finished.root, tmp_path / "export", "goals")
    assert analyse(["report", "--store", str(finished.root), "--sweep", "goals", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## Unlearning" in text
    assert (tmp_path / "out" / "unlearning.csv").exists()


def test_answers_say_what_they_were_asked_for(finished: Store) -> None:
    asked = [a for a in all_of(finished, "respond") if a.manifest.spec.get("asked")]
    assert len(asked) == 3
    for artifact in asked:
        assert artifact.manifest.measures["placement"] == "system"
    instructions = {
        tuple(pq.read_table(next((a.folder / "answers").glob("*.parquet"))).column("instruction").to_pylist())
        for a in all_of(finished, "respond")
    }
    assert all("target scores" not in text for texts in instructions for text in texts)  # the judge reads no goal


def test_the_same_command_again_does_nothing(finished: Store, tiny_policy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*.parquet")}
    assert app.run([composed(AUGMENTED, "construction.ask=9", *small(tiny_policy, finished.root))]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.root.rglob("*.parquet")} == before
