"""Which figures a report has of the data behind its cells: those that the store has data for, and no others."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.answers import ANSWERS
from analysis.beside import beside_win_rates
from analysis.estimates import estimate_cells, preference_table
from analysis.load import load_results, load_verdicts
from analysis.report import Frames
from analysis.report.data_drawings import by_kind
from analysis.report.drawings import FIGURES, Analysed, Drawing, plan_figures, reasons
from analysis.report.frames import largest, same_rewards
from tests.analysis.test_data_figures import changes, shares
from tests.benchmarks.synthetic_store import Shape, build

SHAPE = Shape(
    pairs=(("max", "min"), ("max", "mu-2s")), sizes=(8, 16), policies=2, seeds=1, prompts=6, instructions=10, missing=1
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    root = tmp_path_factory.mktemp("synthetic") / "store"
    build(root, SHAPE)
    return analysed(root)


def analysed(root: Path) -> Analysed:
    results = load_results(root)
    table = preference_table(results, load_verdicts(root))
    cells = estimate_cells(results, table)
    beside = beside_win_rates(cells, pd.DataFrame(columns=list(ANSWERS)))
    return Analysed(
        cells=cells, table=table, beside=beside, provenance={"sweep": "x"}, results=results, frames=Frames(root)
    )


def drawings(found: Analysed) -> list[Drawing]:
    return plan_figures(found)[0]


def kinds(found: Analysed) -> list[str]:
    return [drawing.stem.split("-")[0] for drawing in drawings(found)]


def test_a_store_has_the_figures_that_it_has_data_for(found: Analysed) -> None:
    names = kinds(found)
    # One for each policy; costs are those of the whole sweep. No boundary was measured, and no change.
    assert [names.count(name) for name in ("rewards", "normality", "training", "costs")] == [2, 2, 2, 1]
    assert not {"on_share", "unlearning"} & set(names)


def test_each_is_drawn_of_its_own_policy(found: Analysed) -> None:
    for drawing in drawings(found):
        if drawing.stem.startswith(("rewards", "normality", "training")):
            axes = drawing.draw(width=3.4)
            (other,) = {"synthetic-0", "synthetic-1"} - {drawing.setting["policy.name"]}
            words = " ".join(text.get_text() for text in axes.figure.texts)
            assert drawing.setting["policy.name"] in words
            assert other not in words


def test_nothing_is_drawn_of_what_is_not_given(found: Analysed) -> None:
    bare = Analysed(cells=found.cells, table=found.table, beside=found.beside, provenance=None)
    assert not {"rewards", "normality", "training", "unlearning", "on_share", "costs"} & set(kinds(bare))


def test_the_report_says_which_figures_it_has_not(found: Analysed) -> None:
    frames = Frames("unused")
    loaded = found.frames
    assert loaded is not None
    nothing = {name: getattr(loaded, name)[:0] for name in ("picks", "spreads", "training", "costs", "on_share")}
    frames.__dict__ |= nothing
    given = replace(found, frames=frames, changes=changes(1)[:0])
    said = reasons(plan_figures(given)[1])
    for reason in (
        "nothing was picked by a reward",
        "no prompt has the 8 rewards that its test needs",
        "no cell that is done was trained here",
        "unlearning.samples",
        "boundary=measured",
        "nothing is done yet",
    ):
        assert sum(reason in line for line in said) == 1
    assert not {"rewards", "normality", "training", "unlearning", "on_share", "costs"} & set(kinds(given))


def test_changes_and_shares_have_figures_where_they_were_measured(found: Analysed) -> None:
    frames = Frames("unused")
    two = pd.concat([shares(), shares().assign(label="shorter")])
    assert found.frames is not None
    # What is set is not loaded.
    frames.__dict__ |= {name: getattr(found.frames, name)[:0] for name in ("picks", "spreads", "training", "costs")}
    frames.__dict__["on_share"] = two
    names = [name for names in found.cells["results"] for name in names]
    measured = changes(2).replace({"result": {"r0": names[0], "r1": names[1]}})
    given = Analysed(
        cells=found.cells,
        table=found.table,
        beside=found.beside,
        provenance=None,
        changes=measured,
        frames=frames,
    )
    drawn = [d for d in drawings(given) if d.stem.startswith(("unlearning", "on_share"))]
    assert [d.stem.split("-")[0] for d in drawn] == ["unlearning", "on_share", "on_share"]
    assert [d.setting for d in drawn[1:]] == [{"boundary.judge": "PairRM"}, {"boundary.judge": "shorter"}]


def test_selections_from_the_same_rewards_share_their_figures(found: Analysed) -> None:
    """Another selection from one policy's pools, with a pick of its own, as random draws make it."""
    assert found.frames is not None
    first = {key: key for key in dict.fromkeys(found.frames.picks["pool"])}
    again = {key: f"{key}-again" for key in first}
    frames = Frames("unused")
    picks, spreads = found.frames.picks, found.frames.spreads
    drawn = picks[picks["position"] == "min"].assign(position="low_draw").replace({"pool": again})
    frames.__dict__ |= {
        "picks": pd.concat([picks, drawn], ignore_index=True),
        "spreads": pd.concat([spreads, spreads.replace({"pool": again})], ignore_index=True),
        "training": found.frames.training[:0],
        "costs": found.frames.costs[:0],
        "on_share": found.frames.on_share[:0],
        "reward_z": found.frames.reward_z,
    }
    given = replace(found, frames=frames)
    assert frames.same_rewards == first | {other: key for key, other in again.items()}
    assert [names for names in kinds(given) if names in ("rewards", "normality")] == ["rewards"] * 2 + ["normality"] * 2
    one = next(drawing for drawing in drawings(given) if drawing.stem.startswith("rewards"))
    assert "pool" not in one.setting
    assert [text.get_text() for text in one.draw(width=3.4).texts].count("lowest draw") == 1


