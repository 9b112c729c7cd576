"""How a value goes with another within groups: a slope whose interval counts groups, not rows."""

from math import nan
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import special

from analysis.statistics.intervals import THESE_MODELS, Floats, Interval

CLUSTERED: Final = "Student t over prompts, cluster-robust"


def within_slope(x: Floats, y: Floats, groups: npt.ArrayLike, *, level: float = 0.95) -> Interval:
    """Slope of y on x with a level of its own for each group (fixed effects), and its interval over groups.

    The error is the cluster-robust sandwich with G / (G - 1), and Student's t has G - 1 degrees of freedom, G the
    groups whose x vary; the other ones say nothing about a slope. `n` counts rows used, `excluded` those left out, also
    for a value that is not finite.

    Args:
        x, y, groups: [rows]
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    known = np.isfinite(x) & np.isfinite(y)
    rows = known & _varies(x, codes, known)
    facts: dict[str, Any] = {"level": level, "scope": THESE_MODELS, "n": int(rows.sum())}
    facts["excluded"] = len(rows) - facts["n"]
    if not rows.any():
        return Interval(estimate=nan, low=nan, high=nan, method="none", note="no group whose values vary", **facts)
    _, own = np.unique(codes[rows], return_inverse=True)
    across, up = (_centred(values[rows], own) for values in (x, y))
    scale = float((across**2).sum())
    slope = float((across * up).sum() / scale)
    count = int(own.max()) + 1
    if count == 1:
        note = "no interval: one group"
        return Interval(estimate=slope, low=nan, high=nan, method="none", note=note, **facts)
    scores = np.bincount(own, weights=across * (up - slope * across))
    error = float(np.sqrt(count / (count - 1) * (scores**2).sum()) / scale)
    half = float(special.stdtrit(count - 1, (1 + level) / 2)) * error
    return Interval(estimate=slope, low=slope - half, high=slope + half, method=CLUSTERED, **facts)


def slope_shares(x: Floats, several: Floats, groups: npt.ArrayLike) -> Floats:
    """What each group adds to the slope of `within_slope`, [seeds x groups whose x vary].

    The mean over groups is a seed's slope; the spread over groups, about the mean slope, is that of the cluster-robust
    error. Rows with a value that is not finite in any seed are left out of all.

    Args:
        x, groups: [rows]
        several: one y for each training seed, [seeds x rows]
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    known = np.isfinite(x) & np.isfinite(several).all(axis=0)
    rows = known & _varies(x, codes, known)
    if not rows.any():
        return np.zeros((len(several), 0))
    _, own = np.unique(codes[rows], return_inverse=True)
    across = _centred(x[rows], own)
    ups = np.stack([_centred(one[rows], own) for one in several])
    scale = float((across**2).sum())
    slope = float((ups.mean(axis=0) * across).sum() / scale)
    scores = [np.bincount(own, weights=across * (up - slope * across)) for up in ups]
    return np.asarray(slope + (int(own.max()) + 1) * np.stack(scores) / scale, dtype=np.float64)


def _varies(x: Floats, codes: npt.NDArray[np.intp], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which rows are of a group with different known x, [rows]."""
    low, high = np.full(codes.max(initial=-1) + 1, np.inf), np.full(codes.max(initial=-1) + 1, -np.inf)
    np.minimum.at(low, codes[known], x[known])
    np.maximum.at(high, codes[known], x[known])
    varying: npt.NDArray[np.bool_] = (high > low)[codes]
    return varying


def _centred(values: Floats, codes: npt.NDArray[np.intp]) -> Floats:
    centred: Floats = values - (np.bincount(codes, weights=values) / np.bincount(codes))[codes]
    return centred
