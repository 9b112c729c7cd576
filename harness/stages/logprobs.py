"""Log-probabilities of responses that are given: what the stages `reference` and `change` have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import memory
from harness.stages import Context

SHARD = 256
"""Responses between two writes."""


@dataclass(frozen=True, kw_only=True)
class LogprobSpec:
    """What decides the log-probability of a response, besides the model and the tokens."""

    max_length: int
    """Prompt and response are cut to this many tokens, keeping the start, as in training."""
    dtype: str
    autocast: str
    batch_tokens: int
    """Padded tokens of a batch."""
    trust_remote_code: bool


def cut(row: dict[str, Any], max_length: int) -> dict[str, Any]:
    """A row with its `response_ids` cut to what its `prompt_ids` leave of a length, and whether they were."""
    room = max_length - len(row["prompt_ids"])
    return {**row, "truncated": len(row["response_ids"]) > room, "response_ids": row["response_ids"][:room]}


def logps(
    context: Context,
    spec: LogprobSpec,
    rows: Sequence[dict[str, Any]],
    model: Path,
    advance: Callable[[int], None],
    base: Path | None = None,
) -> list[float]:
    """Log-probability of each row's `response_ids` after its `prompt_ids`, in nats, in the order of the rows.

    Args:
        advance: told how many responses each batch held.
        base: weights under the adapters, where `model` holds adapters only.
    """
    if not rows:
        return []
    from harness.engines import logprobs, models

    loaded, _, _ = models.load(model, spec.dtype, spec.trust_remote_code, base)
    responses = [(r["prompt_ids"], r["response_ids"]) for r in rows]
    batch_tokens = memory.smaller(spec.batch_tokens, context.parts)
    return [float(value) for value in logprobs.response_logps(loaded, responses, batch_tokens, spec.autocast, advance)]
