"""The sweeper: all points of a command, composed and planned together."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from harness import hydra_app
from harness.errors import ConfigError


def expand(
    hydra_context: HydraContext, blocks: Sequence[Mapping[str, str]], arguments: Sequence[str]
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
        lines = [f"{key}={value}" for key, value in block.items() if key not in keys]
        try:
            parsed = parser.parse_overrides(overrides=lines)
        except HydraException as error:
            raise ConfigError(f"hydra.sweeper.blocks[{number}]: {error}") from None
        points.update(dict.fromkeys(map(tuple, _product([*parsed, *given]))))
    return [list(point) for point in points]


def _product(overrides: Sequence[Override]) -> list[list[str]]:
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
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: Any, config: DictConfig) -> None:
        """Keep what Hydra gives."""
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Compose all points and run them as one plan."""
        hydra_app.run(lambda: self._compose(arguments))

    def _compose(self, arguments: list[str]) -> list[DictConfig]:
        assert self.hydra_context is not None and self.config is not None
        loader = self.hydra_context.config_loader
        composed = []
        for overrides in expand(self.hydra_context, self.blocks, arguments):
            point = loader.load_sweep_config(self.config, overrides)
            OmegaConf.set_readonly(point, True)
            composed.append(point)
        return composed
