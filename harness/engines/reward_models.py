"""Reward models in memory: loaded once, batched by length, with a note on every text that was cut or not scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness import chat
from harness.engines import armorm, loaded, models, pairrm
from harness.engines.batches import BudgetedBatches, pad
from harness.errors import ConfigError

Conversation = Sequence[dict[str, str]]

NOT_FINITE = "not_finite"
"""The model's own output is no finite number."""
PROMPT_TOO_LONG = "prompt_too_long"
"""The prompt alone fills the room, so that no token of the response would be read."""
TRUNCATED = "truncated"
"""Scored, but on a text that was cut at its end."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Outputs of a model for some responses."""

    values: npt.NDArray[np.float64]
    """The scalar reward and then each objective's, [responses, 1 + objectives]; NaN where nothing was scored."""
    notes: list[str | None]
    """One of the reasons above for each response, or None."""


class ScoringModel:
    """A model that reads one conversation at a time: a scalar head, or ArmoRM's gated heads."""

    def __init__(self, engine: str, path: Path, dtype: str, trust_remote_code: bool, max_tokens: int) -> None:
        """Load the model, unless this process has it; ConfigError for weights without a reward head."""
        loaded = _load(engine, path, dtype, trust_remote_code)
        self.model, self.tokenizer, self._pad = loaded.model, loaded.tokenizer, loaded.pad
        gated = engine == "armorm"
        self.objectives = self.model.regression_layer.out_features if gated else 0
        self._turn = armorm.turn_tokens(self.tokenizer) if gated else None
        self._max_tokens = max_tokens

    def score(self, prompts: Sequence[Conversation], responses: Sequence[str], batches: BudgetedBatches) -> Scored:
        """Scores of responses, each to its prompt, in their order."""
        notes: list[str | None] = [None] * len(responses)
        tokens: dict[int, list[int]] = {}
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            whole = chat.encode_conversation(self.tokenizer, [*prompt, {"role": "assistant", "content": response}])
            if len(whole) > self._max_tokens:
                notes[i] = TRUNCATED if self._leaves_room(prompt, whole) else PROMPT_TOO_LONG
            if notes[i] != PROMPT_TOO_LONG:
                tokens[i] = whole[: self._max_tokens]
        rows, ids = list(tokens), list(tokens.values())
        values = np.full((len(responses), 1 + self.objectives), np.nan)
        values[rows] = batches.run([len(t) for t in ids], lambda b: self._forward([ids[i] for i in b]), values.shape[1])
        return Scored(values=values, notes=_noted(values[:, 0], notes))

    def _leaves_room(self, prompt: Conversation, whole: Sequence[int]) -> bool:
        """Whether a token of the response is read: what it shares with an empty response is not the response's."""
        empty = chat.encode_conversation(self.tokenizer, [*prompt, {"role": "assistant", "content": ""}])
        pairs = zip(whole, empty, strict=False)
        shared = next((i for i, (one, other) in enumerate(pairs) if one != other), len(empty))
        return shared < self._max_tokens

    def _forward(self, batch: list[list[int]]) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            out = self._gated(batch) if self._turn else self._classified(batch)
        result: npt.NDArray[np.float64] = out.double().cpu().numpy()
        return result

    def _gated(self, batch: list[list[int]]) -> Any:
        assert self._turn is not None
        gates = [armorm.find_gate(tokens, self._turn) for tokens in batch]
        if None in gates:
            raise ConfigError("reward.model.id: the chat template does not write the turn at which ArmoRM's gate reads")
        ids, mask = pad(batch, 0, self.model.device)
        return self.model(ids, mask, torch.tensor(gates, device=self.model.device))

    def _classified(self, batch: list[list[int]]) -> Any:
        """Logits of a batch, [batch, 1].

        transformers reads the score at the last token that is not the config's pad token. Where a config has none, it
        reads a single conversation at its very last token; then any token fills the batch up that ends no row.
        """
        config = self.model.config.get_text_config()
        if self._pad is None:
            ends = {tokens[-1] for tokens in batch}
            config.pad_token_id = next(i for i in range(config.vocab_size) if i not in ends)
        ids, mask = pad(batch, config.pad_token_id, self.model.device)
        return self.model(input_ids=ids, attention_mask=mask).logits


