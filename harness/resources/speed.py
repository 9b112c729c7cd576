"""How long work takes where nothing like it was measured: operations and bytes, by what an accelerator can do at best.

A range, from what is done well to what is done badly. The shares of the published peaks and the time that a pass takes
however little there is to compute are ours; a small model is bound by the latter.
"""

from harness.judges import models as judges
from harness.judges import vllm_local
from harness.plan import Node
from harness.resources.architecture import Architecture
from harness.resources.demand import work_of
from harness.resources.gpus import Gpu
from harness.resources.inference import Cache
from harness.resources.lengths import Lengths, Range, judged
from harness.resources.training import BYTES
from harness.stages import model_score, reference, respond, sample, train

_OF_COMPUTE: Range = (0.5, 0.15)
"""Share of the published operations that large matrices reach."""

_OF_BANDWIDTH: Range = (0.7, 0.25)
"""Share of the published bandwidth that decoding reaches."""

_LAYER: Range = (2e-4, 1.5e-3)
"""Seconds that a layer's forward pass takes however small it is, its kernels being started one by one."""

_STEP_OF_VLLM: Range = (3e-3, 2e-2)
"""Seconds that a step of vLLM takes however small it is."""

_VLLM_SEQUENCES = 256
"""Sequences that vLLM decodes together, where nothing is set; it decides by itself."""

_SERVER: Range = (25.0, 120.0)
"""Seconds until a server that judges is ready; every unit of work starts its own."""

_NODE: Range = (0.0, 10.0)
"""Seconds for what a unit of work loads and writes."""


def seconds(node: Node, model: Architecture, gpu: Gpu, gpus: int, lengths: Lengths) -> Range | None:
    """Seconds of a node's work on so many GPUs; None where speeds of its type of number are not known.

    Args:
        gpus: among which it is divided; that division costs nothing is assumed.
    """
    spec = work_of(node)
    if gpu.flops is None or gpu.bandwidth is None or _value(spec) != 2:
        return None
    if isinstance(spec, sample.Spec | sample.VllmSpec | respond.Spec | respond.VllmSpec):
        return _plus(_decoding(spec, model, gpu, lengths), _NODE)
    if isinstance(spec, vllm_local.VllmSpec):
        served = _served(spec, model, gpu, judged(node, lengths), node.params["concurrency"])
        return _plus(served, _plus(_SERVER, _NODE))
    if isinstance(spec, train.Spec):
        times, batch = _passes(spec), _batch_tokens(spec)
    elif isinstance(spec, judges.RewardSpec | judges.PairwiseSpec):
        times, batch, lengths = 1, spec.batch_tokens, judged(node, lengths)
    elif isinstance(spec, reference.Spec | model_score.Spec | model_score.PairwiseSpec):
        times, batch = 1, spec.batch_tokens
    else:
        return None
    ends = []
    for end, tokens in enumerate(lengths.tokens):
        compute = times * _forward(model, tokens, tokens / max(1.0, lengths.sequences)) / (gpu.flops * _OF_COMPUTE[end])
        started = times * model.layers * _LAYER[end] * max(1.0, tokens / batch)
        ends.append((compute + started) / gpus + _NODE[end])
    return ends[0], ends[1]


def _value(spec: object) -> int:
    """Bytes of a value that is computed with."""
    if getattr(spec, "autocast", "none") == "bfloat16":
        return 2
    dtype: str = getattr(spec, "dtype", "") or getattr(spec, "weights_dtype", "float32")
    return BYTES[dtype]


def _forward(model: Architecture, tokens: float, length: float) -> float:
    """Operations of a forward pass: two for each weight, and attention to half of the tokens before (causal)."""
    return tokens * (
        2 * (model.layers * model.layer + model.embedding) + 2 * model.layers * model.attention_width * length
    )


def _passes(spec: train.Spec) -> int:
    """Forward passes that a training step costs: the backward pass is two, of frozen weights one."""
    return (2 if spec.lora is not None else 3) + (1 if spec.gradient_checkpointing else 0)


def _batch_tokens(spec: train.Spec) -> int:
    return spec.batch_tokens or 2 * (spec.micro_batch or 1) * spec.max_length


def _decoding(
    spec: sample.Spec | sample.VllmSpec | respond.Spec | respond.VllmSpec,
    model: Architecture,
    gpu: Gpu,
    lengths: Lengths,
) -> Range:
    """Every step reads the weights and all keys and values; rows of transformers' batches end together."""
    assert gpu.flops is not None
    assert gpu.bandwidth is not None
    value = BYTES[spec.dtype]
    with_vllm = isinstance(spec, sample.VllmSpec | respond.VllmSpec)
    rows = _VLLM_SEQUENCES
    if not isinstance(spec, sample.VllmSpec | respond.VllmSpec):
        rows = max(spec.batch_size, getattr(spec, "samples", 1))
    rows = int(min(rows, max(1.0, lengths.sequences)))
    ends = []
    for end, generated in enumerate(lengths.generated):
        longest = spec.max_new_tokens if end and not with_vllm else lengths.response[end]
        steps = max(1.0, lengths.sequences / rows) * longest
        cached = rows * Cache.of(model, value).token * (lengths.prompt + longest / 2)
        memory = (value * model.parameters + cached) / (gpu.bandwidth * _OF_BANDWIDTH[end])
        compute = rows * _forward(model, 1, longest) / (gpu.flops * _OF_COMPUTE[end])
        started = _STEP_OF_VLLM[end] if with_vllm else model.layers * _LAYER[end]
        ends.append(steps * (max(memory, compute) + started) if generated else 0.0)
    return ends[0], ends[1]


def _served(spec: vllm_local.VllmSpec, model: Architecture, gpu: Gpu, lengths: Lengths, concurrency: int) -> Range:
    """Questions are read, and answered by one token to as many as there may be; so many are under way at once."""
    assert gpu.flops is not None
    assert gpu.bandwidth is not None
    rows, ends = min(concurrency, _VLLM_SEQUENCES), []
    for end, answer in enumerate((1, spec.longest_answer)):
        read = lengths.tokens[end]
        compute = _forward(model, read, read / max(1.0, lengths.sequences)) / (gpu.flops * _OF_COMPUTE[end])
        step = BYTES[spec.dtype] * model.parameters / (gpu.bandwidth * _OF_BANDWIDTH[end]) + _STEP_OF_VLLM[end]
        ends.append(compute + step * answer * max(1.0, lengths.sequences / rows))
    return ends[0], ends[1]


def _plus(one: Range, other: Range) -> Range:
    return one[0] + other[0], one[1] + other[1]
