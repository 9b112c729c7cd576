"""The answers behind the win rates: one row per result and instruction, with what can be said of each answer.

What a column means is defined in docs/beside-the-win-rate.md.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

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

Columns = dict[str, Any]
"""The columns of `ANSWERS` but `result`, as arrays."""

Numbers = npt.NDArray[np.float64]
"""[answers]"""


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
    given = {"reward": rewards, "reference_reward": reference_rewards}
    known = [_ByPrompt(_ids(of.index), {name: of.to_numpy(float)}) for name, of in given.items()]
    columns = _measured(
        pa.Table.from_pandas(answers, preserve_index=False),
        _measured_references(_ids(references.index), references.tolist()),
        *known,
    )
    return pd.DataFrame(columns | {"prompt_id": answers["prompt_id"].to_numpy()})


def read_answers(found: Given) -> Columns:
    """`measure_answers` of a result's artifacts, as arrays.

    Args:
        found: `respond`; `references`, `appraise` and `appraise_references` as far as they are there.
    """
    answers = found["respond"]
    assert answers is not None
    return _measured(
        answers.table("answers", ["prompt_id", "text", "tokens", "finish_reason", "kl"]),
        _of_references(_whole(found["references"])),
        _rewards(found["appraise"], "reward"),
        _of_appraised(_whole(found["appraise_references"])),
    )


def answers_frame(found: Mapping[str, Columns]) -> pd.DataFrame:
    """The frame of `ANSWERS`, of each result's columns."""
    if not found:
        return pd.DataFrame(columns=list(ANSWERS))
    sizes = [len(columns["prompt_id"]) for columns in found.values()]
    # Arrow's texts: as objects, a million of them take a second and a half.
    names = pa.array(list(found), pa.string()).take(np.repeat(np.arange(len(found)), sizes))
    ids = pa.chunked_array([columns["prompt_id"] for columns in found.values()], pa.string())
    texts: pd.DataFrame = pa.table({"result": names, "prompt_id": ids}).to_pandas()
    numbers = [name for name in ANSWERS if name not in texts]
    joined = {name: np.concatenate([columns[name] for columns in found.values()]) for name in numbers}
    return pd.concat([texts, pd.DataFrame(joined)], axis=1)


def reference_texts(references: Artifact | None) -> "pd.Series[str]":
    """Reference answers by prompt id, of an artifact of answers or of a set of instructions."""
    if references is None:
        return pd.Series(dtype=object)
    if references.manifest.stage == "respond":
        return _by_prompt(references, "answers", "text")
    return _by_prompt(references, "prompts", "answer").dropna()


@dataclass(frozen=True)
class _ByPrompt:
    """Columns by prompt id."""

    ids: pa.Array
    columns: Mapping[str, npt.NDArray[Any]]

    def of(self, ids: pa.Array) -> Mapping[str, npt.NDArray[Any]]:
        """The columns of these prompts; NaN where one is not known."""
        if ids.equals(self.ids):  # the same prompts in the same order, as a rule
            return self.columns
        places = pc.fill_null(pc.index_in(ids, value_set=self.ids), len(self.ids)).to_numpy()
        return {name: np.append(values, np.nan)[places] for name, values in self.columns.items()}


def _ids(index: "pd.Index[Any]") -> pa.Array:
    return pa.array(index.tolist(), pa.string())


def _measured_references(ids: pa.Array, texts: Sequence[str]) -> _ByPrompt:
    """Length, beginning and normal form of each reference answer."""
    characters = np.array([len(text) for text in texts], dtype=float)
    forms = {"beginning": answer_text.beginning, "form": answer_text.normal_form}
    found = {name: np.array([form(text) for text in texts], dtype=object) for name, form in forms.items()}
    return _ByPrompt(ids, {"characters": characters, **found})


