"""Figures of the cells: win rates by position, n, length and divergence, and the rows that they have in common."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from analysis import figures
from analysis.beside import beside_points, near_constant
from analysis.differences import pair_differences, settings_to_compare
from analysis.estimates import comparison_columns
from analysis.overlap import overlap_of
from analysis.published import SWEET_SPOT_SCALING
from analysis.report.drawing import LEAST_PAIRS, Analysed, Figures, NotDrawn, drawing_of, shared
from analysis.report.panels import Setting, heading, split
from analysis.schema import was_imported
from harness.errors import PrefsweepError

LEAST_MULTIPLES: Final = 3
"""Heatmaps from which a figure holds them all; two stand side by side."""

MOST_DIFFERENCES: Final = 12
"""Difference heatmaps of one report."""


def heatmaps(found: Analysed) -> Figures:
    """One per setting and n that has `LEAST_PAIRS` pairs."""
    kind = "Win rate by chosen and rejected position"
    for setting, part in found.heatmaps:
        draw = partial(figures.pair_heatmap, part, **shared(found, setting, part))
        yield drawing_of("heatmap", kind, setting, draw)
    if not found.heatmaps:
        yield NotDrawn(kind=kind, reason=f"no setting has {LEAST_PAIRS} pairs of positions or more")


def heatmap_multiples(found: Analysed) -> Figures:
    """One for all policies and n of a setting, where these make three heatmaps or more."""
    kind = "Win rate by position, all policies and n"
    for setting, part, count in multiples(found.heatmaps):
        if count < LEAST_MULTIPLES:
            yield NotDrawn(kind=kind, reason=f"fewer than {LEAST_MULTIPLES} heatmaps", setting=setting)
            continue
        draw = partial(figures.pair_heatmaps, part, **words(found, setting))
        yield drawing_of("heatmaps", kind, setting, draw)


def difference_heatmaps(found: Analysed) -> Figures:
    """One per n where what varies besides has two values that may be compared."""
    kind = "Difference of two settings by position"
    matches, reason = settings_to_compare(found.heatmaps, found.table) if found.heatmaps else ([], "no heatmap")
    if len(matches) > MOST_DIFFERENCES:
        matches, reason = [], f"{len(matches)} would be too many; `python -m analysis difference` draws one"
    for match in matches:
        sides: dict[str, Any] = {"first": match.first.name, "second": match.second.name}
        frame = pair_differences(match.first, match.second)
        draw = partial(figures.difference_heatmap, frame, **sides, **words(found, match.setting))
        yield drawing_of("difference", kind, sides | match.setting, draw)
    if not matches:
        yield NotDrawn(kind=kind, reason=reason)


def scaling_curves(found: Analysed) -> Figures:
    """One per setting that has two or more n."""
    kind = "Win rate against samples per prompt"
    published = SWEET_SPOT_SCALING if found.published else ()
    for setting, part in split(found.cells[~was_imported(found.cells)], comparison_columns(found.cells)):
        if part.loc[part["status"] == "done", "n"].nunique() > 1:
            draw = partial(figures.scaling_curve, part, published=published, **shared(found, setting, part))
            yield drawing_of("scaling", kind, setting, draw)
        else:
            yield NotDrawn(kind=kind, reason="fewer than two n are done", setting=setting)


def overlaps(found: Analysed) -> Figures:
    """One per setting, at its smallest n, where cells have most in common; of settings with equal shares the first."""
    kind = "Preference rows in common"
    drawn: list[pd.DataFrame] = []
    keys = {} if found.results is None else dict(zip(found.results["result"], found.results["cell"], strict=True))
    known = pd.DataFrame() if found.overlap is None else found.overlap
    for setting, part in split(found.cells[~was_imported(found.cells)], comparison_columns(found.cells)):
        try:
            shares, where = overlap_of(part, known, keys)
        except PrefsweepError as error:
            yield NotDrawn(kind=kind, reason=str(error), setting=setting)
            continue
        if any(shares.equals(other) for other in drawn):
            yield NotDrawn(kind=kind, reason="the same shares as in another setting's figure", setting=setting)
            continue
        drawn.append(shares)
        named: Setting = setting | where
        yield drawing_of("overlap", kind, named, partial(figures.overlap_matrix, shares, **words(found, named)))


def overoptimisations(found: Analysed) -> Figures:
    """Win rate against KL, one per setting that has two or more cells with both."""
    kind = "Win rate against divergence from the policy"
    yield from _against(found, kind, "overoptimisation", figures.overoptimisation, "kl")


def lengths(found: Analysed) -> Figures:
    """Win rate against mean length, one per setting that has two or more cells with both."""
    kind = "Win rate against the answers' length"
    yield from _against(found, kind, "length", figures.length_scatter, "characters", "length_ratio")


def words(found: Analysed, setting: Setting) -> dict[str, Any]:
    """What every figure says beside its numbers, whether they are compared or not."""
    return {"heading": heading(setting), "provenance": found.provenance}


def multiples(parts: Sequence[tuple[Setting, pd.DataFrame]]) -> Iterator[tuple[Setting, pd.DataFrame, int]]:
    """The cells of heatmaps that differ in policy and n only, with their number.

    What belongs to a policy, such as its own untrained answers that it is judged against, may differ with it.
    """
    for own in ((*figures.OF_THE_POLICY, "n"), ("n",)):
        groups: dict[tuple[tuple[str, str], ...], list[tuple[Setting, pd.DataFrame]]] = {}
        for setting, part in parts:
            rest = {k: v for k, v in setting.items() if k not in own and not k.startswith("policy.")}
            groups.setdefault(tuple(rest.items()), []).append((setting, part))
        places = {rest: [_place(setting) for setting, _ in group] for rest, group in groups.items()}
        if all(len(set(found)) == len(found) for found in places.values()):
            break
    for alike, group in groups.items():
        yield dict(alike), pd.concat([part for _, part in group]), len(group)


def _place(setting: Setting) -> tuple[tuple[str, str], ...]:
    """Policy and n of a heatmap."""
    return tuple((k, v) for k, v in setting.items() if k == "n" or k.startswith("policy."))


def _against(found: Analysed, kind: str, name: str, plot: Callable[..., Axes], *measures: str) -> Figures:
    flagged = near_constant(found.beside)
    points = beside_points(found.cells, found.beside, *measures)
    for setting, part in split(points, comparison_columns(found.cells)):
        if len(part) > 1:
            yield drawing_of(name, kind, setting, partial(plot, part, flagged, **shared(found, setting, part)))
        else:
            yield NotDrawn(kind=kind, reason="one cell only has both numbers", setting=setting)
    if points.empty:
        yield NotDrawn(kind=kind, reason="no cell has both numbers")
