"""Configurations for tests, composed by Hydra out of the real conf folder."""

import dataclasses
from functools import lru_cache
from typing import Any

import hydra

from harness import hydra_app
from harness.config import Config, RunOptions, check, read

OPTIONS = tuple(f.name for f in dataclasses.fields(RunOptions))


@lru_cache(maxsize=256)
def composed(*overrides: str) -> dict[str, Any]:
    """What a command with these overrides composes, as plain data with the options of the run."""
    hydra_app.register()
    with hydra.initialize_config_dir(config_dir=str(hydra_app.root() / "conf"), **hydra_app.BASE):
        return hydra_app.plain(hydra.compose("config", overrides=list(overrides)))


def point(*overrides: str) -> Config:
    """The point that these overrides compose."""
    data = {name: value for name, value in composed(*overrides).items() if name not in OPTIONS}
    return check(read(Config, data))
