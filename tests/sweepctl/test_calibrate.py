"""`sweepctl calibrate`: published models in, a table and a figure out; what is not as it must be is named."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import benchmarks, published
from harness.prompts import prompt_id
from harness.sweepctl import main

INSTRUCTIONS = [f"Say {i}." for i in range(8)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as if AlpacaEval 2 had eight instructions and three models were published."""
    ids = tuple(prompt_id([{"role": "user", "content": text}], "") for text in INSTRUCTIONS)
    for module in (benchmarks, published):
        monkeypatch.setattr(module, "official_ids", lambda: ids)
    folder = tmp_path / "data"
    (folder / "outputs").mkdir(parents=True)
    baseline = [{"instruction": text, "output": "three words here", "generator": "b"} for text in INSTRUCTIONS]
    write(folder / published.BASELINE, json.dumps(baseline))
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["model", "index", "preference"])
    for words, model in enumerate(["one", "two", "many"], 1):
        output = " ".join(["word"] * (words if model != "many" else 5))
        lines = [json.dumps({"index": i, "output": f"{output} x" if i == 0 else output}) for i in range(8)]
        write(folder / "outputs" / f"{model}.jsonl.gz", "\n".join(lines))
        rows.writerows([model, i, 2.0 - words / 4 if i < 7 else ""] for i in range(8))
    write(folder / published.ANNOTATIONS, text.getvalue())
    yield folder
    benchmarks._by_instruction.cache_clear()


def write(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


def calibrate(data: Path, tmp_path: Path, *overrides: str) -> int:
    places = ["--data", str(data), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    return main(["calibrate", *(overrides or ("judge=shorter",)), *places])


def test_a_judge_is_compared_and_judges_nothing_twice(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(data, tmp_path) == 0
    printed = capsys.readouterr()
    summary = json.loads((tmp_path / "out" / "measures.json").read_text())
    assert summary["measures"]["longer_preferred"]["value"] < 0.2
    assert (summary["failed"], summary["tokens"]) == (0, 0)
    models = list(csv.DictReader(io.StringIO((tmp_path / "out" / "models.csv").read_text())))
    assert {row["model"]: row["comparisons"] for row in models} == {"many": "7", "one": "7", "two": "7"}
    assert "rank_correlation: " in printed.out
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 10_000
    assert calibrate(data, tmp_path) == 0
    assert "0 nodes computed" in capsys.readouterr().err


def test_what_cannot_be_used_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(tmp_path / "nowhere", tmp_path) == 2
    assert "--data:" in capsys.readouterr().err
    assert calibrate(data, tmp_path, "judge=nobody") == 2
    assert "nobody" in capsys.readouterr().err
    write(data / "outputs" / "one.jsonl.gz", json.dumps({"index": 8, "output": "x"}))
    assert calibrate(data, tmp_path) == 2
    assert "index: expected 0 to 7, got 8" in capsys.readouterr().err
    write(data / "outputs" / "unknown.jsonl.gz", json.dumps({"index": 1, "output": "x"}))
    (data / "outputs" / "one.jsonl.gz").unlink()
    assert calibrate(data, tmp_path) == 2
    assert "has no verdict on unknown" in capsys.readouterr().err