class ComparingModel:
    """A model that reads two responses to one prompt, and says by how much the first is better."""

    def __init__(self, path: Path, dtype: str, max_tokens: int, max_prompt_tokens: int) -> None:
        """Load the model, unless this process has it."""
        loaded = _load("pairwise", path, dtype, False)
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self._lengths = {"max_tokens": max_tokens, "max_prompt_tokens": max_prompt_tokens}

    def compare(
        self, prompts: Sequence[Conversation], first: Sequence[str], second: Sequence[str], batches: BudgetedBatches
    ) -> Scored:
        """Logit of the first response being better than the second, in this order of the two."""
        pairs = [
            pairrm.encode_pair(self.tokenizer, as_text(prompt), both, **self._lengths)
            for prompt, *both in zip(prompts, first, second, strict=True)
        ]
        values = batches.run([len(p.ids) for p in pairs], lambda rows: self._forward([pairs[i].ids for i in rows]), 1)
        notes = [TRUNCATED if pair.truncated else None for pair in pairs]
        return Scored(values=values, notes=_noted(values[:, 0], notes))

    def _forward(self, batch: list[list[int]]) -> Any:
        tokens, mask = pad(batch, int(self.model.config.pad_token_id or 0), self.model.device)
        with torch.inference_mode():
            logits = self.model(tokens, mask)
        return logits[:, None].double().cpu().numpy()


def as_text(prompt: Conversation) -> str:
    """A prompt as one text: the user's message, or of several messages each after its role (ours)."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role'].upper()}: {message['content']}" for message in prompt)


def _noted(rewards: npt.NDArray[np.float64], notes: list[str | None]) -> list[str | None]:
    finite = np.isfinite(rewards)
    return [note if finite[i] or note == PROMPT_TOO_LONG else NOT_FINITE for i, note in enumerate(notes)]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    model: Any
    tokenizer: Any
    pad: int | None
    """The pad token that the model's config names; None where it names none."""


@loaded.kept
@lru_cache(maxsize=1)
def _load(engine: str, path: Path, dtype: str, trust_remote_code: bool) -> _Loaded:
    """A reward model in evaluation mode on this process's device, and its tokenizer.

    Raises:
        ConfigError: weights that lack a part of the model, which transformers would fill with random numbers.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    models.quieten()
    loaded.make_room(path)
    kind: Any = {"armorm": armorm.ArmoRM, "pairwise": pairrm.PairRM}.get(engine, AutoModelForSequenceClassification)
    trusted = {"trust_remote_code": trust_remote_code} if engine == "sequence_classification" else {}
    model, loading = kind.from_pretrained(
        path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **trusted
    )
    if missing := sorted(loading["missing_keys"]):
        raise ConfigError(f"reward.model.id: {path.name} lacks {missing[0]} of a {engine} model; it is no such model")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    padding = model.config.get_text_config().pad_token_id
    return _Loaded(model=model.to(device).eval(), tokenizer=tokenizer, pad=padding if (padding or 0) >= 0 else None)


def inspect(path: Path, engine: str, trust_remote_code: bool) -> dict[str, Any]:
    """Check a reward model's folder and report what it is, without loading its weights.

    Raises:
        ConfigError: unreadable, pickled weights, another architecture than the engine's, no chat template.
    """
    from transformers import AutoConfig, AutoTokenizer

    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ConfigError("reward.model.id: no .safetensors weights (pickled weights are refused: they can run code)")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        raise ConfigError(f"reward.model.id: the model cannot be read: {first}") from None
    _check_architecture(engine, config, tokenizer)
    return {
        "architecture": (config.architectures or ["unknown"])[0],
        "weight_bytes": sum(file.stat().st_size for file in weights),
    }


def _check_architecture(engine: str, config: Any, tokenizer: Any) -> None:
    expected = {"armorm": "llama", "pairwise": "deberta-v2"}.get(engine, config.model_type)
    if config.model_type != expected:
        raise ConfigError(f"reward.engine: {engine} expects a model of type {expected}, got {config.model_type}")
    if engine == "pairwise":
        names = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id")
        for name, token in zip(names, pairrm.PREFIXES, strict=True):
            if tokenizer.convert_tokens_to_ids(token) != getattr(config, name, None):
                raise ConfigError(f"reward.model.id: the config's {name} is not the tokenizer's token {token}")
        return
    if not tokenizer.chat_template:
        raise ConfigError("reward.model.id: the tokenizer has no chat template, which says how a response is shown")
    if engine == "sequence_classification" and config.num_labels != 1:
        raise ConfigError(f"reward.model.id: expected a head with one output, this one has {config.num_labels}")
    if engine == "armorm" and armorm.turn_tokens(tokenizer) is None:
        raise ConfigError("reward.model.id: the tokenizer has no token <|eot_id|>, at which ArmoRM's gate reads")
