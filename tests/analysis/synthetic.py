"""Synthetic results and verdicts in the shape that loading gives them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.schema import COMPARABLE, LABELS, MEASURES
from harness.positions import PAIRS, POSITIONS

JUDGE = "embedded proxy judge v1 (not a measure of quality)"

Pair = tuple[str | None, str | None]


def make_frames(
    pairs: Iterable[Pair] = PAIRS,
    *,
    construction: str = "position",
    sizes: Sequence[int] = (64,),
    seeds: Sequence[int] = (0,),
    instructions: int = 60,
    steps: int = 40,
    spread: float = 0.03,
    settings: Mapping[str, object] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Results of every (pair, n, seed), all done, and their verdicts; a fixed function of the arguments.

    `spread` is the standard deviation of the effect of a seed; `settings` are further columns, or
    other values of those there are, such as `{"loss.beta": 0.5}`.
    """
    results, verdicts = [], []
    prompts = [f"prompt{index:03d}" for index in range(instructions)]
    difficulty = np.random.default_rng(7).normal(0, 0.8, instructions)
    for index, (chosen, rejected) in enumerate(pairs):
        for n in sizes:
            for seed in seeds:
                rng = np.random.default_rng([index, n, seed])
                centre = _quality(chosen, rejected) + rng.normal(0, spread)
                latent = centre * 4 + difficulty + rng.normal(0, 0.8, instructions)
                preference = np.where(np.abs(latent) < 0.3, 0.5, (latent > 0).astype(float))
                name = f"{construction}-{chosen}-{rejected}-{n}-{seed}-{len(settings or {})}"
                results.append(
                    _configuration(construction, chosen, rejected, n, seed)
                    | dict(settings or {})
                    | _record(name, preference, steps)
                )
                verdicts.append(pd.DataFrame({"result": name, "prompt_id": prompts, "preference": preference}))
    return pd.DataFrame(results), pd.concat(verdicts, ignore_index=True)


def join(*frames: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Several (results, verdicts) as one."""
    results, verdicts = zip(*frames, strict=True)
    return pd.concat(results, ignore_index=True), pd.concat(verdicts, ignore_index=True)


def renamed(prefix: str, frames: tuple[pd.DataFrame, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same results under names of their own, as models of their own."""
    results, verdicts = frames
    names = {name: prefix + results[name] for name in ("result", "cell", "rows_id", "trained_id")}
    return results.assign(**names), verdicts.assign(result=prefix + verdicts["result"])


def undo(results: pd.DataFrame, rows: Sequence[int], status: str, reason: str | None = None) -> pd.DataFrame:
    """`results` with these rows not done: without trained model and measures."""
    changed = results.copy()
    changed.loc[list(rows), ["status", "reason"]] = [status, reason]
    changed.loc[list(rows), ["trained_id", "rows_id", *LABELS, *COMPARABLE]] = None
    changed.loc[list(rows), list(MEASURES)] = np.nan
    return changed


def alias(results: pd.DataFrame, verdicts: pd.DataFrame, row: int, of: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`row` as the same experiment as row `of`: its trained model, its measures and its verdicts."""
    changed = results.copy()
    shared = ["rows_id", "trained_id", *MEASURES]
    changed.loc[row, shared] = changed[shared].iloc[of].tolist()
    names = changed["result"].tolist()
    own, other = names[row], names[of]
    copied = verdicts.loc[verdicts["result"] == other].assign(result=own)
    others = verdicts[verdicts["result"] != own]
    return changed, pd.concat([others, copied], ignore_index=True)


def _quality(chosen: str | None, rejected: str | None) -> float:
    if chosen is None or rejected is None:
        return 0.1
    high, low = POSITIONS.index(chosen), POSITIONS.index(rejected)
    return 0.05 * (high - 3) - 0.06 * abs(low - 1) + 0.1


def _configuration(construction: str, chosen: str | None, rejected: str | None, n: int, seed: int) -> dict[str, object]:
    return {
        "policy.name": "smollm2_135m",
        "prompts.name": "demo",
        "reward.name": "proxy",
        "construction.name": construction,
        "pair.chosen": chosen,
        "pair.rejected": rejected,
        "n": n,
        "loss.type": "sigmoid",
        "loss.beta": 0.1,
        "train.learning_rate": 1e-4,
        "train.seed": seed,
        "evaluate.name": "heldout",
        "judge.name": "proxy",
    }


def _record(name: str, preference: np.ndarray, steps: int) -> dict[str, object]:
    measures = {
        "rows": 8.0 * steps,
        "prompts": 8.0 * steps,
        "steps": float(steps),
        "win_rate": float(preference.mean()),
        "instructions": float(len(preference)),
        "ties": float((preference == 0.5).sum()),
        "share_changed": 0.83,
        "answer_tokens": 41.2,
        "base_tokens": 38.0,
        "kl": 1.37,
        "z_chosen": 1.98,
        "z_rejected": -1.96,
    }
    return {
        "result": name,
        "cell": f"cell-{name}",
        "status": "done",
        "reason": None,
        "rows_id": f"rows-{name}",
        "trained_id": f"trained-{name}",
        **{measure: measures.get(measure, 0.5) for measure in MEASURES},
        "judge_label": JUDGE,
        "reward_label": "proxy reward v1",
        "decoding": "greedy, 48 tokens",
        "reference": "untrained policy",
        **dict.fromkeys(COMPARABLE, "same"),
        "versions": "torch 2.13.0, trl 1.16.0",
        "judge_served": None,
    }
