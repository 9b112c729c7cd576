"""The regression behind the length-controlled win rate: the package's fit, and our refits in resamples."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from analysis.glm import Batch, solve
from analysis.length_inputs import Baselines, Floats, Integers, Rows
from harness.provenance import cpus

GAMED_WEIGHT: Final = 0.1
"""Of each row of the two gamed baselines, against 1 for a row of the model: half of lambda = 0.2."""

STRENGTHS: Final = np.logspace(-4, 4, 10)
"""The C among which cross-validation chooses: `Cs=10` of scikit-learn."""

FOLDS: Final = 5
RANDOM_STATE: Final = 123

_CHUNK: Final = 100
"""Resamples in memory together; more are no faster."""

_THREADS: Final = 4
"""At most; each holds a chunk's features, 20 megabytes."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """The regression of one model; gamed rows stand first, as in the package."""

    rows: Rows
    baselines: Baselines

    @property
    def judged(self) -> npt.NDArray[np.bool_]:
        return ~np.isnan(self.rows.preference)

    def features(self) -> Floats:
        """Features [gamed rows + judged rows, 3]: length, difficulty, not gamed."""
        base, judged = self.baselines, self.judged
        scaled = self.rows.delta / self.rows.delta.std(ddof=1)
        length = np.tanh(np.concatenate([base.delta, scaled[judged]]))
        difficulty = np.concatenate([base.gamed_difficulty, base.difficulty[judged]])
        flag = np.concatenate([np.zeros(len(base.delta)), np.ones(int(judged.sum()))])
        return np.column_stack([length, difficulty, flag])

    def targets(self) -> Floats:
        return np.concatenate([self.baselines.preference, self.rows.preference[self.judged]])

    def weights(self) -> Floats:
        return np.concatenate([np.full(len(self.baselines.delta), GAMED_WEIGHT), np.ones(int(self.judged.sum()))])

    def fit(self, strength: float) -> Floats:
        """The three weights, by the package's solver at its tolerance."""
        return _liblinear(self.features(), self.targets(), self.weights(), strength)

    def rate(self, weights: Floats) -> float:
        """Predicted win rate in percent of all rows at equal lengths."""
        return float(100 * _sigmoid(weights[1] * self.baselines.difficulty + weights[2]).mean())

    def chosen_strength(self) -> float:
        """C by five-fold cross-validation over rows, as the package has it: the mean log loss decides."""
        from sklearn.model_selection import GroupKFold

        features, targets, weights = self.features(), self.targets(), self.weights()
        places = np.arange(len(targets))
        # The package splits rows that stand twice; so do we, since ties in the assignment depend on it.
        twice = np.concatenate([places, places])
        losses = np.zeros(len(STRENGTHS))
        for train, test in GroupKFold(FOLDS).split(twice, groups=twice):
            kept, held = np.unique(twice[train]), np.unique(twice[test])
            # One state for all C of a fold, as in the package: where losses tie, the solver's draws decide.
            state = np.random.RandomState(RANDOM_STATE)
            for number, strength in enumerate(STRENGTHS):
                fitted = _liblinear(features[kept], targets[kept], weights[kept], float(strength), state)
                predicted = np.clip(_sigmoid(features[held] @ fitted), 1e-15, 1 - 1e-15)
                loss = targets[held] * np.log(predicted) + (1 - targets[held]) * np.log(1 - predicted)
                losses[number] -= (loss * weights[held]).mean() / FOLDS
        return float(STRENGTHS[int(losses.argmin())])

    def resample(self, strength: float, start: Floats, draws: int, seed: int) -> Floats:
        """LC win rates in percent of `draws` resamples of the instructions, each refitted.

        An instruction brings its gamed rows along. Those of instructions without a row stay as they are.
        """
        n = len(self.rows.index)
        generator = np.random.default_rng(seed)
        sizes = [min(_CHUNK, draws - done) for done in range(0, draws, _CHUNK)]
        counts = (generator.multinomial(n, np.full(n, 1 / n), size=size) for size in sizes)
        # Threads suffice: numpy lets go of the interpreter while it computes. Their number decides no result.
        with ThreadPoolExecutor(max_workers=min(_THREADS, cpus())) as pool:
            return np.concatenate(list(pool.map(lambda part: self._refit(part, strength, start), counts)))

    def _refit(self, counts: Integers, strength: float, start: Floats) -> Floats:
        base, delta, n = self.baselines, self.rows.delta, len(self.rows.delta)
        mean = counts @ delta / n
        square = counts @ delta**2 / n
        # A resample whose differences are all the same, but for rounding, has the limit of small spreads: tanh is
        # 1, -1, or 0 where there is no difference.
        varies = square - mean**2 > 1e-12 * square
        spread = np.sqrt((square - mean**2) * n / (n - 1), where=varies, out=np.full(len(counts), 1e-200))
        judged = np.flatnonzero(self.judged)
        length = np.concatenate(
            [np.broadcast_to(np.tanh(base.delta), (len(counts), len(base.delta))), np.tanh(delta / spread[:, None])],
            axis=1,
        )
        along = np.where(base.row >= 0, counts[:, base.row], 1)
        whole = self.features()
        columns = np.concatenate([np.arange(len(base.delta)), len(base.delta) + judged])
        solution = solve(
            Batch(
                features=(np.ascontiguousarray(length[:, columns]), np.ascontiguousarray(whole[:, 1:].T)),
                targets=self.targets(),
                weights=np.concatenate([GAMED_WEIGHT * along, counts[:, judged]], axis=1),
                strength=strength,
            ),
            start,
        )
        predicted = _sigmoid(solution[:, 1, None] * base.difficulty + solution[:, 2, None])
        return 100 * np.asarray((counts * predicted).sum(axis=1)) / n


def make_design(rows: Rows, baselines: Baselines | None) -> Design:
    none = np.zeros(0)
    bare = Baselines(
        difficulty=np.zeros(len(rows.index)),
        preference=none,
        delta=none,
        gamed_difficulty=none,
        row=np.zeros(0, np.int64),
    )
    return Design(rows=rows, baselines=baselines or bare)


def _sigmoid(eta: Floats) -> Floats:
    small = np.exp(-np.abs(eta))
    return np.asarray(np.where(eta >= 0, 1.0, small) / (1 + small), dtype=np.float64)


def _liblinear(
    features: Floats,
    targets: Floats,
    weights: Floats,
    strength: float,
    state: np.random.RandomState | int = RANDOM_STATE,
) -> Floats:
    """The package's fit: a row with target p stands there as a win of weight p and a loss of weight 1 - p."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=strength, l1_ratio=1, solver="liblinear", tol=1e-4, fit_intercept=False, random_state=state
    )
    labels = np.repeat([1, 0], len(targets))
    shares = np.concatenate([targets * weights, (1 - targets) * weights])
    fitted = model.fit(np.concatenate([features, features]), labels, sample_weight=shares)
    return np.asarray(fitted.coef_[0], dtype=np.float64)
