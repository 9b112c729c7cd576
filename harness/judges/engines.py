"""From the configuration of a judge to the judge."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from harness.judges import Judge, Planned
from harness.judges.config import AnyJudgeConfig
from harness.stages import Context

_MODULES: Mapping[str, str] = {
    "embedded": "compared",
    "shorter": "compared",
    "openai": "openai_server",
    "reward_model": "models",
    "pairwise_model": "models",
    "vllm_local": "vllm_local",
    "precomputed": "precomputed",
}
"""Module of this package by engine. Each offers `plan`, which is light, and `open_judge`."""


def plan_judge(config: AnyJudgeConfig) -> Planned:
    """What the plan has to know of a judge.

    Raises:
        ConfigError: something that the judge needs is not there, or not as it must be.
    """
    plan: Callable[[Any], Planned] = _module(config.engine).plan
    return plan(config)


def open_judge(spec: Any, context: Context) -> AbstractContextManager[Judge]:
    """The judge of a spec, for as long as the block lasts."""
    opened: AbstractContextManager[Judge] = _module(spec.engine).open_judge(spec, context)
    return opened


def _module(engine: str) -> Any:
    return import_module(f"harness.judges.{_MODULES[engine]}")
