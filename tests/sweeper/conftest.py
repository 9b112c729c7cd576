"""A command of this application as the sweeper finds it, and the points that it makes of arguments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from omegaconf import DictConfig

from harness import hydra_app
from harness.compose import Composer
from harness.sweeper import PlanningSweeper

Points = list[dict[str, Any]]
Sweep = Callable[..., Points]


class Loader:
    """Hydra's loader of this application; counts what it composes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.composed = inner, 0

    def load_sweep_config(self, command: DictConfig, lines: list[str]) -> DictConfig:
        """See Hydra's ConfigLoader."""
        self.composed += 1
        composed: DictConfig = self.inner.load_sweep_config(command, lines)
        return composed

    def get_group_options(self, *arguments: Any, **options: Any) -> list[str]:
        """See Hydra's ConfigLoader."""
        found: list[str] = self.inner.get_group_options(*arguments, **options)
        return found


@dataclass
class Typed:
    """A group with declared types, as a plugin may bring one."""

    count: int = 1


@pytest.fixture(scope="module")
def command() -> Iterator[tuple[Any, DictConfig]]:
    """Hydra's loader, and what it composes for a command without overrides."""
    hydra_app.register()
    ConfigStore.instance().store(group="typed", name="one", node=Typed)
    with hydra.initialize_config_dir(config_dir=str(hydra_app.root() / "conf"), **hydra_app.BASE):
        composed = hydra.compose("config", return_hydra_config=True)
        yield GlobalHydra.instance().config_loader(), composed


@pytest.fixture
def loader(command: tuple[Any, DictConfig]) -> Loader:
    return Loader(command[0])


@pytest.fixture
def sweep(command: tuple[Any, DictConfig], loader: Loader) -> Sweep:
    """The points of a command's arguments, with the sweeper's options as keywords."""

    def points(*arguments: str, **options: Any) -> Points:
        sweeper = PlanningSweeper(**options)
        context = HydraContext(config_loader=loader, callbacks=None)
        sweeper.setup(hydra_context=context, task_function=None, config=command[1])
        return sweeper.points(arguments)

    return points


@pytest.fixture(scope="module")
def composer(command: tuple[Any, DictConfig]) -> Composer:
    return Composer(*command)
