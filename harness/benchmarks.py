"""AlpacaEval 2: its 805 instructions in their official order, and the outputs that answers are compared with.

The instructions are not carried along (CC BY-NC 4.0; Li et al. 2023, Dubois et al. 2024): they are read from a file of
yours or from the hub. Their ids are, in official order, so that whatever is read can be checked and put in order; the
package looks difficulties up by that order, and is silently wrong where rows are missing or moved.
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.prompts import Prompt, PromptSet, prompt_id

ALPACA_EVAL2 = "alpaca_eval2"

GPT4_1106_PREVIEW = "gpt4_1106_preview"
"""The reference outputs of AlpacaEval 2, which stand in the same file as its instructions."""

_REPOSITORY, _FILE = "tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"


@lru_cache(maxsize=1)
def official_ids() -> tuple[str, ...]:
    """The ids of the instructions, in official order."""
    text = (resources.files("harness") / "data" / "alpaca_eval2_ids.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def load_instructions(path: str | None, limit: int | None) -> PromptSet:
    """The instructions, in official order, without outputs.

    Args:
        path: `alpaca_eval_gpt4_baseline.json`, or any model's outputs with all instructions, also gzipped; None for the
            hub.
        limit: the first so many.

    Raises:
        ConfigError: the file is not there or not in this form; a foreign, repeated or missing instruction.
    """
    rows = _by_instruction(path, "evaluate.path")
    check_complete(rows, "evaluate.path", path or _FILE)
    prompts = [_prompt(number, rows[i], None) for number, i in enumerate(official_ids())]
    kept = tuple(prompts[:limit])
    return PromptSet(prompts=kept, lines=len(kept), dropped={})


def load_references(path: str | None, key: str, limit: int | None) -> PromptSet:
    """The outputs that answers are compared with, of the same instructions.

    Args:
        path: as of the instructions.
        key: config path that errors name.

    Raises:
        ConfigError: as for the instructions, or an output that is none.
    """
    rows = _by_instruction(path, key)
    check_complete(rows, key, path or _FILE)
    chosen = [(number, rows[i]) for number, i in enumerate(official_ids())][:limit]
    for number, row in chosen:
        if not isinstance(row.get("output"), str):
            raise ConfigError(f"{key}: instruction {number} has no 'output', or one that is no text")
    prompts = tuple(_prompt(number, row, row["output"]) for number, row in chosen)
    return PromptSet(prompts=prompts, lines=len(prompts), dropped={})


def _prompt(number: int, row: Mapping[str, Any], answer: str | None) -> Prompt:
    return Prompt(
        prompt_id=official_ids()[number],
        source_id=str(number),
        kind=str(row.get("dataset", "")),
        messages=({"role": "user", "content": row["instruction"]},),
        answer=answer,
    )


@lru_cache(maxsize=8)
def _by_instruction(path: str | None, key: str) -> Mapping[str, Mapping[str, Any]]:
    """The rows of a file by the ids of their instructions."""
    file = Path(path).expanduser() if path is not None else _download(key)
    found: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(_rows(file, key), 1):
        where = f"{key}: {file}, row {number}"
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise ConfigError(f"{where}: expected an object with 'instruction' (and 'output'), as alpaca_eval has them")
        name = prompt_id([{"role": "user", "content": row["instruction"]}], where)
        if name in found:
            raise ConfigError(f"{where}: the same instruction as in an earlier row: {row['instruction'][:60]!r}")
        found[name] = row
    return found


def check_complete(rows: Mapping[str, Any], key: str, name: str) -> None:
    """Refuse what is not exactly the official instructions.

    Raises:
        ConfigError: says how many are foreign or missing, and names the first.
    """
    official = official_ids()
    foreign = [row for i, row in rows.items() if i not in set(official)]
    missing = [number for number, i in enumerate(official) if i not in rows]
    if foreign:
        raise ConfigError(
            f"{key}: {name} holds {len(foreign)} instructions that are not AlpacaEval 2's (first: "
            f"{foreign[0]['instruction'][:60]!r}); for a set of your own leave out evaluate.benchmark"
        )
    if missing:
        raise ConfigError(
            f"{key}: {name} lacks {len(missing)} of the {len(official)} instructions of AlpacaEval 2 (first: number "
            f"{missing[0]}); evaluate.limit takes the first so many"
        )


def _rows(file: Path, key: str) -> Sequence[Any]:
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8")
        rows = json.loads(text)
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {file}: {error.strerror or error}") from None
    except (ValueError, EOFError, zlib.error, RecursionError) as error:
        raise ConfigError(f"{key}: {file}: no readable JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{key}: {file}: expected a JSON list of objects, as alpaca_eval has them")
    return rows


def _download(key: str) -> Path:
    """The official file, from the hub or its cache; what decides a key is its content, which is checked."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(_REPOSITORY, _FILE, repo_type="dataset"))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"{key}: {_FILE} could not be had from the data set {_REPOSITORY} of the hub ({reason}); "
            "give the file's path"
        ) from None
