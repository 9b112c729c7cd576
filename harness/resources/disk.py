"""What a node leaves on the disk, where nothing like it was measured: text and token ids as Parquet, and weights."""

from harness.plan import Node
from harness.resources.architecture import Architecture
from harness.resources.lengths import Lengths, Range
from harness.resources.training import BYTES
from harness.stages import model as model_stage
from harness.training_spec import TrainingSpec

_TOKEN: Range = (4.0, 7.0)
"""Bytes of a token: its text and its id, with zstd. Pools of a 135M model took 5.5 and 6.6, rows included (ours)."""

_ROW: Range = (30.0, 65.0)
"""Bytes of a row beside its tokens."""

_STATE = 12
"""Bytes of a trained parameter in a checkpoint: its weight and Adam's two moments, in float32."""

_CHECKPOINTS = 3
"""Checkpoints that stand together: two, and the one that is being written."""


def disk_of(node: Node, model: Architecture | None, lengths: Lengths | None) -> Range | None:
    """Bytes of a node's artifact; None where it is not known."""
    if isinstance(node.spec, TrainingSpec):
        return _weights(node.spec, model)
    if isinstance(node.spec, model_stage.Spec | model_stage.RewardSpec):
        return _taken_in(node.spec, model)
    if lengths is None:
        return None
    if node.stage in ("score", "appraise", "rank", "boundary", "change"):
        return lengths.sequences * _ROW[0], lengths.sequences * _ROW[1]
    # A pool keeps its prompts once; reference and pairs keep them with every row.
    tokens = lengths.generated if node.stage in ("sample", "respond") else lengths.tokens
    low, high = (tokens[end] * _TOKEN[end] + lengths.sequences * _ROW[end] for end in (0, 1))
    return low, high


def checkpoints(spec: TrainingSpec, model: Architecture, save_steps: int) -> float:
    """Bytes of a training's checkpoints at most, while it runs."""
    if not save_steps:
        return 0.0
    trained = model.parameters if spec.adapters is None else model.adapters(*spec.adapters)
    return float(_CHECKPOINTS * _STATE * trained)


def _weights(spec: TrainingSpec, model: Architecture | None) -> Range | None:
    if spec.max_steps == 0:  # nothing is trained
        return 0.0, 0.0
    if model is None:
        return None
    if spec.adapters is not None:
        size = 4.0 * model.adapters(*spec.adapters)
    else:
        size = float(BYTES[spec.save_dtype] * model.parameters)
    return size, size


def _taken_in(
    spec: model_stage.Spec | model_stage.RewardSpec | model_stage.MergedSpec, model: Architecture | None
) -> Range | None:
    """Hard links to the hub's cache where that is on the same file system, else a copy; of a package in float32."""
    if model is None:
        return None
    if isinstance(spec, model_stage.MergedSpec):
        size = float(BYTES[spec.dtype] * model.parameters)
        return size, size
    half, full = 2.0 * model.parameters, 4.0 * model.parameters
    if spec.source == "hub":
        return 0.0, half
    return (full, full) if spec.source == "package" and isinstance(spec, model_stage.Spec) else (half, full)
