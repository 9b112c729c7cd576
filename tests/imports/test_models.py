"""Imported models: whole, without pickled weights, and without code of their own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.store import Store
from tests.imports.rows import bring, model_folder


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"12")


def _one_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no such folder; expected one with config.json or adapter_config.json"),
        (_without("config.json"), r"no model; expected config.json \(a full model\) or adapter_config.json"),
        (_pickled, "no .safetensors weights; pytorch_model.bin is pickled, and pickled weights can run code"),
        (_without("model.safetensors"), "no .safetensors weights"),
        (_without("tokenizer_config.json"), "no tokenizer; save it into the same folder"),
        (_cut, "no readable safetensors"),
        (_one_shard, "model-2.safetensors: missing, though model.safetensors.index.json names it"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    tmp_path: Path, store: Store, spoil: Callable[[Path], None], message: str
) -> None:
    folder = model_folder(tmp_path / "model")
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        bring(store, "model", folder)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_model_is_copied_and_named_by_its_files(tmp_path: Path, store: Store, adapters: bool) -> None:
    folder = model_folder(tmp_path / "model", adapters=adapters)
    (folder / "training_args.bin").write_bytes(b"pickle")
    artifact = bring(store, "model", folder)
    assert artifact.manifest.measures["format"] == ("adapters" if adapters else "full")
    assert {p.name for p in artifact.model_path.iterdir()} == {
        p.name for p in folder.iterdir() if p.name != "training_args.bin"
    }
    weights = f"{'adapter_' * adapters}model.safetensors"
    (folder / weights).write_bytes((folder / weights).read_bytes() + b"\0")  # the user trains on in that folder
    assert store.verify(artifact) == []


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"text_config": [{"auto_map": {"AutoConfig": "someone/somewhere--evil.Config"}}]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("adapter_config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("generation_config.json", {"auto_map": {"x": "evil.y"}}),
    ],
)
def test_a_model_that_names_code_of_its_own_is_refused(
    tmp_path: Path, store: Store, name: str, config: dict[str, Any]
) -> None:
    folder = model_folder(tmp_path / "model", adapters=name.startswith("adapter"))
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"{name}: auto_map names code that comes with the model"):
        bring(store, "model", folder)


def test_code_beside_a_model_is_not_taken_along(tmp_path: Path, store: Store) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"auto_map": null}')
    without = bring(store, "model", folder)
    (folder / "evil.py").write_text("raise SystemExit")
    beside = bring(store, "model", folder, "beside")
    assert beside.manifest.key == without.manifest.key
    assert list(beside.model_path.glob("*.py")) == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_model_whose_configuration_cannot_be_read_is_refused(tmp_path: Path, store: Store, content: bytes) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: no readable JSON$"):
        bring(store, "model", folder)
