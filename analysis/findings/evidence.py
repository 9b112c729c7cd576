"""What a sweep holds of the claims: comparisons between cells that share all else, and contrasts of their win rates."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from analysis.estimates import INTERVAL, comparison_columns, grid_of
from analysis.findings.claims import (
    FINE_TUNING,
    INJECTION,
    LOWEST_OF_DRAWS,
    Claim,
    Comparison,
    NotTestedError,
    Place,
    comparisons,
)
from analysis.rounds import Family, families
from analysis.schema import PAIR, PATH, SEED, configuration_columns, plain, varying_columns, was_imported
from analysis.settings import Setting, split
from analysis.statistics import Contrast, contrasts

AUGMENTED: Final = "reward_augmented"
RANKING: Final = "ranking"
SCORED: Final = ("position", "max_min", "sweet_spot")
"""Constructions whose rows are two positions of the rewards: they stand in one grid."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A claim that cells of one block can test."""

    claim: Claim
    setting: Setting
    weights: Sequence[Mapping[int, float]]
    """By the cells' row labels: one sum of win rates, or several of which the least counts."""
    sizes: Sequence[float]
    note: str = ""

    @property
    def cells(self) -> list[int]:
        """Row labels of the cells that are compared."""
        return list(dict.fromkeys(label for own in self.weights for label in own))


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A claim that some cells were looked at for, and why they cannot test it."""

    claim: Claim
    setting: Setting
    reason: str


@dataclass(kw_only=True)
class Block:
    """Cells that share all but construction, pair, n and rounds: what of them can be tested, and what cannot."""

    cells: pd.DataFrame
    asked: list[Asked] = field(default_factory=list)
    silent: list[Silent] = field(default_factory=list)

    def contrasts(self, table: pd.DataFrame, *, level: float, draws: int, seed: int) -> list[list[Contrast]]:
        """The contrasts of each of `asked`, whose intervals hold together at `level`."""
        if not self.asked:
            return []
        used = sorted({label for one in self.asked for label in one.cells})
        grid = grid_of(self.cells.loc[used], table)
        weights = [own for one in self.asked for own in one.weights]
        found = iter(contrasts(grid, weights, level=level, draws=draws, seed=seed))
        return [[next(found) for _ in one.weights] for one in self.asked]


def blocks(cells: pd.DataFrame, table: pd.DataFrame, on_share: pd.DataFrame) -> list[Block]:
    """What the judged cells (of `estimates.estimate_cells`) say about the claims about win rates."""
    judged = cells["results"].map(lambda names: any(name in table.columns for name in names)).astype(bool)
    done = cells[(cells["status"] == "done") & judged & ~was_imported(cells)]
    found = []
    for setting, part in split(done, comparison_columns(cells)):
        block = Block(cells=part)
        for own, grid in _grids(part):
            _ask_of_pairs(block, setting | own, grid)
        _ask_of_rounds(block, setting, on_share)
        found.append(block)
    return found


def _grids(part: pd.DataFrame) -> Iterator[tuple[Setting, pd.DataFrame]]:
    """Cells of one kind of construction that differ in pair and n alone."""
    kinds = [_kind(cell) for _, cell in part.iterrows()]
    several = len(set(kinds) - {None}) > 1
    for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
        own = part[[one == kind for one in kinds]]
        varying = varying_columns(own, _settings(own, kind))
        keys = own[varying].map(plain)
        grouped = own.groupby([keys[name] for name in varying], sort=False) if varying else [((), own)]
        for _, grid in grouped:
            values = {name: str(keys.at[grid.index[0], name]) for name in varying}
            yield ({"construction": kind} if several else {}) | values, grid


def _kind(cell: "pd.Series[Any]") -> str | None:
    """What makes the pairs of a cell; None for what has no positions."""
    name = plain(cell["construction.name"])
    inner = plain(cell.get("construction.pairs.name")) if name == AUGMENTED else name
    pairs = RANKING if inner == RANKING else "rewards" if inner in SCORED else None
    if pairs is None or plain(cell.get("n")) == "":
        return None
    return f"{AUGMENTED} {pairs}" if name == AUGMENTED else pairs


def _settings(cells: pd.DataFrame, kind: str) -> list[str]:
    """Settings that cells of one grid share, of those that `comparison_columns` leaves out."""
    prefixes = ["construction.", "rounds.", "boundary."]
    prefixes += ["ranker."] if RANKING in kind else []
    prefixes += ["candidates."] if _uses_candidates(cells) else []
    apart = {"construction.name", "construction.pairs.name"}
    return [name for name in map(str, cells.columns) if name.startswith(tuple(prefixes)) and name not in apart]


def _uses_candidates(cells: pd.DataFrame) -> bool:
    """Whether static candidates are among the data of some cell, in this round or an earlier one."""
    shares = [
        name for name in ("construction.static_share", "construction.pairs.static_share") if name in cells.columns
    ]
    mixed = not bool(cells[shares].map(plain).isin(["", "0"]).all(axis=None))
    return mixed or (PATH in cells.columns and bool(cells[PATH].map(plain).str.contains("static|auto").any()))


def _place(cell: "pd.Series[Any]") -> Place:
    """The pair and n of a cell."""
    own = {"max_min": ("max", "min"), "sweet_spot": ("max", LOWEST_OF_DRAWS)}
    names = {plain(cell["construction.name"]), plain(cell.get("construction.pairs.name"))}
    pair = next((own[name] for name in names if name in own), (plain(cell[PAIR[0]]), plain(cell[PAIR[1]])))
    return (*pair, float(cell["n"]))


def _ask_of_pairs(block: Block, setting: Setting, grid: pd.DataFrame) -> None:
    """Add what one grid of pairs says, or why it says nothing."""
    labels: dict[Place, int] = {}
    # max-min has two names; of the two cells the one with more seeds stands.
    for label, cell in grid.sort_values("seeds", ascending=False, kind="stable").iterrows():
        labels.setdefault(_place(cell), int(str(label)))
    experiments: dict[Place, Hashable] = {place: grid.at[label, "experiment"] for place, label in labels.items()}
    for found in comparisons(experiments):
        if isinstance(found, Comparison):
            weights = [{labels[place]: weight for place, weight in own.items()} for own in found.weights]
            block.asked.append(Asked(claim=found.claim, setting=setting, weights=weights, sizes=found.sizes))
        else:
            claim, reason = found
            block.silent.append(Silent(claim=claim, setting=setting, reason=str(reason)))


def _ask_of_rounds(block: Block, setting: Setting, on_share: pd.DataFrame) -> None:
    """Add on-policy less static data, of models that begin from the same policy, by the stage that this is in."""
    pairs: dict[tuple[Claim, str], list[tuple[int, int]]] = {}
    notes: dict[tuple[Claim, str], dict[str, None]] = {}
    for on, off, after in _both_data(block.cells):
        try:
            claim, note = _stage(block.cells.loc[[on, off]], on_share)
        except NotTestedError as reason:
            silent = [Silent(claim=c, setting=_after(setting, after), reason=str(reason)) for c in _STAGES.values()]
            block.silent.extend(silent)
        else:
            pairs.setdefault((claim, after), []).append((on, off))
            notes.setdefault((claim, after), {})[note] = None
    for (claim, after), several in pairs.items():
        weights = {place: sign / len(several) for both in several for place, sign in zip(both, (1, -1), strict=True)}
        sizes = sorted(set(block.cells.loc[[on for on, _ in several], "n"].astype(float)))
        note = "; ".join(filter(None, notes[claim, after]))
        block.asked.append(
            Asked(claim=claim, setting=_after(setting, after), weights=[weights], sizes=sizes, note=note)
        )


_STAGES: Final = {"injection": INJECTION, "fine_tuning": FINE_TUNING}
"""The claim about each stage, as a boundary names it."""


def _both_data(cells: pd.DataFrame) -> Iterator[tuple[int, int, str]]:
    """Row labels of a cell on on-policy data and of the one on static data that else is the same, and the rounds
    before; each cell stands in one pair at most."""
    known = _families(cells) if _uses_candidates(cells) else []
    taken: set[int] = set()
    for on in (family for family in known if family.path[-1] == "on_policy"):
        for off in known:
            labels = [int(family.results["result"].iloc[0]) for family in (on, off)]
            fits = off.path == (*on.after, "static") and on.fits(off) and not taken & set(labels)
            if fits and cells["experiment"][labels].nunique() == 2:
                taken.update(labels)
                yield labels[0], labels[1], " > ".join(on.after)


def _after(setting: Setting, after: str) -> Setting:
    return setting | ({"rounds before": after} if after else {})


def _families(part: pd.DataFrame) -> list[Family]:
    """The cells by path, each named by its row label in place of a result."""
    estimated = {"results", "asked", "seeds", "planned", "experiment", *INTERVAL}
    settings = [name for name in configuration_columns(part) if name not in estimated]
    named = part[["status", *settings]].assign(result=part.index)
    named[SEED] = 0
    return families(named)


def _stage(both: pd.DataFrame, on_share: pd.DataFrame) -> tuple[Claim, str]:
    """The claim about the stage in which the policy of two cells was found, and how sure that is."""
    asked = {name for names in both["asked"] for name in names}
    own = on_share[on_share["result"].isin(asked) & on_share["stage"].notna()]
    stages = sorted(set(own["stage"]))
    if not stages:
        raise NotTestedError("no boundary was measured of the policy that both data were tried on: boundary=measured")
    if len(stages) > 1:
        raise NotTestedError(
            f"the measured boundary names another stage for another training seed: {', '.join(stages)}"
        )
    doubted = bool(((own["low"].astype(float) < 0.5) & (own["high"].astype(float) > 0.5)).any())
    return _STAGES[
        stages[0]
    ], "the stage is in doubt: the interval of the on-policy share holds one half" if doubted else ""
