"""Published AlpacaEval 2 annotations where they are at hand, and synthetic ones of the same shape where not."""

import os
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pytest

SHARED = Path(os.environ.get("PREFSWEEP_SHARED", Path(__file__).parents[3] / "shared"))
DATA = SHARED / "data" / "alpaca_eval"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no AlpacaEval 2 data (PREFSWEEP_SHARED)")

MODELS: Final = ("FuseChat-Llama-3.2-3B-Instruct", "NullModel", "alpaca-7b", "claude-2.1", "gpt-3.5-turbo-1106")

Inputs = tuple["pd.Series[float]", pd.DataFrame]


def published(model: str) -> dict[str, float]:
    """The leaderboard's numbers of one model."""
    table = pd.read_csv(DATA / "published.csv").set_index("model")
    return {str(name): float(table[name][model]) for name in table.columns}


def verdicts_of(model: str) -> pd.DataFrame:
    """The published verdicts on one model, in official order."""
    table = pd.read_csv(DATA / "annotations.csv.gz")
    own = table[table["model"] == model].reset_index(drop=True)
    return own.rename(columns={"len_1": "len_reference", "len_2": "len_model"})


def hub_inputs() -> Inputs:
    """Instruction difficulties and gamed baselines, both reconstructions."""
    difficulty = pd.read_csv(DATA / "instruction_difficulty_reconstructed.csv", index_col=0)["instruction_difficulty"]
    return difficulty, pd.read_csv(DATA / "df_gamed_surrogate.csv")


def make_inputs(instructions: int = 805, seed: int = 0) -> Inputs:
    """Difficulties and two gamed baselines that one regression explains, as in the real files."""
    rng = np.random.default_rng(seed)
    difficulty = pd.Series(rng.normal(0, 1, instructions), name="instruction_difficulty")
    frames = []
    for model, centre in (("verbose", -1.5), ("concise", 1.5)):
        delta = rng.normal(centre, 1, instructions)
        latent = -1.2 * np.tanh(delta) + 0.5 * difficulty + rng.normal(0, 1, instructions)
        columns = {"index": np.arange(instructions), "model": model, "preference": 1 / (1 + np.exp(-latent))}
        columns |= {"std_delta_len": delta, "instruction_difficulty": difficulty, "not_gamed_baseline": False}
        frames.append(pd.DataFrame(columns))
    return difficulty, pd.concat(frames, ignore_index=True)


def make_verdicts(difficulty: "pd.Series[float]", strength: float = -1.0, seed: int = 1) -> pd.DataFrame:
    """Verdicts on a model of this strength (a logit), which wins where it is longer."""
    rng = np.random.default_rng(seed)
    instructions = len(difficulty)
    reference = rng.integers(400, 3000, instructions)
    model = np.maximum(1, reference + rng.integers(-900, 700, instructions))
    latent = strength + 0.8 * difficulty + (model - reference) / 600 + rng.normal(0, 2, instructions)
    preference = 1 + 1 / (1 + np.exp(-2 * latent))
    columns = {"index": difficulty.index, "preference": preference, "len_reference": reference, "len_model": model}
    return pd.DataFrame(columns)
