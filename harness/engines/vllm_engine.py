"""Sampling with vLLM: engines in processes of their own, which stay for the next node and take other weights."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import machine
from harness.engines import loaded, weights
from harness.engines.generation import Decoding, Request, Response
from harness.engines.parallel import MEMORY_FRACTION, Parallel, layout
from harness.engines.process import EngineError
from harness.engines.vllm_group import BYTES, DeathError, Group, Setup, Weights
from harness.errors import ConfigError, PrefsweepError
from harness.keys import stream

_ROUND = 1024
"""An engine's context is rounded up to a multiple of this, so that the next node rarely needs a longer one."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM can be prepared for."""


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
        except DeathError as error:
            close()
            if attempt == 2:
                raise EngineError(f"twice, {error}") from None
            tell(f"{str(error).partition('; its last words')[0]}; a fresh one goes on with {len(left)} prompts")


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


_RUNNING: list[Group] = []
"""At most one: what this process keeps for its next node."""


def _group_for(model: Weights, needed: int) -> Group:
    """The running group where it can do the work, or a new one."""
    if model.adapter is not None:
        weights.check_adapter(model.adapter, model.path)
    wanted = _setup(model, needed)
    if _RUNNING and (not _RUNNING[0].alive or not _can(_RUNNING[0], wanted, model)):
        close()
    if not _RUNNING or _RUNNING[0].asleep:
        loaded.forget()  # the engine measures the GPU as it finds it
    if not _RUNNING:
        limit = int(weights.config(model.path).get("max_position_embeddings", needed))
        rounded = min(limit, -(-needed // _ROUND) * _ROUND)
        begun = time.monotonic()
        _RUNNING.append(Group(replace(wanted, context=max(needed, rounded)), model))
        _STARTING.append(time.monotonic() - begun)
    return _RUNNING[0]


def _can(group: Group, wanted: Setup, model: Weights) -> bool:
    # Adapters lie over an engine's own weights: those of another model are not loaded under them.
    return group.setup.covers(wanted) and (not group.setup.rank or group.loaded == model.identity)


def _setup(model: Weights, needed: int) -> Setup:
    mine = machine.mine()
    parallel, fraction = place(model.path, model.dtype)
    rank = weights.adapter_rank(model.adapter) if model.adapter is not None else 0
    if rank > _RANKS[-1]:
        raise ConfigError(f"train.lora.r: {rank} is more than the {_RANKS[-1]} that vLLM serves")
    return Setup(
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
    size = weights.parameters(model) * BYTES[dtype]
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


@loaded.rests
def rest() -> None:
    """Give the GPUs' memory to what comes next; the engine wakes up when it is needed again."""
    if not _RUNNING:
        return
    try:
        rested = _RUNNING[0].rest()
    except EngineError:  # it died while nobody needed it: no failure of what comes next
        rested = False
    if not rested:
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
