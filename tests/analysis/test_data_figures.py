"""Figures of what lies behind the cells: what is drawn where, what is not, and that nothing runs over anything else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text

from analysis import schema
from analysis.estimates import estimate_cells, preference_table
from analysis.figures import (
    figure_of,
    normality_check,
    on_share_over_rounds,
    reward_positions,
    stage_costs,
    training_curves,
    unlearning_curve,
)
from analysis.figures.canvas import style_for, text_width
from analysis.figures.costs import short, time_of
from analysis.figures.panels import apart, fitting
from analysis.normality import normality, quantiles, shape_histograms
from analysis.reward_z import EDGES, normal_counts
from analysis.training_curves import remarkable, training_curves_of
from analysis.unlearning import unlearning_curves
from harness.errors import PrefsweepError
from harness.positions import POSITIONS
from tests.analysis.synthetic import make_frames
from tests.analysis.test_reward_shapes import pool

WIDTHS = (3.4, 7.0)
SIZES = (8.0, 16.0, 64.0)


def picks(sizes: tuple[float, ...] = SIZES) -> pd.DataFrame:
    """Positions whose realised z stand 0.1 over what is expected."""
    facts = {"policy.name": "llama", "reward.name": "proxy", "scored_by": "reward", "prompts": 40.0}
    words = {"reward_label": "proxy reward v1", "decoding": "temperature 0.8"}
    rows = []
    for n in sizes:
        for place, position in enumerate(POSITIONS):
            z = float(np.clip(place - 3, -1.4, 1.4) * (1 + 0.1 * np.log2(n)) / 1.4)
            ends = {"z_mean": z + 0.1, "z_low": z, "z_high": z + 0.2, "z_expected": z}
            rows.append({"pool": f"pool{n}", **facts, "n": n, "position": position, **ends, **words})
    return pd.DataFrame(rows)[list(schema.PICKS)]


def reward_z(n: int = 64) -> pd.DataFrame:
    counts = normal_counts({n: 40}, ddof=0)
    frame = pd.DataFrame({"z": (EDGES[:-1] + EDGES[1:]) / 2, "responses": np.round(counts), "expected": counts})
    return frame.assign(pool=f"pool{n}", n=float(n))


def spreads(sizes: tuple[int, ...] = (16, 64)) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.concat([pool(rng.standard_normal((60, n)), n) for n in sizes], ignore_index=True)


def trained(pairs: int = 3, seeds: int = 2, steps: int = 12) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Cells, results and curves: cell i ends at a loss of 0.6 - 0.01 i."""
    names = [("max", p) for p in POSITIONS[:6]] + [("mu+2s", p) for p in POSITIONS[:5]]
    results, verdicts = make_frames(names[:pairs], seeds=tuple(range(seeds)))
    cells = estimate_cells(results, preference_table(results, verdicts))
    order = {name: row for row, names in cells["results"].items() for name in names}
    frames = []
    for name, cell in zip(results["result"], results["cell"], strict=True):
        step = np.arange(1, steps + 1)
        row = int(str(order[name]))
        values = {"loss": 0.6 - 0.01 * row * step / steps, "margin": 0.1 * step, "chosen_logp": -40 - 0.1 * step}
        values |= {"rejected_logp": -45 - 0.5 * step, "chosen_logp_change": -0.1 * step}
        values |= {"rejected_logp_change": -0.5 * step}
        frames.append(pd.DataFrame({"cell": cell, "step": step.astype(float), **values}))
    training = pd.concat(frames, ignore_index=True).reindex(columns=list(schema.TRAINING))
    return cells, results, training


def changes(cells: int = 2) -> pd.DataFrame:
    """Changes that rise by the number of the cell for each unit of reward."""
    frames = []
    for cell in range(cells):
        rewards = np.random.default_rng(5).normal(size=(30, 8))
        rows = [
            {"result": f"r{cell}", "prompt_id": f"p{p:02d}", "sample_index": i, "reward": r, "tokens": 10}
            for p, own in enumerate(rewards)
            for i, r in enumerate(own)
        ]
        frame = pd.DataFrame(rows)
        frames.append(frame.assign(change=cell * frame["reward"] - 2.0))
    return pd.concat(frames, ignore_index=True)