def test_selections_that_mean_two_things_by_one_name_stand_alone(found: Analysed) -> None:
    """Random draws of two seeds from one policy's pools of 16, beside the positions, which all of them have picked."""
    assert found.frames is not None
    picks, spreads = found.frames.picks, found.frames.spreads
    rows = picks["policy.name"].eq("synthetic-0") & picks["n"].eq(16)
    (pool,) = set(picks.loc[rows, "pool"])
    of_pool = spreads[spreads["pool"] == pool]
    drawn = picks[rows & (picks["position"] == "min")].assign(position="low_draw", z_expected=float("nan"))
    more = [picks, *(picks[rows].assign(pool=name) for name in ("one", "two", "same as two"))]
    more += [drawn.assign(pool=name, z_mean=z) for name, z in (("one", -1.0), ("two", -0.5), ("same as two", -0.5))]
    frames = Frames("unused")
    frames.__dict__ |= {
        "picks": pd.concat(more, ignore_index=True),
        "spreads": pd.concat([spreads, *(of_pool.assign(pool=name) for name in ("one", "two", "same as two"))]),
        **{name: getattr(found.frames, name)[:0] for name in ("training", "costs", "on_share")},
        "reward_z": found.frames.reward_z,
    }
    every = [drawing for drawing in drawings(replace(found, frames=frames)) if drawing.stem.startswith("rewards")]
    policies = [{"policy.name": "synthetic-0"}, {"policy.name": "synthetic-1"}]
    own = sorted(every, key=lambda drawing: str(drawing.setting["policy.name"]))  # policies stand in any order
    assert [drawing.setting for drawing in own] == [
        policies[0],
        *(policies[0] | {"pool": name} for name in ("one", "two")),
        policies[1],
    ]
    for drawing, sizes, lowest in zip(own[:3], ([8, 16], [16], [16]), (None, -1.0, -0.5), strict=True):
        part = drawing.draw.args[0]
        assert sorted(part["n"].unique()) == sizes
        assert part[part["position"] == "low_draw"]["z_mean"].to_list() == ([] if lowest is None else [lowest])
        assert set(part["position"]) >= set(picks["position"])
        assert drawing.draw.args[1] is not None  # the rewards are theirs, too
        assert len(drawing.draw(width=3.4).figure.axes) == 2


def test_pools_of_other_rewards_are_not_the_same(found: Analysed) -> None:
    assert found.frames is not None
    spreads = found.frames.spreads
    pools = list(dict.fromkeys(spreads["pool"]))
    assert same_rewards(spreads) == {key: key for key in pools}
    other = spreads[spreads["pool"] == pools[0]].assign(pool="other")
    assert same_rewards(pd.concat([spreads, other]))["other"] == pools[0]
    for change in ({"mu": other["mu"] + 1e-9}, {"reward.name": "another"}, {"valid": other["valid"] - 1}):
        assert same_rewards(pd.concat([spreads, other.assign(**change)]))["other"] == "other"


def test_pools_that_share_a_name_and_an_n_stand_alone() -> None:
    facts = {"policy.name": "a", "reward.name": "r", "scored_by": "reward"}
    rows = [("k8", 8.0, "r"), ("k16", 16.0, "r"), ("static", float("nan"), "r"), ("other", 8.0, "s")]
    pools = pd.DataFrame([{**facts, "pool": key, "n": n, "reward.name": reward} for key, n, reward in rows])
    assert [(setting, list(part["pool"])) for setting, part in by_kind(pools)] == [
        ({"reward.name": "r", "candidates": "on-policy"}, ["k8", "k16"]),
        ({"reward.name": "r", "candidates": "static"}, ["static"]),
        ({"reward.name": "s", "candidates": "on-policy"}, ["other"]),
    ]
    assert largest(pools) == ["k16", "static", "other"]
    twice = pd.concat([pools[:2], pools[:1].assign(pool="twin")])
    assert [setting for setting, _ in by_kind(twice)] == [{"pool": "k8"}, {"pool": "k16"}, {"pool": "twin"}]


def test_ranks_are_no_rewards(found: Analysed) -> None:
    assert found.frames is not None
    frames = Frames("unused")
    ranked = {name: getattr(found.frames, name).assign(scored_by="ranker") for name in ("picks", "spreads")}
    frames.__dict__ |= {name: getattr(found.frames, name)[:0] for name in ("training", "costs")}
    frames.__dict__ |= {**ranked, "on_share": shares()[:0]}
    given = Analysed(cells=found.cells, table=found.table, beside=found.beside, provenance=None, frames=frames)
    assert not {"rewards", "normality"} & set(kinds(given))


def test_every_kind_of_figure_is_listed_once() -> None:
    assert len(set(FIGURES)) == len(FIGURES)
