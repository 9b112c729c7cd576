"""Rows of different length behind one another, without padding, each seeing itself only.

What a model of transformers computes for each token on its own is done for the tokens that there are; attention is told
where each row begins. On a GPU it is PyTorch's own for rows of varying length (`torch.nn.attention.varlen`), in half
precision; elsewhere it goes row by row.
"""

import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # came with torch 2.10
    varlen_attn = None

NAME = "prefsweep_packed"
"""Of this attention among those of transformers."""

TYPES = frozenset({"gpt_neox", "llama", "mistral", "phi", "qwen2", "qwen3"})
"""Models, by their configuration's `model_type`, that were seen to give a packed row what they give it alone. Others
may cap logits, mix experts over all tokens or keep a state from token to token; their rows are padded."""


def _causal() -> dict[str, Any]:
    """Arguments for causal attention with fewer key heads than query heads, whose names depend on the version."""
    if varlen_attn is None:
        return {}
    known = inspect.signature(varlen_attn).parameters
    causal = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    return causal | ({"enable_gqa": True} if "enable_gqa" in known else {})


_CAUSAL = _causal()


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row, for transformers.

    Args:
        module: the layer, which is not asked for anything.
        query: [1, heads, tokens, size]; `key` and `value` may have fewer heads.
        attention_mask: None; there is none for an attention that transformers does not know.
        cu_seq_lens_q: where each row begins, and the last one's end, [rows + 1].
        max_length_q: of the longest row, or more.
        scaling: of the products; None for one by the root of the size.

    Returns:
        [1, tokens, heads, size], and no weights.
    """
    if query.is_cuda:
        # Positions are turned in float32, which autocast would not undo here as it does for what PyTorch knows.
        rows = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
        ends = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return varlen_attn(*rows, *ends, scale=scaling, **_CAUSAL)[None], None
    parts = []
    for begin, end in pairwise(cu_seq_lens_q.tolist()):
        q, k, v = (x[:, :, begin:end] for x in (query, key, value))
        parts.append(functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(parts, dim=2).transpose(1, 2), None


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Rows without their padding, and the way back."""

    keep: torch.Tensor
    """Which places of the padded rows are tokens, [rows, width]."""
    inputs: dict[str, Any]
    """What a model is called with: ids [1, tokens], their positions, where rows begin, labels shifted by one."""

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """What a model gave for each token but the last, in padded rows, [rows, width - 1]; 0 at padding."""
        out = values.new_zeros(self.keep.shape)
        out[self.keep] = values[0]
        return out[:, :-1]


def pack(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> Pack:
    """Rows without their padding, which stands behind each row.

    Args:
        ids: [rows, width].
        mask: 1 for tokens, 0 for padding.
        labels: of each token itself, -100 where there is none.
    """
    keep, lengths = mask.bool(), mask.sum(dim=1)
    begins = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    shifted = functional.pad(labels[:, 1:], (0, 1), value=-100)
    # Rounded up, so that code compiled for one length serves others.
    longest = -(-int(lengths.max()) // 256) * 256
    inputs = {
        "input_ids": ids[keep][None],
        "position_ids": places[keep][None],
        "shift_labels": shifted[keep][None],
        "cu_seq_lens_q": begins,
        "cu_seq_lens_k": begins,
        "max_length_q": longest,
        "max_length_k": longest,
    }
    return Pack(keep=keep, inputs=inputs)


def use(model: Any, max_length: int, *, half: bool) -> bool:
    """Have a model take packed rows, if it can; whether it does.

    It cannot where it is of no type in `TYPES`, is a hub's own code under such a name, or has a window that rows may be
    longer than; nor on a GPU in float32, or with heads of a size that there is no kernel for.

    Args:
        model: of transformers, without adapters around it.
        max_length: tokens of a row at most.
        half: it computes in bfloat16.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    known = config.model_type in TYPES and type(model).__module__.startswith("transformers.")
    if not known or config._attn_implementation != "sdpa":
        return False
    if (window is not None and window < max_length) or getattr(config, "attention_dropout", 0.0):
        return False
    if torch.cuda.is_available() and not (half and _has_kernel(config)):
        return False
    AttentionInterface.register(NAME, attention)
    model.set_attn_implementation(NAME)
    return True


def _has_kernel(config: Any) -> bool:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    new = torch.cuda.get_device_capability() >= (8, 0)
    return varlen_attn is not None and new and size % 8 == 0 and size <= 256
