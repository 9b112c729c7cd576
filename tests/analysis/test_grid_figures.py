"""Figures over the grid of pairs beyond the single heatmap: small multiples, differences, rows in common."""

from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from analysis.captions import pair_text
from analysis.differences import Side, pair_differences, read_side, settings_to_compare
from analysis.estimates import estimate_cells, preference_table, with_standing
from analysis.figures import difference_heatmap, figure_of, overlap_matrix, pair_heatmaps
from analysis.figures.grid import CHOSEN, REJECTED
from analysis.figures.multiples import ALL
from analysis.overlap import overlap_of
from analysis.schema import PAIR
from analysis.statistics import make_grid, matched_differences, paired_difference
from harness.errors import PrefsweepError
from harness.positions import PAIRS
from tests.analysis.drawn import boxes, caption_of, check_legible, legend_of, marked
from tests.analysis.synthetic import alias, join, make_frames, renamed, undo
from tests.benchmarks.synthetic_store import Shape, build

SIZES = (8, 16, 32, 400)
POLICIES = ("llama3_8b_instruct", "smollm2_135m")


def estimated(frames: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = preference_table(*frames)
    return estimate_cells(frames[0], table), table


@lru_cache
def several(policies: tuple[str, ...] = POLICIES, sizes: tuple[int, ...] = SIZES) -> pd.DataFrame:
    """Cells of policies, each judged against its own answers, with how they stand in their panels."""
    frames = [renamed(name, make_frames(sizes=sizes, settings={"policy.name": name})) for name in policies]
    for results, _ in frames:
        results["references_hash"] = results["policy.name"]
    cells, table = estimated(join(*frames))
    parts = [with_standing(part, table) for _, part in cells.groupby(["policy.name", "n"])]
    return pd.concat(parts)


def rates_of(axes: Axes) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    (mesh,) = (part for part in axes.collections if isinstance(part, QuadMesh))
    return np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)


def panels_of(axes: Axes) -> list[Axes]:
    """The panels, without the colour bar."""
    children = [cast(Axes, child) for child in axes.child_axes]
    return [child for child in children if child.get_title().startswith("n = ")]


def test_small_multiples_have_a_panel_for_each_policy_and_n_on_one_scale() -> None:
    cells = several()
    axes = pair_heatmaps(cells)
    panels = panels_of(axes)
    assert [panel.get_title() for panel in panels] == [f"n = {n}" for n in SIZES] * len(POLICIES)
    assert [text.get_text() for text in axes.texts] == list(POLICIES)
    places = [(policy, n) for policy in POLICIES for n in SIZES]
    for (policy, n), panel in zip(places, panels, strict=True):
        own = cells[(cells["policy.name"] == policy) & (cells["n"] == n)]
        rates = rates_of(panel)
        for _, cell in own.iterrows():
            place = CHOSEN.index(cell["pair.chosen"]), REJECTED.index(cell["pair.rejected"])
            assert rates[place] == pytest.approx(100 * cell["win_rate"])
        best = own[own["standing"] == "best"]
        assert marked(panel, "*") == set(zip(best["pair.chosen"], best["pair.rejected"], strict=True))
    limits = {panel.collections[0].get_clim() for panel in panels}
    assert len(limits) == 1
    assert "they differ in reference answers." in caption_of(axes)


def test_small_multiples_hatch_what_is_not_done_and_wrap_one_policy() -> None:
    results, verdicts = make_frames(sizes=SIZES)
    cells, _ = estimated((undo(results, [0], "empty"), verdicts))
    axes = pair_heatmaps(cells)
    panels = panels_of(axes)
    first = (results.at[0, "pair.chosen"], results.at[0, "pair.rejected"])
    assert [boxes(panel, 2 * "////") for panel in panels] == [{first}, set(), set(), set()]
    assert len({round(panel.get_position().y0, 3) for panel in panels}) == 2
    assert "empty: no preference rows" in legend_of(axes)


def test_static_candidates_have_a_panel_of_their_own() -> None:
    cells = several(POLICIES[:1], (8, 16, 32))
    axes = pair_heatmaps(cells.assign(n=cells["n"].where(cells["n"] > 8)))
    titles = [cast(Axes, child).get_title() for child in axes.child_axes]
    assert [title for title in titles if "n" in title.split() or "candidates" in title] == ["n = 16", "n = 32", ALL]
    with pytest.raises(PrefsweepError, match="there are no cells"):
        pair_heatmaps(cells.iloc[:0])


