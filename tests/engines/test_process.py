"""Engine processes: the interpreter is looked at before it is used, and nothing outlives its parent."""

import os
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from harness.engines import first_calls, process
from harness.engines.process import EngineProcess
from harness.errors import ConfigError
from harness.perform import prepare_process
from tests.processes import alive, wait_until

KEY, INSTALL = "cluster.python.vllm", "run `pip install it`"


def test_this_interpreter_is_the_default() -> None:
    assert process.interpreter(None, "json", KEY, INSTALL) == sys.executable


def test_an_environment_may_be_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert process.interpreter(str(tmp_path), "json", KEY, INSTALL) == str(tmp_path / "bin" / "python")


def test_an_interpreter_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{KEY}: there is no {tmp_path}/python; expected a Python"):
        process.interpreter(str(tmp_path / "python"), "json", KEY, INSTALL)


def test_what_is_no_interpreter_says_so() -> None:
    with pytest.raises(ConfigError, match="/bin/false is no Python interpreter that runs: exit code 1"):
        process.interpreter("/bin/false", "json", KEY, INSTALL)


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=f"^{KEY}: .* has no surely_not_there; run `pip install it`$"):
        process.interpreter(None, "surely_not_there", KEY, INSTALL)


def test_another_interpreter_is_not_told_where_our_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert process.environment(None, hub=True)["PYTHONPATH"] == "/somewhere"
    assert "PYTHONPATH" not in process.environment("/other/python", hub=True)


@pytest.mark.parametrize(
    ("variable", "without_hub", "with_hub"),
    [
        ("OPENAI_API_KEY", False, False),
        ("TEAM_KEYS", False, False),
        ("OPENAI_API_KEY2", False, False),
        ("OPENROUTER_AUTH", False, False),
        ("LLM_BEARER", False, False),
        ("AWS_ACCESS_KEY_ID", False, False),
        ("PGPASSWORD", False, False),
        ("wandb_secret", False, False),
        ("HF_TOKEN", False, True),
        ("HF_HOME", True, True),
        ("TOKENIZERS_PARALLELISM", True, True),
        ("PATH", True, True),
        ("SSH_AUTH_SOCK", False, False),
        ("VLLM_MAX_TOKENS", True, True),
    ],
)
def test_an_engine_is_told_no_secret_but_the_hubs_own_where_it_loads_from_there(
    variable: str, without_hub: bool, with_hub: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "something")
    assert (variable in process.environment(None, hub=False)) == without_hub
    assert (variable in process.environment(None, hub=True)) == with_hub


TALKER = "import sys, time; print('one', file=sys.stderr); print('two', file=sys.stderr, flush=True); sys.exit(3)"

FAMILY = (
    "import subprocess, sys, time; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); time.sleep(600)"
)


def test_a_death_is_told_with_its_last_words() -> None:
    child = EngineProcess([sys.executable, "-c", TALKER], os.environ, "the engine")
    error = child.death("died")
    child.end(grace=0)
    assert str(error) == "the engine died (exit code 3); its last words:\none\ntwo"


def test_ending_a_process_ends_what_it_has_started() -> None:
    child = EngineProcess([sys.executable, "-c", FAMILY], os.environ, "the engine")
    assert child.process.stdout is not None
    grandchild = int(child.process.stdout.readline())
    child.end(grace=0)
    wait_until(lambda: not alive(grandchild), 30, "it outlives what has started it")


PARENT = """
import os, sys, time
from harness.engines import vllm_child
from harness.engines.process import EngineProcess
child = EngineProcess([sys.executable, vllm_child.__file__, str(os.getpid()), "sample"], os.environ, "the engine")
print(child.process.pid, flush=True)
time.sleep(600)
"""


def test_an_engine_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        assert alive(engine)
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not alive(engine), 30, "the engine outlives its parent")


def test_a_machine_without_an_accelerator_names_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a process of ours has set would look to the next engine like a GPU that is there."""
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    threads = torch.get_num_threads()
    prepare_process(threads)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    prepare_process(threads)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_what_threads_must_not_call_first_is_called_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, torch.dtype, int]] = []

    def noted(name: str, x: torch.Tensor) -> None:
        made.append((name, x.dtype, x.numel()))

    for name in first_calls.FUNCTIONS:
        monkeypatch.setattr(torch, name, partial(noted, name))
    prepare_process(torch.get_num_threads())
    assert {"cos", "sin", "exp", "log", "tanh", "sqrt", "erf"} <= {name for name, _, _ in made}
    assert Counter(made) == {
        (name, of, 1): 1 for name in first_calls.FUNCTIONS for of in (torch.float32, torch.float64)
    }


def test_other_environments_can_make_first_calls(tmp_path: Path) -> None:
    """Run where only the file itself and torch are to be had."""
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['make'](); print('harness' in sys.modules)"
    command = [sys.executable, "-c", code, str(first_calls.__file__)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "False\n"
