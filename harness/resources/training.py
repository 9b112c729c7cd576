"""Memory of a preference training, on each of its GPUs: what it must hold whatever it reads, and what it reads at once.

Weights, gradients and Adam's two moments in float32 are 16 bytes for each trained parameter (Rajbhandari et al.,
arXiv 1910.02054, section 3.1). What a layer keeps for the backward pass is counted as Korthikanti et al. do
(arXiv 2205.05198, section 4.1), for the layers that transformers has today: no dropout, attention in a fused kernel,
norms in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.resources.architecture import Architecture
from harness.resources.places import Place
from harness.training_spec import TrainingSpec

BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_SCORE = 8
"""Bytes that attention without a fused kernel keeps for each head, query and key: in float32 and as they were cast."""

_TILE = (4096, 32768)
"""Tokens and vocabulary of a tile of logits in TRL's head, which never holds all of them."""

_TILE_ON_CPU = 20
"""Bytes for each logit of a tile where no fused kernel works on it."""

MARGIN = 0.9
"""Part of what there is that an estimate may fill before it is called tight (ours)."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What of a training's settings decides its memory."""

    tokens: int
    """Padded tokens of the largest forward pass, both sides of its pairs."""
    length: int
    """Longest sequence in tokens."""
    weights: int
    """Bytes of a weight."""
    compute: int
    """Bytes of a value that is computed with."""
    checkpointing: bool
    adapters: tuple[int, str] | None
    """Rank and target modules; None where all weights are trained."""
    processes: int = 1
    sharded: bool = False
    """Weights, gradients and moments are spread over the processes."""
    on_gpu: bool = True


def asked(spec: TrainingSpec, place: Place, *, checkpointing: bool) -> Training:
    """What of a training's spec, and of where it trains, decides its memory."""
    weights = BYTES[spec.weights_dtype]
    return Training(
        tokens=spec.most_tokens,
        length=spec.max_length,
        weights=weights,
        compute=2 if spec.autocast == "bfloat16" else weights,
        checkpointing=checkpointing,
        adapters=spec.adapters,
        processes=place.world.size,
        sharded=place.world.sharding == "full" and place.world.size > 1,
        on_gpu=place.gpu is None or not place.gpu.is_cpu,
    )


def fits(bytes_needed: float, memory: float) -> bool:
    """Whether an estimate leaves room for its own error."""
    return bytes_needed <= MARGIN * memory


def need(model: Architecture, training: Training) -> dict[str, float]:
    """Bytes on each GPU, by what they are for."""
    parts = _states(model, training)
    parts["casts"] = _casts(model, training)
    if training.sharded and training.processes > 1:
        parts["gathered weights"] = _gathered(model, training)
    elif training.processes > 1:
        parts["gradients sent"] = 4.0 * _trained(model, training)
    parts["activations"] = _activations(model, training)
    parts["logits"] = _logits(model, training)
    return {name: size for name, size in parts.items() if size}


def _trained(model: Architecture, training: Training) -> int:
    return model.parameters if training.adapters is None else model.adapters(*training.adapters)


def _states(model: Architecture, training: Training) -> dict[str, float]:
    share = 1 / training.processes if training.sharded else 1.0
    trained = _trained(model, training)
    frozen = training.weights * model.parameters if training.adapters is not None else 0
    own = 4 * trained
    return {
        "weights": share * (frozen + own),
        "gradients": share * 4 * trained,
        "optimizer": share * 8 * trained,
    }


def _casts(model: Architecture, training: Training) -> float:
    """Copies of the layers' weights in the type of the computation.

    Autocast keeps those of weights that are trained until the forward pass is over. Of frozen weights, and of sharded
    ones, the backward pass needs the copies of all layers, or with checkpointing those of the layer at hand.
    """
    if training.weights == training.compute:
        return 0.0
    kept = training.adapters is None and not training.sharded
    layers = 1 if training.checkpointing and not kept else model.layers
    return float(training.compute * layers * model.layer)


def _gathered(model: Architecture, training: Training) -> float:
    """What is whole on every GPU while it is worked on: two layers and what lies outside of layers, with gradients."""
    layers = training.weights * 2 * model.layer
    root = training.weights * model.root
    gradients = 4 * (model.layer + model.root) if training.adapters is None else 0
    return float(layers + root + gradients)


def layer_activations(model: Architecture, training: Training) -> float:
    """Bytes that a layer keeps for the backward pass, for each token."""
    made, compute = model.made_of, training.compute
    norm = 4 + training.weights
    norms = made.norms * model.hidden * norm if made.norms else model.hidden * training.weights
    if made.head_norms:
        norms += (model.attention_width + model.kv_width) * norm
    inputs = made.inputs if training.weights == compute else made.cast_inputs
    attention = 2 * model.attention_width + 2 * model.kv_width
    kept = compute * (inputs * model.hidden + attention + made.kept * model.intermediate)
    scores = _SCORE * model.heads * training.length if made.scores else 0
    return float(norms + kept + scores + _read_by_adapters(model, training))


def _read_by_adapters(model: Architecture, training: Training) -> float:
    """Adapters are float32, and where nothing else is, each keeps its own copy of what it reads."""
    if training.adapters is None or training.weights != training.compute or training.compute == 4:
        return 0.0
    made, compute = model.made_of, training.compute
    copies = (4 * made.cast_inputs - compute * made.inputs) * model.hidden
    return float(copies + (4 - compute) * (model.intermediate + model.attention_width))


def _activations(model: Architecture, training: Training) -> float:
    each = layer_activations(model, training)
    kept = model.layers * each
    if training.checkpointing:  # every layer's input, and all of the layer that is done again
        kept = model.layers * model.hidden * training.weights + each
    # Gradients of the widest tensors of a layer, and the final norm.
    passing = 4 * 4 * model.hidden + training.compute * made_wide(model)
    return training.tokens * (kept + passing)


def made_wide(model: Architecture) -> int:
    """Width of the tensors of a feed-forward block that are there together."""
    return model.made_of.matrices * model.intermediate


def _logits(model: Architecture, training: Training) -> float:
    """A tile of logits, the last hidden states with their gradients, and the gradient of the output layer."""
    each = training.compute if training.on_gpu else _TILE_ON_CPU
    tile = min(training.tokens, _TILE[0]) * min(model.vocabulary, _TILE[1]) * each
    states = training.tokens * model.hidden * (4 + 4 + training.compute)
    head = 4 * model.embedding if training.adapters is None else 0
    return float(tile + states + head)
