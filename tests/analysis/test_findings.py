"""Findings: weights of the claims in closed form, verdicts on planted truths, and what cannot be tested."""

import io
from collections.abc import Mapping
from math import inf, isnan, log2
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.__main__ import main
from analysis.findings import (
    CANNOT_TELL,
    CLAIMS,
    CONTRADICTED,
    FINDINGS,
    NOT_TESTED,
    SUPPORTED,
    findings,
    findings_section,
    findings_table,
    load_findings,
    print_findings,
)
from analysis.findings.claims import Comparison, Place, Weights, comparisons
from analysis.statistics import THESE_MODELS
from harness.positions import PAIRS, POSITIONS
from tests.analysis.synthetic import alias, join, make_frames, undo
from tests.benchmarks.bench_findings import is_false, run
from tests.benchmarks.simulated_sweeps import Design, Simulation
from tests.benchmarks.synthetic_store import Shape, Truth, build

Frames = tuple[pd.DataFrame, pd.DataFrame]


def asked(places: dict[Place, str]) -> dict[str, list[Weights]]:
    """Weights of the claims that can be tested; a claim for each n has the last one's."""
    found = (one for one in comparisons(places) if isinstance(one, Comparison))
    return {one.claim.name: list(one.weights) for one in found}


def effects(truth: dict[Place, float], experiments: dict[Place, str] | None = None) -> dict[str, list[float]]:
    places = {place: str(place) for place in truth} if experiments is None else experiments
    return {
        name: [sum(weight * truth[place] for place, weight in weights.items()) for weights in several]
        for name, several in asked(places).items()
    }


def test_claims_about_a_grid_are_sums_that_know_their_truth() -> None:
    """Win rates by chosen and rejected rank and n, all additive: each claim sees its own part and nothing else."""
    rejected = {"min": 0.0, "mu-2s": 0.7, "mu-1s": 0.1, "mu": 0.2, "mu+1s": 0.3, "mu+2s": -0.2}
    truth = {
        (c, r, float(n)): 0.3 * POSITIONS.index(c) + rejected[r] + 0.05 * log2(n)
        for c, r in PAIRS
        for n in (16, 64, 200)
    }
    found = effects(truth)
    assert found["rejected_mu-2s_over_min"] == pytest.approx([0.7])
    assert found["max_min_falls"] + found["max_mu-2s_rises"] == pytest.approx([0.05] * 2)  # for each doubling
    assert found["chosen_better"] == pytest.approx([0.3])  # for each position
    assert found["chosen_monotone"] == pytest.approx([0.3] * 5)
    far = {c: [rejected[r] for r in POSITIONS[: POSITIONS.index(c) - 1]] for c in POSITIONS[2:]}
    near = {c: rejected[POSITIONS[POSITIONS.index(c) - 1]] for c in far}
    assert found["diagonal_worst"] == pytest.approx([np.mean([near[c] - np.mean(far[c]) for c in far])])
    assert "sweet_spot_rises" not in found


def test_every_weighted_sum_compares() -> None:
    places = {(c, r, n): f"{c}{r}{n}" for c, r in PAIRS for n in (8.0, 64.0)}
    for several in asked(places).values():
        for weights in several:
            assert sum(weights.values()) == pytest.approx(0, abs=1e-12)


def test_one_experiment_under_two_names_is_no_comparison() -> None:
    """At small n mu-2s and min are the same response: pairs of both are one experiment, and say nothing."""
    pairs = [("max", "min"), ("max", "mu-2s"), ("mu", "min"), ("mu", "mu-2s")]
    places = {(c, r, 8.0): f"{c} against the lowest" for c, r in pairs}
    reasons = {claim.name: str(why) for claim, why in (x for x in comparisons(places) if not isinstance(x, Comparison))}
    assert reasons["rejected_mu-2s_over_min"].startswith(
        "at n = 8 rejecting mu-2s and rejecting min are one experiment"
    )
    places["mu", "mu-2s", 8.0] = "another"
    assert asked(places)["rejected_mu-2s_over_min"] == [{("mu", "mu-2s", 8.0): 1.0, ("mu", "min", 8.0): -1.0}]
    same = {("max", "min", n): "one" for n in (8.0, 16.0)}
    assert "max_min_falls" not in asked(same)


