"""Sampling with vLLM: engines in processes of their own, which stay for the next node and take other weights."""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import machine
from harness.engines import process, vllm_child, vllm_server, weights
from harness.engines.generation import Decoding, Request, Response
from harness.engines.parallel import MEMORY_FRACTION, Parallel, layout
from harness.engines.process import EngineError, EngineProcess
from harness.errors import ConfigError, PrefsweepError
from harness.keys import stream

CPU_SEQUENCES = 128
"""Sequences that an engine on a CPU works on together."""

_ROUND = 1024
"""An engine's context is rounded up to a multiple of this, so that the next node rarely needs a longer one."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM can be prepared for."""

_AHEAD = 4
"""Sequences that wait in an engine, by those that it works on: it never runs dry, and keeps little of what is lost when
it dies."""

_FULL_LENGTH = 4
"""One in so many sequences of a CPU engine has room for its full length; others wait when it gets tight."""

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
class _Setup:
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

    def covers(self, other: "_Setup") -> bool:
        """Whether an engine that was started so can do what another would be started for."""
        alike = replace(self, context=other.context, rank=other.rank) == other
        return alike and self.context >= other.context and self.rank >= other.rank


def generate(
    model: Weights,
    stops: Sequence[int],
    requests: Sequence[Request],
    samples: int,
    decoding: Decoding,
    *,
    longest: int,
    tell: Callable[[str], None],
    logprobs: bool = False,
) -> Iterator[list[Response]]:
    """The `samples` responses of each request, as requests end: not in their order.

    Further requests are handed to the engine while it works. An engine that dies is replaced once; what had not come
    back by then is asked again.

    Args:
        longest: tokens that the longest prompt of any request to come may have.
        tell: takes a line for the user.
        logprobs: work out the responses' log-probabilities; otherwise they are None.

    Raises:
        ConfigError: no interpreter with vLLM, too few GPUs, or adapters of another base.
        EngineError: the engine does not start, does not run this model, or died twice; ends with its last words.
    """
    left = {request.request_id: request for request in requests}
    for attempt in (1, 2):
        try:
            for responses in _once(model, stops, tuple(left.values()), samples, decoding, longest, logprobs):
                del left[responses[0].request_id]
                yield responses
            return
        except _DeathError as error:
            close()
            if attempt == 2:
                raise EngineError(f"twice, {error}") from None
            tell(f"{str(error).partition('; its last words')[0]}; a fresh one goes on with {len(left)} prompts")


class _DeathError(EngineError):
    """An engine died at work."""


def _once(
    model: Weights,
    stops: Sequence[int],
    requests: Sequence[Request],
    samples: int,
    decoding: Decoding,
    longest: int,
    logprobs: bool,
) -> Iterator[list[Response]]:
    if not requests:
        return
    group = _group_for(model, longest + decoding.max_new_tokens)
    whole = False
    try:
        adapter = group.prepare(model)
        messages = (_message(r, stops, samples, decoding, adapter, logprobs) for r in requests)
        yield from group.work(messages, samples)
        whole = True
    finally:
        if not whole:  # whatever it is at is nobody's any more
            close()


def _message(
    request: Request,
    stops: Sequence[int],
    samples: int,
    decoding: Decoding,
    adapter: dict[str, Any] | None,
    logprobs: bool,
) -> dict[str, Any]:
    greedy = decoding.temperature == 0
    sampling = {
        "n": samples,
        "temperature": decoding.temperature,
        "top_p": 1.0 if greedy else decoding.top_p,
        "max_tokens": decoding.max_new_tokens,
        "stop_token_ids": list(stops),
        # Sample i of a request has the seed of the request plus i, which must stay below 2^63.
        "seed": None if greedy else stream(*request.seed) >> 2,
        "logprobs": 0 if logprobs else None,
    }
    return {
        "do": "generate",
        "id": request.request_id,
        "prompt": request.prompt_ids,
        "sampling": sampling,
        "adapter": adapter,
    }


class _Engine:
    """One engine process, as this one sees it."""

    def __init__(self, setup: _Setup, model: Weights, devices: Sequence[str], news: "queue.SimpleQueue[Any]") -> None:
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


