"""Choose the proxy judge's weights on the fit half of AlpacaEval 2: `python -m analysis.fit_proxy_judge
--data DIR`.

A ridge-penalised logistic regression on differences of measures, over three kinds of pairs: published
verdicts on answers of similar length; the same with both answers cut short; good answers against spoiled
ones. The two verdicts of each model weigh the same, length is a covariate that is dropped afterwards, and a
mean preference for one model's house style is penalised, since the judge has no intercept to take it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis import proxy_data
from analysis.proxy_data import AlpacaData, VerdictPair
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_judge import WEIGHTS, ProxyJudge, log_length

Floats = NDArray[np.float64]

FIT_RATIO = 2.0
RIDGE = 1.0 / 0.3
SHORT_WEIGHT = 0.5
SPOILED_WEIGHT = 0.3
STYLE_PENALTY = 1.0
FEWEST = 5
CONVERGED = 1e-10
# Divisors that bring the measures to one scale, so that one ridge suits all; about their spread in the data.
SCALES = {
    "lines": 1.28,
    "names": 0.06,
    "hedges": 0.009,
    "commas": 0.037,
    "repeated": 0.1,
    "copied": 0.1,
    "unfinished": 0.3,
    "on_topic": 0.1,
    "generic": 0.064,
    "twins": 0.2,
}
# The length covariate is scaled up so that the ridge hardly touches it.
LENGTH_SCALE = 0.2


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Differences [n, 1 + k] with the better answer first, their weights [n], and style means [models, 1 +
    k]."""

    differences: Floats
    weights: Floats
    styles: Floats
    style_weights: Floats


def class_weights(wins: NDArray[np.bool_]) -> Floats:
    """Weights [n] that give wins and losses equal totals; all zero below `FEWEST` rows of either kind."""
    counts = np.array([np.sum(~wins), np.sum(wins)], dtype=np.float64)
    if counts.min() < FEWEST:
        return np.zeros(len(wins), dtype=np.float64)
    weights: Floats = (counts.min() / counts)[wins.astype(np.int64)]
    return weights


def fit_logistic(rows: Rows) -> Floats:
    """Coefficients [1 + k] by Newton's method: ridge, and the squared mean preference for each style."""
    x, weights = rows.differences, rows.weights
    penalty = RIDGE * np.eye(x.shape[1])
    penalty += STYLE_PENALTY * (rows.styles * rows.style_weights[:, None]).T @ rows.styles
    beta = np.zeros(x.shape[1], dtype=np.float64)
    for _ in range(50):
        wrong = 1.0 / (1.0 + np.exp(x @ beta))
        gradient = penalty @ beta - x.T @ (weights * wrong)
        hessian = penalty + (x * (weights * wrong * (1.0 - wrong))[:, None]).T @ x
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < CONVERGED:
            break
    return beta


def _differences(judge: ProxyJudge, triples: Sequence[tuple[str, str, str]]) -> Floats:
    """Scaled measure differences [n, k] of (instruction, first, second)."""
    instructions = [triple[0] for triple in triples]
    found = judge.measures([*instructions, *instructions], [*(t[1] for t in triples), *(t[2] for t in triples)])
    table = np.stack([found[name] / SCALES[name] for name in WEIGHTS], axis=1)
    return table[: len(triples)] - table[len(triples) :]


def _verdict_rows(judge: ProxyJudge, pairs: Sequence[VerdictPair], share: float) -> tuple[Floats, Floats, Floats]:
    """(differences, weights, mean style difference) of one model's pairs; the first column is log length."""
    ratios = np.array([[pair.log_ratio / LENGTH_SCALE] for pair in pairs], dtype=np.float64)
    cut = pairs if share == 1.0 else proxy_data.shortened(pairs)
    x = np.hstack([ratios, _differences(judge, [(pair.instruction, pair.first, pair.second) for pair in cut])])
    wins = np.array([pair.wins for pair in pairs], dtype=bool)
    weights = share * class_weights(wins)
    style = (x * weights[:, None]).sum(axis=0) / max(weights.sum(), 1e-12)
    style[0] = 0.0
    return np.where(wins[:, None], x, -x), weights, style


