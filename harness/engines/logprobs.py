"""Log-probabilities of given responses: what the reference stage and the KL of answers need."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Sequences = Sequence[tuple[list[int], list[int]]]
"""(prompt token ids, response token ids) of each response."""

_ROUNDING = {"float32": 1e-3, "bfloat16": 0.5}

_FLOATS = 2**28
"""Logits in float32 that are in memory at once: 1 GB, and as much again for their logarithms."""


def rounding(weights_dtype: str, autocast: str) -> float:
    """Nats per response up to which log-probabilities of two passes differ though the model does not.

    By the coarsest type of weights and computation. At beta = 0.1 that of float32 is a margin of 1e-4.
    """
    return _ROUNDING["bfloat16" if "bfloat16" in (weights_dtype, autocast) else "float32"]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Responses padded behind their last token, where a causal model does not look: so there is no mask."""

    ids: torch.Tensor
    """Prompt and response, [rows, width]."""
    before: torch.Tensor
    """Places, in the flattened ids, of the tokens that stand before one of a response, [response tokens]."""
    targets: torch.Tensor
    """The response tokens themselves, [response tokens]."""


def response_logps(
    model: Any, responses: Sequences, batch_tokens: int, autocast: str, advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """Sum of log p(token | before) over each response's tokens, in nats, in the order given, [responses].

    Args:
        batch_tokens: largest padded size, in tokens, of a batch.
        autocast: `none` or `bfloat16`, as in training.
        advance: told how many responses each batch held.
    """
    out = np.zeros(len(responses))
    for rows, batch in _batches(responses, batch_tokens, model.device):
        with torch.inference_mode(), _autocast(model, autocast):
            logits = _response_logits(model, batch)
            parts = zip(_parts(logits), _parts(batch.targets, logits), strict=True)
            logps = torch.cat([_logarithms(part).gather(1, t[:, None])[:, 0] for part, t in parts])
        out[rows] = _per_response(logps, batch)
        advance(len(rows))
    return out


def response_kls(
    model: Any, reference: Any, responses: Sequences, batch_tokens: int, advance: Callable[[int], None]
) -> npt.NDArray[np.float64]:
    """KL(model || reference) in nats along each response, [responses].

    The divergence of the two next-token distributions is summed over the response's tokens. Over responses that the
    model sampled this estimates the sequences' KL without bias and with less variance than the log-ratio.
    """
    out = np.zeros(len(responses))
    for rows, batch in _batches(responses, batch_tokens, model.device):
        with torch.inference_mode():
            logits = [_parts(_response_logits(one, batch)) for one in (model, reference)]
            kls = torch.cat([_divergence(_logarithms(p), _logarithms(q)) for p, q in zip(*logits, strict=True)])
        out[rows] = _per_response(kls, batch)
        advance(len(rows))
    return out


def _batches(responses: Sequences, batch_tokens: int, device: Any) -> Iterator[tuple[npt.NDArray[np.intp], _Batch]]:
    """Batches of similar length, longest first, each at most `batch_tokens` padded tokens (at least one response)."""
    lengths = np.array([len(p) + len(r) for p, r in responses], dtype=np.intp)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        rows = order[start : start + size]
        yield rows, _collate([responses[i] for i in rows], device)
        start += size


def _collate(rows: Sequences, device: Any) -> _Batch:
    width = max(len(p) + len(r) for p, r in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    before = []
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end] = prompt + response
        before.append(np.arange(i * width + len(prompt) - 1, i * width + end - 1))
    places = np.concatenate(before)
    tensors = {"ids": ids, "before": places, "targets": ids.reshape(-1)[places + 1]}
    return _Batch(**{name: torch.from_numpy(array).to(device) for name, array in tensors.items()})


def _response_logits(model: Any, batch: _Batch) -> torch.Tensor:
    """Logits that predict the responses' tokens, [response tokens, vocabulary].

    The output layer is given these places only: prompts and padding are most of a batch, and the vocabulary is wide.
    What a model does to its logits, such as capping them, it still does itself.
    """

    def choose(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = given
        return (hidden.flatten(0, 1)[batch.before][None], *others)

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        logits: torch.Tensor = model(batch.ids, use_cache=False).logits
    finally:
        hook.remove()
    # Code of a hub may apply the layer's weights without calling the layer.
    return logits[0] if logits.shape[:2] == (1, len(batch.before)) else logits.flatten(0, 1)[batch.before]


def _parts(values: torch.Tensor, logits: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """A few tokens at a time, as many as of the logits fit: float32 doubles bfloat16's memory."""
    vocabulary = (values if logits is None else logits).shape[1]
    parts: tuple[torch.Tensor, ...] = values.split(max(1, _FLOATS // vocabulary))
    return parts


def _logarithms(logits: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def _divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(dim=-1)


def _per_response(values: torch.Tensor, batch: _Batch) -> npt.NDArray[np.float64]:
    """Sums over each response's tokens, [rows]; in an order that does not change from run to run, as atomics' does."""
    placed = torch.zeros(batch.ids.numel(), device=values.device).index_copy(0, batch.before, values)
    sums: npt.NDArray[np.float64] = placed.view_as(batch.ids).sum(dim=1).double().cpu().numpy()
    return sums


def _autocast(model: Any, kind: str) -> Any:
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=kind == "bfloat16")
