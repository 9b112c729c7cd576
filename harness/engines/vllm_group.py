"""The vLLM engines of this process: started, given weights and requests, put to sleep and ended together."""

import json
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines import process, vllm_child, vllm_server, weights
from harness.engines.generation import Response
from harness.engines.parallel import Parallel
from harness.engines.process import EngineError, EngineProcess

CPU_SEQUENCES = 128
"""Sequences that an engine on a CPU works on together."""

_AHEAD = 4
"""Sequences that wait in an engine, by those that it works on: it never runs dry, and keeps little of what is lost when
it dies."""

_FULL_LENGTH = 4
"""One in so many sequences of a CPU engine has room for its full length; others wait when it gets tight."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class DeathError(EngineError):
    """An engine died at work."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What answers: a model, or one with adapters over it."""

    path: Path
    """Folder of the whole model."""
    adapter: Path | None = None
    dtype: str
    trust_remote_code: bool

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal as long as the whole model's files are the same: what a path names can be made anew."""
        return _identity(self.path)


def _identity(folder: Path) -> tuple[Any, ...]:
    found = [(path, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return (str(folder), *((path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What an engine is started with; a running one serves all that it covers."""

    architecture: str
    dtype: str
    trust_remote_code: bool
    python: str | None
    parallel: Parallel
    memory_fraction: float
    threads: int | None
    context: int
    sequences: int | None
    eager: bool
    rank: int
    """Highest rank of adapters; 0: none."""

    def covers(self, other: "Setup") -> bool:
        """Whether an engine that was started so can do what another would be started for."""
        alike = replace(self, context=other.context, rank=other.rank) == other
        return alike and self.context >= other.context and self.rank >= other.rank


class _Engine:
    """One engine process, as this one sees it."""

    def __init__(self, setup: Setup, model: Weights, devices: Sequence[str], news: "queue.SimpleQueue[Any]") -> None:
        python = process.interpreter(setup.python, "vllm", vllm_server.KEY, vllm_server.INSTALL)
        variables = vllm_server.environment(setup.python, setup.threads, offline=True)
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
        if not devices:
            # A second process for the scheduler would only take a core from the model.
            variables.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                variables["VLLM_CPU_KVCACHE_SPACE"] = str(cache_gigabytes(weights.config(model.path), setup))
        command = [python, str(vllm_child.__file__), str(os.getpid()), "sample"]
        self.news, self.version, self.sequences, self.sleeps = news, "", 0, False
        self.process = EngineProcess(command, variables, "the vLLM engine")
        threading.Thread(target=self._listen, daemon=True).start()
        self.send({"do": "start", **_options(setup, model)})

    def send(self, message: dict[str, Any]) -> None:
        """Hand it a message; that it has died is found by listening."""
        data = json.dumps(message, separators=(",", ":")).encode()
        assert self.process.process.stdin is not None
        with suppress(OSError, ValueError):
            self.process.process.stdin.write(len(data).to_bytes(4, "big") + data)
            self.process.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.process.stdout is not None
        with suppress(OSError, ValueError):
            while (frame := vllm_child.read(self.process.process.stdout)) is not None:
                self.news.put((self, frame))
        self.news.put((self, None))

    def end(self) -> None:
        """End it and all that it has started."""
        self.send({"do": "end"})
        self.process.end()


def cache_gigabytes(config: Mapping[str, Any], setup: Setup) -> int:
    """Memory of a CPU engine's keys and values: for a share of its sequences at full length, which few reach."""
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads", 1)
    width = config.get("head_dim") or config.get("hidden_size", 1) // config.get("num_attention_heads", 1)
    token = 2 * int(config.get("num_hidden_layers", 1) * heads * width) * BYTES[setup.dtype]
    return max(1, -(-token * setup.context * (setup.sequences or CPU_SEQUENCES) // (_FULL_LENGTH * 2**30)))


def _options(setup: Setup, model: Weights) -> dict[str, Any]:
    options = {
        "model": str(model.path),
        "dtype": setup.dtype,
        "max_model_len": setup.context,
        "trust_remote_code": setup.trust_remote_code,
        "tensor_parallel_size": setup.parallel.tensor,
        "enable_prefix_caching": True,
        "enforce_eager": setup.eager,
        "max_num_seqs": setup.sequences or (None if setup.parallel.groups[0] else CPU_SEQUENCES),
    }
    if setup.rank:
        options |= {"enable_lora": True, "max_lora_rank": setup.rank, "max_loras": 1}
    return {"options": options, "memory_fraction": setup.memory_fraction}


class Group:
    """The engines of this process: one, or several that share out the requests."""

    def __init__(self, setup: Setup, model: Weights) -> None:
        self.setup, self.loaded, self.asleep = setup, model.identity, False
        self.adapters: dict[Any, int] = {}
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.engines: list[_Engine] = []
        try:
            for devices in setup.parallel.groups:
                self.engines.append(_Engine(setup, model, devices, self._news))
            for engine, told in self._answers("ready", "did not start"):
                engine.version, engine.sequences = f"vLLM {told['version']} on {told['device']}", told["sequences"]
                engine.sleeps = told["sleeps"]
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """Whether every engine runs."""
        return all(engine.process.alive for engine in self.engines)

    def prepare(self, model: Weights) -> dict[str, Any] | None:
        """Have the right weights in every engine; returns the adapters that requests have to name."""
        if self.asleep:
            self._tell({"do": "wake"}, "awake")
            self.asleep = False
        if self.loaded != model.identity:
            self._tell({"do": "load", "path": str(model.path)}, "loaded")
            self.loaded = model.identity
        if model.adapter is None:
            return None
        number = self.adapters.setdefault(_identity(model.adapter), len(self.adapters) + 1)
        return {"name": f"adapter-{number}", "number": number, "path": str(model.adapter)}

    def rest(self) -> bool:
        """Leave the GPUs' memory to others; returns whether the engines can."""
        if self.asleep or not self.setup.parallel.groups[0]:
            return True
        if not all(engine.sleeps for engine in self.engines):
            return False
        self._tell({"do": "sleep"}, "asleep")
        self.asleep = True
        return True

    def work(self, messages: Iterator[dict[str, Any]], samples: int) -> Iterator[list[Response]]:
        """Keep every engine busy until all requests are answered."""
        room = {engine: max(2, _AHEAD * engine.sequences // samples) for engine in self.engines}
        most = dict(room)
        pending = 0
        for message in messages:
            engine = max(room, key=lambda e: room[e] / most[e])
            engine.send(message)
            room[engine] -= 1
            pending += 1
            while pending and not any(room.values()):
                engine, responses = self._next()
                room[engine] += 1
                pending -= 1
                yield responses
        for _ in range(pending):
            yield self._next()[1]

    def _next(self) -> tuple[_Engine, list[Response]]:
        engine, told = self._news.get()
        if told is None:
            raise DeathError(str(engine.process.death("died")))
        if told["is"] == "failed":
            raise EngineError(f"the vLLM engine refused a request: {told['error']}")
        return engine, _responses(told)

    def _tell(self, message: dict[str, Any], answer: str) -> None:
        for engine in self.engines:
            engine.send(message)
        for _ in self._answers(answer, f"could not {message['do']}"):
            pass

    def _answers(self, expected: str, what: str) -> Iterator[tuple[_Engine, dict[str, Any]]]:
        """One answer of each engine."""
        for _ in self.engines:
            engine, told = self._news.get()
            if told is None:
                kind = EngineError if expected == "ready" else DeathError
                raise kind(str(engine.process.death(what)))
            if told["is"] != expected:
                raise EngineError(_refusal(what, told["error"], engine.process.last_words))
            yield engine, told

    def end(self) -> None:
        """End all engines."""
        for engine in self.engines:
            engine.end()


def _refusal(what: str, error: str, words: str) -> str:
    """One line that says what vLLM did not like, and its last words."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    said = next((line for line in lines if "Value error" in line), lines[0] if lines else "no reason given")
    if "not supported" in said or "no vLLM implementation" in said:
        said = said.partition(" Supported architectures")[0].rstrip(".")  # hundreds are listed
        said += ". Another engine may run this model: sampler.engine=transformers, evaluate.engine=transformers"
    return f"the vLLM engine {what}: {said}\nits last words:\n{words}"


def _responses(told: dict[str, Any]) -> list[Response]:
    return [
        Response(request_id=told["id"], number=number, token_ids=tokens, finish_reason=_finish(reason), logp=logp)
        for number, (tokens, reason, logp) in enumerate(told["samples"])
    ]


def _finish(reason: str | None) -> str:
    if reason not in ("stop", "length"):
        raise EngineError(f"the vLLM engine ended a response by {reason!r}, neither by a stop token nor by its length")
    return reason
