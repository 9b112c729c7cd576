"""Configuration of rewards that a model gives; those that need none are in `harness.config`."""

import re
from dataclasses import dataclass
from typing import Literal

from harness.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """A published or local model that scores responses, or compares two of them."""

    source: Literal["package", "local", "hub"]
    """`package`: a folder inside an installed Python package; `local`: a folder; `hub`: a model hub."""
    id: str
    """Package and folder as `package:folder`, folder, or hub id."""
    revision: str | None
    """Version of the package or the hub's commit; None for a local folder, which is named by its content."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Type of the weights and of the computation."""
    trust_remote_code: bool
    """Run code that comes with the model. Only for a source that you trust; `armorm` and `pairwise` need none."""


@dataclass(frozen=True, kw_only=True)
class ModelRewardConfig:
    """A reward that a model gives."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["sequence_classification", "armorm", "pairwise"]
    """`sequence_classification`: one scalar head on a language model or encoder; `armorm`: several named objectives,
    weighted by a gate that reads the prompt; `pairwise`: a comparison with other responses to the same prompt."""
    model: RewardModelConfig
    """The model."""
    max_tokens: int
    """Conversations longer than this, in the reward model's own tokens, are cut at the end and counted."""
    batch_tokens: int
    """Largest padded size of a batch, in tokens; halved while memory runs out."""
    objectives: tuple[str, ...]
    """`armorm`: names of its heads, in order."""
    opponents: int | None
    """`pairwise`: responses are compared with the first so many of the prompt's pool."""
    max_prompt_tokens: int | None
    """`pairwise`: the prompt's share of max_tokens; both responses divide the rest."""


def check_commit(revision: str | None, path: str) -> None:
    """Refuse what is not the name of one state of a repository on the hub.

    Raises:
        ConfigError: names the key.
    """
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise ConfigError(
            f"{path}: {revision!r} is no commit; expected its 40 hex digits, since a branch or tag would let one name "
            "mean different contents"
        )


def check_model(model: RewardModelConfig, path: str) -> None:
    """Refuse a model whose name does not say which weights it means.

    Raises:
        ConfigError: names the key under `path`, and what was expected.
    """
    if model.source == "hub":
        check_commit(model.revision, f"{path}.revision")
    if model.source == "local" and model.revision is not None:
        raise ConfigError(f"{path}.revision: {model.revision!r} would do nothing; a folder is named by its content")
    if model.source == "package" and (model.revision is None or not all(model.id.partition(":"))):
        raise ConfigError(f"{path}: expected an id like package:folder, and the package's version as revision")


def check(reward: ModelRewardConfig, sample_block: int) -> None:
    """Refuse contradictions between the keys of a reward.

    Args:
        sample_block: samples per prompt in the first block of the pool, from which opponents are taken.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    check_model(reward.model, "reward.model")
    for name in ("max_tokens", "batch_tokens", "opponents", "max_prompt_tokens"):
        value = getattr(reward, name)
        if value is not None and value <= 0:
            raise ConfigError(f"reward.{name}: expected a number above 0, got {value}")
    if reward.engine != "sequence_classification" and reward.model.trust_remote_code:
        raise ConfigError(
            f"reward.model.trust_remote_code: reward.engine={reward.engine} runs no code of the model; set it to false"
        )
    if (reward.engine == "armorm") != bool(reward.objectives):
        raise ConfigError("reward.objectives: the names of its heads must be given with engine=armorm, and only there")
    if len(set(reward.objectives)) < len(reward.objectives):
        raise ConfigError("reward.objectives: two heads have the same name")
    if reward.engine != "pairwise":
        for name in ("opponents", "max_prompt_tokens"):
            if getattr(reward, name) is not None:
                raise ConfigError(f"reward.{name}: would do nothing with reward.engine={reward.engine}; set it to null")
        return
    if reward.opponents is None or not 2 <= reward.opponents <= sample_block:
        raise ConfigError(
            f"reward.opponents: {reward.opponents} is out of range; expected 2 <= opponents <= sampler.sample_block = "
            f"{sample_block}, since opponents are taken from the pool's first block"
        )
    if reward.max_prompt_tokens is None or reward.max_prompt_tokens >= reward.max_tokens:
        raise ConfigError(
            f"reward.max_prompt_tokens: {reward.max_prompt_tokens} leaves no room for two responses within "
            f"reward.max_tokens = {reward.max_tokens}"
        )
