"""The sweeper: all points of a command, expanded, composed, filtered and planned together."""

import dataclasses
import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Glob, Override, Sweep, Transformer
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from harness import hydra_app
from harness.compose import Composer
from harness.config import RunOptions, flatten
from harness.errors import ConfigError
from harness.positions import PAIRS

Parse = Callable[[str], Override]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A product of choices."""

    place: str
    """Where it is written; empty for a command without blocks."""
    keys: Collection[str]
    """The keys it sets itself; the command line sets the others."""
    points: Sequence[tuple[str, ...]]
    """Each as the overrides that compose it."""

    def key(self, name: str) -> str:
        """A key as an error names it: with the block's place where the block sets it."""
        return f"{self.place}.{name}" if name in self.keys else name


class PlanningSweeper:
    """What the plugin does; see `hydra_plugins.prefsweep`.

    Args:
        blocks: mappings of keys to choices; each is a product, and their union is run.
        only: conditions of which a point must match one, to be kept; all are kept without any.
        exclude: conditions of which a point must match none.
    """

    def __init__(self, blocks: Any = None, only: Any = None, exclude: Any = None) -> None:
        self._blocks, self._only, self._exclude = map(_as_data, (blocks, only, exclude))
        self._given: tuple[HydraContext, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self._given = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Compose all points and run them as one plan."""
        assert self._given is not None
        folder = Path(self._given[1].hydra.sweep.dir).absolute()
        hydra_app.run(lambda: self.points(arguments), plan_dir=folder)

    def points(self, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """The points of a command, each once, as plain data.

        Raises:
            ConfigError: a wrong block or condition; one that does nothing; no points.
            HydraException: an override is wrong.
        """
        assert self._given is not None
        context, config = self._given
        composer = Composer(context.config_loader, config)
        blocks = expand(composer.parse, self._blocks, arguments)
        composed = {lines: _compose(composer, block, lines) for block in blocks for lines in block.points}
        kept = dict(zip(composed, chosen(list(composed.values()), self._only, self._exclude), strict=True))
        for block in blocks:
            if not any(kept[lines] for lines in block.points):
                raise ConfigError(f"{block.place or 'hydra.sweeper'}: only and exclude leave no point")
        return [data for lines, data in composed.items() if kept[lines]]


def _as_data(option: Any) -> Any:
    return OmegaConf.to_container(option, resolve=True) if OmegaConf.is_config(option) else option


def _compose(composer: Composer, block: Block, lines: Sequence[str]) -> dict[str, Any]:
    try:
        return composer.compose(lines)
    except HydraException as error:
        raise ConfigError(_said(composer, block, error)) from None
    except ValueError as error:
        raise ConfigError(f"{block.place or 'hydra'}: {hydra_app.one_line(error)}") from None


def _said(composer: Composer, block: Block, error: HydraException) -> str:
    """What is wrong with a point, and where the block says so, if it does."""
    if (wrong := hydra_app.wrong_key(error)) is not None:
        return f"{block.key(wrong[0])}: {wrong[1]}"
    own = [key for key in block.keys if f"'{key}'" in str(error)]
    place = block.key(own[0]) if len(own) == 1 else block.place or "hydra"
    return f"{place}: {hydra_app.one_line(error)}"


def expand(parse: Parse, blocks: Any, arguments: Sequence[str]) -> list[Block]:
    """The points of every block: the product of its own choices with those of the command line.

    A key of the command line wins over the same key of a block, whatever `+` stands before either.

    Raises:
        ConfigError: a block is no mapping, cannot be parsed, or has no points.
    """
    given = [parse(argument) for argument in arguments]
    if any(override.key_or_group == "sweeps" and override.is_sweep_override() for override in given):
        raise ConfigError("sweeps: one sweep file per command; a file's blocks hold for all of a command's points")
    taken = [_bare(override.get_key_element()) for override in given]
    fixed = [_choices(override, key) for override, key in zip(given, taken, strict=True)]
    if not blocks:
        return [Block(place="", keys=(), points=list(itertools.product(*fixed)))]
    if not isinstance(blocks, list):
        raise ConfigError(f"hydra.sweeper.blocks: expected a list of blocks, got {blocks!r}")
    return [_expand(parse, f"hydra.sweeper.blocks[{i}]", block, taken, fixed) for i, block in enumerate(blocks)]


def _expand(parse: Parse, place: str, block: Any, taken: Collection[str], fixed: list[list[str]]) -> Block:
    if not isinstance(block, Mapping):
        raise ConfigError(f"{place}: expected keys with their choices, got {block!r}")
    own = {str(key): value for key, value in block.items() if _bare(str(key)) not in taken}
    choices = [_block_choices(parse, place, key, value) for key, value in own.items()]
    points = list(itertools.product(*choices, *fixed))
    return Block(place=place, keys={_bare(key) for key in own}, points=points)


def _block_choices(parse: Parse, place: str, key: str, value: Any) -> list[str]:
    """The choices of one key of a block; a YAML list lists them, anything else is read as on the command line."""
    texts = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
    if not texts:
        raise ConfigError(f"{place}.{_bare(key)}: expected one choice or more, got an empty list")
    line = f"{key}={','.join(texts)}"
    try:
        override = parse(line)
    except HydraException as error:
        raise ConfigError(f"{place}: {line}: {hydra_app.one_line(error)}") from None
    return _choices(override, f"{place}.{_bare(key)}")


def _text(value: Any) -> str:
    """A value of a YAML file as it would stand on the command line; text is taken as it is."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_text(name)}:{_text(item)}' for name, item in value.items())}}}"
    return "null" if value is None else str(value)


def _bare(key: str) -> str:
    return key.lstrip("+~")


def _choices(override: Override, place: str) -> list[str]:
    """Every choice of an override, as an override of its own.

    Raises:
        ConfigError: there is none, or they cannot be listed.
    """
    if not override.is_sweep_override():
        return [override.input_line or ""]
    try:
        elements = list(override.sweep_iterator()) if override.is_discrete_sweep() else [Sweep()]
    except (HydraException, ValueError) as error:
        raise ConfigError(f"{place}: {hydra_app.one_line(error)}") from None
    if any(isinstance(element, Sweep | Glob) for element in elements):
        raise ConfigError(f"{place}: only lists, ranges, choices and globs can be swept")
    if not elements:
        raise ConfigError(f"{place}: {override.get_value_string()} matches nothing")
    return [f"{override.get_key_element()}={Transformer.str(element)}" for element in elements]


_OPTIONS = {field.name for field in dataclasses.fields(RunOptions)}

Test = Callable[[Any], bool]


def chosen(points: Sequence[Mapping[str, Any]], only: Any, exclude: Any) -> list[bool]:
    """For each point, whether the conditions keep it.

    A condition gives the values that dotted keys must have, all of them: `{n: ">=64", pair: "max_*"}`. A value is a
    scalar, a list of which any will do, text with the wildcards of a shell, or a comparison (`<`, `<=`, `>`, `>=`,
    `!=`). `pair` stands for both positions; like those it is a key only of constructions that have one. A list is its
    items with commas between them: `{rounds.path: "static,*"}`.

    Raises:
        ConfigError: a condition is wrong, or matches no point.
    """
    keys = [_keys(point) for point in points] if only or exclude else []
    kept, left_out = (_matches(name, given, keys) for name, given in (("only", only), ("exclude", exclude)))
    if not keys:
        return [True] * len(points)
    return [(not only or keep) and not leave for keep, leave in zip(kept, left_out, strict=True)]


def _keys(point: Mapping[str, Any]) -> dict[str, Any]:
    """What conditions can ask of a point, by dotted key."""
    given = flatten({name: value for name, value in point.items() if name not in _OPTIONS})
    keys = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in given.items()}
    if {"position", "ranking"}.intersection((keys.get("construction.name"), keys.get("construction.pairs.name"))):
        return keys | {"pair": f"{keys.get('pair.chosen')}_{keys.get('pair.rejected')}"}
    return {name: value for name, value in keys.items() if not name.startswith("pair.")}