def sweep(
    rates: dict[tuple[str, str], float], seeds: int = 3, n: int = 64, settings: Mapping[str, object] | None = None
) -> Frames:
    """A sweep whose models have just these win rates on the same 300 instructions, some of which are easier."""
    results, verdicts = make_frames(list(rates), sizes=(n,), seeds=range(seeds), instructions=300, settings=settings)
    rng = np.random.default_rng(0)
    easy = 0.4 * (rng.permutation(300) / 299 - 0.5)
    pairs = zip(results["pair.chosen"], results["pair.rejected"], strict=True)
    drawn = {}
    for name, pair in zip(results["result"], pairs, strict=True):
        drawn[name] = np.zeros(300)
        drawn[name][np.argsort(rng.random(300) - easy)[: round(300 * rates[pair])]] = 1.0
    verdicts["preference"] = np.concatenate([drawn[name] for name in verdicts["result"].drop_duplicates()])
    results["win_rate"] = [drawn[name].mean() for name in results["result"]]
    return results, verdicts


def marked(frames: Frames, mark: str) -> Frames:
    """The same under names of their own."""
    results, verdicts = frames
    own = results.assign(result=mark + results["result"], trained_id=mark + results["trained_id"])
    return own, verdicts.assign(result=mark + verdicts["result"])


def row(frame: pd.DataFrame, claim: str) -> "pd.Series[Any]":
    (found,) = [own for _, own in frame[frame["claim"] == claim].iterrows()]
    return found


REJECTED = "rejected_mu-2s_over_min"


@pytest.mark.parametrize(
    ("rates", "seeds", "verdict", "note"),
    [
        ((0.5, 0.65), 3, SUPPORTED, ""),
        ((0.65, 0.5), 3, CONTRADICTED, ""),
        ((0.55, 0.56), 3, CANNOT_TELL, ""),
        ((0.5, 0.65), 1, CANNOT_TELL, "of these trained models alone it holds; a claim"),
        ((0.65, 0.5), 2, CANNOT_TELL, "of these trained models alone it does not hold; a claim"),
        ((0.55, 0.56), 1, CANNOT_TELL, "of these trained models alone it cannot be told either"),
    ],
)
def test_verdicts_are_read_off_from_intervals(rates: tuple[float, float], seeds: int, verdict: str, note: str) -> None:
    frame = findings(*sweep({("max", "min"): rates[0], ("max", "mu-2s"): rates[1]}, seeds))
    found = row(frame, REJECTED)
    assert (found["verdict"], found["seeds"], found["instructions"], found["cells"]) == (verdict, seeds, 300, 2)
    assert found["note"].startswith(note)
    assert found["effect"] == pytest.approx(100 * (rates[1] - rates[0]), abs=0.4)
    assert found["low"] < found["effect"] < found["high"]
    told = verdict != CANNOT_TELL
    assert isnan(found["seeds_needed"]) == isnan(found["instructions_needed"]) == told
    if seeds < 3:
        assert (found["seeds_needed"] >= 3, found["instructions_needed"]) == (True, inf)


def test_the_frame_has_its_columns_and_every_claim() -> None:
    frame = findings(*sweep({("max", "min"): 0.5, ("max", "mu-2s"): 0.65}))
    assert list(frame.columns) == list(FINDINGS)
    assert list(dict.fromkeys(frame["claim"])) == [claim.name for claim in CLAIMS]
    untested = frame[frame["verdict"] == NOT_TESTED]
    assert untested["effect"].isna().all()
    assert untested["note"].str.len().gt(20).all()
    assert frame.drop(index=untested.index)["judge_label"].notna().all()
    empty = findings(*(one.iloc[:0] for one in sweep({("max", "min"): 0.5})))
    assert (empty["verdict"] == NOT_TESTED).all()
    assert empty.dtypes.equals(frame.dtypes)


def test_every_step_must_rise_for_a_monotone_claim() -> None:
    rising = {(c, "min"): 0.3 + 0.08 * i for i, c in enumerate(POSITIONS[1:])}
    frame = findings(*sweep(rising))
    assert (row(frame, "chosen_better")["verdict"], row(frame, "chosen_monotone")["verdict"]) == (SUPPORTED, SUPPORTED)
    falling = findings(*sweep({**rising, ("max", "min"): 0.3}))
    step = row(falling, "chosen_monotone")
    assert row(falling, "chosen_better")["verdict"] == SUPPORTED
    assert (step["verdict"], step["cells"]) == (CONTRADICTED, 6)
    assert step["effect"] == pytest.approx(-32, abs=0.4)


