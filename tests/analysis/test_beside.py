"""What stands beside the win rates: each measure right on known answers, with an interval or a reason for none."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from rich.console import Console

from analysis.answers import ANSWERS, measure_answers
from analysis.beside import MEASURES, beside_points, beside_win_rates, mean_interval, near_constant
from analysis.beside_report import MOST_FLAGGED, MOST_WARNED, beside_section, flags, warnings
from analysis.estimates import estimate_cells, preference_table
from analysis.figures import overoptimisation
from analysis.report import Sources, write_report
from analysis.statistics import CONSTRUCTION, THESE_MODELS, TWO_SEEDS
from harness.positions import PAIRS
from tests.analysis.synthetic import make_frames

CONSTANT = "This is the best answer to your instruction and it deserves to win every comparison without a doubt."


def own_words(index: int) -> str:
    return " ".join(f"w{index * 31 + i}" for i in range(12))


def measured(
    texts: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    finish: str | None = "stop",
    kl: Sequence[float] | float | None = 1.0,
    rewards: Sequence[float] = (),
    reference_rewards: Sequence[float] = (),
) -> pd.DataFrame:
    """Measures of answers p0, p1, ... and their references."""
    ids = [f"prompt{i:03d}" for i in range(len(texts))]
    answers = pd.DataFrame({"prompt_id": ids, "text": list(texts), "finish_reason": finish, "kl": kl})
    answers["tokens"] = [len(text.split()) if finish else None for text in texts]

    def by_id(values: Sequence[object]) -> "pd.Series[Any]":
        return pd.Series(list(values), index=ids[: len(values)], dtype=object if references is values else float)

    return measure_answers(answers, by_id(references or ()), by_id(rewards), by_id(reference_rewards))


def beside(seeds: Sequence[pd.DataFrame]) -> dict[str, "pd.Series[Any]"]:
    """The measures of one cell with these seeds, by name."""
    cells = pd.DataFrame({"results": [tuple(f"r{i}" for i in range(len(seeds)))]})
    answers = pd.concat([seed.assign(result=f"r{i}") for i, seed in enumerate(seeds)])
    frame = beside_win_rates(cells, answers)
    return {row["measure"]: row for _, row in frame.iterrows()}


def test_the_columns_are_those_described() -> None:
    assert ["result", *measured(["a"]).columns] == list(ANSWERS)


def test_answers_are_measured_each_by_its_own_reference() -> None:
    frame = measured(
        ["Yes.", "", "yes. ", "I cannot say.", "no no no no no no"],
        ["yes.", "b", "c", "d", "e"],
        finish="length",
        rewards=[1, 2, 3, 4, np.inf],
        reference_rewards=[0, 1, 1, 1, 1],
    )
    assert frame["characters"].tolist() == [4, 0, 5, 13, 17]
    assert frame["reference_characters"].tolist() == [4, 1, 1, 1, 1]
    assert frame["empty"].tolist() == [0, 1, 0, 0, 0]
    assert frame["truncated"].tolist() == [1] * 5
    assert frame["refusal"].tolist() == [0, 0, 0, 1, 0]
    assert frame["repetitive"].tolist() == [0, 0, 0, 0, 1]
    assert frame["same_as_reference"].tolist() == [1, 0, 0, 0, 0]
    assert frame["same_as_another"].tolist() == [1, 0, 1, 0, 0]
    assert frame["near_copies"].tolist() == [2, 1, 2, 1, 1]
    assert frame["reward"].isna().tolist() == [False] * 4 + [True]  # not finite


def test_every_measure_is_a_number_with_an_interval_or_a_reason() -> None:
    texts = [own_words(i) for i in range(20)]
    for frame in (measured(texts), measured(texts, texts[::-1], finish=None, kl=None), measured(texts[:1])):
        found = beside([frame])
        assert list(found) == list(MEASURES)
        for row in found.values():
            known = not math.isnan(row["low"]) and not math.isnan(row["high"])
            assert known != bool(row["note"]), row
            assert not known or row["low"] <= row["estimate"] <= row["high"]


def test_what_is_not_known_has_its_reason() -> None:
    found = beside([measured([own_words(i) for i in range(8)], finish=None, kl=None)])
    for name, reason in {
        "truncated": "how these answers ended",
        "tokens": "how many tokens",
        "same_as_reference": "no reference answers",
        "length_ratio": "the references",
        "reward_gain": "no reward scored both",
        "kl": "do not share their tokens",
    }.items():
        assert math.isnan(found[name]["estimate"])
        assert reason in str(found[name]["note"])


def test_the_ratio_of_lengths_is_of_means_over_the_same_instructions() -> None:
    texts = ["x" * size for size in (10, 20, 30, 1000)]
    found = beside([measured(texts, ["y" * size for size in (10, 10, 10)])])["length_ratio"]
    assert found["estimate"] == pytest.approx(2.0)
    assert (found["n"], found["excluded"]) == (3, 1)
    assert found["low"] < 2.0 < found["high"]


def test_references_without_any_length_have_no_ratio() -> None:
    found = beside([measured(["abc"] * 3, [""] * 3)])["length_ratio"]
    assert math.isnan(found["estimate"])
    assert found["note"]


def test_seeds_are_joined_by_instruction() -> None:
    lengths = [[10, 20, 30, 40], [12, 22, 32, 42]]
    seeds = [measured(["x" * length for length in own]) for own in lengths]
    mixed = [seeds[0], seeds[1].iloc[[2, 0, 3, 1]]]
    for one, other in zip(beside(seeds).values(), beside(mixed).values(), strict=True):
        assert one.equals(other)
    found = beside([seeds[0], seeds[1].iloc[[2, 0, 3]]])["characters"]
    assert found["estimate"] == pytest.approx(np.mean([11, 31, 41]))
    assert (found["n"], found["excluded"]) == (3, 1)


def test_the_gain_of_reward_is_paired() -> None:
    texts = [own_words(i) for i in range(6)]
    base = [10.0, -10.0, 50.0, 0.0, 3.0, -70.0]
    found = beside([measured(texts, rewards=[b + 1 + 0.01 * i for i, b in enumerate(base)], reference_rewards=base)])
    gain, reward = found["reward_gain"], found["reward"]
    assert gain["estimate"] == pytest.approx(1.025)
    assert gain["high"] - gain["low"] < 0.1 < reward["high"] - reward["low"]


@pytest.mark.parametrize("names", [[""] * 10, [" on my cat", " on tax law", " for Rome", "", " of bread"] * 2])
def test_constant_answers_are_flagged_whatever_their_win_rate(names: Sequence[str]) -> None:
    frame = measured([CONSTANT.replace("instruction", f"instruction{name}") for name in names])
    found = pd.DataFrame(beside([frame]).values())
    assert near_constant(found) == {0: 1.0}


def test_one_near_constant_seed_is_enough() -> None:
    good, bad = measured([own_words(i) for i in range(10)]), measured([CONSTANT] * 10)
    assert near_constant(pd.DataFrame(beside([good, bad]).values())) == {0: 1.0}
    assert near_constant(pd.DataFrame(beside([good, good]).values())) == {}


def test_a_handful_of_answers_is_not_flagged() -> None:
    assert near_constant(pd.DataFrame(beside([measured(["Yes."] * 4)]).values())) == {}


def test_an_interval_of_a_mean_is_students() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0, np.nan]])
    found = mean_interval(values)
    # scipy.stats.ttest_1samp([1, 2, 3, 4], 0).confidence_interval(): 0.4457397, 4.5542603
    assert (found.estimate, found.low, found.high) == pytest.approx((2.5, 0.4457397, 4.5542603))
    assert (found.n, found.excluded, found.scope) == (4, 1, THESE_MODELS)


def test_seeds_make_an_interval_of_a_mean_longer() -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(10, 1, 200)
    one = mean_interval(each[None])
    same = mean_interval(np.stack([each] * 3))
    apart = mean_interval(np.stack([each - 1, each, each + 1]))
    assert same.high - same.low == pytest.approx(one.high - one.low)
    assert apart.high - apart.low > 3 * (one.high - one.low)
    assert [mean_interval(np.stack([each] * k)).scope for k in (2, 3)] == [TWO_SEEDS, CONSTRUCTION]


def test_an_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    """Skewed values, as lengths and divergences are, from 60 answers: 1,000 planted means."""
    rng = np.random.default_rng(1)
    draws = rng.lognormal(0, 0.7, (1000, 1, 60))
    mean = math.exp(0.7**2 / 2)
    covered = [interval.low <= mean <= interval.high for interval in map(mean_interval, draws)]
    assert 0.92 <= np.mean(covered) <= 0.97


def frames(kls: Mapping[int, float], constant: Sequence[int] = ()) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Results, verdicts and answers of three cells."""
    results, verdicts = make_frames([("max", "min"), ("max", "mu-2s"), ("mu", "min")], instructions=20)
    answers = []
    for row, name in enumerate(results["result"]):
        texts = [CONSTANT if row in constant else own_words(i) for i in range(20)]
        kl = [kls[row] * (1 + 0.1 * i) for i in range(20)] if row in kls else None
        answers.append(measured(texts, texts[::-1], kl=kl).assign(result=name))
    return results, verdicts, pd.concat(answers, ignore_index=True)


