"""Helpers of the proxy evidence: the halves, spoiled answers, estimates; and the published data where they
lie."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import proxy_data
from analysis.fit_proxy_judge import Rows, class_weights, fit_logistic
from analysis.proxy_scores import balanced_accuracy, credit, share, spearman
from analysis.proxy_tables import longer_preference, table, verdict_row
from harness.engines import embedding
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_judge import ProxyJudge
from harness.errors import ConfigError

SHARED = Path(os.environ.get("PREFSWEEP_SHARED", Path(__file__).parents[3] / "shared"))
DATA = SHARED / "data" / "alpaca_eval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no AlpacaEval 2 data (PREFSWEEP_SHARED)")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec(embedding.PACKAGE) is None, reason=f"{embedding.PACKAGE} is not installed"
)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file alpaca_eval_gpt4_baseline\.json\.gz"):
        proxy_data.load_alpaca(tmp_path)


def test_cutting_keeps_words_and_sentences() -> None:
    text = "One two three.\n\nFour five six. Seven eight."
    assert proxy_data.cut_words(text, 4) == "One two three.\n\nFour"
    assert proxy_data.end_at_sentence(text, 7) == "One two three.\n\nFour five six."
    assert proxy_data.end_at_sentence(text, 8) == text
    assert proxy_data.end_at_sentence("no end " * 10, 8) is None


def test_spoiled_answers_differ_from_the_good_one() -> None:
    good = "Bread needs flour, water, salt and yeast. Knead it well. Let it rise for an hour, then bake it."
    bad = proxy_data.spoil("How is bread made?", good, "Cats sleep.", np.random.default_rng(0))
    assert good not in bad.values()
    assert all(bad.values())


def test_balanced_accuracy_of_known_answers() -> None:
    wins = np.array([True] * 30 + [False] * 10)
    rows = np.arange(40)
    assert balanced_accuracy(wins.astype(float), wins, rows).value == 1.0
    assert balanced_accuracy(np.ones(40), wins, rows).value == 0.5
    assert balanced_accuracy(np.full(40, 0.5), wins, rows).value == 0.5
    assert np.isnan(balanced_accuracy(np.ones(40), np.ones(40, dtype=bool), rows).value)


def test_credit_and_share() -> None:
    assert credit(np.array([0.9, 0.5, 0.2]), np.array([True, True, True])).tolist() == [1.0, 0.5, 0.0]
    found = share(np.ones(10))
    assert (found.value, found.high, found.n) == (1.0, 1.0, 10)
    assert found.low == pytest.approx(0.722, abs=1e-3)


def test_spearman_is_that_of_pandas() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 9, size=60).astype(float), rng.normal(size=60)
    found = spearman(first, second + first)
    assert found.value == pytest.approx(pd.Series(first).corr(pd.Series(second + first), method="spearman"))
    assert found.low < found.value < found.high


def test_class_weights_balance_and_refuse_few() -> None:
    wins = np.array([True] * 6 + [False] * 18)
    weights = class_weights(wins)
    assert weights[wins].sum() == pytest.approx(weights[~wins].sum())
    assert not class_weights(wins[2:]).any()


def test_fit_finds_the_direction_that_wins() -> None:
    x = np.random.default_rng(5).normal(size=(400, 3))
    x[:, 1] = np.abs(x[:, 1])
    rows = Rows(differences=x, weights=np.ones(400), styles=np.zeros((1, 3)), style_weights=np.zeros(1))
    beta = fit_logistic(rows)
    assert beta[1] > 1.0
    assert np.abs(beta[[0, 2]]).max() < 0.5


def test_a_table_row_says_when_a_class_is_small() -> None:
    pairs = [
        proxy_data.VerdictPair(group="m", row=row, instruction="q", first="a b", second="a", wins=row < 3)
        for row in range(30)
    ]
    cells = verdict_row("m", pairs, {"judge": longer_preference})
    assert cells[1:3] == ["3", "27"]
    assert cells[-1] == "too few: 3 of one class"
    assert table(["a"], [["b"]]) == ["| a |", "| --- |", "| b |", ""]


@needs_data
def test_published_data_split_in_two_halves_of_clear_verdicts() -> None:
    data = proxy_data.load_alpaca(DATA)
    fit, report = data.rows(fit=True), data.rows(fit=False)
    assert len(fit) + len(report) == len(data.instructions) == 805
    assert min(len(fit), len(report)) > 350
    assert not set(proxy_data.GAMING_MODELS) & set(data.models)
    for model in data.models:
        pairs = proxy_data.reference_pairs(data, model, report)
        near = proxy_data.similar_length(pairs, 1.5)
        assert 0 < len(near) < len(pairs) <= len(report)


@needs_data
@needs_model
def test_judge_orders_good_answers_above_spoiled_ones() -> None:
    data = proxy_data.load_alpaca(DATA)
    good = proxy_data.good_answers(data, data.reference, data.rows(fit=False)[:12])
    order, rng, judge = list(good), np.random.default_rng(7), ProxyJudge(SentenceEncoder())
    triples = [
        (data.instructions[row], good[row], bad)
        for place, row in enumerate(order)
        for bad in proxy_data.spoil(
            data.instructions[row], good[row], good[order[(place + 5) % len(order)]], rng
        ).values()
    ]
    asked, first, second = (list(column) for column in zip(*triples, strict=True))
    assert (judge.compare(asked, first, second) > 0.5).mean() > 0.85
