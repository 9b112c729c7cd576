"""Figures: each takes a frame and returns Axes on a figure of its own; nothing is estimated here.

One module for each; `save` writes one as PNG and SVG.
"""

from analysis.figures.against import length_scatter, overoptimisation
from analysis.figures.canvas import figure_of, save
from analysis.figures.costs import stage_costs
from analysis.figures.difference import difference_heatmap
from analysis.figures.heatmap import pair_heatmap
from analysis.figures.multiples import OF_THE_POLICY, pair_heatmaps
from analysis.figures.normality import normality_check
from analysis.figures.on_share import on_share_over_rounds
from analysis.figures.overlap import overlap_matrix
from analysis.figures.reward_positions import reward_positions
from analysis.figures.scaling import scaling_curve
from analysis.figures.training import training_curves
from analysis.figures.unlearning import unlearning_curve

__all__ = [
    "OF_THE_POLICY",
    "difference_heatmap",
    "figure_of",
    "length_scatter",
    "normality_check",
    "on_share_over_rounds",
    "overlap_matrix",
    "overoptimisation",
    "pair_heatmap",
    "pair_heatmaps",
    "reward_positions",
    "save",
    "scaling_curve",
    "stage_costs",
    "training_curves",
    "unlearning_curve",
]
