"""The group `judge`: one dataclass per kind of judge; which one holds is decided by `engine`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from harness.errors import ConfigError
from harness.judges.model_config import ModelJudgeConfig, check_model_judge
from harness.processes import is_secret

MAX_COMPLETION_TOKENS: Final = "max_completion_tokens"
"""A field of `extra_body` that stands in place of `max_new_tokens`."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """A judge that needs nothing but the answers."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["embedded", "shorter"]
    """`embedded`: the proxy of `harness.engines.proxy_judge`; `shorter`: the answer with fewer words, for controls."""


@dataclass(frozen=True, kw_only=True)
class AskedJudgeConfig:
    """How a language model is asked, wherever it runs."""

    name: str
    """Short name; not part of any key."""
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


@dataclass(frozen=True, kw_only=True)
class OpenAIJudgeConfig(AskedJudgeConfig):
    """A language model behind an OpenAI-compatible server."""

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
    price_input: float | None
    """US dollars per million tokens of input; None: not known, and no cost is shown."""
    price_output: float | None
    """US dollars per million tokens of output."""
    max_cost_usd: float | None
    """What all verdicts of this judge in this store may cost, those of earlier commands included; None: no limit."""
    max_tokens: int | None
    """Tokens, in and out, that all verdicts of this judge in this store may take; None: no limit."""


@dataclass(frozen=True, kw_only=True)
class JudgeModelConfig:
    """A judge's weights, like a policy's."""

    source: Literal["package", "local", "hub"]
    """`package`: weights carried by an installed Python package; `local`: a folder; `hub`: a model hub."""
    id: str
    """Package file as `package:file`, folder, or hub id."""
    revision: str | None
    """Version of the package or hub revision; None for a local folder, which is named by its content."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Type of the weights."""
    trust_remote_code: bool
    """Run code that comes with the model. Only for a source that you trust."""


@dataclass(frozen=True, kw_only=True)
class VllmJudgeConfig(AskedJudgeConfig):
    """A language model that vLLM serves on the machine that judges, for as long as it judges."""

    engine: Literal["vllm_local"]
    """`vllm_local`: a server of our own; `cluster.python.vllm` names the interpreter that has vLLM."""
    model: JudgeModelConfig
    """The model."""
    context: int
    """Tokens of question and answer together; a longer question is a failed judgement."""


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


AnyJudgeConfig = JudgeConfig | OpenAIJudgeConfig | VllmJudgeConfig | PrecomputedJudgeConfig | ModelJudgeConfig


_HOW_ASKED: Final = ("concurrency", "timeout_seconds", "attempts")
_SERVER: Final = ("base_url", "api_key_env", "price_input", "price_output", "max_cost_usd", "max_tokens")


def undecisive(config: AnyJudgeConfig) -> tuple[str, ...]:
    """Settings that no verdict depends on: where, how fast and for how much a judge is asked, and what may fail."""
    if isinstance(config, JudgeConfig):
        return ()
    asked = _HOW_ASKED if isinstance(config, AskedJudgeConfig) else ()
    return ("max_failed_share", *asked, *(_SERVER if isinstance(config, OpenAIJudgeConfig) else ()))


def check_judge(config: AnyJudgeConfig) -> None:
    """Refuse a judge that could not be asked.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    if isinstance(config, AskedJudgeConfig):
        _check_asking(config)
    if isinstance(config, OpenAIJudgeConfig):
        _check_server(config)
        _check_spending(config)
    if isinstance(config, VllmJudgeConfig):
        _check_model(config.model)
        if config.context < 1:
            raise ConfigError(f"judge.context: expected a number above 0, got {config.context}")
    if isinstance(config, ModelJudgeConfig):
        check_model_judge(config)
    if not isinstance(config, JudgeConfig) and not 0 <= config.max_failed_share < 1:
        raise ConfigError(f"judge.max_failed_share: expected a share from 0 to below 1, got {config.max_failed_share}")


def _check_server(config: OpenAIJudgeConfig) -> None:
    try:
        url = urlsplit(config.base_url)
        _ = url.port  # read where it is asked for, and refused there
    except ValueError as error:
        raise ConfigError(f"judge.base_url: no address ({error}); expected http(s)://host[:port]/v1") from None
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            "judge.base_url: holds credentials or a query; expected only an address (the key comes from the "
            "environment variable that judge.api_key_env names)"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"judge.base_url: {config.base_url!r} is no address; expected http(s)://host[:port]/v1")
    if config.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", config.api_key_env):
        # What stands there may be the key itself: it is not repeated.
        raise ConfigError("judge.api_key_env: expected the name of an environment variable, such as OPENAI_API_KEY")
    if config.api_key_env is not None and not is_secret(config.api_key_env):
        raise ConfigError(
            "judge.api_key_env: expected a name with a word that ends in KEY, TOKEN or SECRET, such as OPENAI_API_KEY, "
            "by which it is kept from the engines that this starts"
        )
    if not config.model.strip():
        raise ConfigError("judge.model: expected a model, as the server calls it")


def _check_asking(config: AskedJudgeConfig) -> None:
    for name in ("max_new_tokens", "concurrency", "timeout_seconds", "attempts"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"judge.{name}: expected a number above 0, got {getattr(config, name)}")
    if config.temperature < 0:
        raise ConfigError(f"judge.temperature: expected 0 or more, got {config.temperature}")
    if config.parser == "logprobs" and not 2 <= config.top_logprobs <= 20:
        raise ConfigError(f"judge.top_logprobs: expected 2 to 20, got {config.top_logprobs}")
    ours = {"model", "messages", "stream", "n", "logprobs", "top_logprobs", "temperature", "max_tokens"}
    if taken := sorted(ours & set(config.extra_body)):
        raise ConfigError(f"judge.extra_body: {', '.join(taken)} cannot be set here")
    limit = config.extra_body.get(MAX_COMPLETION_TOKENS, 1)
    if type(limit) is not int or limit < 1:
        raise ConfigError(f"judge.extra_body.{MAX_COMPLETION_TOKENS}: expected a number above 0, got {limit!r}")


def _check_spending(config: OpenAIJudgeConfig) -> None:
    for name in ("max_tokens", "max_cost_usd", "price_input", "price_output"):
        value, least = getattr(config, name), 0 if name.startswith("price") else 1e-12
        if value is not None and value < least:
            raise ConfigError(f"judge.{name}: expected {'0 or more' if not least else 'a number above 0'}, got {value}")
    if (config.price_input is None) != (config.price_output is None):
        raise ConfigError("judge.price_input, judge.price_output: expected both, or null for both")
    if config.max_cost_usd is not None and config.price_input is None:
        raise ConfigError(
            "judge.max_cost_usd: needs judge.price_input and judge.price_output (US dollars per million tokens), since "
            "no prices are built in; or give judge.max_tokens"
        )


def _check_model(config: JudgeModelConfig) -> None:
    if config.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}", config.revision or ""):
        raise ConfigError(
            f"judge.model.revision: {config.revision!r} is no commit; expected its 40 hex digits, since a branch or "
            "tag would let one key mean different weights"
        )
