"""Figures: what is drawn where, and that nothing runs over anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from analysis.estimates import detectable_difference, estimate_cells, preference_table
from analysis.figures import figure_of, pair_heatmap, save, scaling_curve
from analysis.figures.canvas import text_width, wrap
from analysis.figures.heatmap import CHOSEN, REJECTED
from harness.errors import PrefsweepError
from harness.positions import PAIRS
from tests.analysis.synthetic import JUDGE, alias, join, make_frames, undo

Frames = tuple[pd.DataFrame, pd.DataFrame]


def draw(plot: Callable[..., Axes], frames: Frames, **options: Any) -> tuple[Axes, pd.DataFrame]:
    table = preference_table(*frames)
    cells = estimate_cells(frames[0], table)
    axes = plot(cells, detectable=detectable_difference(cells, table), **options)
    return axes, cells


def caption_of(axes: Axes) -> str:
    return " ".join(text.get_text() for text in axes.figure.texts).replace("\N{NO-BREAK SPACE}", " ")


def boxes(axes: Axes, hatch: str | None) -> set[tuple[str, str]]:
    """Pairs whose box has this hatch."""
    found = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch() == hatch]
    return {(CHOSEN[int(box.get_y())], REJECTED[int(box.get_x())]) for box in found}


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


def test_heatmap_says_when_steps_differ() -> None:
    results, verdicts = make_frames(PAIRS[:4])
    results.loc[3, "steps"] = 20.0
    axes, _ = draw(pair_heatmap, (results, verdicts))
    assert "unequal steps: 20\N{EN DASH}40" in caption_of(axes)


def test_heatmap_counts_pairs_outside_the_grid() -> None:
    frames = make_frames(PAIRS[:3])
    frames[0].loc[0, "pair.chosen"] = "mu+1.5s"
    axes, _ = draw(pair_heatmap, frames)
    assert "1 pair(s) outside the grid" in caption_of(axes)


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


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize(("plot", "frames"), [(pair_heatmap, mixed), (scaling_curve, scaling)])
def test_no_text_is_clipped_or_overlaps(plot: Callable[..., Axes], frames: Callable[[], Frames], width: float) -> None:
    provenance = {"sweep": "grid", "commit": "1a2b3c4", "transformers": "5.1.0"}
    axes, _ = draw(plot, frames(), width=width, heading="loss.beta = 0.1", provenance=provenance)
    figure = figure_of(axes)
    figure.draw_without_rendering()
    # Ticks beyond the limits exist but are not drawn.
    ticks = [
        tick.label1
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]
    texts = [*figure.texts, *axes.texts, *ticks]
    extents = [text.get_window_extent() for text in texts if text.get_text()]
    extents += [label.get_window_extent() for label in (axes.xaxis.label, axes.yaxis.label)]
    for box in extents:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    # A pixel or two of shared leading is no overlap.
    tight = [box.padded(-2) for box in extents]
    assert not any(tight[i].overlaps(tight[j]) for i in range(len(tight)) for j in range(i))


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