def shares() -> pd.DataFrame:
    """Two rounds of zephyr, by static and by on-policy data, and one round of llama."""
    given_ = [
        ("zephyr", "static", 0.40, "a"),
        ("zephyr", "static > on_policy", 0.66, "b"),
        ("zephyr", "static > static", 0.66, "b"),
        ("zephyr", "on_policy > static", 0.47, "c"),
        ("llama", "auto", 0.62, "d"),
    ]
    rows = [
        {"result": f"{policy}{path}", "policy.name": policy, "round": path.count(">") + 1, "path": path}
        | {"measurement": f"{policy}{key}", "on_share": share, "low": share - 0.05, "high": share + 0.05}
        | {"stage": "injection", "label": "PairRM", "prompts": 200, "data": None}
        for policy, path, share, key in given_
    ]
    return pd.DataFrame(rows)[list(schema.ON_SHARE)]


def costs(gpu: float = 2.0, money: float = 12.5) -> pd.DataFrame:
    rows = [("sample", 3600.0, 1.2e6, np.nan), ("train", 7200.0, np.nan, np.nan), ("judge", 60.0, 3e5, money)]
    return pd.DataFrame(
        {
            "stage": [row[0] for row in rows],
            "nodes": 1.0,
            "seconds": [row[1] for row in rows],
            "gpu_hours": [gpu * row[1] / 3600 for row in rows],
            "tokens": [row[2] for row in rows],
            "money": [row[3] for row in rows],
            "unshared_seconds": [4 * row[1] for row in rows],
            "unshared_gpu_hours": [4 * gpu * row[1] / 3600 for row in rows],
        }
    )


def draw_training(width: float = 7.0, **shape: int) -> Axes:
    cells, results, training = trained(**shape)
    curves = training_curves_of(cells, results, training)
    names = {row: f"cell {row} {why}" for row, why in remarkable(cells, curves).items()}
    return training_curves(curves, names, cells=cells, width=width)


def draw_unlearning(width: float = 7.0, cells: int = 2) -> Axes:
    table = pd.DataFrame({"results": [[f"r{i}"] for i in range(cells)]})
    curves = unlearning_curves(table, changes(cells))
    return unlearning_curve(curves, {i: f"cell {i}" for i in range(cells)}, reward="ArmoRM", width=width)


def draw_normality(width: float = 7.0) -> Axes:
    frame = spreads()
    largest = frame[frame["n"] == 64]
    return normality_check(normality(frame), shape_histograms(largest), quantiles(reward_z()), width=width)


def caption_of(axes: Axes) -> str:
    return " ".join(text.get_text() for text in figure_of(axes).texts).replace("\N{NO-BREAK SPACE}", " ")


def labels_of(axes: Axes) -> list[str]:
    return [text.get_text() for legend in figure_of(axes).legends for text in legend.get_texts()]


def dashed(line: Line2D) -> bool:
    return line.is_dashed()