def test_small_multiples_fit_a_page_and_refuse_what_is_not_comparable() -> None:
    cells = several(tuple(f"policy_{number}" for number in range(8)), sizes=(8,))
    assert figure_of(pair_heatmaps(cells)).get_size_inches()[1] < 11
    cells = several(("policy_0", "policy_1"), sizes=(8, 16))
    with pytest.raises(PrefsweepError, match="judge_model"):
        pair_heatmaps(cells.assign(judge_model=cells["policy.name"]))
    with pytest.raises(PrefsweepError, match=r"heatmaps of policy_0.*references_hash"):
        pair_heatmaps(cells.assign(references_hash=cells["n"].map(str)))
    with pytest.raises(PrefsweepError, match=r"policy_0, n = 8: pair .* more than once"):
        pair_heatmaps(pd.concat([cells, cells.iloc[:1]]))


def sides(**settings: object) -> tuple[Side, Side]:
    """Two grids: the second is another draw with these settings, of which one pair trained the first one's model."""
    first = make_frames(instructions=100)
    second = renamed("other-", make_frames(instructions=100, seeds=(5,), settings={"train.seed": 0, **settings}))
    one = dict(zip(("cells", "table"), estimated((undo(first[0], [20], "empty"), first[1])), strict=True))
    results, verdicts = alias(*join(first, second), row=21, of=0)
    kept = results["result"].str.startswith("other-") & (results["result"] != results["result"].iloc[23])
    other = dict(zip(("cells", "table"), estimated((results[kept], verdicts)), strict=True))
    return Side(name="one", **one), Side(name="other", **other)


def test_differences_are_those_of_the_paired_preferences() -> None:
    one, other = sides()
    found = pair_differences(one, other)
    results = [
        {tuple(cell[list(PAIR)]): cell["results"][0] for _, cell in side.cells.iterrows() if cell["results"]}
        for side in (one, other)
    ]
    assert len(found) == 21
    assert found["status"].value_counts().to_dict() == {"done": 18, "same": 1, "absent": 1, "empty": 1}
    for _, row in found[found["status"] == "done"].iterrows():
        names = [own[tuple(row[list(PAIR)])] for own in results]
        alone = paired_difference(one.table[names[0]], other.table[names[1]])
        assert row["difference"] == pytest.approx(alone.estimate) == pytest.approx(row["first"] - row["second"])
        # What holds together is at least as long as what holds alone.
        assert row["low"] <= alone.low + 0.01
        assert row["high"] >= alone.high - 0.01
    same = found[found["status"] == "same"].iloc[0]
    assert same["difference"] == 0
    assert np.isnan(same["low"])
    assert "same experiment" in same["note"]


def test_matched_differences_hold_as_often_as_they_say() -> None:
    held = 0
    generator = np.random.default_rng(0)
    for _ in range(100):
        table = pd.DataFrame((generator.random((200, 12)) < 0.5).astype(float))
        grid = make_grid({column: table[[column]] for column in table.columns})
        found = matched_differences(grid, {n: (2 * n, 2 * n + 1) for n in range(6)}, draws=500)
        held += all(interval.low <= 0 <= interval.high for interval in found.values())
    assert held >= 89
    with pytest.raises(ValueError, match="99 is no cell"):
        matched_differences(grid, {0: (0, 99)})


def test_difference_heatmap_shows_signs_intervals_and_what_cannot_be_compared() -> None:
    one, other = sides()
    frame = pair_differences(one, other)
    frame.loc[frame["status"] == "done", "low"] = [0.01, *[-0.2] * 17]
    axes = difference_heatmap(frame, first="one", second="other")
    place = {
        status: {tuple(p) for p in frame.loc[frame["status"] == status, ["pair.chosen", "pair.rejected"]].to_numpy()}
        for status in frame["status"]
    }
    assert boxes(axes, "////") == place["empty"]
    assert boxes(axes, "\\\\") == place["same"]
    rates = rates_of(axes)
    for _, row in frame[frame["status"] == "done"].iterrows():
        where = CHOSEN.index(row["pair.chosen"]), REJECTED.index(row["pair.rejected"])
        assert rates[where] == pytest.approx(100 * row["difference"])
    low, high = axes.collections[0].get_clim()
    assert low == -high
    borders = [patch for patch in axes.patches if patch.get_linewidth() == 1.3]
    assert len(borders) == 1
    texts = [text.get_text() for text in axes.texts]
    assert any(text.startswith("\N{MINUS SIGN}") for text in texts)
    text = caption_of(axes)
    for part in ("Win rate of one less that of other", "100 instructions, paired", "hold together", "max-t over 18"):
        assert part in text


