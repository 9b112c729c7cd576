"""Composing many points: Hydra composes each distinct structure once, plain values are set on copies of the result.

Hydra's own composing takes a tenth of a second a point, which is minutes for a sweep over seeds. Values are set here
only where that is trivially what Hydra does; every other override, and every error, is Hydra's own.
"""

import functools
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, SCMode

from harness import hydra_app

_MISSING = "???"


@dataclass(frozen=True, kw_only=True)
class _Base:
    """A composed structure as plain data, whose values may be replaced."""

    data: dict[str, Any]
    missing: frozenset[str]
    """Dotted keys of the values that the user must give."""


class Composer:
    """Composes the points of one command.

    Args:
        loader: Hydra's, of this command.
        command: the configuration that Hydra composed for the command as a whole.
    """

    def __init__(self, loader: ConfigLoader, command: DictConfig) -> None:
        self.loader, self.command = loader, command
        self._parser = OverridesParser.create(config_loader=loader)
        self._options = {
            "config_name": command.hydra.job.config_name,
            "overrides": list(command.hydra.overrides.hydra),
        }
        self.parse = functools.cache(self._parse)
        self._is_group = functools.cache(self._find_group)
        self._base = functools.cache(self._compose_base)

    def compose(self, lines: Sequence[str]) -> dict[str, Any]:
        """The configuration that these overrides compose, without Hydra's own part.

        Raises:
            HydraException: an override is wrong.
            ConfigError: a value that the user must give is missing, or an interpolation leads nowhere.
        """
        structure, values = self._separate(lines)
        base = self._base(structure)
        if base is None or not all(map(functools.partial(_can_set, base.data), values)) or base.missing - set(values):
            return hydra_app.plain(self._load(lines))
        data: dict[str, Any] = _copy(base.data)
        for key, value in values.items():
            _set(data, key, value)
        return data

    def _load(self, lines: Sequence[str]) -> DictConfig:
        composed: DictConfig = self.loader.load_sweep_config(self.command, list(lines))
        return composed

    def _parse(self, line: str) -> Override:
        (override,) = self._parser.parse_overrides(overrides=[line])
        return override

    def _find_group(self, key: str) -> bool:
        parent, _, name = key.rpartition("/")
        return name in self.loader.get_group_options(parent, ObjectType.GROUP, **self._options)

    def _separate(self, lines: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The overrides that need Hydra, and the plain values by their dotted key; the last of a key wins."""
        edits = [key for key in map(self._edited_key, lines) if key is not None]
        structure, values = [], {}
        for line in lines:
            override = self.parse(line)
            key = override.key_or_group
            if self._is_value(override) and not any(_related(key, edit) for edit in edits):
                values[key] = override.value()
            else:
                structure.append(line)
        return tuple(structure), values

    def _edited_key(self, line: str) -> str | None:
        """The key that an override adds, removes or merges into; None for plain values and choices of groups."""
        override = self.parse(line)
        chooses = self._is_group(override.key_or_group) and not isinstance(override.value(), dict)
        return None if chooses or self._is_value(override) else override.key_or_group

    def _is_value(self, override: Override) -> bool:
        """Whether an override says no more than `key=value`."""
        return (
            override.type is OverrideType.CHANGE
            and override.package is None
            and not self._is_group(override.key_or_group)
            and _is_literal(override.value())
        )

    def _compose_base(self, structure: tuple[str, ...]) -> _Base | None:
        """A structure without values; None where it must not be composed apart from them."""
        try:
            composed = self._load(structure)
        except (HydraException, ValueError):
            return None  # with the values it may be another error that comes first
        # Typed parts stay what they are, to be seen below: they convert and check what is set.
        unresolved = OmegaConf.to_container(composed, resolve=False, structured_config_mode=SCMode.DICT_CONFIG)
        assert isinstance(unresolved, dict)
        data = {str(name): value for name, value in unresolved.items() if name != "hydra"}
        missing = frozenset(_missing(data))
        return _Base(data=data, missing=missing) if _is_independent(data) else None


def _related(one: str, other: str) -> bool:
    """Whether one key is the other, or lies in it: then it matters which override comes first."""
    return all(map(operator.eq, *(re.findall(r"[^.\[\]]+", key) for key in (one, other))))


def _is_literal(value: Any) -> bool:
    """Whether a value means itself, wherever it is set: no mapping, which is merged, and no interpolation."""
    if isinstance(value, list):
        return all(map(_is_literal, value))
    if isinstance(value, str):
        return "${" not in value and value != _MISSING
    return value is None or isinstance(value, bool | int | float)


def _is_independent(data: Any) -> bool:
    """Whether no value of composed data depends on another one, or on a declared type."""
    if isinstance(data, dict):
        return all(map(_is_independent, data.values()))
    return data == _MISSING or _is_literal(data)


def _missing(data: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, value in data.items():
        if isinstance(value, dict):
            found += _missing(value, f"{prefix}{name}.")
        elif value == _MISSING:
            found.append(f"{prefix}{name}")
    return found


def _can_set(data: dict[str, Any], key: str) -> bool:
    """Whether a key names a value that is there."""
    node: Any = data
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return not isinstance(node, dict)


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        data = data[group]
    data[name] = value


def _copy(data: Any) -> Any:
    """A deep copy of nested mappings and lists."""
    if isinstance(data, dict):
        return {name: _copy(value) for name, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data
