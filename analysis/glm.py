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

TOLERANCE: Final = 1e-7
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

    Newton steps, each to the minimum of the penalised quadratic model, halved where the objective would rise.
    `start` [3] is where all problems begin. Raises ArithmeticError when a problem does not converge.
    """
    solution = np.tile(start.astype(np.float64), (len(batch.weights), 1))
    active = np.arange(len(solution))
    part = batch
    objective, gradient, hessian = _evaluate(part, solution)
    for _ in range(MOST_STEPS):
        unsolved = _residual(gradient, solution[active]) > TOLERANCE * (1 + batch.strength)
        if not unsolved.any():
            return solution
        active, part = active[unsolved], _take(part, np.flatnonzero(unsolved))
        here = solution[active]
        step = _penalised_step(gradient[unsolved], hessian[unsolved], here)
        before = objective[unsolved]
        objective, gradient, hessian = _evaluate(part, here + step)
        # A little slack: near the optimum the objective changes by rounding only.
        while (worse := objective > before + 1e-12 * np.abs(before)).any() and np.abs(step[worse]).max() > 1e-12:
            step[worse] /= 2
            redone = _evaluate(_take(part, np.flatnonzero(worse)), (here + step)[worse])
            objective[worse], gradient[worse], hessian[worse] = redone
        solution[active] = here + step
    raise ArithmeticError(f"{len(active)} of {len(solution)} logistic regressions did not converge")


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


def _evaluate(batch: Batch, solution: Floats) -> tuple[Floats, Floats, Floats]:
    """Objective [problems], gradient of the loss [problems x 3] and its Hessian [problems x 3 x 3]."""
    own, shared = batch.features
    weights = batch.strength * batch.weights
    eta = own * solution[:, :1] + solution[:, 1:] @ shared
    small = np.exp(-np.abs(eta))
    probability = np.where(eta >= 0, 1.0, small) / (1 + small)
    loss = np.maximum(eta, 0) + np.log1p(small) - batch.targets * eta
    objective = np.einsum("br,br->b", weights, loss) + np.abs(solution).sum(axis=1)
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
    return objective, gradient, hessian


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
