"""Published AlpacaEval 2 outputs and verdicts, read from a folder, as pairs to check a proxy judge on.

The data (Li et al. 2023; Dubois et al. 2024) are under CC BY-NC 4.0: they are read where they lie, never
copied. An instruction belongs to the fit half or to the report half by its hash; weights are chosen on the
first only.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError

REFERENCE = "gpt4_1106_preview (reference)"
# A constant string that games the judge of the benchmark: a warning light, never a model to learn from.
GAMING_MODELS = ("NullModel",)
CLEAR_MARGIN = 0.1
SHORT_WORDS = 75
GOOD_WORDS = (40, 100)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True)
class AlpacaData:
    """Lists in official order; `preferences[model][row]` goes from 1 (reference better) to 2 (model
    better)."""

    instructions: list[str]
    reference: list[str]
    outputs: dict[str, list[str]]
    preferences: dict[str, NDArray[np.float64]]

    def rows(self, *, fit: bool) -> list[int]:
        """Rows of the fit half, or of the report half."""
        return [row for row, text in enumerate(self.instructions) if in_fit_half(text) == fit]

    @property
    def models(self) -> list[str]:
        """The models without those that game the judge, by name."""
        return sorted(set(self.outputs) - set(GAMING_MODELS))


@dataclass(frozen=True, kw_only=True)
class VerdictPair:
    """Two answers to one instruction, and whether GPT-4 found the first better (`wins`)."""

    group: str
    row: int
    instruction: str
    first: str
    second: str
    wins: bool

    @property
    def log_ratio(self) -> float:
        """Natural log of the first answer's word count over the second's; no word counts as one."""
        return float(np.log(max(len(self.first.split()), 1) / max(len(self.second.split()), 1)))


def in_fit_half(instruction: str) -> bool:
    """Whether the instruction's hash puts it in the half that weights may be chosen on."""
    return int(hashlib.sha256(instruction.encode()).hexdigest()[:8], 16) % 2 == 0


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"--data: no file {path.name}; expected the folder of AlpacaEval 2 data that holds it")
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return handle.read()


def load_alpaca(folder: Path) -> AlpacaData:
    """The folder's instructions, outputs and verdicts; ConfigError names what is missing."""
    baseline = json.loads(_read(folder / "alpaca_eval_gpt4_baseline.json.gz"))
    instructions = [str(row["instruction"]) for row in baseline]
    preferences: dict[str, NDArray[np.float64]] = {}
    for row in csv.DictReader(_read(folder / "annotations.csv.gz").splitlines()):
        column = preferences.setdefault(row["model"], np.full(len(instructions), np.nan))
        column[int(row["index"])] = float(row["preference"] or "nan")
    outputs = {model: _read_outputs(folder, model, len(instructions)) for model in sorted(preferences)}
    reference = [str(row["output"]) for row in baseline]
    return AlpacaData(instructions=instructions, reference=reference, outputs=outputs, preferences=preferences)


def _read_outputs(folder: Path, model: str, count: int) -> list[str]:
    texts = [""] * count
    # Split at line feeds only: a JSON string may hold other separators that `splitlines` would break at.
    for line in _read(folder / "outputs" / f"{model}.jsonl.gz").split("\n"):
        if line:
            row = json.loads(line)
            texts[int(row["index"])] = str(row["output"])
    return texts


def _sign(preference: float) -> int:
    """1 where the model is clearly better, -1 where the reference is, 0 for no clear verdict."""
    return int(preference > 1.5 + CLEAR_MARGIN) - int(preference < 1.5 - CLEAR_MARGIN)


def reference_pairs(data: AlpacaData, model: str, rows: Sequence[int]) -> list[VerdictPair]:
    """Pairs (model's answer, reference answer) with a clear verdict."""
    signs = {row: _sign(float(data.preferences[model][row])) for row in rows}
    return [
        VerdictPair(
            group=model,
            row=row,
            instruction=data.instructions[row],
            first=data.outputs[model][row],
            second=data.reference[row],
            wins=sign > 0,
        )
        for row, sign in signs.items()
        if sign
    ]