def test_the_step_with_the_fewest_seeds_says_what_steps_speak_about() -> None:
    pairs = {(c, "min"): 0.3 + 0.08 * i for i, c in enumerate(POSITIONS[1:])}
    results, verdicts = sweep(pairs)
    single = (results["pair.chosen"] == "max") & (results["train.seed"] > 0)
    step = row(findings(results[~single], verdicts), "chosen_monotone")
    assert (step["verdict"], step["seeds"], step["scope"]) == (CANNOT_TELL, 1, THESE_MODELS)
    assert step["note"].startswith("of these trained models alone it holds")


def test_one_seed_says_only_how_many_a_verdict_takes() -> None:
    pairs = {("max", "min"): 0.55, ("max", "mu-2s"): 0.56}
    (single,) = findings_table(findings(*sweep(pairs, 1)))["what would tell"]
    assert single == "3 seeds at least"
    (several,) = findings_table(findings(*sweep(pairs, 3)))["what would tell"]
    assert several.startswith("about ")


def test_max_min_by_either_name_and_the_published_rule_have_slopes() -> None:
    frames = []
    for n, high, low in ((8, 0.5, 0.7), (32, 0.6, 0.6), (128, 0.7, 0.5)):
        frames.append(sweep({("max", "min"): low, ("max", "mu-2s"): high}, n=n))
    results, verdicts = join(*frames)
    named = results["pair.rejected"] == "min"
    results.loc[named, ["construction.name", "pair.chosen", "pair.rejected"]] = ["max_min", None, None]
    frame = findings(results, verdicts)
    for claim, slope in (("max_min_falls", -5.0), ("max_mu-2s_rises", 5.0)):
        found = row(frame, claim)
        assert (found["verdict"], found["n"], found["unit"]) == (SUPPORTED, "8, 32, 128", "points per doubling of n")
        assert found["effect"] == pytest.approx(slope, abs=0.2)
    results.loc[named, "construction.name"] = "sweet_spot"
    assert row(findings(results, verdicts), "sweet_spot_rises")["verdict"] == CONTRADICTED


def test_other_settings_and_other_constructions_are_rows_of_their_own() -> None:
    rates = {("max", "min"): 0.5, ("max", "mu-2s"): 0.65}
    one, other = (
        sweep(rates, settings={"construction.static_share": 0.0}),
        sweep(rates, settings={"loss.beta": 0.5, "construction.static_share": 0.0}),
    )
    ranked = sweep(rates, settings={"construction.static_share": 0.0, "ranker.name": "x", "a": 1})
    ranked[0]["construction.name"] = "ranking"
    frame = findings(*join(one, marked(other, "other"), marked(ranked, "ranked")))
    tested = frame[frame["claim"] == REJECTED]
    assert sorted(tested["setting"]) == [
        "loss.beta = 0.1, a = 1",
        "loss.beta = 0.1, a = none",
        "loss.beta = 0.5, a = none",
    ]
    assert tested["method"].str.contains("one of 3 tests").all()
    alone = findings(*one)
    widths = [f["high"] - f["low"] for f in (row(alone, REJECTED), tested.iloc[0])]
    assert widths[1] > widths[0]


def test_equal_cells_partial_sweeps_and_unequal_steps() -> None:
    rates = {("max", "min"): 0.5, ("max", "mu-2s"): 0.65}
    results, verdicts = sweep(rates)
    same = (results, verdicts)
    for seed in range(3):
        same = alias(*same, row=3 + seed, of=seed)
    assert row(findings(*same), REJECTED)["note"].startswith("at n = 64 rejecting mu-2s")
    missing = findings(undo(results, [3, 4, 5], "missing"), verdicts)
    assert (missing["verdict"] == NOT_TESTED).all()
    assert row(findings(undo(results, [5], "failed"), verdicts), REJECTED)["seeds"] == 2
    results["steps"] = [40.0] * 3 + [80.0] * 3
    assert "unequal steps: 40–80" in row(findings(results, verdicts), REJECTED)["note"]
    verdicts.loc[:9, "preference"] = np.nan
    results.loc[0, "win_rate"] = verdicts["preference"][:300].mean()
    failed = row(findings(results, verdicts), REJECTED)
    assert failed["instructions"] == 290
    assert "10 instructions left out" in failed["note"]


