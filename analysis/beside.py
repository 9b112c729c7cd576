"""What stands beside every win rate, estimated per cell: lengths, blanks, cuts, repeats, copies, refusals, reward, KL.

Each number has an interval over instructions and training seeds, or a note with the reason why it has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import nan
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from analysis.answer_text import FEWEST, NEAR_CONSTANT
from analysis.answers import ANSWERS
from analysis.statistics import CONSTRUCTION, THESE_MODELS, TWO_SEEDS, Floats, Interval, seeds_interval

MEASURES: Final[dict[str, str]] = {
    "characters": "mean length of an answer, characters",
    "length_ratio": "mean length over that of the reference answers to the same instructions",
    "tokens": "mean length of an answer, tokens of the policy",
    "empty": "share of empty answers",
    "truncated": "share of answers cut at the limit of new tokens",
    "repetition": "mean share of an answer's 4-grams that stood in it before",
    "repetitive": "share of repetitive answers",
    "refusal": "share of answers that begin as refusals do (a heuristic)",
    "same_as_reference": "share of answers equal to their reference",
    "same_as_another": "share of answers equal to that to another instruction",
    "near_copies": "largest share of answers that are near-copies of one of them",
    "reward": "mean selecting reward",
    "reward_gain": "mean difference of the selecting reward to that of the reference answer",
    "kl": "KL divergence from the reference policy, nats per answer",
}

SHARES: Final = (
    *("empty", "truncated", "repetition", "repetitive"),
    *("refusal", "same_as_reference", "same_as_another"),
)
"""Measures whose values lie between 0 and 1, and so have the intervals of a win rate."""

_UNKNOWN: Final = {
    "length_ratio": "the references have no text, or no length",
    "tokens": "how many tokens these answers have is not known",
    "truncated": "how these answers ended is not known",
    "same_as_reference": "there are no reference answers",
    "reward": "no reward scored these answers",
    "reward_gain": "no reward scored both answers and references",
    "kl": "the models do not share their tokens, or the answers were imported",
}

_MEASURED: Final = tuple(name for name in ANSWERS if name not in ("result", "prompt_id"))

STUDENT: Final = "Student t over instructions"
SEEDS: Final = "joined with Student t over training seeds"


def beside_win_rates(cells: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """One row per cell that has answers and measure: `cell` (row label), `measure`, and the fields of an Interval.

    Args:
        cells: of `estimates.estimate_cells`.
        answers: one row per result and instruction, with the columns of `answers.ANSWERS`.
    """
    known = _by_result(answers)
    rows = []
    for cell, names in zip(cells.index, cells["results"], strict=True):
        seeds = [known[name] for name in names if name in known]
        for measure in MEASURES if seeds else ():
            interval = _estimate(measure, seeds)
            if not interval.n and measure in _UNKNOWN:
                interval = replace(interval, note=_UNKNOWN[measure])
            rows.append({"cell": cell, "measure": measure, **vars(interval)})
    fields = ["cell", "measure", *Interval.__dataclass_fields__]
    return pd.DataFrame(rows, columns=fields)


def beside_points(cells: pd.DataFrame, beside: pd.DataFrame, measure: str, *also: str) -> pd.DataFrame:
    """The done cells that have a win rate and the measure, with `measure`, `measure_low` and `measure_high`.

    They have the same columns of each of `also`, NaN where it is not known.
    """
    found = cells[(cells["status"] == "done") & cells["win_rate"].notna()]
    for name in (measure, *also):
        own = beside[(beside["measure"] == name) & beside["estimate"].notna()].set_index("cell")
        if name == measure:
            found = found[found.index.isin(own.index)]
        columns = {name: "estimate", f"{name}_low": "low", f"{name}_high": "high"}
        found = found.assign(**{new: own[old].reindex(found.index).astype(float) for new, old in columns.items()})
    return found


def near_constant(beside: pd.DataFrame) -> dict[int, float]:
    """Share of near-copies by row label of the cells whose answers are near-constant; a win rate there means little."""
    rows = beside[
        (beside["measure"] == "near_copies") & (beside["estimate"] >= NEAR_CONSTANT) & (beside["n"] >= FEWEST)
    ]
    return {int(cell): float(share) for cell, share in zip(rows["cell"], rows["estimate"], strict=True)}


def mean_interval(table: Floats, *, level: float = 0.95) -> Interval:
    """Interval of the mean of `table` [seeds x instructions], of values without bounds; NaN columns are left out.

    Student's t over instructions, of the mean over seeds; several seeds add their own half-width, from Student's t on
    their means, in squares. What instructions and seeds vary by together is in both, so the interval errs on the long
    side. None from one instruction, nor where all values are equal: their spread is not known then.
    """
    complete = ~np.isnan(table).any(axis=0)
    kept, excluded = table[:, complete], int((~complete).sum())
    seeds, n = kept.shape
    facts: dict[str, Any] = {"level": level, "excluded": excluded, "n": n, "scope": THESE_MODELS}
    if n == 0 or seeds == 0:
        return Interval(estimate=nan, low=nan, high=nan, method="none", note="no value", **(facts | {"n": 0}))
    mean, each = float(kept.mean()), kept.mean(axis=0)
    if n == 1 or (np.ptp(each) == 0 and np.ptp(kept.mean(axis=1)) == 0):
        reason = "one answer" if n == 1 else "all values are equal"
        return Interval(estimate=mean, low=nan, high=nan, method="none", note=f"no interval: {reason}", **facts)
    half, method = _half(each, level), STUDENT
    if seeds > 1:
        half, method = float(np.hypot(half, _half(kept.mean(axis=1), level))), f"{STUDENT}, {SEEDS}"
        facts["scope"] = CONSTRUCTION if seeds >= 3 else TWO_SEEDS
    return Interval(estimate=mean, low=mean - half, high=mean + half, method=method, **facts)


def _half(values: Floats, level: float) -> float:
    """Half-width of Student's interval of a mean."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(special.stdtrit(len(values) - 1, (1 + level) / 2) * error)


