"""Cells apart by their settings: what is compared shares all but what is asked about."""

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.comparability import comparable_parts
from analysis.schema import plain, varying_columns

Setting = dict[str, str]
"""Values of the settings that vary between parts."""


def split(cells: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """The cells apart by `columns` and by what comparable results share, with the values of those that vary."""
    if cells.empty:
        return
    keys = cells[list(columns)].map(plain)
    varying = varying_columns(cells, list(columns))
    parts = cells.groupby([keys[name] for name in varying], sort=False) if varying else [((), cells)]
    for _, part in parts:
        setting = {name: str(keys.at[part.index[0], name]) for name in varying}
        for facts, comparable in comparable_parts(part):
            yield setting | facts, comparable


def heading(setting: Setting) -> str:
    """A setting in words."""
    return ", ".join(f"{name} = {value or 'none'}" for name, value in setting.items())
