"""The sweeper: all points of a command, composed and planned together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig

from harness import hydra_app
from harness.errors import ConfigError


def expand(
    hydra_context: HydraContext, blocks: Sequence[Mapping[str, Any]], arguments: Sequence[str]
) -> list[list[str]]:
    """Every point of a command, as the overrides that compose it.

    Each block is a product of its own choices with those of the command line; a key of the command line wins over the
    same key of a block. The union of the blocks is run, each point once.
    """
    parser = OverridesParser.create(config_loader=hydra_context.config_loader)
    given = parser.parse_overrides(overrides=list(arguments))
    keys = {override.get_key_element() for override in given}
    points: dict[tuple[str, ...], None] = {}
    for number, block in enumerate(blocks or [{}]):
        lines = [f"{key}={_choices(value)}" for key, value in block.items() if key not in keys]
        try:
            parsed = parser.parse_overrides(overrides=lines)
        except HydraException as error:
            raise ConfigError(f"hydra.sweeper.blocks[{number}]: {error}") from None
        points.update(dict.fromkeys(map(tuple, product([*parsed, *given]))))
    return [list(point) for point in points]


def _choices(value: Any) -> str:
    """A block's value as it would stand on the command line; a YAML list is a list of choices."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_choices, value))
    return "null" if value is None else str(value)


def product(overrides: Sequence[Override]) -> list[list[str]]:
    """All combinations of the overrides' choices, the last key varying fastest."""
    points: list[list[str]] = [[]]
    for override in overrides:
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise ConfigError(f"{override.get_key_element()}: only lists, ranges, choices and globs can be swept")
            choices = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            choices = [override.input_line or ""]
        if not choices:
            raise ConfigError(f"{override.get_key_element()}: {override.get_value_string()} matches nothing")
        points = [[*point, choice] for point in points for choice in choices]
    return points


class PlanningSweeper:
    """What the plugin does; see `hydra_plugins.prefsweep`."""

    def __init__(self, blocks: Any = None) -> None:
        self.blocks = [dict(block) for block in blocks or []]
        self._given: tuple[HydraContext, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self._given = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Compose all points and run them as one plan."""
        assert self._given is not None
        plan_dir = Path(self._given[1].hydra.sweep.dir)
        hydra_app.run(lambda: [hydra_app.plain(p) for p in self._compose(arguments)], plan_dir=plan_dir)

    def _compose(self, arguments: list[str]) -> list[DictConfig]:
        assert self._given is not None
        context, config = self._given
        points = expand(context, self.blocks, arguments)
        return [context.config_loader.load_sweep_config(config, overrides) for overrides in points]
