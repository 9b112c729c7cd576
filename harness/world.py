"""How many processes do one training together, and where; never part of a key."""

from dataclasses import dataclass
from typing import Literal

Sharding = Literal["full", "none"]
"""`full`: weights, gradients and optimiser state are spread over all processes (FSDP); `none`: each holds them all."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of one training: one per GPU, or one per machine where it has none."""

    machines: int = 1
    processes: int = 1
    """On each machine."""
    threads: int = 1
    """CPU threads of each process."""
    sharding: Sharding = "full"
    devices: str | None = None
    """GPUs that they may use on one machine, as CUDA_VISIBLE_DEVICES names them; None: all that they see. On several
    machines SLURM says so on each."""

    @property
    def size(self) -> int:
        """All processes."""
        return self.machines * self.processes


ALONE = World()
"""A training in the process that asks for it."""
