"""Prompts of published data sets, out of files in their layout."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import prompt_datasets
from harness.errors import ConfigError
from harness.plan import load_train_prompts
from harness.prompt_datasets import DatasetPromptsConfig, load
from tests.configs import point

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def config(folder: Path, /, **fields: Any) -> DatasetPromptsConfig:
    given: dict[str, Any] = {
        "name": "test",
        "layout": "ultrafeedback_binarized",
        "path": str(folder),
        "id": None,
        "revision": None,
        "files": "train_prefs-*.parquet",
        "exclude_sources": (),
        "limit": None,
        "duplicates": "drop",
    }
    return DatasetPromptsConfig(**{**given, **fields})


@pytest.fixture
def binarized(tmp_path: Path) -> Path:
    conversations = [
        [user("One"), said("x")],
        [SYSTEM, user("Two"), said("x"), user("More"), said("y")],
        [user("One"), said("another")],
        [user("  "), said("x")],
        [said("x")],
        [user("Three"), said("x")],
    ]
    rows = [{"prompt": "unused", "chosen": c, "rejected": c[::-1], "score_chosen": 1.0} for c in conversations]
    for number, part in enumerate((rows[:4], rows[4:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"train_prefs-{number:05d}-of-00002.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "test_prefs-00000-of-00001.parquet")
    return tmp_path


@pytest.fixture
def original(tmp_path: Path) -> Path:
    files = {
        "evol_instruct.jsonl": [("evol_instruct", "One"), ("evol_instruct", "Two")],
        "truthful_qa.jsonl": [("truthful_qa", "Is it true?")],
    }
    for name, rows in files.items():
        lines = [json.dumps({"source": s, "instruction": text, "completions": []}) for s, text in rows]
        (tmp_path / name).write_text("\n".join(lines))
    return tmp_path


def test_all_turns_but_the_last_of_the_chosen_are_the_prompt(binarized: Path) -> None:
    found = load(config(binarized))
    assert [p.messages for p in found.prompts] == [
        (user("One"),),
        (SYSTEM, user("Two"), said("x"), user("More")),
        (user("Three"),),
    ]
    assert found.lines == 6
    assert found.dropped == {"duplicate": 1, "no_prompt": 2}
    assert found.prompts[2].source_id == "train_prefs-00001-of-00002.parquet, row 2"


def test_a_single_file_and_a_limit(binarized: Path) -> None:
    found = load(config(binarized / "train_prefs-00000-of-00002.parquet", limit=3))
    assert (len(found.prompts), found.lines, found.dropped) == (2, 3, {"duplicate": 1})


def test_a_repeated_prompt_can_be_an_error(binarized: Path) -> None:
    with pytest.raises(ConfigError, match=r"00002\.parquet, row 3: the same prompt as in .*, row 1; set prompts\.dupl"):
        load(config(binarized, duplicates="error"))


def test_sources_are_left_out_and_counted(original: Path) -> None:
    found = load(config(original, layout="ultrafeedback", files="*.jsonl", exclude_sources=("truthful_qa",)))
    assert [(p.instruction, p.kind) for p in found.prompts] == [("One", "evol_instruct"), ("Two", "evol_instruct")]
    assert (found.lines, found.dropped) == (3, {"excluded_source": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"files": "none-*"}, r"prompts\.files: .* has no file like 'none-\*'"),
        ({"layout": "ultrafeedback"}, r"row 1 has no 'instruction'; this is no ultrafeedback data set"),
        ({"path": "/nowhere"}, r"prompts\.files: /nowhere has no file like"),
    ],
)
def test_files_that_are_not_there_or_of_another_layout(binarized: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(config(binarized, **fields))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "train_prefs-0.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match=r"prompts\.files: cannot read .*train_prefs-0\.parquet"):
        load(config(tmp_path))
    (tmp_path / "rows.jsonl").write_text('{"instruction": "One"}\n{"instr')
    with pytest.raises(ConfigError, match=r"prompts\.files: cannot read .*rows\.jsonl"):
        load(config(tmp_path, layout="ultrafeedback", files="*.jsonl"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": None}, r"prompts\.path: expected a file or folder, or prompts\.id"),
        ({"path": None, "id": "org/set", "revision": "main"}, r"prompts\.revision: 'main' is no commit"),
    ],
)
def test_a_hub_data_set_is_named_by_its_commit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prompt_datasets.check(config(Path(), **fields))


def test_a_point_takes_its_prompts_from_a_data_set(binarized: Path) -> None:
    (binarized / "data").mkdir()
    for file in binarized.glob("train_prefs-*"):
        file.rename(binarized / "data" / file.name)
    config = point("prompts=ultrafeedback_binarized", f"prompts.path={binarized}", "prompts.limit=2")
    assert [p.instruction for p in load_train_prompts(config).prompts] == ["One", "More"]
