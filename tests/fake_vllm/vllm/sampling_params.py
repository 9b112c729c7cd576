"""How the fake is asked."""

from dataclasses import dataclass
from typing import Any


class RequestOutputKind:
    """When responses come back."""

    FINAL_ONLY = 2


@dataclass(kw_only=True)
class SamplingParams:
    """What the harness sets; anything else is an error."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]
    seed: int | None
    logprobs: int | None
    detokenize: bool
    output_kind: Any