@dataclass(frozen=True, kw_only=True)
class _Seed:
    """What was measured of one model's answers."""

    instructions: npt.NDArray[np.int64]
    """[answers]: a number for each instruction, the same in all models."""
    values: Floats
    """[measured x answers], in the order of `_MEASURED`."""

    def of(self, name: str) -> Floats:
        return np.asarray(self.values[_MEASURED.index(name)], dtype=np.float64)


def _by_result(answers: pd.DataFrame) -> dict[str, _Seed]:
    """The answers apart by result, as arrays."""
    results, names = pd.factorize(answers["result"])
    instructions, _ = pd.factorize(answers["prompt_id"])
    order = np.argsort(results, kind="stable")
    values = np.ascontiguousarray(answers[list(_MEASURED)].to_numpy(float)[order].T)
    edges = np.searchsorted(results[order], np.arange(len(names) + 1))
    return {
        str(name): _Seed(instructions=instructions[order[start:stop]], values=values[:, start:stop])
        for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True)
    }


def _estimate(measure: str, seeds: Sequence[_Seed]) -> Interval:
    if measure == "near_copies":
        return _largest_share(seeds)
    if measure == "length_ratio":
        lengths = [_table(seeds, [seed.of(name) for seed in seeds]) for name in ("characters", "reference_characters")]
        return _ratio(*lengths)
    if measure == "reward_gain":
        return mean_interval(_table(seeds, [seed.of("reward") - seed.of("reference_reward") for seed in seeds]))
    table = _table(seeds, [seed.of(measure) for seed in seeds])
    if measure in SHARES:
        return _share_interval(table.tobytes(), len(table))
    interval = mean_interval(table)
    # Lengths and divergences are not negative; a symmetric interval of few of them may reach below.
    return interval if measure == "reward" else replace(interval, low=float(np.maximum(interval.low, 0.0)))


@lru_cache(maxsize=1024)
def _share_interval(values: bytes, seeds: int) -> Interval:
    """`seeds_interval` of a table [seeds x instructions], kept: most cells have no answer that is empty or refuses."""
    return seeds_interval(np.frombuffer(values).reshape(seeds, -1))


def _table(seeds: Sequence[_Seed], values: Sequence[Floats]) -> Floats:
    """Values [seeds x instructions], joined by instruction."""
    if all(np.array_equal(seed.instructions, seeds[0].instructions) for seed in seeds[1:]):
        return np.stack(values)
    columns = [pd.Series(own, index=seed.instructions) for own, seed in zip(values, seeds, strict=True)]
    return pd.concat(columns, axis=1, keys=range(len(seeds))).to_numpy(float).T


def _ratio(lengths: Floats, references: Floats) -> Interval:
    """Ratio of two means over the same instructions, its error that of its linear approximation (delta method)."""
    complete = ~(np.isnan(lengths) | np.isnan(references)).any(axis=0)
    kept, others = lengths[:, complete], references[:, complete]
    if not complete.any() or others.mean() == 0:
        nothing = mean_interval(np.full_like(lengths, np.nan))
        return replace(nothing, excluded=lengths.shape[1])
    ratio = float(kept.mean() / others.mean())
    interval = mean_interval((kept - ratio * others) / others.mean())
    return replace(
        interval,
        estimate=ratio,
        low=float(np.maximum(ratio + interval.low, 0.0)),
        high=ratio + interval.high,
        excluded=int((~complete).sum()),
        method=f"{interval.method}, delta method" if interval.method != "none" else "none",
    )


def _largest_share(seeds: Sequence[_Seed]) -> Interval:
    """Of several seeds the largest: one that is near-constant is enough to look at it."""
    sizes = [len(seed.instructions) for seed in seeds]
    shares = [float(seed.of("near_copies").max()) / size for seed, size in zip(seeds, sizes, strict=True)]
    note = "no interval: a largest share, not a mean"
    return Interval(estimate=max(shares), low=nan, high=nan, method="none", n=min(sizes), scope=THESE_MODELS, note=note)