def test_positions_stand_at_their_z_over_what_is_expected() -> None:
    axes = reward_positions(picks(), reward_z())
    solid = [line for line in axes.lines if not dashed(line)]
    broken = [line for line in axes.lines if dashed(line)]
    assert len(solid) == len(broken) == len(POSITIONS)
    for one, other in zip(solid, broken, strict=True):
        assert np.asarray(one.get_xdata()).tolist() == list(SIZES)
        assert np.asarray(one.get_ydata()) == pytest.approx(np.asarray(other.get_ydata()) + 0.1)
    assert [text.get_text() for text in axes.texts][:2] == ["min", "μ−2σ"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["8", "16", "64"]


def test_all_rewards_stand_beside_the_positions_on_the_same_axis_of_z() -> None:
    axes = reward_positions(picks(), reward_z())
    _, beside = figure_of(axes).axes
    assert beside.get_ylim() == axes.get_ylim()
    filled, expected = (patch.get_data() for patch in beside.patches)  # type: ignore[attr-defined]
    assert np.sum(filled.values) == np.sum(expected.values) == pytest.approx(100)
    assert filled.edges[np.argmax(filled.values)] == pytest.approx(0, abs=0.21)
    assert "temperature 0.8" in caption_of(axes)
    assert "proxy reward v1" in caption_of(axes)


def test_one_size_has_its_positions_side_by_side_and_no_panel_for_rewards_that_are_not_there() -> None:
    axes = reward_positions(picks((8.0,)))
    assert len(figure_of(axes).axes) == 1
    assert next(tick.get_text() for tick in axes.get_xticklabels()) == "min"
    assert "all rewards" not in labels_of(axes)


def test_quantiles_stand_among_the_positions_by_their_z() -> None:
    one = picks((8.0,))
    frame = pd.concat([one, one.iloc[4:5].assign(position="q0.841345", z_mean=0.9)])
    names = [tick.get_text() for tick in reward_positions(frame).get_xticklabels()]
    assert names.index("q0.84") == int((one["z_mean"] < 0.9).sum())


def test_texts_from_data_start_no_formula() -> None:
    axes = reward_positions(picks().assign(reward_label=r"reward $\frac{1}$", decoding="$"), heading=r"$\x$")
    figure_of(axes).draw_without_rendering()
    assert r"$\frac{1}$" in caption_of(axes)
    share = on_share_over_rounds(shares().assign(label=r"$\frac{1}$", **{"policy.name": r"$\x"}))
    figure_of(share).draw_without_rendering()
    cells, results, training = trained(pairs=1)
    curves = training_curves(training_curves_of(cells, results, training), {0: r"$\frac{1}$"}, cells=cells)
    figure_of(curves).draw_without_rendering()
    assert labels_of(curves) == [r"$\frac{1}$"]


@pytest.mark.parametrize(
    "plot",
    [
        lambda: reward_positions(picks()[:0]),
        lambda: normality_check(normality(spreads()[:0]), shape_histograms(spreads()[:0]), quantiles(reward_z()[:0])),
        lambda: on_share_over_rounds(shares().assign(on_share=np.nan)),
        lambda: stage_costs(costs()[:0]),
        lambda: unlearning_curve(unlearning_curves(pd.DataFrame({"results": [["x"]]}), changes()), {}),
    ],
)
def test_nothing_to_draw_is_an_error_that_says_so(plot: Callable[[], Axes]) -> None:
    with pytest.raises(PrefsweepError, match="nothing to draw"):
        plot()


def test_static_candidates_are_not_drawn_among_sizes() -> None:
    static = picks((4.0,)).assign(n=np.nan, z_expected=np.nan)
    axes = reward_positions(pd.concat([picks(), static]))
    assert len(axes.lines) == 2 * len(POSITIONS)
    assert "static candidates, which have no n, are left out" in caption_of(axes)
    alone = reward_positions(static)
    assert len(alone.get_xticklabels()) == len(POSITIONS)
    assert "normal rewards" not in caption_of(alone)


def test_a_position_that_stands_twice_is_refused() -> None:
    with pytest.raises(PrefsweepError, match="more than once at one n"):
        reward_positions(pd.concat([picks(), picks()]))


def test_the_check_of_normality_has_its_four_panels() -> None:
    axes = draw_normality()
    tests, points, skewness, kurtosis = figure_of(axes).axes
    table = normality(spreads()).sort_values("n")
    drawn = [line for line in tests.lines if line.get_marker() == "o"]
    assert [float(np.asarray(line.get_ydata())[0]) for line in drawn] == pytest.approx(
        (100 * table["rejected"]).tolist()
    )
    assert [line.get_ydata()[0] for line in tests.lines if dashed(line)] == [5.0]  # type: ignore[index]
    dots = next(line for line in points.lines if line.get_marker() == ".")
    # Counts are whole numbers, so that the last quantiles are off by some bins.
    assert np.asarray(dots.get_xdata())[5:-5] == pytest.approx(np.asarray(dots.get_ydata())[5:-5], abs=0.15)
    for panel in (skewness, kurtosis):
        assert [np.sum(patch.get_data().values) for patch in panel.patches] == pytest.approx([100, 100])  # type: ignore[attr-defined]
    assert "60 prompts tested" in caption_of(axes)


def test_each_measurement_of_the_boundary_is_drawn_once_and_joined_to_the_one_before() -> None:
    axes = on_share_over_rounds(shares())
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert sorted(float(np.asarray(line.get_ydata())[0]) for line in points) == pytest.approx([40, 47, 62, 66])
    edges = [line for line in axes.lines if line.get_linestyle() != "None" and len(np.asarray(line.get_xdata())) == 2]
    joined = {tuple(np.round(np.asarray(line.get_ydata(), float))): dashed(line) for line in edges[:2]}
    assert joined == {(40, 66): True, (40, 47): False}  # after static data dashed, after on-policy data solid
    assert labels_of(axes) == ["zephyr", "llama", "after on-policy data", "after static data"]
    assert "PairRM" in caption_of(axes)


def test_a_boundary_without_a_share_is_counted() -> None:
    frame = shares()
    frame.loc[0, ["on_share", "low", "high"]] = np.nan
    assert "not drawn: 1" in caption_of(on_share_over_rounds(frame))


def test_costs_are_bars_of_what_was_spent_over_what_sharing_saved() -> None:
    axes = stage_costs(costs())
    widths = [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]
    assert widths == pytest.approx([8, 16, 8 / 60, 2, 4, 2 / 60])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["sample", "train", "judge"]
    assert {"1.2M", "300k", "12.50", "tokens", "US$"} <= {text.get_text() for text in axes.texts}
    assert "saved 75 %" in caption_of(axes)
    assert axes.get_xlabel() == "GPU hours"


def test_without_a_gpu_time_is_the_stages_own_and_without_a_price_money_has_no_column() -> None:
    axes = stage_costs(costs(gpu=0.0, money=np.nan))
    assert axes.get_xlabel() == "hours"
    assert "US$" not in {text.get_text() for text in axes.texts}
    assert "No GPU was held" in caption_of(axes)
    assert "no stage has a known price" in caption_of(axes)


@pytest.mark.parametrize(("seconds", "unit"), [(7200, "hours"), (300, "minutes"), (3, "seconds"), (0, "seconds")])
def test_time_has_the_largest_unit_of_which_there_is_one(seconds: float, unit: str) -> None:
    frame = costs(gpu=0.0).iloc[:1].assign(seconds=seconds, unshared_seconds=seconds)
    spent, _, found = time_of(frame)
    assert found == unit
    assert spent.iloc[0] * {"hours": 3600, "minutes": 60, "seconds": 1}[unit] == pytest.approx(seconds)


@pytest.mark.parametrize(("value", "text"), [(999.4, "999"), (999.9, "1k"), (1.25e6, "1.25M"), (float("nan"), "")])
def test_counts_are_short(value: float, text: str) -> None:
    assert short(value) == text


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_labels_are_apart_and_keep_their_order(places: list[float]) -> None:
    moved = np.array(apart(places, 0.5))
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= 0.5 - 1e-6).all()
    assert moved.mean() == pytest.approx(np.mean(places), abs=1e-6)