def both_data(share: float) -> Frames:
    rate = 0.7 if share else 0.5
    return marked(sweep({("max", "min"): rate}, settings={"construction.static_share": share}), f"share {share}")


@pytest.mark.parametrize(
    ("stages", "verdicts", "note"),
    [
        (["injection"], {"static_in_injection": SUPPORTED, "on_policy_in_fine_tuning": NOT_TESTED}, ""),
        (["fine_tuning"], {"static_in_injection": NOT_TESTED, "on_policy_in_fine_tuning": CONTRADICTED}, ""),
        (
            [],
            dict.fromkeys(("static_in_injection", "on_policy_in_fine_tuning"), NOT_TESTED),
            "no boundary was measured",
        ),
        (
            ["injection", "fine_tuning"],
            dict.fromkeys(("static_in_injection", "on_policy_in_fine_tuning"), NOT_TESTED),
            "the measured boundary names another stage for another training seed",
        ),
    ],
)
def test_the_stage_says_which_data_should_be_better(stages: list[str], verdicts: dict[str, str], note: str) -> None:
    results, judged = join(both_data(0.0), both_data(1.0))
    names = results.loc[results["construction.static_share"] == 1.0, "result"].tolist()[: len(stages)]
    on_share = pd.DataFrame({"result": names, "stage": stages, "low": 0.45, "high": 0.55})
    frame = findings(results, judged, on_share=on_share)
    assert {claim: row(frame, claim)["verdict"] for claim in verdicts} == verdicts
    assert row(frame, "static_in_injection")["note"].startswith(note)
    tested = frame[frame["effect"].notna()]
    assert tested["effect"].tolist() == pytest.approx([-20] * len(tested), abs=0.4)
    assert tested["note"].str.contains("the stage is in doubt").all()


def unlearning(slopes: tuple[float, float], seeds: int = 3) -> pd.DataFrame:
    results, verdicts = sweep({("max", "min"): 0.5}, seeds, settings={"construction.pairs.name": None})
    goals = sweep({("max", "min"): 0.5}, seeds, settings={"construction.pairs.name": "position"})
    goals = marked(goals, "goals")
    goals[0]["construction.name"] = "reward_augmented"
    both = join((results, verdicts), goals)
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(40, 6))
    rows = [
        {
            "result": name,
            "prompt_id": p,
            "sample_index": i,
            "reward": reward[p, i],
            "tokens": 9.0,
            "change": slope * reward[p, i] + 0.3 * rng.normal(),
        }
        for names, slope in ((results["result"], slopes[0]), (goals[0]["result"], slopes[1]))
        for name in names
        for p in range(40)
        for i in range(6)
    ]
    return findings(*both, changes=pd.DataFrame(rows))


def test_unlearning_is_the_slope_less_that_of_the_same_pairs() -> None:
    found = row(unlearning((0.5, 2.0)), "augmented_unlearns_less")
    assert (found["verdict"], found["unit"], found["instructions"]) == (SUPPORTED, "nats per unit of reward", 40)
    assert found["effect"] == pytest.approx(1.5, abs=0.1)
    assert found["judge_label"] is None
    assert row(unlearning((0.5, 0.5)), "augmented_unlearns_less")["verdict"] == CANNOT_TELL
    assert row(unlearning((2.0, 0.5)), "augmented_unlearns_less")["verdict"] == CONTRADICTED
    assert row(unlearning((0.5, 2.0), 1), "augmented_unlearns_less")["verdict"] == CANNOT_TELL


