"""The length-controlled (LC) win rate of AlpacaEval 2 (Dubois et al., arXiv 2404.04475), and an honest interval for it.

A logistic regression explains each preference by the difference of the two lengths, the difficulty of the
instruction, and the model; the LC win rate is what it predicts where lengths do not differ. Model, solver and
tolerance are those of alpaca_eval 0.6.6. Its faults are not: instructions are joined by their official index and
never by position, and the interval refits the regression in every resample of the instructions.
"""

from typing import Final

import numpy as np
import pandas as pd

from analysis.length_inputs import Floats, check_baselines, check_rows
from analysis.length_regression import Design, make_design
from analysis.statistics.intervals import BOOTSTRAP_EVENTS
from analysis.statistics.preferences import Estimate, StatisticsError

WITHOUT_DIFFICULTY: Final = "length-controlled win rate without the difficulty term (not the one of AlpacaEval 2)"
"""Name under which `length_controlled_win_rate_without_difficulty` is shown."""


def length_controlled_win_rate(
    verdicts: pd.DataFrame,
    *,
    difficulty: "pd.Series[float] | None",
    gamed: pd.DataFrame | None,
    C: float | None = None,  # noqa: N803 - scikit-learn's and alpaca_eval's name
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The LC win rate in percent of AlpacaEval 2, as alpaca_eval estimates it, with a bootstrap interval.

    `verdicts` has a row per instruction: index (official, 0 to 804), preference (1 to 2; None, NaN or -1 where
    the judgement failed), and the lengths of both answers in characters. `difficulty` is a series by official
    index, `gamed` the frame of alpaca_eval's df_gamed.csv. `C` is chosen as the package does, by cross-validation,
    unless given. Interval and standard error are over instructions, at the C of the estimate.

    A model that is the reference itself has 50 by definition. Raises StatisticsError, saying why, for another
    instruction set, fewer than 400 judged rows, repeated or unknown instructions, lengths that are
    missing or never differ, and where `difficulty` or `gamed` is absent.
    """
    rows = check_rows(verdicts)
    if difficulty is None or gamed is None:
        absent = "difficulty" if difficulty is None else "gamed"
        raise StatisticsError(
            f"{absent} is missing: the length-controlled win rate of AlpacaEval 2 needs instruction_difficulty.csv and "
            "df_gamed.csv (analysis.hub_files loads them from a folder or the hub). Without them there is "
            "length_controlled_win_rate_without_difficulty"
        )
    design = make_design(rows, check_baselines(difficulty, gamed, rows.index))
    return _estimate(design, C, level, draws, seed)


def length_controlled_win_rate_without_difficulty(
    verdicts: pd.DataFrame,
    *,
    C: float | None = None,  # noqa: N803 - scikit-learn's name
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Win rate in percent at equal lengths on any instruction set: the same regression with lengths alone.

    It has neither the difficulty term nor the gamed baselines, so it is not comparable with AlpacaEval 2's number;
    show it as `WITHOUT_DIFFICULTY`. Same refusals as `length_controlled_win_rate`, those of the instruction set
    excepted; `index` may hold any names that are unique.
    """
    rows = check_rows(verdicts, official=False)
    return _estimate(make_design(rows, None), C, level, draws, seed)


def length_controlled_difference(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    difficulty: "pd.Series[float]",
    gamed: pd.DataFrame,
    C: float | None = None,  # noqa: N803 - scikit-learn's and alpaca_eval's name
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """LC win rate of `first` less that of `second`, in points, paired: both are refitted on the same resamples.

    Instructions that only one of them has are left out and counted, and so are failed judgements, which leave the
    other's row where it is. `n` is how many instructions both have.
    """
    one, other = check_rows(first), check_rows(second)
    shared = np.intersect1d(one.index, other.index)
    ends = []
    for rows in (one, other):
        kept = rows.take(np.flatnonzero(np.isin(rows.index, shared)))
        design = make_design(kept, check_baselines(difficulty, gamed, shared))
        strength = design.chosen_strength() if C is None else _checked_strength(C)
        weights = design.fit(strength)
        ends.append((design.rate(weights), design.resample(strength, weights, draws, seed)))
    (value, drawn), (less, drawn_less) = ends
    failed = sum(
        int(np.isnan(rows.preference[np.isin(rows.index, shared)]).sum()) + rows.unanswered for rows in (one, other)
    )
    excluded = len(one.index) + len(other.index) - 2 * len(shared) + failed
    return _summary(value - less, drawn - drawn_less, len(shared), excluded, level, f"paired {_method(draws)}")


def _estimate(design: Design, strength: float | None, level: float, draws: int, seed: int) -> Estimate:
    rows = design.rows
    n = int(design.judged.sum())
    failed = int((~design.judged).sum()) + rows.unanswered
    if (rows.delta == 0).all() and (rows.preference[design.judged] == 0.5).all():
        return Estimate(50.0, 0.0, 50.0, 50.0, n, failed, "the reference itself: 50 by definition")
    if np.ptp(rows.delta) == 0:
        raise StatisticsError(
            f"all {len(rows.delta)} rows differ by the same length ({rows.delta[0]:g} characters): there is nothing to "
            "control for, and the regression divides by the spread"
        )
    chosen = design.chosen_strength() if strength is None else _checked_strength(strength)
    weights = design.fit(chosen)
    drawn = design.resample(chosen, weights, draws, seed)
    note = f"{_method(draws)}, C = {chosen:.4g}{' by cross-validation' if strength is None else ''}"
    wins = float(np.nansum(rows.preference))
    if min(wins, n - wins) < BOOTSTRAP_EVENTS:
        note += f"; too short: fewer than {BOOTSTRAP_EVENTS} wins or losses"
    return _summary(design.rate(weights), drawn, n, failed, level, note)


def _method(draws: int) -> str:
    return f"percentile bootstrap over instructions, refitted in each of {draws} draws"


def _summary(value: float, drawn: Floats, n: int, excluded: int, level: float, method: str) -> Estimate:
    if not 0 < level < 1:
        raise StatisticsError(f"level lies between 0 and 1, got {level}")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    error = float(drawn.std(ddof=1))
    return Estimate(value, error, min(float(low), value), max(float(high), value), n, excluded, method)


def _checked_strength(strength: float) -> float:
    try:
        number = float(strength)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise StatisticsError(f"C is {strength!r}; expected a positive number")
    return number
