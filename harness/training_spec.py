"""What decides trained weights, in preference training and fine-tuning alike."""

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.config import TrainConfig
from harness.sft import SftConfig

_AS_THEY_ARE = (
    "seed",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "max_steps",
    "global_batch",
    "max_length",
    "autocast",
    "save_dtype",
)
"""Settings of both kinds that a spec takes over unchanged."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """What both kinds of training need to know; the names of its fields are part of their keys."""

    seed: int
    learning_rate: float
    schedule: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    epochs: float | None
    """None where max_steps decides."""
    max_steps: int | None
    global_batch: int
    micro_batch: int | None
    """None where something else divides a step's rows."""
    max_length: int
    weights_dtype: str
    """Type of the weights while training."""
    autocast: str
    gradient_checkpointing: bool | None
    """None: as the memory of the GPU that trains demands."""
    save_dtype: str
    trust_remote_code: bool

    sequences: ClassVar[int] = 1
    """Sequences of a row."""

    @property
    def adapters(self) -> tuple[int, str] | None:
        """Rank and target modules of the adapters that are trained; None where all weights are."""
        return None

    @property
    def least_tokens(self) -> int:
        """Padded tokens of a forward pass on one row, as long as it may be."""
        return self.sequences * self.max_length

    @property
    def most_tokens(self) -> int:
        """Padded tokens of the largest forward pass."""
        assert self.micro_batch is not None
        return self.micro_batch * self.least_tokens


def shared_settings(settings: TrainConfig | SftConfig) -> dict[str, Any]:
    """Fields of a `TrainingSpec` that either kind of settings says in the same way."""
    return {
        **{name: getattr(settings, name) for name in _AS_THEY_ARE},
        "epochs": settings.epochs if settings.max_steps is None else None,
    }
