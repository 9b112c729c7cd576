"""The group `judge`: one dataclass per kind of judge; which one holds is decided by `engine`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from harness.errors import ConfigError
from harness.model_rewards import RewardModelConfig, check_model


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A judge that needs nothing but the answers."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["embedded", "shorter"]
    """`embedded`: the proxy of `harness.engines.proxy_judge`; `shorter`: the answer with fewer words, for controls."""


@dataclass(frozen=True, kw_only=True)
class OpenAIJudgeConfig:
    """A language model behind an OpenAI-compatible server."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["openai"]
    """`openai`: chat completions of any compatible server."""
    base_url: str
    """Where the server is, up to and with its `/v1`; not part of any key."""
    api_key_env: str | None
    """Environment variable that holds the key; None for a server that asks for none."""
    model: str
    """Model, as the server calls it."""
    revision: str | None
    """What tells apart models of one name: a quantisation, a build, a server. Free text, part of the key."""
    served_as: str | None
    """Name under which the server says it answers; None: `model`, or that with a date after it."""
    prompt: str
    """`alpaca_eval`: the published prompt; otherwise a file in its form."""
    parser: Literal["logprobs", "text"]
    """`logprobs`: the share of probability on the first answer's letter; `text`: the letter that was answered."""
    order: Literal["both", "seeded"]
    """`both`: each pair in both orders, averaged; `seeded`: in one order, as alpaca_eval draws it."""
    temperature: float
    """Without effect on one token's log-probabilities."""
    max_new_tokens: int
    """Tokens that the judge may answer with."""
    top_logprobs: int
    """Log-probabilities asked for; a letter that is not among them counts as probability 0."""
    extra_body: Mapping[str, Any]
    """Further fields of the request, as the server names them."""
    concurrency: int
    """Requests under way at once."""
    timeout_seconds: float
    """Seconds that one request may take in all."""
    attempts: int
    """How often a request is tried that is refused for its rate, times out, or meets a server's own error."""
    max_failed_share: float
    """Share of the comparisons that may fail; above it there is no result."""
    price_input: float | None
    """US dollars per million tokens of input; None: not known, and no cost is shown."""
    price_output: float | None
    """US dollars per million tokens of output."""
    max_cost_usd: float | None
    """What all verdicts of this judge in this store may cost, those of earlier commands included; None: no limit."""
    max_tokens: int | None
    """Tokens, in and out, that all verdicts of this judge in this store may take; None: no limit."""


@dataclass(frozen=True, kw_only=True)
class PrecomputedJudgeConfig:
    """Verdicts that were made elsewhere."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["precomputed"]
    """`precomputed`: a file of annotations."""
    path: str
    """alpaca_eval's annotations.json, or JSON lines or Parquet with the same columns."""
    annotator: str
    """Who made them, in words; shown beside every number, and part of the key."""
    max_failed_share: float
    """Share of the comparisons that may have failed; above it there is no result."""


@dataclass(frozen=True, kw_only=True)
class RewardModelJudgeConfig:
    """A reward model that scores both answers."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["reward_model"]
    """`reward_model`: the difference of a reward model's scores through a logistic."""
    scorer: Literal["sequence_classification", "armorm"]
    """What the model is, as `reward.engine` has it."""
    model: RewardModelConfig
    """The model."""
    max_tokens: int
    """Conversations longer than this are cut at the end and counted."""
    batch_tokens: int
    """Largest padded size of a batch, in tokens."""
    scale: float
    """Difference of the scores that makes odds of e to one."""
    max_failed_share: float
    """Share of the comparisons that may fail; above it there is no result."""


@dataclass(frozen=True, kw_only=True)
class PairwiseModelJudgeConfig:
    """A model that reads both answers and says which is better."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["pairwise_model"]
    """`pairwise_model`: a comparing model such as PairRM, asked in both orders."""
    model: RewardModelConfig
    """The model."""
    max_tokens: int
    """Instruction and both answers together are cut to this many tokens, and counted."""
    max_prompt_tokens: int
    """The instruction's share of max_tokens; both answers divide the rest."""
    batch_tokens: int
    """Largest padded size of a batch, in tokens."""
    max_failed_share: float
    """Share of the comparisons that may fail; above it there is no result."""


