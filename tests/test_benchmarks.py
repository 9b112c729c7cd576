"""AlpacaEval 2: the official order restored, and everything that is not the official set refused."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import benchmarks
from harness.benchmarks import load_instructions, load_references, official_ids
from harness.errors import ConfigError
from harness.plan import load_held_out
from harness.plan import load_references as planned_references
from harness.prompts import prompt_id
from tests.configs import point

SHARED = Path(os.environ.get("PREFSWEEP_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "alpaca_eval"
BASELINE = SHARED / "alpaca_eval_gpt4_baseline.json.gz"

ROWS = [
    {"dataset": "koala", "instruction": f"Say {i}.", "output": f"{i}!", "generator": "gpt4_1106_preview"}
    for i in range(6)
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if AlpacaEval 2 had these six instructions."""
    ids = tuple(prompt_id([{"role": "user", "content": str(row["instruction"])}], "") for row in ROWS)
    monkeypatch.setattr(benchmarks, "official_ids", lambda: ids)
    yield
    benchmarks._by_instruction.cache_clear()


def write(path: Path, rows: Any) -> str:
    data = json.dumps(rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def test_the_official_ids_are_805_and_distinct() -> None:
    assert len(official_ids()) == len(set(official_ids())) == 805


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_shuffled_rows_stand_in_official_order_with_their_numbers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [*ROWS[3:], *reversed(ROWS[:3])])
    instructions = load_instructions(path, None)
    assert [p.instruction for p in instructions.prompts] == [row["instruction"] for row in ROWS]
    assert [p.source_id for p in instructions.prompts] == list("012345")
    assert {p.answer for p in instructions.prompts} == {None}
    references = load_references(path, "evaluate.references", 2)
    assert [p.answer for p in references.prompts] == ["0!", "1!"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[:2] + ROWS[4:], r"lacks 2 of the 6 instructions of AlpacaEval 2 \(first: number 2\)"),
        ([*ROWS, ROWS[3]], r"row 7: the same instruction as in an earlier row: 'Say 3\.'"),
        ([*ROWS[:5], {**ROWS[5], "instruction": "Say 6."}], r"holds 1 instructions that are not .*'Say 6\.'"),
        ([*ROWS[:5], {"output": "x"}], r"row 6: expected an object with 'instruction'"),
        ({"rows": ROWS}, "expected a JSON list"),
    ],
)
def test_another_set_is_refused(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^evaluate\.path: .*{said}"):
        load_instructions(write(tmp_path / "rows.json", rows), None)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("output", [None, 3, ["x"]])
def test_an_output_that_is_no_text_is_refused(tmp_path: Path, output: Any) -> None:
    path = write(tmp_path / "rows.json", [*ROWS[:5], {**ROWS[5], "output": output}])
    load_instructions(path, None)
    with pytest.raises(ConfigError, match=r"^evaluate\.references: instruction 5 has no 'output'"):
        load_references(path, "evaluate.references", None)


@pytest.mark.parametrize("data", [b"no JSON", b"\xff\xfe", b""])
@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz"])
def test_an_unreadable_file_is_named(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"^evaluate\.path: .*{path.name}"):
        load_instructions(str(path), None)
    with pytest.raises(ConfigError, match=r"^evaluate\.path: cannot read .*none\.json: No such file"):
        load_instructions(str(tmp_path / "none.json"), None)


def test_without_the_hub_the_file_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match=r"^evaluate\.path: .* could not be had from .*; give the file's path"):
        load_instructions(None, None)


@pytest.mark.skipif(not BASELINE.exists(), reason=f"{BASELINE} is not there: the instructions are not carried along")
def test_the_published_file_has_every_instruction_in_its_place() -> None:
    config = point("evaluate=alpaca_eval2", f"evaluate.path={BASELINE}")
    held_out, references = load_held_out(config), planned_references(config)
    rows = json.loads(gzip.decompress(BASELINE.read_bytes()))
    assert [p.instruction for p in held_out.prompts] == [row["instruction"] for row in rows]
    assert [p.answer for p in references.prompts] == [row["output"] for row in rows]
    assert held_out.hash == references.hash
