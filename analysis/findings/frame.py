"""The frame of findings: one row per claim and setting that was looked at.

Every test of a sweep is one chance to claim what is not so. The intervals of one block of comparable cells hold
together by max-t; blocks share the error by their number of tests (Bonferroni), so that all intervals of a sweep hold
together at the level, and a verdict is read off from its interval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Final

import pandas as pd

from analysis.captions import steps_sentence
from analysis.estimates import estimate_cells, preference_table
from analysis.findings.claims import (
    CANNOT_TELL,
    CLAIMS,
    CONTRADICTED,
    NOT_TESTED,
    POINTS,
    SUPPORTED,
    UNLEARNS,
    Claim,
)
from analysis.findings.evidence import Asked, Silent, blocks
from analysis.load import load_results, load_verdicts
from analysis.rounds import load_on_share
from analysis.schema import plain
from analysis.settings import Setting, heading
from analysis.statistics import LEAST_SEEDS, Contrast
from analysis.tables import cell_name
from analysis.unlearning import less_plain, load_changes, slope_contrast

FINDINGS: Final[dict[str, str]] = {
    "claim": "name of the claim; one of `CLAIMS`",
    "statement": "the claim in words",
    "source": "the paper that makes it",
    "setting": "settings in which the cells that test it differ from those of other rows; empty for the only ones",
    "n": "samples per prompt of the cells that are compared, such as 64 or 8, 16, 32",
    "effect": "estimate of what the claim is about, in `unit`; NaN where nothing was tested",
    "low": "lower end of its interval; all intervals of the frame hold together at 95 %",
    "high": "upper end",
    "unit": "unit of the effect",
    "expected": "`above 0` or `below 0`: where the effect lies if the claim holds",
    "verdict": f"`{SUPPORTED}`, `{CONTRADICTED}`, `{CANNOT_TELL}` or `{NOT_TESTED}`",
    "scope": "what the interval speaks about",
    "cells": "cells that are compared",
    "seeds": "training seeds of the cell that has the fewest",
    "instructions": "instructions that all these cells were judged on; of changes, prompts that they are measured on",
    "instructions_needed": "instructions that would tell with these seeds, at 80 % power, if the estimate is the "
    "truth; infinite where instructions alone would not; NaN where there is a verdict",
    "seeds_needed": "training seeds of each cell that would tell with these instructions, likewise; of one seed the "
    "fewest that a verdict takes, since nothing is known of the others",
    "times_needed": "times as many of both, instructions and seeds, that would tell, likewise",
    "judge_label": "the judge in words; None where no judge takes part",
    "decoding": "how the answers were decoded, likewise",
    "reference": "what the answers were judged against, likewise",
    "method": "how the interval was made",
    "note": "caveats; of a claim that was not tested, what it lacks",
}
"""Columns of the findings."""

_NUMBERS: Final = (
    "effect",
    "low",
    "high",
    "cells",
    "seeds",
    "instructions",
    "instructions_needed",
    "seeds_needed",
    "times_needed",
)


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What was found about one claim in one setting."""

    claim: Claim
    setting: Setting
    several: Sequence[Contrast]
    """One, or several of which the least counts."""
    cells: pd.DataFrame
    sizes: Sequence[float]
    judged: bool = True
    note: str = ""