def test_labels_that_are_apart_stay_where_they_are() -> None:
    assert apart([3.0, 0.0, 1.0], 0.5) == [3.0, 0.0, 1.0]


def test_long_names_are_cut_to_the_figure() -> None:
    style = style_for(3.4)
    cut = fitting("construction " * 20, style)
    assert cut.endswith("…")
    assert text_width(cut, style.small) < style.width
    assert fitting("short", style) == "short"


def texts_of(axes: Axes) -> list[Text]:
    """All texts of a figure that are drawn."""
    figure = figure_of(axes)
    found: list[Text] = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for panel in figure.axes:
        ticks = [
            tick.label1
            for axis in (panel.xaxis, panel.yaxis)
            for tick in axis.get_major_ticks()
            if min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        ]
        shown = [tick for tick in ticks if tick.get_visible()]
        found += [*panel.texts, *shown, panel.xaxis.label, panel.yaxis.label, panel._left_title]  # type: ignore[attr-defined]
    return [text for text in found if text.get_text() and text.get_visible()]


DRAWN: list[Callable[[float], Axes]] = [
    lambda width: reward_positions(picks(), reward_z(), width=width),
    lambda width: reward_positions(picks((8.0,)), reward_z(), width=width),
    lambda width: reward_positions(picks((8.0,)).replace({"position": {"mu-1s": "low_draw"}}), width=width),
    draw_normality,
    lambda width: draw_training(width, pairs=11),
    lambda width: draw_unlearning(width, cells=9),
    lambda width: on_share_over_rounds(shares(), width=width),
    lambda width: stage_costs(costs(), width=width),
]


def test_names_that_stand_aslant_end_over_the_caption() -> None:
    axes = reward_positions(picks((8.0,)).replace({"position": {"mu-1s": "low_draw"}}), reward_z(), width=3.4)
    figure = figure_of(axes)
    figure.draw_without_rendering()
    names = [name for name in axes.get_xticklabels() if name.get_rotation()]
    assert "lowest draw" in [name.get_text() for name in names]
    caption = max(text.get_window_extent().y1 for text in figure.texts if text.get_window_extent().y1 < axes.bbox.y0)
    assert min(name.get_window_extent().y0 for name in names) > caption


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("plot", DRAWN)
def test_no_text_is_clipped_or_overlaps(plot: Callable[[float], Axes], width: float) -> None:
    axes = plot(width)
    figure = figure_of(axes)
    figure.draw_without_rendering()
    boxes: list[Any] = [(text.get_text(), text.get_window_extent()) for text in texts_of(axes)]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
    turned = {text.get_text() for text in texts_of(axes) if text.get_rotation() not in (0, 90)}
    tight = [(text, box.padded(-2)) for text, box in boxes if text not in turned]
    over = [
        (tight[i][0], tight[j][0]) for i in range(len(tight)) for j in range(i) if tight[i][1].overlaps(tight[j][1])
    ]
    assert not over
