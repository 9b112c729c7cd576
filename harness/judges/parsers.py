"""From what a judge answered to a preference; what cannot be read is a named failure, never a number."""

import math
from collections.abc import Mapping

from harness.judges.prompt import FIRST, SECOND

NO_LOGPROBS = "no_logprobs"
"""The server answered without log-probabilities."""
NO_CHOICE = "no_choice"
"""Neither of the two names is what the judge said, or among its likely tokens."""


def from_logprobs(logprobs: Mapping[str, float] | None) -> tuple[float | None, str | None]:
    """Share of probability on the first answer's name, p(m) / (p(m) + p(M)), or why there is none.

    As alpaca_eval's `logprob_parser` without binarising, whose preference is 2 less this share: a name that is not
    among the tokens counts as probability 0, and both missing is a failure.

    Args:
        logprobs: of the most likely first tokens, in nats.
    """
    if logprobs is None:
        return None, NO_LOGPROBS
    first, second = (logprobs.get(name, -math.inf) for name in (FIRST, SECOND))
    top = max(first, second)
    if not math.isfinite(top):
        return None, NO_CHOICE
    weights = math.exp(first - top), math.exp(second - top)
    return weights[0] / sum(weights), None


def from_text(answer: str) -> tuple[float | None, str | None]:
    """1 or 0 for the name that was answered, and nothing else beside blanks; or why there is neither."""
    preferences = {FIRST: 1.0, SECOND: 0.0}
    choice = preferences.get(answer.strip())
    return (choice, None) if choice is not None else (None, NO_CHOICE)
