"""The shape of a language model, as its config says: what its memory and its arithmetic follow from."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the layers of a kind of model are made of, and what they keep for the backward pass.

    Counted from what transformers 5.23 saves, which a test does again for each kind.
    """

    matrices: int = 3
    """Matrices of the feed-forward block."""
    norms: int = 2
    """Norms by root mean square, which each keep their input, and what they made of it."""
    inputs: int = 2
    """Inputs of matrices that are kept, beside the feed-forward block's last: of queries, keys and values together, and
    of the feed-forward block."""
    cast_inputs: int = 5
    """The same where they are cast for each matrix by itself."""
    kept: int = 4
    """Tensors of the feed-forward block's inner width that are kept."""
    head_norms: bool = False
    """Queries and keys are normed, too."""
    scores: bool = False
    """Attention keeps its whole matrix of scores, which fused kernels do not."""


_KINDS: Mapping[str, Kind] = {
    "deberta-v2": Kind(matrices=2, kept=2, scores=True),
    "gemma2": Kind(norms=4, scores=True),
    # Queries, keys and values come out of one matrix, whose output stays as a whole.
    "gpt_neox": Kind(matrices=2, norms=0, inputs=5, kept=2),
    "phi": Kind(matrices=2, norms=0, inputs=1, cast_inputs=4, kept=5),
    "qwen3": Kind(head_norms=True),
}
"""By `model_type`; all others are taken to be like Llama."""

_BIASED_ATTENTION = frozenset({"qwen2"})

_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A transformer whose layers are all alike."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """The output layer has the weights of the input embedding."""
    context: int
    kind: str = "llama"
    """The config's `model_type`."""
    counted: int | None = None
    """Parameters as counted in the weights' files; None: from the shape."""

    @property
    def attention_width(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all keys, or all values, together."""
        return self.kv_heads * self.head_dim

    @property
    def made_of(self) -> Kind:
        """What its layers are made of."""
        return _KINDS.get(self.kind, Kind())

    @property
    def layer(self) -> int:
        """Parameters of a layer's matrices."""
        attention = self.hidden * (2 * self.attention_width + 2 * self.kv_width)
        return attention + self.made_of.matrices * self.hidden * self.intermediate

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, and of the output layer where it has its own."""
        return self.vocabulary * self.hidden

    @property
    def root(self) -> int:
        """Parameters outside of the layers."""
        return self.embedding if self.tied else 2 * self.embedding

    @property
    def parameters(self) -> int:
        """All parameters; out of the shape without most biases, which are below a thousandth."""
        if self.counted is not None:
            return self.counted
        small = max(1, self.made_of.norms) * self.hidden
        if self.kind in _BIASED_ATTENTION:
            small += self.attention_width + 2 * self.kv_width
        return self.root + self.layers * (self.layer + small) + self.hidden

    @property
    def body(self) -> int:
        """Parameters without an output layer of its own, as a reward model has them."""
        return self.parameters if self.tied else self.parameters - self.embedding

    def adapters(self, rank: int, modules: str) -> int:
        """Parameters of low-rank adapters.

        Args:
            modules: names separated by commas, or `all-linear`; names that are not usual count as all.
        """
        widths = {
            "q_proj": (self.hidden, self.attention_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.attention_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }
        asked = [name.strip() for name in modules.split(",")]
        chosen = asked if set(asked) <= set(widths) else list(widths)
        return self.layers * rank * sum(sum(widths[name]) for name in chosen)


def of_config(config: Mapping[str, Any], counted: int | None = None) -> Architecture | None:
    """The architecture that a config.json states; None for a kind whose layers are counted otherwise (experts, state
    spaces), or of which it does not say what is needed.
    """
    settings = {**config, **config.get("text_config", {})}
    needed = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if any(type(settings.get(name)) is not int for name in needed) or any(settings.get(n) for n in _OF_EXPERTS):
        return None
    heads = settings["num_attention_heads"]
    return Architecture(
        layers=settings["num_hidden_layers"],
        hidden=settings["hidden_size"],
        intermediate=settings["intermediate_size"],
        heads=heads,
        kv_heads=settings.get("num_key_value_heads") or heads,
        head_dim=settings.get("head_dim") or settings["hidden_size"] // heads,
        vocabulary=settings["vocab_size"],
        tied=_tied(settings),
        context=int(settings.get("max_position_embeddings") or 0),
        kind=str(settings.get("model_type", "llama")),
        counted=counted,
    )


def _tied(settings: Mapping[str, Any]) -> bool:
    # Configs leave out what their own kind has by default.
    by_default = str(settings.get("model_type", "")).startswith("gemma")
    return bool(settings.get("tie_word_embeddings", by_default))


@lru_cache(maxsize=64)
def of_folder(folder: Path) -> Architecture | None:
    """The shape of a model in a folder, with the number of parameters that its files hold."""
    from harness.engines import weights

    try:
        counted = weights.parameters(folder)
    except ConfigError:  # whoever loads them says what is wrong
        counted = 0
    return of_file(folder / "config.json", counted or None)


def of_file(path: Path, counted: int | None = None) -> Architecture | None:
    """The shape that a config file says; None where it cannot be read.

    Args:
        counted: parameters that the weights hold.
    """
    try:
        return of_config(json.loads(path.read_text(encoding="utf-8")), counted)
    except (OSError, ValueError):
        return None


def of_gguf(file: Path) -> Architecture | None:
    """The architecture that a GGUF file states; None where it does not say what is needed."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    shapes = {tensor.name: [int(length) for length in tensor.shape] for tensor in reader.tensors}
    kind = _field(reader, "general.architecture")
    names = {
        "num_hidden_layers": "block_count",
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "max_position_embeddings": "context_length",
    }
    config = {ours: _field(reader, f"{kind}.{theirs}") for ours, theirs in names.items()}
    config |= {"vocab_size": max(shapes.get("token_embd.weight", [0])), "model_type": str(kind)}
    config["tie_word_embeddings"] = "output.weight" not in shapes
    return of_config(config, sum(math.prod(shape) for shape in shapes.values()))


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    value: Any = field.contents() if field is not None else None
    return value if value is None or isinstance(value, str) else int(value)
