"""Model folders as files: shapes of their tensors, whether two can take each other's place, what adapters fit."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.keys import digest

_ADAPTER_CONFIG = "adapter_config.json"

_NOT_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""What a model's config says that does not decide how its weights are laid out or used."""

_HALVES = {".lora_A.weight": 1, ".lora_B.weight": 0}
"""Ends of an adapter's tensor names, with the axis on which each meets the module that it is added to."""

Shapes = dict[str, tuple[int, ...]]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters, which need the weights that they were trained on."""
    return (folder / _ADAPTER_CONFIG).exists()


def shapes(folder: Path) -> Shapes:
    """Shapes of all tensors of a folder's safetensors files, read from their heads alone.

    Raises:
        ConfigError: a file that is no safetensors file.
    """
    found: Shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (OSError, ValueError, MemoryError, OverflowError) as error:
            raise ConfigError(f"{path} cannot be read as safetensors: {error}") from None
        found |= {name: tuple(entry["shape"]) for name, entry in head.items() if name != "__metadata__"}
    return found


def config(folder: Path) -> dict[str, Any]:
    """A model's config.json."""
    read: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return read


@lru_cache(maxsize=256)
def architecture(folder: Path) -> str:
    """Hash that is equal for models whose weights can take each other's place in a running engine."""
    settings = config(folder)
    names = shapes(folder)
    if settings.get("tie_word_embeddings"):
        names.pop("lm_head.weight", None)  # some write it beside the embeddings that it is
    return digest(
        {
            "config": json.dumps({n: v for n, v in settings.items() if n not in _NOT_ARCHITECTURE}, sort_keys=True),
            "tensors": {name: list(shape) for name, shape in names.items()},
        }
    )


def parameters(folder: Path) -> int:
    """Number of a model's parameters."""
    total = 0
    for shape in shapes(folder).values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


def adapter_rank(folder: Path) -> int:
    """Highest rank of a folder's adapters."""
    settings = json.loads((folder / _ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return max(int(rank) for rank in (settings["r"], *settings.get("rank_pattern", {}).values()))


def check_adapter(folder: Path, base: Path) -> None:
    """Refuse adapters that were trained on other weights than these, as far as shapes tell.

    Raises:
        ConfigError: names the module that does not fit.
    """
    modules = shapes(base)
    for name, shape in shapes(folder).items():
        end = next((end for end in _HALVES if name.endswith(end)), None)
        if end is None:
            continue
        module = name.removeprefix("base_model.model.").removesuffix(end)
        axis, whole = _HALVES[end], modules.get(f"{module}.weight")
        if whole is None:
            raise ConfigError(
                f"the adapters in {folder} are of another base model: they change {module}, which {base} does not have"
            )
        if shape[axis] != whole[axis]:
            raise ConfigError(
                f"the adapters in {folder} are of another base model: {module} is {whole[0]} x {whole[1]} in {base}, "
                f"and {name} is {shape[0]} x {shape[1]}"
            )
