"""Cells that may be compared with each other, and what is estimated of them: once, for all parts of the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.estimates import comparison_columns, grid_detectable, grid_of
from analysis.settings import Setting, heading, split
from analysis.statistics import Grid, Interval, compare_with_best, ranked_first, simultaneous_intervals

__all__ = ["Panel", "Provenance", "Setting", "heading", "panels", "split"]

Provenance = Mapping[str, object] | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Done cells that share all but construction, pair and n, with the statistics over them."""

    setting: Setting
    cells: pd.DataFrame
    table: pd.DataFrame
    """Preferences [instructions x results]; see `estimates.preference_table`."""

    @cached_property
    def grid(self) -> Grid:
        return grid_of(self.cells, self.table)

    @cached_property
    def intervals(self) -> dict[int, Interval]:
        """Of each judged cell, by its row label, such that all hold together; without any where nothing is shared."""
        every = simultaneous_intervals(self.grid)
        return {int(str(row)): interval for row, interval in every.items() if interval.n}

    @cached_property
    def against_best(self) -> dict[int, Interval]:
        """Each judged cell less the best of the others, by its row label."""
        return {int(str(row)): interval for row, interval in compare_with_best(self.grid).items()}

    @cached_property
    def first(self) -> dict[int, float]:
        """Share of resamples in which each judged cell is the best, by its row label."""
        return {int(str(row)): share for row, share in ranked_first(self.grid).items()}

    @cached_property
    def detectable(self) -> float:
        """Smallest difference that one comparison can tell from noise, as a fraction."""
        return grid_detectable(self.grid)

    @property
    def experiments(self) -> int:
        return len(self.grid.names)

    @property
    def best(self) -> int:
        """Row label of the cell with the highest win rate."""
        return max(self.intervals, key=lambda row: self.intervals[row].estimate)

    @property
    def rivals(self) -> list[int]:
        """Row labels of the distinct cells, other than the best, that may be the best for all that is known."""
        others = [int(str(row)) for row in self.grid.names]
        own = self.grid.experiment[self.best]
        return [row for row in others if self.grid.experiment[row] != own and not self.against_best[row].high <= 0]


def panels(cells: pd.DataFrame, table: pd.DataFrame) -> list[Panel]:
    """The panels of all done cells (of `estimates.estimate_cells`)."""
    done = cells[cells["status"] == "done"]
    parts = split(done, comparison_columns(cells))
    return [Panel(setting=setting, cells=part, table=table) for setting, part in parts]