def model_pairs(data: AlpacaData, rows: Sequence[int]) -> list[VerdictPair]:
    """Pairs of two models, one clearly better than the reference on the row and the other clearly worse."""
    pairs = []
    for first, second in combinations(data.models, 2):
        for row in rows:
            signs = (_sign(float(data.preferences[first][row])), _sign(float(data.preferences[second][row])))
            if signs in ((1, -1), (-1, 1)):
                pairs.append(
                    VerdictPair(
                        group=f"{first} / {second}",
                        row=row,
                        instruction=data.instructions[row],
                        first=data.outputs[first][row],
                        second=data.outputs[second][row],
                        wins=signs[0] > 0,
                    )
                )
    return pairs


def similar_length(pairs: Sequence[VerdictPair], ratio: float) -> list[VerdictPair]:
    """The pairs whose word counts differ by at most the factor `ratio`."""
    return [pair for pair in pairs if abs(pair.log_ratio) <= np.log(ratio)]


def shortened(pairs: Sequence[VerdictPair], count: int = SHORT_WORDS) -> list[VerdictPair]:
    """The pairs with both answers cut after `count` words, as a sampler with a token limit would cut them."""
    return [
        VerdictPair(
            group=pair.group,
            row=pair.row,
            instruction=pair.instruction,
            first=cut_words(pair.first, count),
            second=cut_words(pair.second, count),
            wins=pair.wins,
        )
        for pair in pairs
    ]


def cut_words(text: str, count: int) -> str:
    """The text up to the end of its `count`-th whitespace-separated word, its line breaks kept."""
    ends = [match.end() for match in _WORD.finditer(text)]
    return text if len(ends) <= count else text[: ends[count - 1]]


def end_at_sentence(text: str, count: int) -> str | None:
    """At most `count` words, ending with a sentence; None where that leaves less than half of `count` words.

    A text within `count` words comes back as it is.
    """
    if len(text.split()) <= count:
        return text
    short = cut_words(text, count)
    ends = [match.end() for match in _SENTENCE_END.finditer(short)]
    kept = short[: ends[-1]] if ends else ""
    return kept if 2 * len(kept.split()) >= count else None


def spoil(instruction: str, good: str, elsewhere: str, rng: np.random.Generator) -> dict[str, str]:
    """Bad responses made from a good one: {kind: text}; `elsewhere` answers another instruction."""
    spoken = good.split()
    third = cut_words(good, max(len(spoken) // 3, 1))
    sentence = re.split(r"(?<=[.!?])\s+", good)[0]
    phrase = " ".join(spoken[:4])
    return {
        "truncated (55 to 90 % of the words)": cut_words(good, max(int(len(spoken) * rng.uniform(0.55, 0.9)), 1)),
        "repeated (its first third, three times)": " ".join([third] * 3),
        "repeated (its first sentence, to the same length)": " ".join(
            [sentence] * max(2, len(spoken) // max(len(sentence.split()), 1))
        ),
        "repeated (its first four words, to the same length)": " ".join([phrase] * max(3, len(spoken) // 4)),
        "off topic (answer to another instruction)": elsewhere,
        "echo (the instruction alone)": instruction,
        "echo (the instruction, then its first third)": f"{instruction} {third}",
    }


def good_answers(data: AlpacaData, texts: Sequence[str], rows: Sequence[int]) -> dict[int, str]:
    """Rows' answers ended at a sentence, with a count of words within `GOOD_WORDS`: {row: text}."""
    fewest, most = GOOD_WORDS
    short = {row: end_at_sentence(texts[row], most) for row in rows}
    return {row: text for row, text in short.items() if text is not None and len(text.split()) >= fewest}
