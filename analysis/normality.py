"""Whether rewards are normal within a prompt, as the theory of the positions takes them to be.

Each prompt's rewards are tested on their own (Shapiro and Wilk). Of normal rewards the test rejects 5 % of the prompts,
so that it is the share beyond that which says something.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.statistics import mean_interval, win_rate_interval

LEVEL: Final = 0.05
"""Of the test of each prompt: the share of normal prompts that it rejects."""

SHAPES: Final = ("skewness", "excess_kurtosis")

POOL: Final = ("pool", "policy.name", "reward.name", "n")

COLUMNS: Final = (
    *POOL,
    "prompts",
    "untested",
    "rejected",
    "low",
    "high",
    "method",
    *(f"{shape}{end}" for shape in SHAPES for end in ("", "_low", "_high", "_expected")),
)

HISTOGRAM: Final = ("measure", "low", "high", "share", "expected")
QUANTILES: Final = ("share", "realised", "expected")

_DRAWS: Final = 4_000
"""Simulated prompts behind the expected histogram of a shape."""

_BINS: Final = 14

Floats = npt.NDArray[np.float64]


def normality(spreads: pd.DataFrame) -> pd.DataFrame:
    """One row per pool of `schema.SPREADS`: share of the prompts that the test rejects, and their mean shape.

    `prompts` were tested; `untested` have too few rewards or no spread, or were not asked for. Intervals are 95 %
    over prompts.
    """
    rows = []
    for keys, own in spreads.groupby(list(POOL), sort=False, dropna=False):
        tested = own["normal_p"].dropna().to_numpy()
        facts: dict[str, Any] = dict(zip(POOL, keys, strict=True))
        facts |= {"prompts": len(tested), "untested": len(own) - len(tested)}
        share = win_rate_interval((tested < LEVEL).astype(float))
        method = share.method.replace("instructions", "prompts")
        facts |= {"rejected": share.estimate, "low": share.low, "high": share.high, "method": method}
        for shape in SHAPES:
            mean = mean_interval(own[shape].to_numpy())
            # Of m normal rewards, with the moments of the sample itself.
            normal = 0.0 if shape == "skewness" else float((-6 / (own.loc[own[shape].notna(), "valid"] + 1)).mean())
            facts |= {shape: mean.estimate, f"{shape}_low": mean.low, f"{shape}_high": mean.high}
            facts[f"{shape}_expected"] = normal
        rows.append(facts)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def shape_histograms(spreads: pd.DataFrame) -> pd.DataFrame:
    """Histograms of the prompts' skewness and kurtosis, of one pool, beside those of normal rewards (`HISTOGRAM`).

    The outermost of the bins hold the hundredth of prompts beyond them at either end, too. `expected` is NaN where not
    all prompts have the same number of rewards.
    """
    known = spreads[spreads["skewness"].notna()]
    counts = known["valid"].unique()
    normal = _normal_shapes(int(counts[0])) if len(counts) == 1 else {}
    frames = []
    for shape in SHAPES if len(known) else ():
        values, expected = known[shape].to_numpy(), normal.get(shape, np.array([]))
        ends = [np.quantile(each, (0.01, 0.99)) for each in (values, expected) if len(each)]
        low, high = min(end[0] for end in ends), max(end[1] for end in ends)
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        shares = {"share": _shares(values, edges), "expected": _shares(expected, edges)}
        frames.append(pd.DataFrame({"measure": shape, "low": edges[:-1], "high": edges[1:], **shares}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(HISTOGRAM))


def quantiles(rewards: pd.DataFrame) -> pd.DataFrame:
    """Quantiles of realised z of one pool of `schema.REWARD_Z`, and of normal rewards, with the columns `QUANTILES`.

    At shares that are evenly spaced on the scale of a normal, two rewards at least beyond the outermost.
    """
    total = float(rewards["responses"].sum())
    if total < 10:
        return pd.DataFrame(columns=list(QUANTILES))
    last = stats.norm.isf(2 / total)
    share = stats.norm.cdf(np.linspace(-last, last, 61))
    half = float(rewards["z"].diff().median()) / 2
    upper = rewards["z"].to_numpy() + half
    found = {name: _inverted(rewards[name].to_numpy(float), upper, share) for name in ("responses", "expected")}
    return pd.DataFrame({"share": share, "realised": found["responses"], "expected": found["expected"]})


def _inverted(counts: Floats, upper: Floats, share: Floats) -> Floats:
    """Values below which these shares lie, linearly within a bin."""
    below, first = np.cumsum(counts) / counts.sum(), np.diff(upper[:2])
    edges = np.concatenate([upper[:1] - first, upper])
    shares = np.concatenate([[0.0], below])
    rising = np.concatenate([[True], np.diff(shares) > 0])
    # The lower edge of a bin that follows empty ones is where the empty ones end.
    rising |= np.append(rising[1:], False)
    return np.asarray(np.interp(share, shares[rising], edges[rising]))


def _shares(values: Floats, edges: Floats) -> Floats:
    if not len(values):
        return np.full(len(edges) - 1, np.nan)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return np.asarray(counts / len(values))


@lru_cache(maxsize=64)
def _normal_shapes(rewards: int) -> Mapping[str, Floats]:
    """Skewness and excess kurtosis of simulated prompts with so many normal rewards, [draws] each."""
    normal = np.random.default_rng(0).standard_normal((_DRAWS, rewards))
    standard = (normal - normal.mean(axis=1, keepdims=True)) / normal.std(axis=1, keepdims=True)
    return {"skewness": (standard**3).mean(axis=1), "excess_kurtosis": (standard**4).mean(axis=1) - 3.0}
