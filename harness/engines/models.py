"""Policies on disk and in memory: convert, locate, inspect, load."""

import os
import shutil
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness import chat
from harness.engines import loaded, weights
from harness.errors import ConfigError
from harness.packages import model_files, package_folder


def convert_packaged(model_id: str, revision: str, target: Path) -> None:
    """Convert a GGUF file that a package carries into a folder of float32 safetensors.

    Args:
        model_id: `package:file`.
        revision: version of the package.

    Raises:
        ConfigError: the package or its file is missing, or another version is installed.
    """
    package, _, file = model_id.partition(":")
    folder = package_folder(package, revision, "policy")
    if not (folder / file).is_file():
        raise ConfigError(f"policy.id: the package {package!r} holds no file {file!r}")
    convert_gguf(folder / file, target)


def convert_gguf(file: Path, target: Path) -> None:
    """Convert a GGUF file into a folder of float32 safetensors.

    Raises:
        ConfigError: its chat template ends a turn with no special token.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quieten()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
    )
    # Some versions of transformers read the wrong end-of-sequence token out of a GGUF file; the chat template says
    # which token ends a turn.
    end = chat.end_of_turn(tokenizer)
    if end is None:
        raise ConfigError("policy.id: the chat template ends a turn with no special token")
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(end)
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = end
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def merge(policy: Path, adapters: Path, target: Path, dtype: str, trust_remote_code: bool) -> None:
    """Save a policy with its adapters added to its weights, which is done in float32.

    Args:
        dtype: type of the weights that are saved.
    """
    import torch

    quieten()
    model, tokenizer = load_for_training(policy, "float32", trust_remote_code)
    if (adapters / "adapter_config.json").exists():  # a training of no step left the policy as it was
        model = _adapted(model, policy, adapters)
    model.to(getattr(torch, dtype)).save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)


def _adapted(model: Any, base: Path, adapters: Path) -> Any:
    """A model with adapters added to its weights.

    Raises:
        ConfigError: they are of another base model than the one in `base`.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(adapters)).merge_and_unload()
    except (RuntimeError, ValueError):
        weights.check_adapter(adapters, base)  # says which module does not fit, where that is why
        raise


def locate(source: str, model_id: str, revision: str, trust_remote_code: bool, key: str = "policy.id") -> Path:
    """Folder of a local or hub model; a hub model is fetched into the hub's own cache.

    Args:
        key: config path that errors name.

    Raises:
        ConfigError: no such folder, no config in it, or the hub cannot be reached.
    """
    if source == "local":
        return Path(model_id).absolute()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", *(["*.py"] if trust_remote_code else [])]
    try:
        # `consolidated` files are the same weights once more, in the layout of the model's own makers.
        return Path(
            snapshot_download(model_id, revision=revision, allow_patterns=patterns, ignore_patterns="consolidated*")
        )
    except LocalEntryNotFoundError as error:
        said = "the hub is switched off here" if constants.HF_HUB_OFFLINE else str(error).strip().splitlines()[0]
        raise ConfigError(
            f"{key}: {model_id!r} at revision {revision!r} is not in the hub's cache {constants.HF_HUB_CACHE}, and "
            f"cannot be fetched ({said}); run the same command with prefetch=true where there is a network"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"{key}: cannot fetch {model_id!r} at revision {revision!r}: {error}") from None


def adopt(source: Path, target: Path, *, link: bool) -> None:
    """Take a model folder's files into the store.

    Args:
        link: as hard links where the file system allows it, for files that nobody writes to, such as a hub's cache. A
            path or a link into somebody's own folder would come to mean other weights when they train there again.
    """
    target.mkdir()
    for file in model_files(source):
        try:
            if link:
                os.link(file.resolve(), target / file.name)
        except OSError:
            link = False
        if not link:
            shutil.copyfile(file, target / file.name)


def inspect(path: Path, trust_remote_code: bool, name: str, *, base: bool = False) -> dict[str, Any]:
    """Check a model folder and report what later stages rely on.

    Args:
        base: it is to be fine-tuned first, and need not hold a conversation.

    Raises:
        ConfigError: unreadable, pickled weights, no chat template, or no stop token.
    """
    from transformers import AutoConfig, AutoTokenizer

    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"policy {name}: {path} holds no .safetensors weights (pickled weights are refused: they can run code)"
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        raise ConfigError(f"policy {name}: {path} cannot be read: {first}") from None
    stops = chat.stop_tokens(tokenizer, _generation_config(path, config))
    if not base:
        chat.check_tokenizer(tokenizer, stops, name)
    return {
        "architecture": (config.architectures or ["unknown"])[0],
        "context": int(config.max_position_embeddings),
        "stop_tokens": stops,
        "weight_bytes": sum(file.stat().st_size for file in weights),
    }


def _generation_config(path: Path, config: Any) -> Any:
    from transformers import GenerationConfig

    if (path / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(path)
    return GenerationConfig.from_model_config(config)


@lru_cache(maxsize=2)
def load_tokenizer(path: Path, trust_remote_code: bool) -> tuple[Any, tuple[int, ...]]:
    """A policy's tokenizer and its stop tokens, without its weights."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    return tokenizer, tuple(chat.stop_tokens(tokenizer, _generation_config(path, config)))


def load_config(path: Path, trust_remote_code: bool) -> Any:
    """A policy's config, without its weights."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def load(path: Path, dtype: str, trust_remote_code: bool, base: Path | None = None) -> tuple[Any, Any, list[int]]:
    """Load a policy for inference; the last two stay in memory, so that nodes in a row share them.

    Args:
        base: weights under the adapters, where `path` holds adapters only.

    Returns:
        The model in evaluation mode, its tokenizer (left padding), and its stop tokens.
    """
    model, tokenizer, stops = _cached(path, dtype, trust_remote_code, base)
    return model, tokenizer, list(stops)


@loaded.kept
@lru_cache(maxsize=2)
def _cached(path: Path, dtype: str, trust_remote_code: bool, base: Path | None) -> tuple[Any, Any, tuple[int, ...]]:
    import torch

    quieten()
    loaded.make_room(path)
    adapters = (path / "adapter_config.json").exists()
    model, tokenizer = load_for_training(base if adapters and base else path, dtype, trust_remote_code)
    if adapters:
        model = _adapted(model, base or path, path)
    model = model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return model, tokenizer, tuple(chat.stop_tokens(tokenizer, model.generation_config))


def load_for_training(path: Path, dtype: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """Load weights and tokenizer afresh, on the CPU, for a trainer to own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, use_safetensors=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def quieten() -> None:
    """Silence what libraries say of each other on every load; our own progress tells what goes on."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    # peft 0.21 reads the attribute under its old name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def prompt_room(config: Any, max_prompt_tokens: int, max_new_tokens: int, key: str) -> int:
    """Most tokens that a prompt may have beside its response, in the context of a model's config.

    Raises:
        ConfigError: the response alone fills the context; names `key`.
    """
    context = int(config.max_position_embeddings)
    if max_new_tokens >= context:
        raise ConfigError(f"{key}: {max_new_tokens} leaves no room for a prompt in the policy's context of {context}")
    return min(max_prompt_tokens, context - max_new_tokens)
