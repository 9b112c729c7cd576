"""PairRM (arXiv 2306.02561): an encoder that reads a prompt with two responses and scores both at once.

Our own reading of the published model code, under the same parameter names, so that the published weights
(`llm-blender/PairRM-hf`) load without its package.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DebertaV2Model, DebertaV2PreTrainedModel

from harness import chat

PREFIXES = ("<|source|>", "<|candidate1|>", "<|candidate2|>")
"""Tokens that begin the three parts; the encoder's states there are what the head reads."""


class PairRM(DebertaV2PreTrainedModel):  # type: ignore[misc]
    """A DeBERTa encoder with a head on the states of the prompt's and one response's prefix tokens."""

    def __init__(self, config: Any) -> None:
        """Build from a config with n_tasks and the ids of the prefix tokens."""
        super().__init__(config)
        self.pretrained_model = DebertaV2Model(config)
        # Dropout does nothing here; it keeps the published numbering of the layers.
        self.head_layer = nn.Sequential(
            nn.Dropout(config.drop_out),
            nn.Linear(2 * config.hidden_size, config.hidden_size),
            nn.Tanh(),
            nn.Dropout(config.drop_out),
            nn.Linear(config.hidden_size, config.n_tasks),
        )
        self.post_init()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Score of the first response less that of the second, as logits, [batch].

        Args:
            ids: token ids padded on the right, [batch, width], with each prefix token once; `mask` is 1 on tokens.
        """
        states = self.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state
        names = (self.config.source_prefix_id, self.config.cand1_prefix_id, self.config.cand2_prefix_id)
        source, first, second = (states[ids == name] for name in names)
        left = self.head_layer(torch.cat([source, first], dim=-1))
        right = self.head_layer(torch.cat([source, second], dim=-1))
        return (left - right).mean(dim=-1)


@dataclass(frozen=True, kw_only=True)
class PairTokens:
    """One comparison in tokens."""

    ids: list[int]
    truncated: bool
    """Whether the prompt or a response was cut."""


def encode_pair(
    tokenizer: Any, prompt: str, responses: Sequence[str], *, max_tokens: int, max_prompt_tokens: int
) -> PairTokens:
    """A prompt and two responses as the published code lays them out: each part after its prefix token.

    The prompt is cut to `max_prompt_tokens`; the responses divide what `max_tokens` leaves. What looks like a special
    token in a text is text.
    """
    ids, cut = _part(tokenizer, PREFIXES[0], prompt, max_prompt_tokens)
    room = (max_tokens - len(ids)) // 2
    for prefix, response in zip(PREFIXES[1:], responses, strict=True):
        part, shortened = _part(tokenizer, prefix, response, room)
        ids, cut = ids + part, cut or shortened
    return PairTokens(ids=ids, truncated=cut)


def _part(tokenizer: Any, prefix: str, text: str, room: int) -> tuple[list[int], bool]:
    """[CLS] prefix text [SEP], cut to `room` tokens, and whether anything was cut."""
    body = chat.encode_around(tokenizer, lambda texts: prefix + texts[0], [text])
    kept = body[: max(1, room - 2)]
    return [tokenizer.cls_token_id, *kept, tokenizer.sep_token_id], len(kept) < len(body)
