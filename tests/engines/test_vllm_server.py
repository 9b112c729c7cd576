"""vLLM's server as our child: the real one on SmolLM2 where vLLM is installed, and what may go wrong at its start."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness.engines import vllm_server
from harness.engines.process import EngineError
from harness.engines.vllm_server import Endpoint, serve
from harness.errors import ConfigError
from tests.processes import alive, wait_until


def _ask(endpoint: Endpoint, token: str) -> Any:
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 3,
    }
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310 (loopback)
    with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 (loopback)
        return json.load(answer)


PARENT = """
import sys, time
from harness.engines.vllm_server import serve
with serve(sys.argv[1], python=sys.argv[2], dtype="float32", context=512, threads=1) as endpoint:
    print(endpoint.base_url, endpoint.token, flush=True)
    time.sleep(600)
"""


def test_the_real_server_answers_to_its_token_alone_and_ends_with_a_killed_parent(
    smollm2: Path, vllm_python: str
) -> None:
    command = [sys.executable, "-c", PARENT, str(smollm2), vllm_python]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        line = parent.stdout.readline().split()
        assert line, "the server did not start"
        endpoint = Endpoint(base_url=line[0], token=line[1], model="model")
        try:
            answer = _ask(endpoint, endpoint.token)
            assert "Paris" in answer["choices"][0]["message"]["content"]
            assert len(answer["choices"][0]["logprobs"]["content"]) <= 12
            with pytest.raises(urllib.error.HTTPError, match="401"):
                _ask(endpoint, "wrong")
            family = _family(parent.pid)
            assert family
            assert not any(endpoint.token in _arguments(pid) for pid in family)
        finally:
            parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in family), 30, "the server outlives its parent")


def _family(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _arguments(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")


def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path, vllm_python: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (
        pytest.raises(EngineError, match=r"(?s)the vLLM server did not start .*its last words:\n.*\w"),
        serve(tmp_path, python=vllm_python, context=512, threads=1),
    ):
        pytest.fail("a folder without a model was served")


def test_an_interpreter_without_vllm_says_how_to_install_it(tmp_path: Path) -> None:
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    with (
        pytest.raises(ConfigError, match=r"cluster\.python\.vllm: .*bin/python has no vllm; install it there"),
        serve(tmp_path, python=str(python)),
    ):
        pytest.fail("served without vLLM")


def test_a_token_is_no_part_of_what_is_printed() -> None:
    assert "secret" not in repr(Endpoint(base_url="http://x", token="secret", model="m"))


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    variables = vllm_server.environment(None, 3, offline=True)
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert os.environ.get("HF_HUB_OFFLINE") != "1"


def test_a_server_of_a_hubs_model_has_the_hubs_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unlikely")
    assert "HF_TOKEN" in vllm_server.environment(None, 3, offline=False)
    assert "HF_TOKEN" not in vllm_server.environment(None, 3, offline=True)