def test_differences_refuse_what_is_not_comparable_and_what_stands_twice() -> None:
    one, other = sides(judge_model="another")
    changed = Side(name="other", cells=other.cells.assign(judge_prompt="another"), table=other.table)
    with pytest.raises(PrefsweepError, match="judge_prompt"):
        pair_differences(one, changed)
    twice = Side(name="other", cells=pd.concat([other.cells, other.cells]), table=other.table)
    with pytest.raises(PrefsweepError, match=r"other: pair .* more than once"):
        pair_differences(one, twice)


def test_equal_results_of_two_stores_keep_their_own_verdicts() -> None:
    """The same sweep, done in two stores: results have equal names, and are other models or were judged anew."""
    results, verdicts = make_frames(PAIRS[:3], instructions=100)
    turned = verdicts.assign(preference=1 - verdicts["preference"])
    sides = []
    for judged, mark in ((verdicts, "here"), (turned, "there"), (turned, "here")):
        rates = judged.groupby("result")["preference"].mean()
        own = results.assign(win_rate=results["result"].map(rates), trained_id=mark + results["trained_id"])
        cells, table = estimated((own, judged))
        sides.append(Side(name=mark, cells=cells, table=table))
    one, other, anew = sides
    for second in (other, anew):
        found = pair_differences(one, second)
        assert found["status"].tolist() == ["done"] * 3
        assert found["second"].to_numpy() == pytest.approx(1 - found["first"].to_numpy())
        assert found["difference"].abs().min() > 0
        assert found["low"].notna().all()
    assert set(pair_differences(one, one)["status"]) == {"same"}


def test_settings_are_compared_where_one_thing_has_two_values() -> None:
    cells, table = estimated(make_frames(PAIRS[:3], sizes=(8, 16)))
    small, large = cells[cells["n"] == 8], cells[cells["n"] == 16]

    def parts(*settings: dict[str, str]) -> list[tuple[dict[str, str], pd.DataFrame]]:
        return [(setting, small if number % 2 else large) for number, setting in enumerate(settings)]

    betas = parts({"n": "8", "loss.beta": "0.1"}, {"n": "8", "loss.beta": "0.5"})
    (match,), reason = settings_to_compare(betas, table)
    assert (match.first.name, match.second.name, match.setting) == ("loss.beta=0.5", "loss.beta=0.1", {"n": "8"})
    assert not reason
    for given, why in (
        (parts({"n": "8"}, {"n": "16"}), "one setting only"),
        (parts({"loss.beta": "1"}, {"loss.beta": "2"}, {"loss.beta": "3"}), "loss has 3 values"),
        (parts({"loss.beta": "1", "train.lr": "1"}, {"loss.beta": "2", "train.lr": "2"}), "differ in one thing"),
        (
            [
                ({"judge.name": "a"}, small.assign(judge_model="a")),
                ({"judge.name": "b"}, large.assign(judge_model="b")),
            ],
            "those of judge are not comparable: they differ in judge_model",
        ),
    ):
        found, reason = settings_to_compare(given, table)
        assert found == []
        assert why in reason


