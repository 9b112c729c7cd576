"""That an exported folder loads as the store it was made of does."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import analysis
from analysis.export import export
from analysis.regressions import Regressions


def loaders() -> dict[str, Callable[..., Any]]:
    """Every function of the package that loads something from a store, by its full name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in pkgutil.walk_packages(analysis.__path__, "analysis."):
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters), None)
            if name.startswith("load_") and first == "store":
                found[f"{function.__module__}.{name}"] = function
    return found


def check_export(store: Path, folder: Path, sweep: str | None = None) -> dict[str, Any]:
    """Export a store and compare what every loader makes of both; returns what the store gave, by loader."""
    export(store, folder, sweep)
    given = {}
    for name, load in loaders().items():
        given[name], again = load(store, sweep), load(folder, sweep)
        check_same(given[name], again, name)
        assert attrs(given[name]) == attrs(again), name
    return given


def check_same(given: Any, again: Any, name: str) -> None:
    """Raise AssertionError where a loader's two values differ, in a type or otherwise than in what paths became."""
    assert type(given) is type(again), name
    if isinstance(given, Regressions):
        check_same(given.scores, again.scores, name)
        assert list(given.differences) == list(again.differences)
        for key, series in given.differences.items():
            np.testing.assert_array_equal(series.to_numpy(), again.differences[key].to_numpy())
            assert series.index.tolist() == again.differences[key].index.tolist()
    elif isinstance(given, Mapping):
        assert given == again, name
    else:
        pd.testing.assert_index_equal(given.columns, again.columns)
        for column in given.columns:
            if given[column].map(is_path).any():
                assert not again[column].map(is_path).any(), column
                codes = [pd.factorize(frame[column])[0].tolist() for frame in (given, again)]
                assert codes[0] == codes[1], f"{name}: {column}"
                again = again.assign(**{column: given[column]})
            kinds = [[type(value) for value in frame[column]] for frame in (given, again)]
            assert kinds[0] == kinds[1], f"{name}: {column}"
        pd.testing.assert_frame_equal(given, again, check_exact=True, obj=name)


def is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")


def attrs(value: Any) -> Any:
    return getattr(value.scores if isinstance(value, Regressions) else value, "attrs", None)