def _matches(option: str, conditions: Any, points: Sequence[Mapping[str, Any]]) -> list[bool]:
    """For each point, whether any of the conditions matches it."""
    if not isinstance(conditions or [], list):
        raise ConfigError(f"hydra.sweeper.{option}: expected a list of conditions, got {conditions!r}")
    found = [_match(f"hydra.sweeper.{option}[{i}]", given, points) for i, given in enumerate(conditions or [])]
    return [any(column) for column in zip(*found, strict=True)] if found else [False] * len(points)


def _match(place: str, condition: Any, points: Sequence[Mapping[str, Any]]) -> list[bool]:
    if not isinstance(condition, Mapping) or not condition:
        raise ConfigError(f"{place}: expected keys with values, such as {{n: 64}}, got {condition!r}")
    valid = {name for point in points for name in point}
    for key in condition:
        if key not in valid:
            raise ConfigError(f"{place}.{key}: unknown key; valid keys are {', '.join(sorted(valid))}")
    tests = {key: _test(f"{place}.{key}", wanted) for key, wanted in condition.items()}
    found = [all(key in point and test(point[key]) for key, test in tests.items()) for point in points]
    if not any(found):
        values = "; ".join(f"{key} is {_listed(p[key] for p in points if key in p)}" for key in condition)
        raise ConfigError(f"{place}: {dict(condition)!r} matches no point; in this sweep {values}")
    return found


def _listed(values: Iterable[Any]) -> str:
    """The distinct values, as many as an error can show."""
    distinct = list(dict.fromkeys(map(repr, values)))
    return ", ".join(distinct[: len(PAIRS)]) + (", ..." if len(distinct) > len(PAIRS) else "")


def _test(place: str, wanted: Any) -> Test:
    """What a condition asks of one value."""
    if isinstance(wanted, Mapping):
        raise ConfigError(f"{place}: expected a value, a list of values or a comparison, got {wanted!r}")
    if isinstance(wanted, list):
        tests = [_test(place, item) for item in wanted]
        return lambda value: any(test(value) for test in tests)
    if not isinstance(wanted, str):
        return partial(_equal, wanted)
    if wanted.startswith("!="):
        refused = _test(place, _scalar(wanted.removeprefix("!=").strip()))
        return lambda value: not refused(value)
    for sign, compare in _COMPARISONS.items():
        if wanted.startswith(sign):
            return partial(_compare, f"{place}: {wanted!r}", compare, _scalar(wanted.removeprefix(sign).strip()))
    return partial(_like, wanted)


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
"""By their sign; a sign stands behind those that begin with it."""


def _scalar(text: str) -> Any:
    """What stands behind a sign: a number, `true`, `false`, `null`, or text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None}.get(text.lower(), text)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(wanted: Any, value: Any) -> bool:
    alike = type(wanted) is type(value) or (_is_number(wanted) and _is_number(value))
    return alike and bool(wanted == value)


def _like(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and (value == pattern or fnmatchcase(value, pattern))


def _compare(place: str, compare: Callable[[Any, Any], bool], limit: Any, value: Any) -> bool:
    for side in (limit, value):
        if not _is_number(side):
            raise ConfigError(f"{place} compares numbers, and {side!r} is none")
    return compare(value, limit)
