"""Published models of AlpacaEval 2: their answers and the verdicts on them, from a folder.

DIR/alpaca_eval_gpt4_baseline.json.gz     instructions and reference outputs
DIR/outputs/MODEL.jsonl.gz                `index` (0 to 804, the official number) and `output`
DIR/annotations.csv.gz                    `model`, `index`, `preference` 1 (the reference) to 2 (the model)
"""

import csv
import gzip
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.benchmarks import official_ids
from harness.errors import ConfigError

BASELINE, OUTPUTS, ANNOTATIONS = "alpaca_eval_gpt4_baseline.json.gz", "outputs", "annotations.csv.gz"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One model's answers, and the published verdicts on them."""

    name: str
    outputs: Mapping[int, str]
    """By official number."""
    preferences: Mapping[int, float]
    """1 to 2; without those that failed."""


def load(folder: Path) -> list[PublishedModel]:
    """The models of a folder, by name.

    Raises:
        ConfigError: a file is missing or not as it must be; names the file and the row.
    """
    files = sorted((folder / OUTPUTS).glob("*.jsonl.gz"))
    if not files or not (folder / ANNOTATIONS).is_file() or not (folder / BASELINE).is_file():
        raise ConfigError(f"--data: {folder}: expected {BASELINE}, {ANNOTATIONS} and {OUTPUTS}/MODEL.jsonl.gz")
    preferences = _preferences(folder / ANNOTATIONS)
    models = []
    for file in files:
        name = file.name.removesuffix(".jsonl.gz")
        if name not in preferences:
            raise ConfigError(f"--data: {folder / ANNOTATIONS} has no verdict on {name}, whose outputs are there")
        models.append(PublishedModel(name=name, outputs=_outputs(file), preferences=preferences[name]))
    return models


def _outputs(file: Path) -> Mapping[int, str]:
    found: dict[int, str] = {}
    try:
        with gzip.open(file, "rt", encoding="utf-8") as opened:
            for number, line in enumerate(opened, 1):
                row = json.loads(line)
                index = _index(row["index"], f"{file}, line {number}")
                if index in found or not isinstance(row["output"], str):
                    raise ConfigError(
                        f"--data: {file}, line {number}: an index that was there, or an output without text"
                    )
                found[index] = row["output"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--data: {file} cannot be read: {type(error).__name__} {error}") from None
    return found


def _preferences(file: Path) -> Mapping[str, Mapping[int, float]]:
    found: dict[str, dict[int, float]] = {}
    try:
        with gzip.open(file, "rt", encoding="utf-8", newline="") as opened:
            for number, row in enumerate(csv.DictReader(opened), 2):
                where = f"{file}, line {number}"
                own, index = found.setdefault(row["model"], {}), _index(int(row["index"]), where)
                preference = float(row["preference"] or "nan")
                if index in own or not (math.isnan(preference) or 1 <= preference <= 2):
                    raise ConfigError(f"--data: {where}: an index that was there, or a preference that is not 1 to 2")
                own[index] = preference
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--data: {file} cannot be read: {type(error).__name__} {error}") from None
    return {name: {i: p for i, p in own.items() if not math.isnan(p)} for name, own in found.items()}


def _index(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < len(official_ids()):
        raise ConfigError(f"--data: {where}, index: expected 0 to {len(official_ids()) - 1}, got {value!r}")
    return value
