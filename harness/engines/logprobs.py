"""Log-probabilities of given responses: what the reference stage and the KL of answers need."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Sequences = Sequence[tuple[list[int], list[int]]]
"""(prompt token ids, response token ids) of each response."""

_FLOATS = 2**28
"""Logits in float32 that are in memory at once: 1 GB, and as much again for their logarithms."""


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
            logps = _target_logps(logits, batch["targets"])
        out[rows] = (logps * batch["response"]).sum(dim=1).double().cpu().numpy()
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
            p = torch.log_softmax(_response_logits(model, batch).float(), dim=-1)
            q = torch.log_softmax(_response_logits(reference, batch).float(), dim=-1)
        kl = (p.exp() * (p - q)).sum(dim=-1)
        out[rows] = (kl * batch["response"]).sum(dim=1).double().cpu().numpy()
        advance(len(rows))
    return out


def _batches(
    responses: Sequences, batch_tokens: int, device: Any
) -> Iterator[tuple[npt.NDArray[np.intp], dict[str, torch.Tensor]]]:
    """Batches of similar length, longest first, each at most `batch_tokens` padded tokens (at least one response)."""
    lengths = np.array([len(p) + len(r) for p, r in responses], dtype=np.intp)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        rows = order[start : start + size]
        yield rows, _collate([responses[i] for i in rows], device)
        start += size


def _collate(rows: Sequences, device: Any) -> dict[str, torch.Tensor]:
    """Pad on the left, so that all responses end in the last column and only the last columns need logits."""
    width = max(len(p) + len(r) for p, r in rows)
    kept = max(len(r) for _, r in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    response = torch.zeros((len(rows), kept))
    for i, (prompt, answer) in enumerate(rows):
        tokens = prompt + answer
        ids[i, width - len(tokens) :] = torch.tensor(tokens)
        mask[i, width - len(tokens) :] = 1
        response[i, kept - len(answer) :] = 1.0
    batch = {"ids": ids, "mask": mask, "response": response, "targets": ids[:, width - kept :]}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _response_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits that predict the last columns, [rows, kept, vocabulary]."""
    kept = batch["targets"].shape[1]
    positions = (batch["mask"].cumsum(-1) - 1).clamp(min=0)
    logits: torch.Tensor = model(
        batch["ids"], attention_mask=batch["mask"], position_ids=positions, use_cache=False, logits_to_keep=kept + 1
    ).logits
    return logits[:, :-1]


def _target_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p of each target in float32, [rows, kept]; a few rows at a time, since float32 doubles bfloat16's memory."""
    rows = max(1, _FLOATS // (logits.shape[1] * logits.shape[2]))
    parts = zip(logits.split(rows), targets.split(rows), strict=True)
    return torch.cat([_gathered(part.float(), target) for part, target in parts])


def _gathered(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logits, dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)


def _autocast(model: Any, kind: str) -> Any:
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=kind == "bfloat16")
