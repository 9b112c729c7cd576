"""Batched generation with transformers: one prefill per prompt, one random stream per request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from harness.keys import stream


@dataclass(frozen=True)
class Request:
    """One prompt that awaits some samples."""

    request_id: str
    prompt_ids: list[int]
    seed: tuple[Any, ...]
    """What the request's random stream is derived from."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class Response:
    """One sampled response."""

    request_id: str
    number: int
    """0 .. samples - 1 within the request."""
    token_ids: list[int]
    """Sampled tokens, the stop token included where one was drawn."""
    finish_reason: str
    """`stop` where the response ended by itself, `length` where it was cut."""
    logp: float | None
    """Sum of the tokens' log-probabilities in nats at temperature 1, without top-p; None where it was not asked for."""


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token from the row's own uniforms, and leaves `generate` no choice.

    `generate` has one random state for a whole batch; inverting the cumulative distribution at given uniforms makes
    a request's tokens a function of its own seed.
    """

    def __init__(self, uniforms: torch.Tensor | None, decoding: Decoding) -> None:
        self.uniforms = uniforms
        self.decoding = decoding
        self.logps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        logits = scores.float()
        tokens = logits.argmax(-1, keepdim=True) if self.uniforms is None else self._sample(logits)
        chosen = logits.gather(1, tokens) - logits.logsumexp(-1, keepdim=True)
        self.logps.append(chosen.squeeze(1))
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, tokens, 0.0)

    def _sample(self, logits: torch.Tensor) -> torch.Tensor:
        assert self.uniforms is not None
        probs = torch.softmax(logits / self.decoding.temperature, dim=-1)
        if self.decoding.top_p < 1.0:
            ordered, order = probs.sort(dim=-1, descending=True)
            outside = ordered.cumsum(-1) - ordered >= self.decoding.top_p
            probs = probs.scatter(1, order, ordered.masked_fill(outside, 0.0))
        cumulative = probs.cumsum(-1)
        at = self.uniforms[:, len(self.logps)].unsqueeze(1) * cumulative[:, -1:]
        # right=True never lands on a token of probability zero.
        return torch.searchsorted(cumulative, at, right=True).clamp_(max=probs.shape[1] - 1)


def generate(
    model: Any, stops: Sequence[int], requests: Sequence[Request], samples: int, decoding: Decoding, parts: int = 1
) -> list[Response]:
    """Generate `samples` responses for each request, in one batch of len(requests) * samples rows.

    The prompts are read once and their cache repeated for each sample. Responses come in the order of the requests.

    Args:
        parts: do it in so many batches, or as near as whole rows allow, where one takes too much memory.
    """
    size = max(1, len(requests) * samples // parts)
    together = max(1, size // samples)
    responses = []
    for start in range(0, len(requests), together):
        for first in range(0, samples, size):
            numbers = range(first, min(first + size, samples))
            responses += _generate(model, stops, requests[start : start + together], samples, numbers, decoding)
    return responses


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _generate(
    model: Any, stops: Sequence[int], requests: Sequence[Request], of: int, numbers: range, decoding: Decoding
) -> list[Response]:
    """The responses of these numbers, of the `of` of each request, in one batch."""
    samples = len(numbers)
    ids, mask = _left_pad([r.prompt_ids for r in requests], stops[0], model.device)
    cache = _prefill(model, ids, mask, samples)
    draw = _Draw(_uniforms(requests, of, numbers, decoding, model.device), decoding)
    output = model.generate(
        ids.repeat_interleave(samples, 0),
        attention_mask=mask.repeat_interleave(samples, 0),
        past_key_values=cache,
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
        logits_processor=LogitsProcessorList([draw]),
        # A model's own generation config may carry sampling settings; they are ours to decide.
        temperature=None,
        top_p=None,
        top_k=None,
        repetition_penalty=1.0,
    )
    new = output[:, ids.shape[1] :].cpu()
    logps = torch.stack(draw.logps, dim=1).double().cpu()
    return [
        _response(requests[row // samples].request_id, numbers[row % samples], new[row].tolist(), logps[row], stops)
        for row in range(len(new))
    ]


def _left_pad(rows: Sequence[list[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _prefill(model: Any, ids: torch.Tensor, mask: torch.Tensor, samples: int) -> DynamicCache | None:
    """Keys and values of all prompt tokens but the last, repeated for each sample; None where there is nothing."""
    if ids.shape[1] < 2 or samples == 1:
        return None
    cache = DynamicCache(config=model.config)
    before = mask[:, :-1]
    positions = (before.cumsum(-1) - 1).clamp(min=0)
    model(ids[:, :-1], attention_mask=before, position_ids=positions, past_key_values=cache, logits_to_keep=1)
    cache.batch_repeat_interleave(samples)
    return cache


def _uniforms(
    requests: Sequence[Request], of: int, numbers: range, decoding: Decoding, device: Any
) -> torch.Tensor | None:
    """Uniforms in [0, 1), [len(requests) * len(numbers), max_new_tokens], each request's from its own stream."""
    if decoding.temperature == 0:
        return None
    draws = [
        np.random.Generator(np.random.Philox(stream(*r.seed))).random((of, decoding.max_new_tokens), dtype=np.float32)[
            numbers.start : numbers.stop
        ]
        for r in requests
    ]
    return torch.from_numpy(np.concatenate(draws)).to(device)


def _response(request_id: str, number: int, tokens: list[int], logps: torch.Tensor, stops: Sequence[int]) -> Response:
    """Cut a row after its first stop token."""
    end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
    return Response(
        request_id=request_id,
        number=number,
        token_ids=tokens[:end],
        finish_reason="length" if end is None else "stop",
        logp=float(logps[:end].sum()),
    )
