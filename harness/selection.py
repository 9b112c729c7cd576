"""The pure, vectorised picks: which response of a prompt stands at which position of its rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.positions import POSITIONS, Position, parse

MAX_REWARD = 1e150
"""Largest absolute reward taken: squares of larger ones overflow float64."""

_CHUNK_CELLS = 1 << 16
"""Rewards handled at a time, so that the temporaries of a chunk stay in the processor's cache."""


@dataclass(frozen=True, kw_only=True)
class Picks:
    """What `pick` found, for every prompt (row) and position (column)."""

    index: npt.NDArray[np.int64]
    """Sample index of the pick, [prompts, positions]; -1 where the prompt is dropped."""
    z: npt.NDArray[np.float64]
    """Realised standardised reward (reward - mu) / sigma of the pick, [prompts, positions]; NaN where dropped."""
    dropped: npt.NDArray[np.object_]
    """None, or why the prompt is dropped: `too_few` or `zero_spread`, [prompts]."""
    mu: npt.NDArray[np.float64]
    """Mean of the valid rewards, [prompts]; NaN where dropped."""
    sigma: npt.NDArray[np.float64]
    """Standard deviation of the valid rewards, [prompts]; NaN where dropped."""


def pick(
    rewards: npt.ArrayLike,
    valid: npt.ArrayLike | None = None,
    positions: Sequence[str] = POSITIONS,
    ddof: int = 0,
) -> Picks:
    """Pick, for every prompt, the response nearest to each position of the prompt's own rewards.

    Args:
        rewards: [prompts, n]; non-finite rewards are invalid.
        valid: boolean mask [prompts, n]; None means all valid.
        positions: names from `harness.positions`.
        ddof: 0 for population sigma, 1 for sample sigma.

    `min` and `max` are the smallest and largest reward, `mu+ks` the nearest reward to mu + k sigma, `q<p>` the nearest
    order statistic (index p * (m - 1) of the m sorted valid rewards, half to even). Equal distances go to the lowest
    sample index. A prompt with fewer than two valid rewards is dropped as `too_few`, one whose largest reward equals
    its smallest as `zero_spread`.

    Raises:
        ValueError: wrong shapes, ddof outside {0, 1}, or a valid reward above `MAX_REWARD`.
        ConfigError: a name that is no position.
    """
    values = np.asarray(rewards)
    if values.ndim != 2:
        raise ValueError(f"rewards: expected shape [prompts, n], got {values.shape}")
    if ddof not in (0, 1):
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")
    parsed = [parse(name, f"positions[{i}]") for i, name in enumerate(positions)]
    mask = np.isfinite(values)
    if valid is not None:
        given = np.asarray(valid, dtype=bool)
        if given.shape != values.shape:
            raise ValueError(f"valid: expected shape {values.shape}, got {given.shape}")
        mask &= given
    counts = mask.sum(axis=1)
    picks = _empty(len(values), len(parsed))
    picks.dropped[counts < 2] = "too_few"
    # Prompts with equally many valid rewards form a dense matrix: its row means are those of a plain loop to the last
    # bit, which zero-filled gaps would change and with them exact ties.
    for count in np.unique(counts[counts >= 2]):
        rows = np.flatnonzero(counts == count)
        step = max(1, _CHUNK_CELLS // int(count))
        for start in range(0, len(rows), step):
            _pick_dense(values, mask, rows[start : start + step], int(count), parsed, ddof, picks)
    return picks


def _empty(prompts: int, positions: int) -> Picks:
    return Picks(
        index=np.full((prompts, positions), -1, dtype=np.int64),
        z=np.full((prompts, positions), np.nan),
        dropped=np.full(prompts, None, dtype=object),
        mu=np.full(prompts, np.nan),
        sigma=np.full(prompts, np.nan),
    )


def _pick_dense(
    values: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.intp],
    count: int,
    positions: Sequence[Position],
    ddof: int,
    out: Picks,
) -> None:
    """Fill `out` for `rows`, which all have `count` valid rewards."""
    gaps = count < values.shape[1]
    dense = values[rows][mask[rows]].reshape(-1, count) if gaps else values[rows]
    dense = dense.astype(np.float64, copy=False)
    low, high = dense.min(axis=1), dense.max(axis=1)
    if max(abs(low.min()), abs(high.max())) > MAX_REWARD:
        raise ValueError(f"rewards: absolute values above {MAX_REWARD:g} cannot be standardised in float64")
    mu = dense.mean(axis=1)
    scratch = dense - mu[:, None]
    np.multiply(scratch, scratch, out=scratch)
    sigma = np.sqrt(scratch.sum(axis=1) / (count - ddof))
    # A spread so small that its square underflows leaves sigma at 0, and no position has a z.
    spread = (high > low) & (sigma > 0)
    keep = np.flatnonzero(spread)
    out.dropped[rows[~spread]] = "zero_spread"
    out.mu[rows[keep]], out.sigma[rows[keep]] = mu[keep], sigma[keep]
    ordered = np.sort(dense, axis=1) if any(p.kind == "quantile" for p in positions) else None
    for column, position in enumerate(positions):
        found = _nearest(dense, position, mu, sigma, ordered, scratch)
        reward = dense[keep, found[keep]]
        out.z[rows[keep], column] = (reward - mu[keep]) / sigma[keep]
        out.index[rows[keep], column] = found[keep]
    if gaps and len(keep):
        samples = np.nonzero(mask[rows])[1].reshape(-1, count)
        out.index[rows[keep]] = np.take_along_axis(samples[keep], out.index[rows[keep]], axis=1)


def _nearest(
    dense: npt.NDArray[np.float64],
    position: Position,
    mu: npt.NDArray[np.float64],
    sigma: npt.NDArray[np.float64],
    ordered: npt.NDArray[np.float64] | None,
    scratch: npt.NDArray[np.float64],
) -> npt.NDArray[np.intp]:
    """Column of the first response at `position`, [rows]; argmin and argmax return the first of equals."""
    if position.kind == "quantile":
        assert ordered is not None
        statistic = ordered[:, round(position.level * (dense.shape[1] - 1))]
        return np.asarray((dense == statistic[:, None]).argmax(axis=1))
    if np.isinf(position.level):
        return np.asarray(dense.argmax(axis=1) if position.level > 0 else dense.argmin(axis=1))
    target = mu + position.level * sigma
    np.subtract(dense, target[:, None], out=scratch)
    np.abs(scratch, out=scratch)
    return np.asarray(scratch.argmin(axis=1))


def draw(among: int, size: int, streams: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Draw `size` of the first `among` samples without replacement, ascending, per prompt, [prompts, size].

    A prompt's draw is a function of its stream alone: sample j has the priority hash(stream, j), and the `size`
    smallest priorities are drawn. It is the same at every n >= `among`.

    Raises:
        ValueError: among < size.
    """
    if among < size:
        raise ValueError(f"cannot draw {size} of {among} samples without replacement")
    priority = _mix(streams[:, None] + np.arange(1, among + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(np.sort(np.argsort(priority, axis=1)[:, :size], axis=1), dtype=np.int64)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: a bijection whose output bits each depend on all input bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