def load_findings(store: Path | str, sweep: str | None = None) -> pd.DataFrame:
    """What a sweep, or all sweeps in the store, say about the published claims, with the columns `FINDINGS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    return findings(
        load_results(store, sweep),
        load_verdicts(store, sweep),
        changes=load_changes(store, sweep),
        on_share=load_on_share(store, sweep),
    )


def findings(
    results: pd.DataFrame,
    verdicts: pd.DataFrame,
    *,
    changes: pd.DataFrame | None = None,
    on_share: pd.DataFrame | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """One row per claim and setting that was looked at, with the columns `FINDINGS`.

    Args:
        results, verdicts: frames of `analysis.load`
        changes: that of `analysis.unlearning`, for the claim about unlearning
        on_share: that of `analysis.rounds`, for the claims about the stages of alignment
        level: at which all intervals hold together
    """
    if results.empty:
        return _framed(list(_not_tested([], set())))
    table = preference_table(results, verdicts)
    return find(estimate_cells(results, table), table, changes=changes, on_share=on_share, level=level)


def find(
    cells: pd.DataFrame,
    table: pd.DataFrame,
    *,
    changes: pd.DataFrame | None = None,
    on_share: pd.DataFrame | None = None,
    level: float = 0.95,
    draws: int = 4_000,
    seed: int = 0,
) -> pd.DataFrame:
    """`findings` of cells and preferences that are estimated already (`analysis.estimates`)."""
    found = blocks(cells, table, pd.DataFrame(columns=["result", "stage"]) if on_share is None else on_share)
    slopes = {} if changes is None else less_plain(cells, changes)
    total = sum(len(block.asked) for block in found) + len(slopes)
    answers: list[_Answer] = []
    for block in found:
        share = (1 - level) * len(block.asked) / max(total, 1)
        several = block.contrasts(table, level=1 - share, draws=draws, seed=seed)
        answers += [_of_win_rates(one, own, block.cells) for one, own in zip(block.asked, several, strict=True)]
    for both, slope in slopes.items():
        contrast = slope_contrast(slope, level=1 - (1 - level) / total)
        answers.append(_of_unlearning(cells, both, contrast))
    rows = [_row(answer, total, level) for answer in answers]
    silent = [one for block in found for one in block.silent]
    return _framed([*rows, *_not_tested(silent, {answer.claim for answer in answers})])


def _of_win_rates(asked: Asked, several: Sequence[Contrast], cells: pd.DataFrame) -> _Answer:
    own = cells.loc[asked.cells]
    return _Answer(
        claim=asked.claim, setting=asked.setting, several=several, cells=own, sizes=asked.sizes, note=asked.note
    )


def _of_unlearning(cells: pd.DataFrame, both: tuple[int, int], contrast: Contrast) -> _Answer:
    """Of a reward-augmented cell, the first, and of the same pairs without goals."""
    own = cells.loc[list(both)]
    setting = {"cell": cell_name(own.iloc[0], cells)}
    sizes = sorted(set(own["n"].dropna().astype(float)))
    return _Answer(claim=UNLEARNS, setting=setting, several=[contrast], cells=own, sizes=sizes, judged=False)


def _row(answer: _Answer, total: int, level: float) -> dict[str, Any]:
    claim, least = answer.claim, min(answer.several, key=lambda one: one.interval.estimate)
    if least.interval.n == 0:
        return _silent_row(claim, heading(answer.setting), least.interval.note)
    scale = 100.0 if claim.unit.startswith(POINTS) else 1.0
    low, high = (min(getattr(one.interval, end) for one in answer.several) for end in ("low", "high"))
    # Of several sums the one with the fewest seeds says what all of them speak about.
    fewest = min(answer.several, key=lambda one: one.seeds)
    verdict = _verdict(claim, low, high, fewest.seeds)
    needed = _needed(answer.several, least) if verdict == CANNOT_TELL else dict.fromkeys(_NEEDED, nan)
    method = f"{least.interval.method}; one of {total} tests that hold together at {100 * level:g} %"
    return {
        **_stated(claim),
        "setting": heading(answer.setting),
        "n": ", ".join(plain(size) for size in answer.sizes),
        "effect": scale * least.interval.estimate,
        "low": scale * low,
        "high": scale * high,
        "verdict": verdict,
        "scope": fewest.interval.scope,
        "cells": len(answer.cells),
        "seeds": fewest.seeds,
        "instructions": least.interval.n,
        **needed,
        **{name: _one(answer.cells, name) if answer.judged else None for name in _LABELS},
        "method": method,
        "note": "; ".join(filter(None, [_seeds_note(claim, low, high, fewest.seeds), *_notes(answer, least)])),
    }


_LABELS: Final = ("judge_label", "decoding", "reference")


def _stated(claim: Claim) -> dict[str, str]:
    expected = "above 0" if claim.expected > 0 else "below 0"
    facts = {"claim": claim.name, "statement": claim.statement, "source": claim.source}
    return facts | {"unit": claim.unit, "expected": expected}


def _sign(low: float, high: float) -> int:
    """The side of zero on which an interval lies; 0 where it holds zero, or is unknown."""
    return 1 if low > 0 else -1 if high < 0 else 0


def _verdict(claim: Claim, low: float, high: float, seeds: int) -> str:
    """A claim is about constructions, so that too few seeds neither support nor contradict it."""
    if seeds < LEAST_SEEDS or _sign(low, high) == 0:
        return CANNOT_TELL
    return SUPPORTED if _sign(low, high) == claim.expected else CONTRADICTED


_NEEDED: Final = ("instructions_needed", "seeds_needed", "times_needed")


def _needed(several: Sequence[Contrast], least: Contrast) -> dict[str, float]:
    """What would tell; where the least of several is above zero, tell all of them."""
    told = several if least.interval.estimate > 0 else [least]
    found = [(one.needed_instructions(), one.needed_seeds(), one.needed_times()) for one in told]
    return dict(zip(_NEEDED, map(max, zip(*found, strict=True)), strict=True))


def _seeds_note(claim: Claim, low: float, high: float, seeds: int) -> str:
    if seeds >= LEAST_SEEDS:
        return ""
    sign = _sign(low, high)
    told = "cannot be told either" if sign == 0 else "holds" if sign == claim.expected else "does not hold"
    return f"of these trained models alone it {told}; a claim about a construction needs {LEAST_SEEDS} training seeds"


def _notes(answer: _Answer, least: Contrast) -> Iterator[str]:
    yield answer.note
    yield steps_sentence(answer.cells).rstrip(".")
    if least.interval.excluded and answer.judged:
        yield f"{least.interval.excluded} instructions left out, since a judgement failed"


def _one(cells: pd.DataFrame, name: str) -> str:
    return " / ".join(dict.fromkeys(plain(value) or "not stated" for value in cells[name]))


def _not_tested(silent: Sequence[Silent], tested: set[Claim]) -> Iterator[dict[str, Any]]:
    """A row for each reason why a claim was not tested; settings of one reason are counted."""
    for claim in CLAIMS:
        reasons: dict[str, dict[str, None]] = {}
        for one in silent:
            if one.claim == claim:
                reasons.setdefault(one.reason, {})[heading(one.setting)] = None
        if not reasons and claim not in tested:
            reasons[claim.needs] = {"": None}
        for reason, settings in reasons.items():
            lacking = reason == claim.needs
            setting = next(iter(settings)) if len(settings) == 1 else f"{len(settings)} settings"
            nowhere = lacking and claim not in tested and len(reasons) == 1
            yield _silent_row(claim, "" if nowhere else setting, f"needs {reason}" if lacking else reason)


def _silent_row(claim: Claim, setting: str, reason: str) -> dict[str, Any]:
    return {**_stated(claim), "setting": setting, "n": "", "verdict": NOT_TESTED, "note": reason}


def _framed(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows in the order of the claims, numbers as float64 and texts as objects."""
    order = {claim.name: place for place, claim in enumerate(CLAIMS)}
    ordered = sorted(rows, key=lambda row: order[row["claim"]])
    frame = pd.DataFrame(ordered, columns=list(FINDINGS), dtype="object")
    texts = [name for name in FINDINGS if name not in _NUMBERS]
    frame[texts] = frame[texts].where(frame[texts].notna(), None)
    return frame.astype(dict.fromkeys(_NUMBERS, "float64"))
