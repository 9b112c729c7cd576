"""Sweep files by name, and what is wrong with one before Hydra reads it, whose words would name no file."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import hydra_app
from harness.errors import ConfigError, alike

HEADER = "# @package _global_"
"""First line of a sweep file: its keys are those of a point, not of a group `sweeps`."""

_SWEEPER_KEYS = ("blocks", "exclude", "only")


def files() -> dict[str, Path]:
    """The sweep files by name, ours and those of the working folder; of two of one name ours counts, as with Hydra."""
    folders = (Path.cwd(), hydra_app.root())
    found = {path.stem: path for folder in folders for path in folder.glob("sweeps/*.yaml")}
    return dict(sorted(found.items()))


def check(name: str) -> None:
    """Refuse a sweep file that cannot mean anything; one that is not there is left to Hydra.

    Raises:
        ConfigError: names the file, what is wrong there, and what was expected.
    """
    if (path := files().get(name)) is None:
        return
    try:
        text = path.read_text(encoding="utf-8")
        data = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict) or not all(isinstance(one, Mapping) for one in (data, data.get("hydra") or {})):
        raise ConfigError(f"{path}: expected keys with values, as in {hydra_app.root() / 'sweeps' / 'grid.yaml'}")
    # As Hydra reads it: up to the first line that says something else.
    stripped = (line.strip() for line in text.splitlines())
    header = itertools.takewhile(lambda line: not line or re.match(r"#\s*@", line), stripped)
    if not any(re.fullmatch(r"#\s*@package\s+_global_", line) for line in header):
        raise ConfigError(f"{path}: its first line must be `{HEADER}`")
    _check_keys(path, {str(key): value for key, value in data.items()})


def _check_keys(path: Path, data: Mapping[str, Any]) -> None:
    """Refuse choices of groups that stand where none are chosen, and unknown options of the sweeper."""
    for group, choice in data.items():
        if hydra_app.choices(group) and isinstance(choice, str):
            raise ConfigError(f"{path}: {group}: a group is chosen under defaults, as `- override /{group}: {choice}`")
    for entry in data.get("defaults") or []:
        for group, choice in entry.items() if isinstance(entry, Mapping) else ():
            if hydra_app.choices(str(group).removeprefix("/")):
                raise ConfigError(
                    f"{path}: defaults: `{group}: {choice}` must be `override /{str(group).lstrip('/')}: {choice}`"
                )
    sweeper = (data.get("hydra") or {}).get("sweeper") or {}
    for key in sweeper if isinstance(sweeper, Mapping) and "_target_" not in sweeper else ():
        if key not in _SWEEPER_KEYS:
            raise ConfigError(
                f"{path}: hydra.sweeper.{key}: unknown key; valid keys are {', '.join(_SWEEPER_KEYS)}"
                f"{alike(key, _SWEEPER_KEYS)}"
            )