def test_what_is_shown_cannot_be_steered() -> None:
    hostile = "<b>x</b> | `a`\x1b[31m [link](http://x)"
    rates = {("max", "min"): 0.5, ("max", "mu-2s"): 0.65}
    frame = findings(*join(sweep(rates), marked(sweep(rates, settings={"policy.name": hostile}), "other")))
    text = "\n\n".join(findings_section(frame))
    assert text.startswith("## Findings\n\n")
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "Not tested:" in text
    out = io.StringIO()
    print_findings(frame, Console(file=out, width=200))
    assert "\x1b[31m" not in out.getvalue()
    assert "supported" in out.getvalue()
    assert "not tested: " in out.getvalue()
    untested = frame[frame["verdict"] == NOT_TESTED]
    assert findings_section(untested) == []
    out = io.StringIO()
    print_findings(untested, Console(file=out, width=200))
    assert out.getvalue().startswith("Nothing could be tested:\nnot tested: ")


@pytest.mark.parametrize(
    ("verdict", "truth", "expected", "wrong"),
    [
        (SUPPORTED, 0.1, 1, False),
        (SUPPORTED, 0.0, 1, True),
        (SUPPORTED, 0.1, -1, True),
        (CONTRADICTED, 0.0, 1, True),
        (CONTRADICTED, -0.1, 1, False),
        (CONTRADICTED, -0.1, -1, True),
        (CANNOT_TELL, 0.1, 1, False),
    ],
)
def test_a_false_verdict_names_a_side_without_the_truth(verdict: str, truth: float, expected: int, wrong: bool) -> None:
    assert is_false(verdict, truth, expected) is wrong


def test_simulated_sweeps_have_few_false_verdicts_and_are_found() -> None:
    """What `tests.benchmarks.bench_findings` does with 400 sweeps, on few and small ones."""
    pairs = [("max", "min"), ("max", "mu-2s"), ("max", "mu+2s"), ("mu", "min"), ("mu", "mu-2s")]
    simulation = Simulation(Design(name="small", policies=1, pairs=pairs, sizes=(16, 64), instructions=300, prompts=40))
    found = run(simulation, 48, draws=500)
    # At 5 % seven or more of 48 come in one of a hundred such runs.
    assert sum(map(sum, found.wrong.values())) < 7
    told = [
        found.share(claim, "true", SUPPORTED) for claim in ("rejected_mu-2s_over_min", "max_min_falls", "chosen_better")
    ]
    assert all(tests > 5 for _, tests in told)
    assert min(share for share, _ in told) > 0.5


def test_simulated_sweeps_test_every_claim() -> None:
    simulation = Simulation(Design(name="all", policies=2, pairs=PAIRS, sizes=(16, 64), instructions=100, prompts=40))
    found = run(simulation, 8, draws=200)
    kinds = ("true", "turned round", "null")
    assert all(sum(found.share(claim.name, kind, SUPPORTED)[1] for kind in kinds) > 0 for claim in CLAIMS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("findings") / "store"
    pairs = [("max", "min"), ("max", "mu-2s")]
    shape = Shape(pairs=pairs, sizes=(64,), policies=1, seeds=3, prompts=4, instructions=300)
    build(root, shape, Truth(effect=0.25, seed_deviation=0.005))
    return root


def test_the_truth_of_a_store_is_found(store: Path) -> None:
    frame = load_findings(store)
    truth = Truth(effect=0.25)
    rates = {r: truth.win_rate("synthetic-0", "max", r, 64) for r in ("min", "mu-2s")}
    found = row(frame, REJECTED)
    assert found["low"] < 100 * (rates["mu-2s"] - rates["min"]) < found["high"]
    assert found["verdict"] == SUPPORTED
    assert (found["judge_label"], found["n"]) == ("synthetic judge", "64")


def test_the_command_prints_and_writes_findings(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["findings", "--store", str(store)]
    assert main([*asked, "--sweep", "synthetic", "--out", str(tmp_path)]) == 0
    assert "supported" in capsys.readouterr().out
    assert (tmp_path / "findings.md").read_text().startswith("## Findings\n\n")
    assert list(pd.read_csv(tmp_path / "findings.csv").columns) == list(FINDINGS)
    assert main([*asked, "--sweep", "none"]) == 2
    assert "no sweep 'none'" in capsys.readouterr().err
    build(
        tmp_path / "empty",
        Shape(pairs=[("max", "min")], sizes=(8,), policies=1, seeds=1, prompts=2, instructions=4, missing=1),
    )
    assert main(["findings", "--store", str(tmp_path / "empty")]) == 2
    assert "no result is judged yet" in capsys.readouterr().err