def _measured(answers: pa.Table, references: _ByPrompt, rewards: _ByPrompt, reference_rewards: _ByPrompt) -> Columns:
    # Arrays, not frames: a thousand models have a million answers, and frames take as long as what is measured.
    texts, ids = [str(text) for text in answers["text"].to_pylist()], answers["prompt_id"].combine_chunks()
    words = words_of(texts)
    seen = [bool(size) or not answer_text.is_empty(text) for size, text in zip(words.sizes, texts, strict=True)]
    repetition, ended, others = answer_text.repetitions(words), answers["finish_reason"].to_pylist(), references.of(ids)
    same_as_reference, same_as_another = _same(texts, others)
    return {
        "prompt_id": ids,
        "characters": np.array([len(text) for text in texts], dtype=float),
        "reference_characters": others["characters"],
        "tokens": _numbers(answers["tokens"]),
        "empty": 1.0 - np.array(seen, dtype=float),
        "truncated": np.array([np.nan if reason is None else reason == "length" for reason in ended], dtype=float),
        "repetition": repetition,
        "repetitive": (repetition >= answer_text.REPETITIVE).astype(float),
        "refusal": np.array([answer_text.is_refusal(text) for text in texts], dtype=float),
        "same_as_reference": same_as_reference,
        "same_as_another": same_as_another,
        "near_copies": answer_text.near_copies(texts, words).astype(float),
        "reward": _finite(rewards.of(ids)["reward"]),
        "reference_reward": _finite(reference_rewards.of(ids)["reference_reward"]),
        "kl": _numbers(answers["kl"]),
    }


def _same(texts: Sequence[str], references: Mapping[str, npt.NDArray[Any]]) -> tuple[Numbers, Numbers]:
    """Whether each text has the normal form of its reference, NaN without one, and that of another text."""
    begun = np.array([answer_text.beginning(text) for text in texts], dtype=object)
    maybe = pd.Series(begun, dtype=object).duplicated(keep=False).to_numpy() | (begun == references["beginning"])
    # Most begin as no other does: their normal forms, which take longer, need not be known.
    forms = np.array([answer_text.normal_form(text) for text in itertools.compress(texts, maybe)], dtype=object)
    reference, another = np.zeros(len(texts)), np.zeros(len(texts))
    reference[maybe] = forms == references["form"][maybe]
    another[maybe] = pd.Series(forms, dtype=object).duplicated(keep=False)
    return np.where(pd.isna(references["form"]), np.nan, reference), another


def _numbers(column: pa.ChunkedArray) -> Numbers:
    """NaN where there is none."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class _Whole:
    """An artifact that is the same as another one where folder and content are."""

    folder: Path
    digest: str
    artifact: Artifact = field(compare=False)


def _whole(artifact: Artifact | None) -> _Whole | None:
    return None if artifact is None else _Whole(artifact.folder, artifact.manifest.digest, artifact)


@lru_cache(maxsize=8)
def _of_references(references: _Whole | None) -> _ByPrompt:
    """Kept, since all cells of a policy have the same."""
    texts = reference_texts(references.artifact if references is not None else None)
    return _measured_references(_ids(texts.index), texts.tolist())


@lru_cache(maxsize=8)
def _of_appraised(appraised: _Whole | None) -> _ByPrompt:
    return _rewards(appraised.artifact if appraised is not None else None, "reference_reward")


def _rewards(appraised: Artifact | None, name: str) -> _ByPrompt:
    if appraised is None:
        return _ByPrompt(pa.array([], pa.string()), {name: np.zeros(0)})
    table = appraised.table("rewards", ["prompt_id", "reward"])
    return _ByPrompt(table["prompt_id"].combine_chunks(), {name: _numbers(table["reward"])})


def _by_prompt(artifact: Artifact, table: str, column: str) -> "pd.Series[Any]":
    frame: pd.DataFrame = artifact.table(table, ["prompt_id", column]).to_pandas()
    return frame.set_index("prompt_id")[column]


def _finite(values: Numbers) -> Numbers:
    return np.where(np.isfinite(values), values, np.nan)