def cache_gigabytes(config: Mapping[str, Any], setup: _Setup) -> int:
    """Memory of a CPU engine's keys and values: for a share of its sequences at full length, which few reach."""
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads", 1)
    width = config.get("head_dim") or config.get("hidden_size", 1) // config.get("num_attention_heads", 1)
    token = 2 * int(config.get("num_hidden_layers", 1) * heads * width) * _BYTES[setup.dtype]
    return max(1, -(-token * setup.context * (setup.sequences or CPU_SEQUENCES) // (_FULL_LENGTH * 2**30)))


def _options(setup: _Setup, model: Weights) -> dict[str, Any]:
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


class _Group:
    """The engines of this process: one, or several that share out the requests."""

    def __init__(self, setup: _Setup, model: Weights) -> None:
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

    def rest(self) -> None:
        """Leave the GPUs' memory to others; engines that cannot are ended."""
        if self.asleep or not self.setup.parallel.groups[0]:
            return
        if all(engine.sleeps for engine in self.engines):
            self._tell({"do": "sleep"}, "asleep")
            self.asleep = True
        else:
            close()

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
            raise _DeathError(str(engine.process.death("died")))
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
                kind = EngineError if expected == "ready" else _DeathError
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


_RUNNING: list[_Group] = []
"""At most one: what this process keeps for its next node."""


def _group_for(model: Weights, needed: int) -> _Group:
    """The running group where it can do the work, or a new one."""
    if model.adapter is not None:
        weights.check_adapter(model.adapter, model.path)
    wanted = _setup(model, needed)
    if _RUNNING and (not _RUNNING[0].alive or not _can(_RUNNING[0], wanted, model)):
        close()
    if not _RUNNING or _RUNNING[0].asleep:
        from harness.engines import models

        models.forget()  # the engine measures the GPU as it finds it
    if not _RUNNING:
        limit = int(weights.config(model.path).get("max_position_embeddings", needed))
        rounded = min(limit, -(-needed // _ROUND) * _ROUND)
        begun = time.monotonic()
        _RUNNING.append(_Group(replace(wanted, context=max(needed, rounded)), model))
        _STARTING.append(time.monotonic() - begun)
    return _RUNNING[0]


def _can(group: _Group, wanted: _Setup, model: Weights) -> bool:
    # Adapters lie over an engine's own weights: those of another model are not loaded under them.
    return group.setup.covers(wanted) and (not group.setup.rank or group.loaded == model.identity)


def _setup(model: Weights, needed: int) -> _Setup:
    mine = machine.mine()
    parallel, fraction = place(model.path, model.dtype)
    rank = weights.adapter_rank(model.adapter) if model.adapter is not None else 0
    if rank > _RANKS[-1]:
        raise ConfigError(f"train.lora.r: {rank} is more than the {_RANKS[-1]} that vLLM serves")
    return _Setup(
        architecture=weights.architecture(model.path),
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        python=mine.python.vllm,
        parallel=parallel,
        memory_fraction=fraction,
        threads=mine.threads,
        context=needed,
        sequences=mine.vllm.sequences,
        eager=mine.vllm.eager,
        rank=next(r for r in (0, *_RANKS) if r >= rank),
    )


def place(model: Path, dtype: str) -> tuple[Parallel, float]:
    """Which of this process's devices make up which engine of a model, and the part of each that an engine takes.

    Raises:
        ConfigError: more devices are asked for than there are, or all together do not hold the weights.
    """
    mine = machine.mine()
    devices, fraction = mine.devices, mine.vllm.memory_fraction or MEMORY_FRACTION * mine.share
    memory = _gpu_bytes() if devices else None
    most = int(memory * fraction) if memory is not None else None
    size = weights.parameters(model) * _BYTES[dtype]
    return layout(devices, mine.vllm.tensor_parallel, size, most), fraction


def _gpu_bytes() -> int | None:
    """Memory of the smallest GPU in sight."""
    import torch

    if not torch.cuda.is_available():
        return None
    return min(int(torch.cuda.get_device_properties(i).total_memory) for i in range(torch.cuda.device_count()))


def running() -> str:
    """What answers at the moment: version and device, for the record."""
    if not _RUNNING:
        raise PrefsweepError("no vLLM engine runs")
    return _RUNNING[0].engines[0].version


def rest() -> None:
    """Give the GPUs' memory to what comes next; the engine wakes up when it is needed again."""
    if not _RUNNING:
        return
    try:
        _RUNNING[0].rest()
    except EngineError:  # it died while nobody needed it: no failure of what comes next
        close()


def close() -> None:
    """End the engines of this process."""
    while _RUNNING:
        _RUNNING.pop().end()


_STARTING: list[float] = []
"""Seconds that each group took to be ready."""


def seconds_starting() -> float:
    """Seconds for which this process has waited for engines to be ready so far: a node's own are a difference."""
    return sum(_STARTING)
