"""Plain nested data as dataclasses, that refuse what they do not know."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union

from harness.errors import ConfigError, alike

T = TypeVar("T")


def read(kind: type[T], data: Any, path: str = "") -> T:
    """Build a dataclass out of plain nested data.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; names the dotted path and the choices.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or 'config'}: expected a group of keys, got {data!r}")
    hints = _hints(typing.cast("type", kind))  # mypy does not know that type[T] can be hashed
    unknown = sorted(set(map(str, data)) - set(hints))
    if unknown:
        _check_kind(hints, data, path)
        raise ConfigError(
            f"{_join(path, unknown[0])}: unknown key; valid keys are {', '.join(sorted(hints))}"
            f"{alike(unknown[0], sorted(hints))}"
        )
    missing = sorted(set(hints) - set(data) - _came_later(typing.cast("type", kind)))
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: missing")
    return kind(**{name: _value(hints[name], data[name], _join(path, name)) for name in hints if name in data})


def _check_kind(hints: Mapping[str, Any], data: Mapping[str, Any], path: str) -> None:
    """Refuse a group of another kind by its kind: its further keys are only what follows from that."""
    for name, hint in hints.items():
        if name in data and typing.get_origin(hint) is Literal:
            _value(hint, data[name], _join(path, name))


@lru_cache(maxsize=64)
def _came_later(kind: type) -> frozenset[str]:
    """Fields that files written before there were any may leave out."""
    return frozenset(f.name for f in dataclasses.fields(kind) if f.metadata.get("added"))


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields; finding them out takes longer than reading what thousands of points hold."""
    hints = typing.get_type_hints(kind)  # with those of the class itself, which are no fields
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(hint: Any, value: Any, path: str) -> Any:  # noqa: PLR0911 (one return per kind of type)
    """Check one value against its type; an int is taken for a float, nothing else is converted."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read(hint, value, path)
    if origin is Literal:
        choices = typing.get_args(hint)
        if not any(type(value) is type(choice) and value == choice for choice in choices):  # 1 is not true
            raise ConfigError(f"{path}: {value!r} is not valid; choose one of {', '.join(map(str, choices))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _value(_meant(kinds, value, path), value, path)
    if origin is not None:
        return _values(hint, value, path)
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    if type(value) is not hint:
        swept = f"; several values are swept by -m {path}={','.join(map(str, value))}" if type(value) is list else ""
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}{swept}")
    return value


def _values(hint: Any, value: Any, path: str) -> Any:
    """Check the values of a list or a mapping."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        return tuple(_value(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected names with values, got {value!r}")
    inner = typing.get_args(hint)[1]
    return {str(name): _value(inner, item, _join(path, str(name))) for name, item in value.items()}


def _meant(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """The dataclass, of several, that a group means: by its keys, or by the field whose choices tell them apart."""
    if len(kinds) == 1:
        return kinds[0]
    if not all(map(dataclasses.is_dataclass, kinds)):  # a number, or one of a few words
        words = [kind for kind in kinds if typing.get_origin(kind) is Literal]
        other = next(kind for kind in kinds if kind not in words)
        if isinstance(value, str) and value not in (choices := typing.get_args(words[0])):
            raise ConfigError(f"{path}: {value!r} is not valid; expected a number, or one of {', '.join(choices)}")
        return words[0] if isinstance(value, str) else other
    hints = {kind: _hints(kind) for kind in kinds}
    given = set(value) if isinstance(value, Mapping) else set()
    listed = (n for n in hints[kinds[0]] if all(typing.get_origin(h.get(n)) is Literal for h in hints.values()))
    field = next((n for n in listed if len({h[n] for h in hints.values()}) == len(kinds)), None)
    if field is None:
        return max(kinds, key=lambda kind: len(given & set(hints[kind])))
    names = {name: kind for kind in kinds for name in typing.get_args(hints[kind][field])}
    name = value.get(field) if isinstance(value, Mapping) else value
    if not isinstance(name, str) or name not in names:
        raise ConfigError(f"{path}.{field}: {name!r} is not valid; choose one of {', '.join(names)}")
    fitting = [kind for kind in kinds if set(hints[kind]) == given]
    return fitting[0] if len(fitting) == 1 else names[name]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a config under its dotted name, in order of definition."""
    flat: dict[str, Any] = {}
    items = (
        config.items()
        if isinstance(config, Mapping)
        else ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    )
    for name, value in items:
        path = _join(prefix, name)
        nested = isinstance(value, Mapping) or dataclasses.is_dataclass(value)
        flat.update(flatten(value, path) if nested else {path: value})
    return flat


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config
