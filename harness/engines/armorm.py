"""ArmoRM (arXiv 2406.12845): several reward heads, and a gate that weighs them by what the prompt asks.

Our own reading of the published model code, under the same parameter names, so that the published weights load without
running code from the hub (which transformers 5 could not run: it imports a name that is gone).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel

_TURN = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
"""Where the prompt ends and the response begins: the gate reads the state at the first token of its last occurrence."""


class GatingNetwork(nn.Module):  # type: ignore[misc]
    """Weights of the objectives: a ReLU network, then a softmax with a temperature and a learnt scale."""

    def __init__(self, width: int, objectives: int, hidden: int, layers: int, temperature: float) -> None:
        """`layers` hidden layers of `hidden` units on states of `width`."""
        super().__init__()
        self.temperature = temperature
        self.logit_scale = nn.Parameter(torch.ones(1))
        sizes = [width, *[hidden] * layers, objectives]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Weights [batch, objectives] for states [batch, width]."""
        for layer in self.layers[:-1]:
            state = torch.relu(layer(state))
        return torch.softmax(self.layers[-1](state) / self.temperature, dim=1) * self.logit_scale[0]


class ArmoRM(LlamaPreTrainedModel):  # type: ignore[misc]
    """A Llama with reward heads. What a config leaves out has the published code's default."""

    def __init__(self, config: Any) -> None:
        """Build from a config with num_objectives, gating_temperature, gating_hidden_dim and gating_n_hidden."""
        super().__init__(config)
        given = config.to_dict()
        objectives = int(given.get("num_objectives", 19))
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.eye(objectives), requires_grad=False)
        self.gating = GatingNetwork(
            config.hidden_size,
            objectives,
            int(given.get("gating_hidden_dim", 1024)),
            int(given.get("gating_n_hidden", 3)),
            float(given.get("gating_temperature", 10)),
        )
        self.post_init()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """The scalar reward and then the heads' own, [batch, 1 + objectives].

        Args:
            ids: token ids padded on the right, [batch, width]; `mask` is 1 on tokens.
            gates: position whose state the gate reads, [batch].
        """
        states = self.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        rows = torch.arange(len(ids), device=ids.device)
        rewards = self.regression_layer(states[rows, mask.sum(dim=1) - 1])
        weights = self.gating(states[rows, gates])
        score = (weights * (rewards @ self.reward_transform_matrix)).sum(dim=1, keepdim=True)
        return torch.cat([score, rewards], dim=1)


def turn_tokens(tokenizer: Any) -> list[int] | None:
    """Token ids of the turn that the gate looks for; None in a tokenizer without Llama 3's headers."""
    ids = tokenizer(_TURN, add_special_tokens=False)["input_ids"]
    return list(map(int, ids)) if tokenizer.convert_tokens_to_ids("<|eot_id|>") == ids[0] else None


def find_gate(ids: Sequence[int], turn: Sequence[int]) -> int | None:
    """Position of the last occurrence of the turn; None where there is none."""
    for start in range(len(ids) - len(turn), -1, -1):
        if list(ids[start : start + len(turn)]) == list(turn):
            return start
    return None
