"""Figures: what is drawn where, and that nothing runs over anything else."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis.captions import construction_label
from analysis.estimates import (
    BEST,
    LOWER,
    RIVAL,
    detectable_difference,
    estimate_cells,
    preference_table,
    with_standing,
)
from analysis.figures import figure_of, pair_heatmap, save, scaling_curve, scaling_multiples
from analysis.figures.canvas import GREY, LINES, text_width, wrap
from analysis.figures.grid import CHOSEN, REJECTED
from analysis.published import SWEET_SPOT_SCALING
from analysis.schema import PAIR
from harness.errors import PrefsweepError
from harness.positions import PAIRS
from tests.analysis.drawn import boxes, caption_of, check_legible, coordinates, legend_of, marked
from tests.analysis.synthetic import JUDGE, alias, join, make_frames, undo

KINDS = ("figure", "table")

Frames = tuple[pd.DataFrame, pd.DataFrame]


def draw(plot: Callable[..., Axes], frames: Frames, **options: Any) -> tuple[Axes, pd.DataFrame]:
    table = preference_table(*frames)
    cells = estimate_cells(frames[0], table)
    axes = plot(cells, detectable=detectable_difference(cells, table), **options)
    return axes, cells


def mixed() -> Frames:
    results, verdicts = alias(*make_frames(instructions=64), row=0, of=1)
    for row, status in ((20, "empty"), (13, "failed"), (9, "missing")):
        results = undo(results, [row], status)
    return results, verdicts


def scaling() -> Frames:
    sizes = (5, 8, 20, 64, 200)
    pairs = make_frames([("max", "min"), ("max", "mu-2s")], sizes=sizes)
    return join(pairs, make_frames([(None, None)], construction="sweet_spot", sizes=sizes))


def test_heatmap_puts_each_pair_in_its_place() -> None:
    axes, cells = draw(pair_heatmap, make_frames())
    rates: np.ndarray = np.ma.filled(np.ma.asarray(axes.collections[0].get_array()), np.nan)
    assert np.isfinite(rates).sum() == len(PAIRS) == 21
    for _, cell in cells.iterrows():
        place = CHOSEN.index(cell["pair.chosen"]), REJECTED.index(cell["pair.rejected"])
        assert rates[place] == pytest.approx(100 * cell["win_rate"])
    assert axes.get_yticklabels()[0].get_text() == "max"
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == [
        "min",
        "\N{GREEK SMALL LETTER MU}\N{MINUS SIGN}2\N{GREEK SMALL LETTER SIGMA}",
        "\N{GREEK SMALL LETTER MU}\N{MINUS SIGN}1\N{GREEK SMALL LETTER SIGMA}",
    ]
    low, high = axes.collections[0].get_clim()
    assert low + high == 100


def test_heatmap_writes_rate_and_interval_in_the_cell() -> None:
    axes, cells = draw(pair_heatmap, make_frames(PAIRS[:4]))
    texts = [text.get_text() for text in axes.texts]
    first = cells.iloc[0]
    assert f"{100 * first['win_rate']:.1f}" in texts
    assert f"{100 * first['low']:.1f}\N{EN DASH}{100 * first['high']:.1f}" in texts


def test_heatmap_tells_empty_failed_missing_absent_and_identical_cells_apart() -> None:
    results, verdicts = mixed()
    kept = results.drop(index=[16])
    axes, _ = draw(pair_heatmap, (kept, verdicts))
    pair = {row: (results.at[row, "pair.chosen"], results.at[row, "pair.rejected"]) for row in results.index}
    assert boxes(axes, "////") == {pair[20]}
    assert boxes(axes, "xxxx") == {pair[13]}
    assert boxes(axes, "....") == {pair[9]}
    assert boxes(axes, "\\\\") == {pair[0], pair[1]}
    texts = [text.get_text() for text in axes.texts]
    assert {"empty", "failed", "missing"} <= set(texts)
    assert texts.count("=A") == 2
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 5
    assert "same letter" in caption_of(axes)


def test_heatmap_states_what_its_numbers_rest_on() -> None:
    axes, _ = draw(pair_heatmap, make_frames(PAIRS[:4], instructions=64), provenance={"commit": "1a2b3c4"})
    text = caption_of(axes)
    for part in (
        JUDGE,
        "untrained policy",
        "greedy, 48 tokens",
        "64 instructions",
        "training seeds: 1",
        "intervals: these trained models only",
        "score interval over instructions",
        "Smallest difference one comparison can detect",
        "commit 1a2b3c4",
    ):
        assert part in text
    assert "unequal steps" not in text


def test_heatmap_of_three_seeds_speaks_about_the_construction() -> None:
    axes, cells = draw(pair_heatmap, make_frames(PAIRS[:4], seeds=(0, 1, 2)))
    assert len(cells) == 4
    assert "intervals: construction" in caption_of(axes)
    assert "training seeds: 3" in caption_of(axes)


def test_heatmap_marks_the_best_cell_and_those_not_told_apart_from_it() -> None:
    frames = alias(*make_frames(instructions=200), row=0, of=PAIRS.index(("max", "mu-2s")))
    table = preference_table(*frames)
    cells = with_standing(estimate_cells(frames[0], table), table)
    axes = pair_heatmap(cells)
    pairs = {row: (cell["pair.chosen"], cell["pair.rejected"]) for row, cell in cells.iterrows()}
    own = {standing: {pairs[row] for row in cells.index[cells["standing"] == standing]} for standing in (BEST, RIVAL)}
    best = cells["win_rate"].idxmax()
    assert own[BEST] == {pairs[row] for row in cells.index[cells["experiment"] == cells.at[best, "experiment"]]}
    assert len(own[BEST]) == 2  # a copy of the best is the best
    assert own[RIVAL]
    assert (cells["standing"] == LOWER).any()
    assert marked(axes, "*") == own[BEST]
    assert marked(axes, "o") == own[RIVAL]
    assert "Hsu's multiple comparisons with the best" in caption_of(axes)
    assert not marked(pair_heatmap(cells.drop(columns="standing")), "*")


def test_nothing_is_the_best_of_one_experiment_or_of_none() -> None:
    results, verdicts = make_frames(PAIRS[:2])
    for frames in (alias(results, verdicts, row=0, of=1), (undo(results, [0, 1], "missing"), verdicts)):
        table = preference_table(*frames)
        cells = with_standing(estimate_cells(frames[0], table), table)
        assert cells["standing"].isna().all()
        assert "Hsu" not in caption_of(pair_heatmap(cells))


def test_heatmap_says_when_steps_differ() -> None:
    results, verdicts = make_frames(PAIRS[:4])
    results.loc[3, "steps"] = 20.0
    axes, _ = draw(pair_heatmap, (results, verdicts))
    assert "unequal steps: 20\N{EN DASH}40" in caption_of(axes)


def test_heatmap_counts_pairs_outside_the_grid() -> None:
    frames = make_frames(PAIRS[:3])
    frames[0].loc[0, "pair.chosen"] = "mu+1.5s"
    axes, _ = draw(pair_heatmap, frames)
    assert "Pairs outside the grid, in the table only: 1." in caption_of(axes)


def test_heatmap_refuses_a_pair_that_stands_twice() -> None:
    with pytest.raises(PrefsweepError, match="more than once"):
        draw(pair_heatmap, make_frames(PAIRS[:1], sizes=(8, 16)))


def test_heatmap_of_nothing_done_is_drawn() -> None:
    results, verdicts = make_frames(PAIRS[:2])
    axes, _ = draw(pair_heatmap, (undo(results, [0, 1], "missing"), verdicts))
    assert len(boxes(axes, "....")) == 2
    assert "No cell is done yet" in caption_of(axes)


def test_scaling_curve_has_a_line_a_band_and_a_label_per_construction() -> None:
    axes, cells = draw(scaling_curve, scaling())
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert [line.get_label() for line in lines] == [
        "position (max, min)",
        "position (max, \N{GREEK SMALL LETTER MU}\N{MINUS SIGN}2\N{GREEK SMALL LETTER SIGMA})",
        "sweet_spot",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "8", "20", "64", "200"]
    assert axes.get_xscale() == "log"
    own = cells[cells["construction.name"] == "sweet_spot"]
    assert lines[2].get_ydata() == pytest.approx(100 * own["win_rate"].to_numpy())
    assert len(axes.collections) == 3
    assert len({line.get_marker() for line in lines}) == 3


def test_scaling_curve_rings_identical_experiments() -> None:
    frames = alias(*scaling(), row=5, of=0)
    axes, cells = draw(scaling_curve, frames)
    ring = next(part for part in axes.collections if part.get_label() == "same experiment")
    rate = 100 * cells["win_rate"].to_numpy()[0]
    assert np.asarray(ring.get_offsets()) == pytest.approx(np.array([[5.0, rate], [5.0, rate]]))


def test_scaling_curve_leaves_out_what_is_not_done_and_says_so() -> None:
    results, verdicts = scaling()
    axes, _ = draw(scaling_curve, (undo(results, [13], "failed"), verdicts))
    line = next(line for line in axes.lines if line.get_label() == "sweet_spot")
    assert np.asarray(line.get_xdata()).tolist() == [5, 8, 20, 200]
    assert "Not done, so not drawn: 1." in caption_of(axes)


def many() -> Frames:
    """More constructions than could share one panel; one has a single n, two are one experiment at the smallest."""
    pairs = make_frames(PAIRS[:9], sizes=(8, 16, 64))
    frames = join(pairs, make_frames([(None, None)], construction="sweet_spot_of_a_long_name", sizes=(64,)))
    return alias(*frames, row=3, of=0)


def title_of(panel: Axes) -> str:
    return panel.texts[0].get_text().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def test_each_of_many_constructions_has_a_panel_with_its_interval() -> None:
    axes, cells = draw(scaling_curve, many())
    panels = [panel for panel in figure_of(axes).axes if panel is not axes]
    assert [title_of(panel) for panel in panels] == [
        *(construction_label(cell, cells).removeprefix("position ") for _, cell in cells[cells["n"] == 8].iterrows()),
        "sweet_spot_of_a_long_name",
    ]
    for panel, (pair, own) in zip(panels, cells.groupby([*PAIR], sort=False, dropna=False), strict=True):
        solid, hollow = (coordinates(line) for line in panel.lines if line.get_marker() == "o")
        assert sorted([*solid[1], *hollow[1]]) == pytest.approx(sorted(100 * own["win_rate"]))
        assert list(hollow[0]) == ([8.0] if pair in PAIRS[:2] else [])
        (interval,) = panel.collections
        y = np.asarray(interval.get_paths()[0].vertices)[:, 1]
        assert [y.min(), y.max()] == pytest.approx([100 * own["low"].min(), 100 * own["high"].max()])
        grey = [line for line in panel.lines if line.get_color() == GREY]
        assert len(grey) == len(panels) - 1
        assert panel.get_ylim() == panels[0].get_ylim()
    assert "each construction, or pair (chosen, rejected), with its interval" in caption_of(axes)


def test_of_many_constructions_the_highest_and_the_lowest_have_a_colour() -> None:
    axes, cells = draw(scaling_curve, many())
    last = cells[cells["n"] == 64].sort_values("win_rate")
    for (_, cell), colour, what in zip(list(last.iloc[[-1, 0]].iterrows()), LINES, ("highest", "lowest"), strict=False):
        name = construction_label(cell, cells)
        (line,) = (line for line in axes.lines if line.get_color() == colour)
        assert line.get_label() == name
        assert f"{name.removeprefix('position ')}: {what} at n = 64" in legend_of(axes)
        panels = (panel for panel in figure_of(axes).axes if panel is not axes)
        (panel,) = (panel for panel in panels if any(each.get_color() == colour for each in panel.lines))
        assert title_of(panel) == name.removeprefix("position ")
    assert "not that they stand apart" in caption_of(axes)


def test_more_constructions_than_panels_say_where_the_intervals_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_multiples, "MOST", 8)
    axes, _ = draw(scaling_curve, many())
    assert len(figure_of(axes).axes) == 1
    assert "The table has the intervals: more than 8 constructions have no panels" in caption_of(axes)


def test_sizes_without_room_for_a_name_keep_their_tick() -> None:
    frames = make_frames([("max", "min")], sizes=(8, 60, 64, 68))
    axes, _ = draw(scaling_curve, frames, width=3.4)
    assert list(axes.get_xticks()) == [8, 60, 64, 68]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "", "", "68"]


def test_published_curves_stand_on_an_axis_of_their_own_with_their_provenance() -> None:
    frames = make_frames([("max", "min")], sizes=(8, 16, 60))
    axes, cells = draw(scaling_curve, frames, published=SWEET_SPOT_SCALING)
    figure = figure_of(axes)
    (beside,) = (other for other in figure.axes if other is not axes)
    drawn = [dict(zip(*map(list, coordinates(line)), strict=True)) for line in beside.lines if line.get_marker()]
    read = [{p.n: p.win_rate for p in c.points if p.read == kind} for c in SWEET_SPOT_SCALING for kind in KINDS]
    assert [own for own in drawn if 0 not in own] == read
    # Equal slopes are equal, levels are not: the same span, another middle.
    assert np.ptp(beside.get_ylim()) == pytest.approx(np.ptp(axes.get_ylim()))
    for limits, rates in (
        (axes.get_ylim(), 100 * cells["win_rate"]),
        (beside.get_ylim(), [r for o in read for r in o.values()]),
    ):
        assert limits[0] < min(rates) <= max(rates) < limits[1]
    low, high = axes.get_xlim()
    assert low < 5
    assert high > 400
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "8", "16", "60", "100", "200", "400"]
    assert len(legend_of(axes)) == 3
    text = caption_of(axes)
    for part in ("arXiv 2502.16825", "Llama-3-8B-Instruct", "AlpacaEval 2", "second-hand", "not the levels"):
        assert part in text
    assert "published" not in caption_of(draw(scaling_curve, frames)[0])


def test_published_numbers_are_those_of_the_notes_and_say_how_they_were_read() -> None:
    assert all(curve.second_hand and curve.source for curve in SWEET_SPOT_SCALING)
    tables = {c.construction: {p.n: p.win_rate for p in c.points if p.read == "table"} for c in SWEET_SPOT_SCALING}
    assert tables == {"max_min": {400: 42.0}, "sweet_spot": {400: 49.1}}


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize(
    ("plot", "frames"),
    [
        (pair_heatmap, mixed),
        (scaling_curve, scaling),
        (scaling_curve, many),
        (partial(scaling_curve, published=SWEET_SPOT_SCALING), scaling),
        (partial(scaling_curve, published=SWEET_SPOT_SCALING), many),
    ],
)
def test_no_text_is_clipped_or_overlaps(plot: Callable[..., Axes], frames: Callable[[], Frames], width: float) -> None:
    provenance = {"sweep": "grid", "commit": "1a2b3c4", "transformers": "5.1.0"}
    axes, _ = draw(plot, frames(), width=width, heading="loss.beta = 0.1", provenance=provenance)
    check_legible(axes)


def test_texts_from_data_are_never_read_as_formulas() -> None:
    results, verdicts = make_frames(PAIRS[:2])
    results["judge_label"] = r"judge of $\frac{1}$ dollars"
    axes, _ = draw(pair_heatmap, (results, verdicts))
    figure_of(axes).draw_without_rendering()
    assert r"$\frac{1}$" in caption_of(axes)


def test_saved_figures_are_the_same_bytes_twice(tmp_path: Path) -> None:
    frames = make_frames(PAIRS[:3])
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        axes, _ = draw(pair_heatmap, frames)
        paths = save(figure_of(axes), tmp_path / name / "heatmap-loss.beta=0.1")
        assert [path.name for path in paths] == ["heatmap-loss.beta=0.1.png", "heatmap-loss.beta=0.1.svg"]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_wrapped_lines_fit_and_lose_no_word() -> None:
    text = "one two three four five six seven eight nine ten"
    lines = wrap(text, 8, 1.0)
    assert " ".join(lines) == text
    assert len(lines) > 1
    assert all(text_width(line, 8) <= 1.0 for line in lines)
