"""Whether a training that is about to begin has to compute activations again: `train.gradient_checkpointing=auto`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from harness import machine
from harness.resources import training
from harness.resources.architecture import of_folder
from harness.resources.gpus import Gpu
from harness.resources.places import Place, of_machine
from harness.training_spec import TrainingSpec
from harness.world import World


def demanded(spec: TrainingSpec, policy: Path, rows: Sequence[Mapping[str, Any]], world: World) -> bool:
    """Whether a training on these rows would not fit otherwise, with room for the estimate's error.

    Where the shape of the model or the memory is not known, it is: what takes longer is better than what dies.
    """
    model, where = of_folder(policy), place_here(world)
    if model is None or where.memory is None:
        return True
    length = max((_length(row, spec.max_length) for row in rows), default=1)
    given = training.asked(replace(spec, max_length=length), where, checkpointing=False)
    return not training.fits(sum(training.need(model, given).values()), where.memory)


def _length(row: Mapping[str, Any], most: int) -> int:
    return min(most, len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])))


def place_here(world: World) -> Place:
    """What this process, or those that it starts, have for a training: GPUs, or the memory that is free on a CPU."""
    import torch

    mine = machine.mine()
    if world.size > 1 and mine.devices:
        return Place(gpu=of_machine(mine.visible), share=mine.share, world=world)
    if torch.cuda.is_available():
        memory = float(torch.cuda.get_device_properties(0).total_memory)
        return Place(gpu=Gpu(name=torch.cuda.get_device_name(0), memory=memory), share=mine.share, world=world)
    free = float(psutil.virtual_memory().available)
    return Place(gpu=Gpu(name="cpu", memory=free / world.processes, is_cpu=True), world=world)
