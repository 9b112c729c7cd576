"""The answers behind the win rates: one row per result and instruction, with what can be said of each answer.

What a column means is defined in docs/beside-the-win-rate.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import answer_text
from analysis.words import words_of
from harness.store import Artifact

ANSWERS: Final[dict[str, str]] = {
    "result": "id of the result: the hash of its configuration",
    "prompt_id": "id of the instruction",
    "characters": "length of the answer",
    "reference_characters": "length of the reference answer; NaN without one",
    "tokens": "length of the answer in the policy's tokens; NaN where they are not known",
    "empty": "1 where nothing can be seen of the answer",
    "truncated": "1 where the answer was cut at the limit of new tokens; NaN where that is not known",
    "repetition": "share of the answer's 4-grams of words that stood in it before",
    "repetitive": "1 where that share is at least one half",
    "refusal": "1 where the answer begins as refusals do",
    "same_as_reference": "1 where answer and reference have the same normal form; NaN without a reference",
    "same_as_another": "1 where the same model answered another instruction with the same normal form",
    "near_copies": "how many of the model's answers, this one included, are near-copies of this one",
    "reward": "the selecting reward of the answer; NaN where there is none",
    "reference_reward": "the selecting reward of the reference answer; NaN where there is none",
    "kl": "KL divergence from the reference policy along the answer, in nats; NaN where it is not known",
}

Given = Mapping[str, Artifact | None]


def measure_answers(
    answers: pd.DataFrame,
    references: "pd.Series[str]",
    rewards: "pd.Series[float]",
    reference_rewards: "pd.Series[float]",
) -> pd.DataFrame:
    """The columns of `ANSWERS` but `result`, one row per answer.

    Args:
        answers: prompt_id, text, tokens, finish_reason and kl of one model's answers.
        references: reference answers by prompt id.
        rewards: selecting rewards of the answers by prompt id; reference_rewards: of the references.
    """
    return _measured(answers, _measured_references(references), rewards, reference_rewards)


def read_answers(found: Given) -> pd.DataFrame | None:
    """`measure_answers` of a result's artifacts; None where it has no answers yet.

    Args:
        found: `respond`, `references`, `appraise` and `appraise_references`, as far as they are there.
    """
    if (answers := found["respond"]) is None:
        return None
    columns = ["prompt_id", "text", "tokens", "finish_reason", "kl"]
    return _measured(
        answers.table("answers", columns).to_pandas(),
        _of_references(_whole(found["references"])),
        _rewards(found["appraise"]),
        _of_appraised(_whole(found["appraise_references"])),
    )


def reference_texts(references: Artifact | None) -> "pd.Series[str]":
    """Reference answers by prompt id, of an artifact of answers or of a set of instructions."""
    if references is None:
        return pd.Series(dtype=object)
    if references.manifest.stage == "respond":
        return _by_prompt(references, "answers", "text")
    return _by_prompt(references, "prompts", "answer").dropna()


def _measured_references(references: "pd.Series[str]") -> pd.DataFrame:
    """Length and normal form of each reference answer, by prompt id."""
    texts = references.tolist()
    forms = np.array([answer_text.normal_form(text) for text in texts], dtype=object)
    lengths = np.array([len(text) for text in texts], dtype=float)
    return pd.DataFrame({"characters": lengths, "form": forms}, index=references.index)


def _measured(
    answers: pd.DataFrame, references: pd.DataFrame, rewards: "pd.Series[float]", reference_rewards: "pd.Series[float]"
) -> pd.DataFrame:
    # Lists and arrays, not Series: a thousand models have a million answers, and a Series converts them at every turn.
    texts, ids = [str(text) for text in answers["text"].tolist()], pd.Index(answers["prompt_id"])
    words, forms = words_of(texts), np.array([answer_text.normal_form(text) for text in texts], dtype=object)
    seen = [bool(size) or not answer_text.is_empty(text) for size, text in zip(words.sizes, texts, strict=True)]
    repetition, ended, others = answer_text.repetitions(words), answers["finish_reason"], references.reindex(ids)
    return pd.DataFrame(
        {
            "prompt_id": ids,
            "characters": np.array([len(text) for text in texts], dtype=float),
            "reference_characters": others["characters"].to_numpy(),
            "tokens": answers["tokens"].astype(float).to_numpy(),
            "empty": 1.0 - np.array(seen, dtype=float),
            "truncated": _share(ended.to_numpy() == "length", ended.notna().to_numpy()),
            "repetition": repetition,
            "repetitive": (repetition >= answer_text.REPETITIVE).astype(float),
            "refusal": np.array([answer_text.is_refusal(text) for text in texts], dtype=float),
            "same_as_reference": _share(forms == others["form"].to_numpy(), others["form"].notna().to_numpy()),
            "same_as_another": pd.Series(forms, dtype=object).duplicated(keep=False).to_numpy(float),
            "near_copies": answer_text.near_copies(texts, words).astype(float),
            "reward": _finite(rewards.reindex(ids)),
            "reference_reward": _finite(reference_rewards.reindex(ids)),
            "kl": answers["kl"].astype(float).to_numpy(),
        }
    )


@dataclass(frozen=True)
class _Whole:
    """An artifact that is the same as another one where folder and content are."""

    folder: Path
    digest: str
    artifact: Artifact = field(compare=False)


def _whole(artifact: Artifact | None) -> _Whole | None:
    return None if artifact is None else _Whole(artifact.folder, artifact.manifest.digest, artifact)


@lru_cache(maxsize=8)
def _of_references(references: _Whole | None) -> pd.DataFrame:
    """Kept, since all cells of a policy have the same."""
    return _measured_references(reference_texts(references.artifact if references is not None else None))


@lru_cache(maxsize=8)
def _of_appraised(appraised: _Whole | None) -> "pd.Series[float]":
    return _rewards(appraised.artifact if appraised is not None else None)


def _rewards(appraised: Artifact | None) -> "pd.Series[float]":
    return pd.Series(dtype=float) if appraised is None else _by_prompt(appraised, "rewards", "reward")


def _by_prompt(artifact: Artifact, table: str, column: str) -> "pd.Series[Any]":
    frame: pd.DataFrame = artifact.table(table, ["prompt_id", column]).to_pandas()
    return frame.set_index("prompt_id")[column]


def _share(holds: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.where(known, np.asarray(holds, dtype=float), np.nan)


def _finite(values: "pd.Series[float]") -> npt.NDArray[np.float64]:
    numbers = values.to_numpy(float)
    return np.where(np.isfinite(numbers), numbers, np.nan)
