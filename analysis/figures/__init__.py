"""Figures: each takes a frame and returns Axes on a figure of its own; nothing is estimated here.

One module for each; `save` writes one as PNG and SVG.
"""

from analysis.figures.canvas import figure_of, save
from analysis.figures.heatmap import pair_heatmap
from analysis.figures.scaling import scaling_curve

__all__ = ["figure_of", "pair_heatmap", "save", "scaling_curve"]