def test_settings_are_compared_within_each_version() -> None:
    cells, table = estimated(make_frames(PAIRS[:3], sizes=(8, 16)))
    small, large = cells[cells["n"] == 8], cells[cells["n"] == 16]
    parts = [
        ({"loss.beta": beta, "versions": version}, own.assign(versions=version))
        for version in ("torch 1", "torch 2")
        for beta, own in (("0.1", small), ("0.5", large))
    ]
    matches, reason = settings_to_compare([parts[0], parts[1], parts[3], parts[2]], table)
    assert [match.setting for match in matches] == [{"versions": "torch 1"}, {"versions": "torch 2"}]
    assert [set(match.first.cells["versions"]) | set(match.second.cells["versions"]) for match in matches] == [
        {"torch 1"},
        {"torch 2"},
    ]
    assert not reason


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three pairs at two sizes, by two policies."""
    folder = tmp_path_factory.mktemp("difference") / "store"
    build(folder, Shape(pairs=PAIRS[:3], sizes=(8, 16), policies=2, seeds=1, prompts=4, instructions=12))
    return folder


def test_the_command_draws_two_settings_and_names_what_is_not_there(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.__main__ import main

    results = read_side(store, "synthetic:n=8,policy.name=synthetic-0").cells
    assert len(results) == 3
    command = ["difference", "--store", str(store), "--out", str(tmp_path)]
    sizes = [f"synthetic:n={n},policy.name=synthetic-0" for n in (16, 8)]
    assert main([*command, *sizes]) == 0
    assert "pairs are told apart from no difference" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"difference.png", "difference.svg", "difference.csv"}
    assert len(pd.read_csv(tmp_path / "difference.csv")) == 3
    for given, expected in (
        (
            "synthetic:n=8",
            "its pairs stand more than once; name one value of each: policy.name (synthetic-0, synthetic-1)",
        ),
        (
            "synthetic:size=8",
            "there is no key 'size'; keys that vary here: n, pair.chosen, policy.id, policy.name",
        ),
        ("synthetic:n=9", "n is never '9' here; it is 16, 8"),
        ("absent", "absent"),
    ):
        assert main([*command, given, sizes[0]]) == 2
        assert expected in capsys.readouterr().err


def test_one_sweep_in_two_stores_is_named_by_its_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.__main__ import main

    side = "synthetic:n=8,policy.name=synthetic-0"
    asked = ["difference", side, side, "--store", str(store), "--second-store", str(store), "--out", str(tmp_path)]
    assert main(asked) == 0
    assert f"{side} in {store} less {side} in {store}: 0 of 0 pairs" in capsys.readouterr().out


def overlaps(count: int = 5) -> pd.DataFrame:
    names = [pair_text(*pair) for pair in PAIRS[:count]]
    table = np.eye(count)
    table[0, 1], table[1, 0] = 0.25, 0.5
    table[:, 3] = table[3, :] = np.nan
    return pd.DataFrame(table, index=names, columns=names)


def test_overlap_matrix_has_rows_of_the_left_and_hatches_cells_without_rows() -> None:
    shares = overlaps()
    axes = overlap_matrix(shares)
    assert rates_of(axes)[0, 1] == 25
    assert rates_of(axes)[1, 0] == 50
    assert [label.get_text() for label in axes.get_yticklabels()] == list(shares.index)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(shares.columns)
    assert {"25", "50", "100"} <= {text.get_text() for text in axes.texts}
    hatched = [patch for patch in axes.patches if patch.get_hatch()]
    assert {cast(Rectangle, patch).get_xy() for patch in hatched} == {(0, 3), (3, 0)}
    shares.iloc[[0, 1, 2, 4], 3] = 0.0  # which would stand over the hatch of the cell without rows
    written = {int(text.get_position()[0]) for text in overlap_matrix(shares).texts}
    assert written == {0, 1, 2, 4}
    assert "Hatched: no rows." in caption_of(axes)
    assert "counts have no interval" in caption_of(axes)
    for wrong in (
        shares.iloc[:1, :1],
        shares.iloc[:, ::-1],
        overlaps(21).reindex(range(50)).reindex(columns=range(50)),
    ):
        with pytest.raises(PrefsweepError, match="overlap matrix"):
            overlap_matrix(wrong)


def test_overlap_is_that_of_the_smallest_n_by_the_names_of_the_cells() -> None:
    results, verdicts = make_frames(PAIRS[:3], sizes=(8, 16), seeds=(0, 1))
    cells, _ = estimated((undo(results, [0, 1], "empty"), verdicts))
    keys = dict(zip(results["result"], results["cell"], strict=True))
    both = pd.DataFrame(0.5, index=results["cell"], columns=results["cell"])
    shares, where = overlap_of(cells, both, keys)
    assert where == {"n": "8"}
    assert sorted(shares.index) == sorted(pair_text(*pair) for pair in PAIRS[:3])
    larger = both.loc[results["cell"][results["n"] == 16], results["cell"][results["n"] == 16]]
    assert overlap_of(cells, larger, keys)[1] == {}
    for given, why in ((pd.DataFrame(), "no preference rows"), (both.iloc[:1, :1], "fewer than two cells")):
        with pytest.raises(PrefsweepError, match=why):
            overlap_of(cells, given, keys)


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize("figure", ["multiples", "one policy", "difference", "overlap", "full overlap"])
def test_no_text_is_clipped_or_overlaps(figure: str, width: float) -> None:
    shared: dict[str, Any] = {
        "width": width,
        "heading": "loss.beta = 0.1",
        "provenance": {"sweep": "grid", "commit": "1a2b3c4"},
    }
    if figure == "multiples":
        axes = pair_heatmaps(several(), **shared)
    elif figure == "one policy":
        axes = pair_heatmaps(several(POLICIES[:1]), **shared)
    elif figure == "difference":
        axes = difference_heatmap(pair_differences(*sides()), first="one", second="other", **shared)
    else:
        axes = overlap_matrix(overlaps(21 if figure == "full overlap" else 5), **shared)
    check_legible(axes)
