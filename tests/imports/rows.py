"""What tests import: rows, and folders that look like models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from harness import imports
from harness.prompts import prompt_id
from harness.store import Artifact, Store
from tests.artifacts import Row, quiet


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def id_of(text: str) -> str:
    return prompt_id(user(text), "here")


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


RESPONSES: list[Row] = [
    {"prompt": "a", "sample_index": 0, "response": "one"},
    {"prompt": "a", "sample_index": 1, "response": "two three", "finish_reason": "length"},
    {"prompt": "b", "sample_index": 0, "response": "four"},
]
REWARDS: list[Row] = [
    {"prompt": "a", "sample_index": 0, "reward": 1.5, "attribute_tone": 2.0},
    {"prompt": "a", "sample_index": 1, "reward": None, "attribute_tone": None},
    {"prompt": "b", "sample_index": 0, "reward": 2.0, "attribute_tone": 0.5},
]
ANSWERS: list[Row] = [{"prompt": "a", "answer": "yes"}, {"prompt": "b", "answer": ""}]
ROWS: Mapping[str, list[Row]] = {"responses": RESPONSES, "rewards": REWARDS, "answers": ANSWERS}


def bring(store: Store, kind: str, path: Path, name: str = "mine") -> Artifact:
    return imports.bring(store, kind, path, name, quiet()).artifact


def model_folder(folder: Path, *, adapters: bool = False) -> Path:
    """A folder that has the files of a model, and no more."""
    folder.mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, folder / f"{'adapter_' * adapters}model.safetensors")
    (folder / f"{'adapter_' * adapters}config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder
