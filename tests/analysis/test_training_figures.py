"""Training and unlearning curves: what is drawn of which cells and seeds, and what their points stand for."""

import numpy as np
import pandas as pd
import pytest

from analysis.figures import figure_of, training_curves
from analysis.figures.unlearning import shown_cells
from analysis.training_curves import MOST_POINTS, remarkable, training_curves_of
from analysis.unlearning import unlearning_curves
from tests.analysis.test_data_figures import caption_of, changes, draw_training, draw_unlearning, labels_of, trained


def test_training_curves_are_means_over_seeds_with_each_seed_behind() -> None:
    axes = draw_training(pairs=3, seeds=2)
    loss, margin, chosen, rejected = figure_of(axes).axes
    bold = [line for line in loss.lines if line.get_linewidth() > 1]
    assert [float(np.asarray(line.get_ydata())[-1]) for line in bold] == pytest.approx([0.6, 0.59, 0.58])
    thin = [np.asarray(line.get_ydata()) for line in loss.lines if line.get_linewidth() < 0.45]
    assert [np.isnan(values).sum() for values in thin] == [1, 1, 1]  # two seeds, a gap between
    assert np.asarray(margin.lines[-1].get_ydata())[-1] == pytest.approx(1.2)
    assert np.asarray(rejected.lines[-1].get_ydata())[-1] == pytest.approx(-6.0)
    assert chosen.get_ylim() == rejected.get_ylim()
    assert labels_of(axes) == ["cell 0 ", "cell 1 ", "cell 2 "]
    assert "change from the reference" in caption_of(axes)


def test_of_many_cells_the_remarkable_ones_have_colours() -> None:
    cells, results, training = trained(pairs=11, seeds=1)
    curves = training_curves_of(cells, results, training)
    shown = remarkable(cells, curves)
    assert shown[0].endswith("highest last loss")
    assert shown[10].endswith("lowest last loss")
    assert "highest win rate" in shown[int(cells["win_rate"].argmax())]
    axes = training_curves(curves, shown, cells=cells)
    grey = axes.lines[0]
    assert np.isnan(np.asarray(grey.get_ydata(), float)).sum() == 11 - len(shown) - 1
    assert f"other cells ({11 - len(shown)})" in labels_of(axes)
    assert "One training seed" in caption_of(axes)


def test_many_steps_are_averaged() -> None:
    cells, results, training = trained(pairs=1, seeds=1, steps=10 * MOST_POINTS)
    curves = training_curves_of(cells, results, training)
    mean = curves[curves["seed"].isna()]
    assert len(mean) == MOST_POINTS
    assert mean["step"].iloc[0] == pytest.approx(5.5)
    assert mean["margin"].to_numpy() == pytest.approx(0.1 * mean["step"].to_numpy())
    assert set(curves["steps"]) == {10}


def test_log_probabilities_stand_where_their_changes_were_not_recorded() -> None:
    cells, results, training = trained(pairs=1, seeds=1)
    older = training.assign(chosen_logp_change=np.nan, rejected_logp_change=np.nan)
    curves = training_curves_of(cells, results, older)
    assert curves["chosen_logp"].max() == pytest.approx(-40.1)
    assert "change" not in caption_of(training_curves(curves, {0: "cell"}, cells=cells))


def test_a_step_without_a_value_is_left_out() -> None:
    cells, results, training = trained(pairs=1, seeds=1)
    training.loc[3, "loss"] = np.nan
    curves = training_curves_of(cells, results, training)
    axes = training_curves(curves, {0: "cell"}, cells=cells)
    assert np.asarray(axes.lines[-1].get_xdata()).tolist() == [1, 2, 3, *range(5, 13)]


def test_cells_without_a_training_have_no_curve() -> None:
    cells, results, training = trained(pairs=2, seeds=1)
    gone = results.loc[results["result"] == cells["results"].iloc[0][0], "cell"].iloc[0]
    curves = training_curves_of(cells, results, training[training["cell"] != gone])
    assert set(curves["cell"]) == {1}


def test_the_unlearning_curve_rises_as_changes_go_with_the_reward() -> None:
    table = pd.DataFrame({"results": [["r0"], ["r1"]]})
    curves = unlearning_curves(table, changes())
    flat, rising = (curves[curves["cell"] == cell] for cell in (0, 1))
    assert flat["change"].to_numpy() == pytest.approx(-2.0)
    mean = changes()["reward"].mean()
    assert (rising["change"] + 2.0).to_numpy() == pytest.approx(rising["reward"] + mean, abs=1e-9)
    assert rising["rank"].tolist() == [1, 2, 3, 4, 5]
    assert (curves["prompts"] == 30).all()
    assert (rising["low"] < rising["change"]).all()
    axes = draw_unlearning()
    drawn = [np.asarray(line.get_ydata()) for line in axes.lines[:2]]
    assert drawn[1] == pytest.approx(rising["change"].to_numpy())
    assert "ArmoRM" in caption_of(axes)
    assert "Points without a bar have no interval: all values are equal." in caption_of(axes)
    assert "(none" not in caption_of(axes)


def test_prompts_whose_rewards_are_equal_say_nothing_of_the_reward() -> None:
    frame = changes(1)
    frame.loc[frame["prompt_id"] == "p00", "reward"] = 1.0
    frame.loc[frame["prompt_id"] == "p01", "reward"] = np.nan
    curves = unlearning_curves(pd.DataFrame({"results": [["r0"]]}), frame)
    assert (curves["prompts"] == 28).all()
    assert unlearning_curves(pd.DataFrame({"results": [["r0"]]}), frame[frame["prompt_id"] == "p00"]).empty


def test_two_responses_a_prompt_are_two_ranks() -> None:
    frame = changes(1)
    curves = unlearning_curves(pd.DataFrame({"results": [["r0"]]}), frame[frame["sample_index"] < 2])
    assert curves["rank"].tolist() == [1, 2]
    assert curves["reward"].iloc[0] == pytest.approx(-curves["reward"].iloc[1])


def test_of_many_unlearning_curves_the_ends_have_colours() -> None:
    table = pd.DataFrame({"results": [[f"r{i}"] for i in range(9)]})
    assert shown_cells(unlearning_curves(table, changes(9))) == [0, 1, 2, 6, 7, 8]
    assert "other cells (3)" in labels_of(draw_unlearning(cells=9))