ModelJudgeConfig = RewardModelJudgeConfig | PairwiseModelJudgeConfig
AnyJudgeConfig = (
    JudgeConfig | OpenAIJudgeConfig | PrecomputedJudgeConfig | RewardModelJudgeConfig | PairwiseModelJudgeConfig
)


def check_judge(config: AnyJudgeConfig) -> None:
    """Refuse a judge that could not be asked.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    if isinstance(config, OpenAIJudgeConfig):
        _check_server(config)
        _check_asking(config)
    if isinstance(config, ModelJudgeConfig):
        _check_model(config)
    if not isinstance(config, JudgeConfig) and not 0 <= config.max_failed_share < 1:
        raise ConfigError(f"judge.max_failed_share: expected a share from 0 to below 1, got {config.max_failed_share}")


def _check_model(config: ModelJudgeConfig) -> None:
    check_model(config.model, "judge.model")
    for name in ("max_tokens", "batch_tokens", "scale", "max_prompt_tokens"):
        value = getattr(config, name, None)
        if value is not None and value <= 0:
            raise ConfigError(f"judge.{name}: expected a number above 0, got {value}")
    unused = isinstance(config, PairwiseModelJudgeConfig) or config.scorer == "armorm"
    if config.model.trust_remote_code and unused:
        raise ConfigError("judge.model.trust_remote_code: this judge runs no code of the model; set it to false")
    if isinstance(config, PairwiseModelJudgeConfig) and config.max_prompt_tokens >= config.max_tokens:
        raise ConfigError(
            f"judge.max_prompt_tokens: {config.max_prompt_tokens} leaves no room for two answers within "
            f"judge.max_tokens = {config.max_tokens}"
        )


def _check_server(config: OpenAIJudgeConfig) -> None:
    url = urlsplit(config.base_url)
    if url.username or url.password or url.query:
        raise ConfigError(
            "judge.base_url: holds credentials or a query; expected only an address (the key comes from the "
            "environment variable that judge.api_key_env names)"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"judge.base_url: {config.base_url!r} is no address; expected http(s)://host[:port]/v1")
    if config.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", config.api_key_env):
        # What stands there may be the key itself: it is not repeated.
        raise ConfigError("judge.api_key_env: expected the name of an environment variable, such as OPENAI_API_KEY")
    if not config.model.strip():
        raise ConfigError("judge.model: expected a model, as the server calls it")


def _check_asking(config: OpenAIJudgeConfig) -> None:
    for name in ("max_new_tokens", "concurrency", "timeout_seconds", "attempts", "max_tokens", "max_cost_usd"):
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise ConfigError(f"judge.{name}: expected a number above 0, got {value}")
    for name in ("temperature", "price_input", "price_output"):
        value = getattr(config, name)
        if value is not None and value < 0:
            raise ConfigError(f"judge.{name}: expected 0 or more, got {value}")
    if config.parser == "logprobs" and not 2 <= config.top_logprobs <= 20:
        raise ConfigError(f"judge.top_logprobs: expected 2 to 20, got {config.top_logprobs}")
    if (config.price_input is None) != (config.price_output is None):
        raise ConfigError("judge.price_input, judge.price_output: expected both, or null for both")
    if config.max_cost_usd is not None and config.price_input is None:
        raise ConfigError(
            "judge.max_cost_usd: needs judge.price_input and judge.price_output (US dollars per million tokens), since "
            "no prices are built in; or give judge.max_tokens"
        )
    ours = {"model", "messages", "stream", "n", "logprobs", "top_logprobs", "temperature", "max_tokens"}
    if taken := sorted(ours & set(config.extra_body)):
        raise ConfigError(f"judge.extra_body: {', '.join(taken)} cannot be set here")