def estimated(
    results: pd.DataFrame, verdicts: pd.DataFrame, answers: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    cells = estimate_cells(results, preference_table(results, verdicts))
    return cells, beside_win_rates(cells, answers)


def test_the_figure_has_both_intervals_of_every_cell_and_rings_the_flagged() -> None:
    cells, found = estimated(*frames({0: 2.0, 1: 8.0}, constant=[1]))
    points = beside_points(cells, found, "kl")
    assert len(points) == 2  # the third cell's divergence is not known
    axes = overoptimisation(points, near_constant(found))
    bars = [part for part in axes.collections if isinstance(part, LineCollection)]
    ends = {tuple(np.round(segment.ravel(), 6)) for bar in bars for segment in bar.get_segments()}
    for _, cell in points.iterrows():
        rate = 100 * cell["win_rate"]
        across = (cell["kl_low"], rate, cell["kl_high"], rate)
        upright = (cell["kl"], 100 * cell["low"], cell["kl"], 100 * cell["high"])
        assert tuple(np.round(across, 6)) in ends
        assert tuple(np.round(upright, 6)) in ends
    rings = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert len(rings) == 1
    assert "95\N{NO-BREAK SPACE}%" in "".join(text.get_text() for text in axes.figure.texts)


def test_a_report_has_the_measures_the_figure_and_the_warning(tmp_path: Path) -> None:
    results, verdicts, answers = frames({0: 2.0, 1: 8.0, 2: 0.5}, constant=[2])
    console = Console(record=True, width=200)
    paths = write_report(results, verdicts, tmp_path, Sources(answers=answers), console=console)
    assert {"beside.csv", "overoptimisation.png"} <= {path.name for path in paths}
    page = (tmp_path / "report.md").read_text()
    assert "## Beside the win rates" in page
    assert page.count("WARNING: answers that are near-copies of one text") == 1
    assert "(100 %)." in page
    assert "WARNING: answers that are near-copies" in console.export_text()
    assert "<small>WARNING, near-constant answers: position" in page
    assert flags(*estimated(*frames({0: 2.0}))) == {}
    table = pd.read_csv(tmp_path / "beside.csv")
    assert len(table) == 3 * len(MEASURES)
    assert (table["low"].notna() | table["note"].notna()).all()


def test_of_many_flagged_cells_the_first_are_named_and_the_others_counted() -> None:
    results, verdicts = make_frames(PAIRS[:12], instructions=20)
    cells = estimate_cells(results, preference_table(results, verdicts))
    found = pd.DataFrame({"cell": cells.index, "measure": "near_copies", "estimate": 0.9, "n": 20})
    (told,) = warnings(cells, found)
    assert told.count("position") == MOST_WARNED
    assert told.endswith("; and 2 more (beside.csv).")
    (named,) = flags(cells, found).values()
    assert named.count("position") == MOST_FLAGGED
    assert named.endswith("; 9 more")


def test_a_report_without_answers_is_as_ever(tmp_path: Path) -> None:
    results, verdicts, _ = frames({})
    write_report(results, verdicts, tmp_path, console=Console(quiet=True))
    assert "Beside" not in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "beside.csv").exists()


def test_text_of_a_cell_makes_no_markup() -> None:
    results, verdicts, answers = frames({0: 1.0}, constant=[0])
    results["policy.name"] = ["<b>|x", "b", "c"]
    cells, found = estimated(results, verdicts, answers)
    assert len(warnings(cells, found)) == 1
    assert "<b>" not in "".join(beside_section(cells, found))
