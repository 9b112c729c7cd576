"""Configuration of judges that are reward models."""

from dataclasses import dataclass
from typing import Literal

from harness.errors import ConfigError
from harness.model_rewards import RewardModelConfig, check_model


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

    @property
    def scorer(self) -> str:
        """What the model is, as `reward.engine` has it."""
        return "pairwise"


ModelJudgeConfig = RewardModelJudgeConfig | PairwiseModelJudgeConfig


def check_model_judge(config: ModelJudgeConfig) -> None:
    """Refuse a judge that could not compare.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    check_model(config.model, "judge.model")
    for name in ("max_tokens", "batch_tokens", "scale", "max_prompt_tokens"):
        value = getattr(config, name, None)
        if value is not None and value <= 0:
            raise ConfigError(f"judge.{name}: expected a number above 0, got {value}")
    if config.model.trust_remote_code and config.scorer != "sequence_classification":
        raise ConfigError("judge.model.trust_remote_code: this judge runs no code of the model; set it to false")
    if isinstance(config, PairwiseModelJudgeConfig) and config.max_prompt_tokens >= config.max_tokens:
        raise ConfigError(
            f"judge.max_prompt_tokens: {config.max_prompt_tokens} leaves no room for two answers within "
            f"judge.max_tokens = {config.max_tokens}"
        )
