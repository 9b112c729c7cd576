"""Win rate against KL and against length: what is drawn where, and texts that stand clear of each other."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D

from analysis.estimates import estimate_cells, preference_table
from analysis.figures import length_scatter, overoptimisation
from analysis.figures.against import FLAGGED, MOST_LABELLED, reference_length, root_ticks
from analysis.figures.canvas import INK
from harness.positions import PAIRS
from tests.analysis.drawn import caption_of, check_legible, coordinates, legend_of
from tests.analysis.synthetic import alias, join, make_frames, renamed

SIZES = (8, 16, 32, 64)


def scaling() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three constructions at four n; the first pair is one experiment with the second at n = 8."""
    pairs = make_frames([("max", "min"), ("max", "mu-2s")], sizes=SIZES)
    return alias(*join(pairs, make_frames([(None, None)], construction="sweet_spot", sizes=SIZES)), row=4, of=0)


def points(frames: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    """Cells with a KL and lengths, those of one experiment alike."""
    cells = estimate_cells(frames[0], preference_table(*frames))
    places = pd.factorize(cells["experiment"])[0].astype(float)
    kl, characters = 0.5 + places % 7, 150 + 37 * (places % 11)
    spread = {"kl_low": 0.9 * kl, "kl_high": 1.1 * kl, "characters_low": characters - 9}
    spread |= {"characters_high": characters + 9, "length_ratio": characters / 240}
    return cells.assign(kl=kl, characters=characters, **spread)


def drawn(axes: Axes) -> set[tuple[float, float]]:
    """Places of the points."""
    found = [coordinates(line) for line in _points(axes)]
    return {(round(float(x[0]), 6), round(float(y[0]), 6)) for x, y in found}


def _points(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_marker() not in ("None", None)]


@pytest.mark.parametrize(("plot", "measure"), [(overoptimisation, "kl"), (length_scatter, "characters")])
def test_every_experiment_is_a_point_and_its_n_stands_beside_it(plot: Any, measure: str) -> None:
    cells = points(scaling())
    axes = plot(cells, {int(cells.index[2]): 0.9})
    expected = {
        (round(float(cell[measure]), 6), round(100 * float(cell["win_rate"]), 6)) for _, cell in cells.iterrows()
    }
    assert drawn(axes) == expected
    assert len(_points(axes)) == 11
    assert sorted(text.get_text() for text in axes.texts) == sorted(["8", "8", *(["16", "32", "64"] * 3)])
    assert len([part for part in axes.collections if isinstance(part, PathCollection)]) == 1
    assert "Not drawn, as the same experiment is: 1 of 12 cells." in caption_of(axes)


def test_constructions_that_share_a_pair_or_a_name_are_told_apart() -> None:
    pair = [("max", "min")]
    frames = [make_frames(pair), renamed("ranked", make_frames(pair, construction="ranking"))]
    for share in (0.0, 1.0):
        made = make_frames([(None, None)], construction="max_min", settings={"construction.static_share": share})
        frames.append(renamed(str(share), made))
    axes = length_scatter(points(join(*frames)), {}, width=7.0)
    assert legend_of(axes) == ["(max, min)", "max_min static_share=0", "max_min static_share=1", "ranking (max, min)"]
    assert len({(line.get_color(), line.get_marker()) for line in _points(axes)}) == 4
    check_legible(axes)
    alone = length_scatter(points(make_frames(pair, construction="ranking")), {})
    assert legend_of(alone) == ["ranking (max, min)"]


def test_constructions_without_pairs_of_positions_have_a_colour_each() -> None:
    names = ("max_min", "sweet_spot", "ranking")
    frames = [renamed(name, make_frames([(None, None)], construction=name)) for name in names]
    alone = length_scatter(points(join(*frames)), {})
    assert len({line.get_color() for line in _points(alone)}) == 3
    # Beside pairs colour means the rejected position.
    among = length_scatter(points(join(make_frames([("max", "min"), ("mu", "min")]), *frames)), {})
    named = [line.get_color() for line in _points(among) if line.get_color() == INK]
    assert len(named) == 3


def test_rings_of_all_points_are_said_once() -> None:
    cells = points(make_frames(PAIRS[:3]))
    some, every = (
        overoptimisation(cells, dict.fromkeys(map(int, rows), 0.9)) for rows in (cells.index[:2], cells.index)
    )
    assert FLAGGED in legend_of(some)
    assert FLAGGED not in legend_of(every)
    assert not [part for part in every.collections if isinstance(part, PathCollection)]
    assert "The answers of all cells are near-constant." in caption_of(every)
    assert "The answers of all" not in caption_of(some)


def test_n_of_cells_at_one_place_stand_together() -> None:
    cells = points(alias(*make_frames(PAIRS[:2], sizes=(8, 16)), row=1, of=0))
    assert {"8, 16"} < {text.get_text() for text in overoptimisation(cells, {}).texts}
    cells = cells.assign(kl=1.0, kl_low=0.9, kl_high=1.1, win_rate=0.5, low=0.4, high=0.6)
    assert [text.get_text() for text in overoptimisation(cells, {}).texts] == ["8, 16"]


def test_of_many_points_the_size_says_n_and_points_upon_others_are_counted() -> None:
    cells = points(make_frames(PAIRS, sizes=(8, 64), instructions=100))
    assert len(cells) > MOST_LABELLED
    cells.loc[cells.index[:4], ["kl", "kl_low", "kl_high", "win_rate", "low", "high"]] = [1.0, 0.9, 1.1, 0.5, 0.4, 0.6]
    axes = overoptimisation(cells, {})
    assert not axes.texts
    sizes = {line.get_markersize() for line in _points(axes)}
    assert len(sizes) == 2
    assert {"n = 8", "n = 64"} <= set(legend_of(axes))
    under = int(cells.duplicated(["kl", "win_rate"]).sum())
    assert under >= 3
    assert f"Points exactly upon another: {under}." in caption_of(axes)


def test_the_length_of_the_references_is_a_line_where_all_have_one() -> None:
    cells = points(scaling())
    assert reference_length(cells) == pytest.approx(240)
    axes = length_scatter(cells, {})
    dotted = [line for line in axes.lines if coordinates(line)[0].tolist() == pytest.approx([240, 240])]
    assert len(dotted) == 1
    assert "mean length of the reference answers, 240 characters" in caption_of(axes)
    low, high = axes.get_xlim()
    assert low < 150
    assert high > 240
    other = cells.assign(length_ratio=np.linspace(0.5, 1.5, len(cells)))
    assert np.isnan(reference_length(other))
    assert "Dotted" not in caption_of(length_scatter(other, {}))


@pytest.mark.parametrize("end", [1e-6, 0.07, 1.0, 4.4, 17.3, 950.0])
@pytest.mark.parametrize("apart", [0.1, 0.2])
def test_ticks_of_a_square_root_axis_stand_apart(end: float, apart: float) -> None:
    ticks = root_ticks(end, apart)
    assert ticks[0] == 0
    assert 0.5 * end <= ticks[-1] <= end
    assert np.diff(np.sqrt(ticks)).min() >= 0.999 * apart * np.sqrt(end)
    assert 3 <= len(ticks) <= 9


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1, 300])
def test_ticks_of_small_and_large_divergences_can_be_read(scale: float) -> None:
    cells = points(scaling())
    cells[["kl", "kl_low", "kl_high"]] *= scale
    check_legible(overoptimisation(cells, {}, width=3.4))


@pytest.mark.parametrize("width", [3.4, 7.0])
@pytest.mark.parametrize("plot", [overoptimisation, length_scatter])
@pytest.mark.parametrize("crowded", [False, True])
def test_no_text_is_clipped_or_overlaps(plot: Any, width: float, crowded: bool) -> None:
    cells = points(scaling())
    if crowded:
        apart = np.arange(len(cells)) / 1000
        cells = cells.assign(kl=1 + apart, kl_low=0.9, kl_high=1.1, win_rate=0.5 + apart, low=0.4, high=0.6)
        cells = cells.assign(characters=300 + apart, characters_low=290.0, characters_high=310.0)
    shared = {"width": width, "heading": "loss.beta = 0.1", "provenance": {"sweep": "grid", "commit": "1a2b3c4"}}
    check_legible(plot(cells, {int(cells.index[2]): 0.9}, **shared))
