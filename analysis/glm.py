"""Many small L1-penalised logistic regressions at once, solved to the optimum.

The model is that of the length-controlled win rate: three weights, no intercept. One problem takes a library
milliseconds; a bootstrap has tens of thousands of them, so here they share every array operation.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

WEIGHTS: Final = 3

TOLERANCE: Final = 1e-5
"""Largest subgradient left at a solution, for each unit of 1 + C."""

MOST_STEPS: Final = 100


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Problems over the same rows, which they weigh each in its own way."""

    features: tuple[Floats, Floats]
    """The first feature [problems x rows], and the two that all problems share [2 x rows]."""
    targets: Floats
    """[rows], each in [0, 1]."""
    weights: Floats
    """[problems x rows], not negative."""
    strength: float
    """`C` of scikit-learn: what the loss counts for against the penalty."""


def solve(batch: Batch, start: Floats) -> Floats:
    """The minimum of |w|_1 + C sum_r weight_r * cross entropy(target_r, sigmoid(x_r w)), [problems x 3].

    Newton steps, each to the minimum of the penalised quadratic model, halved where the objective, which is convex,
    rises at their end more steeply than it fell at their start. `start` [3] is where all problems begin. Raises
    ArithmeticError when a problem does not converge.
    """
    solution = np.tile(start.astype(np.float64), (len(batch.weights), 1))
    active = np.arange(len(solution))
    part = batch
    gradient, hessian = _derivatives(part, solution)
    for _ in range(MOST_STEPS):
        # Not `>`: what is no number is no solution.
        unsolved = ~(_residual(gradient, solution[active]) <= TOLERANCE * (1 + batch.strength))
        if not unsolved.any():
            return solution
        active, part = active[unsolved], _take(part, np.flatnonzero(unsolved))
        here, before = solution[active], gradient[unsolved]
        step = _penalised_step(before, hessian[unsolved], here)
        falls = _slope(before, here, step)
        gradient, hessian = _derivatives(part, here + step)
        while (too_far := _slope(gradient, here + step, step) > np.abs(falls)).any():
            step[too_far] /= 2
            falls[too_far] /= 2
            redone = _derivatives(_take(part, np.flatnonzero(too_far)), (here + step)[too_far])
            gradient[too_far], hessian[too_far] = redone
        solution[active] = here + step
    raise ArithmeticError(f"{len(active)} of {len(solution)} logistic regressions did not converge")


def _slope(gradient: Floats, solution: Floats, step: Floats) -> Floats:
    """Derivative of the penalised objective along `step`, [problems]; a weight at zero has no slope of its own."""
    return np.asarray(((gradient + np.sign(solution)) * step).sum(axis=1), dtype=np.float64)


def _take(batch: Batch, rows: npt.NDArray[np.intp]) -> Batch:
    if len(rows) == len(batch.weights):
        return batch
    own, shared = batch.features
    return Batch(
        features=(own[rows], shared),
        targets=batch.targets,
        weights=batch.weights[rows],
        strength=batch.strength,
    )


def _derivatives(batch: Batch, solution: Floats) -> tuple[Floats, Floats]:
    """Gradient of the loss [problems x 3] and its Hessian [problems x 3 x 3]."""
    own, shared = batch.features
    weights = batch.strength * batch.weights
    eta = own * solution[:, :1] + solution[:, 1:] @ shared
    # Beyond 500 the probability is 0 or 1 to every digit, and the exponential would overflow.
    probability = 1 / (1 + np.exp(np.clip(-eta, -500, 500)))
    slope = weights * (probability - batch.targets)
    curvature = weights * probability * (1 - probability)
    bent = curvature * own
    gradient = np.concatenate([np.einsum("br,br->b", slope, own)[:, None], slope @ shared.T], axis=1)
    hessian = np.empty((len(solution), WEIGHTS, WEIGHTS))
    hessian[:, 0, 0] = np.einsum("br,br->b", bent, own)
    hessian[:, 0, 1:] = hessian[:, 1:, 0] = bent @ shared.T
    first, second = shared
    products = curvature @ np.stack([first * first, first * second, second * second], axis=1)
    hessian[:, 1:, 1:] = products[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    return gradient, hessian


def _residual(gradient: Floats, solution: Floats) -> Floats:
    """Distance of the gradient from minus the penalty's subdifferential, the largest over the weights."""
    at_zero = np.maximum(np.abs(gradient) - 1, 0)
    apart = np.where(solution == 0, at_zero, np.abs(gradient + np.sign(solution)))
    return np.asarray(apart.max(axis=1), dtype=np.float64)


def _penalised_step(gradient: Floats, hessian: Floats, solution: Floats) -> Floats:
    """argmin over d of gradient d + d hessian d / 2 + |solution + d|_1, by coordinate descent."""
    step = np.zeros_like(solution)
    diagonal = np.maximum(np.einsum("bii->bi", hessian), 1e-12)
    for _ in range(1000):
        largest = 0.0
        for axis in range(WEIGHTS):
            slope = gradient[:, axis] + np.einsum("bj,bj->b", hessian[:, axis], step)
            here = solution[:, axis] + step[:, axis]
            target = here - slope / diagonal[:, axis]
            there = np.sign(target) * np.maximum(np.abs(target) - 1 / diagonal[:, axis], 0)
            step[:, axis] += there - here
            largest = max(largest, float(np.abs(there - here).max()))
        if largest < 1e-13:
            break
    # Exactly nothing, not a rounding error: whether a weight is zero decides which optimality condition holds.
    return np.where(np.abs(solution + step) < 1e-14, -solution, step)