def _spoiled_triples(data: AlpacaData, rows: Sequence[int]) -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(0)
    triples = []
    for texts in (data.reference, *(data.outputs[model] for model in data.models if model != "alpaca-7b")):
        good = proxy_data.good_answers(data, texts, rows)
        order = list(good)
        for place, row in enumerate(order):
            elsewhere = good[order[(place + 37) % len(order)]]
            bad = proxy_data.spoil(data.instructions[row], good[row], elsewhere, rng)
            triples += [(data.instructions[row], good[row], text) for text in bad.values()]
    return triples


def gather(data: AlpacaData, judge: ProxyJudge) -> Rows:
    """Every row of the fit half that the weights are chosen on."""
    rows = data.rows(fit=True)
    blocks, weights, styles, style_weights = [], [], [], []
    for model in data.models:
        every = proxy_data.similar_length(proxy_data.reference_pairs(data, model, rows), FIT_RATIO)
        pairs = [pair for pair in every if pair.first.strip()]
        for share in (1.0, SHORT_WEIGHT):
            x, weight, style = _verdict_rows(judge, pairs, share)
            blocks.append(x)
            weights.append(weight)
            styles.append(style)
            style_weights.append(weight.sum() if share == 1.0 else 0.0)
    spoiled = _differences(judge, _spoiled_triples(data, rows))
    total = float(sum(weight.sum() for weight in weights))
    blocks.append(np.hstack([np.zeros((len(spoiled), 1)), spoiled]))
    weights.append(np.full(len(spoiled), SPOILED_WEIGHT * total / len(spoiled)))
    return Rows(
        differences=np.vstack(blocks),
        weights=np.concatenate(weights),
        styles=np.array(styles),
        style_weights=np.array(style_weights),
    )


def length_slopes(data: AlpacaData, judge: ProxyJudge, weights: dict[str, float]) -> tuple[float, float]:
    """Slopes of the uncorrected score on log length and its square, over answers of 25 words to full
    length."""
    pairs = set()
    for row in data.rows(fit=True):
        for texts in (data.reference, *(data.outputs[model] for model in data.models)):
            for text in (
                texts[row],
                *(proxy_data.end_at_sentence(texts[row], count) for count in (25, 50, 100)),
            ):
                if text and text.strip():
                    pairs.add((data.instructions[row], text))
    ordered = sorted(pairs)
    found = judge.measures([pair[0] for pair in ordered], [pair[1] for pair in ordered])
    score = sum((weights[name] * found[name] for name in weights), np.zeros(len(ordered)))
    length = np.array([log_length(pair[1]) for pair in ordered])
    design = np.stack([np.ones_like(length), length, length**2], axis=1)
    solution = np.linalg.lstsq(design, score, rcond=None)[0]
    return float(f"{solution[1]:.3g}"), float(f"{solution[2]:.3g}")


def main() -> None:
    """Print the weights and slopes that `harness.engines.proxy_judge` holds."""
    parser = argparse.ArgumentParser(description="Choose the proxy judge's weights on the fit half.")
    parser.add_argument("--data", type=Path, required=True, help="folder of AlpacaEval 2 outputs and verdicts")
    data = proxy_data.load_alpaca(parser.parse_args().data)
    judge = ProxyJudge(SentenceEncoder())
    beta = fit_logistic(gather(data, judge))
    weights = {name: float(f"{b / SCALES[name]:.3g}") for name, b in zip(WEIGHTS, beta[1:], strict=True)}
    print("WEIGHTS", weights)
    print("LENGTH_SLOPES", length_slopes(data, judge, weights))


if __name__ == "__main__":
    main()
