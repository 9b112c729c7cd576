"""Annotations from a file: looked up by instruction, checked against what is judged, refused where they are others."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, PrefsweepError
from harness.judges.config import PrecomputedJudgeConfig
from harness.judges.engines import plan_judge
from harness.judges.precomputed import check_instructions
from harness.prompts import prompt_id
from harness.stages import Outcome
from harness.stages.judge import run
from tests.artifacts import Row, Shelf, adds_up, written
from tests.configs import point

QUESTIONS = [f"question {i}" for i in range(4)]
IDS = [prompt_id([{"role": "user", "content": text}], "") for text in QUESTIONS]

ROWS: list[Row] = [
    {"instruction": text, "preference": preference, "output_1": f"r{i}", "output_2": f"a{i}", "annotator": "x"}
    for i, (text, preference) in enumerate(zip(QUESTIONS, [1.0, 2, 1.5, 1.25], strict=True))
]


def configured(tmp_path: Path, rows: Any, share: float = 0.0, name: str = "annotations.json") -> PrecomputedJudgeConfig:
    path = tmp_path / name
    lines = "".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows)
    path.write_text(lines)
    shipped = point("judge=precomputed", f"judge.path={path}", "judge.annotator=me").judge
    assert isinstance(shipped, PrecomputedJudgeConfig)
    return dataclasses.replace(shipped, max_failed_share=share)


def judged(tmp_path: Path, rows: Any, share: float = 0.0) -> tuple[Outcome, list[Row]]:
    planned = plan_judge(configured(tmp_path, rows, share))
    shelf = Shelf(tmp_path)
    context = shelf.context(
        answers=shelf.answers({name: f"a{i}" for i, name in enumerate(IDS)}),
        references=shelf.answers({name: f"r{i}" for i, name in enumerate(IDS)}),
        instructions=shelf.prompts(dict(zip(IDS, QUESTIONS, strict=True))),
    )
    context = dataclasses.replace(context, params=planned.params)
    return run(context, planned.spec), written(context, "verdicts")


def test_preferences_are_those_of_the_rows_whatever_their_order(tmp_path: Path) -> None:
    outcome, rows = judged(tmp_path, ROWS[::-1])
    assert [row["preference"] for row in rows] == [0.0, 1.0, 0.5, 0.25]
    assert {(row["preference_first"], row["preference_second"]) for row in rows} == {(None, None)}
    assert adds_up(outcome.rows, 4, 4)
    assert outcome.measures["label"] == "annotations by me"
    assert outcome.measures["texts_checked"] == 4
    assert outcome.measures["position_bias"] is None


@pytest.mark.parametrize("rows", [ROWS[:3], [*ROWS[:3], {**ROWS[3], "preference": None}]])
def test_what_has_no_verdict_is_counted_and_bounded(tmp_path: Path, rows: list[Row]) -> None:
    outcome, _ = judged(tmp_path, rows, share=0.25)
    assert adds_up(outcome.rows, 4, 3, failed_judgement=1)
    (tmp_path / "again").mkdir()
    with pytest.raises(PrefsweepError, match=r"^judge: 1 of 4 .* failed \((not_annotated|annotated_as_failed) 1"):
        judged(tmp_path / "again", rows)


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    specs = [
        plan_judge(configured(tmp_path, rows, name=name)).spec
        for rows, name in [
            (ROWS, "a.json"),
            (ROWS[::-1], "b.jsonl"),
            ([{**ROWS[0], "preference": 2}, *ROWS[1:]], "c.json"),
        ]
    ]
    assert specs[0] == specs[1] != specs[2]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, ROWS[1]], r"row 5: the same instruction as in row 2"),
        ([{**ROWS[0], "preference": -1}], r"row 1, preference: expected 1 \(the reference\) to 2 .* got -1"),
        ([{**ROWS[0], "preference": 0}], r"row 1, preference: "),
        ([{**ROWS[0], "preference": "2"}], r"row 1, preference: expected a number or null"),
        ([{"instruction": "x"}], r"row 1, preference: missing"),
        ([{"preference": 1}], r"row 1, instruction: missing"),
        ([{**ROWS[0], "output_1": 3}], r"row 1, output_1: expected text"),
        ([], "holds no annotations"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^judge\.path: .*{said}"):
        plan_judge(configured(tmp_path, rows))


def test_rows_of_another_set_are_refused_before_any_work(tmp_path: Path) -> None:
    config = configured(tmp_path, [*ROWS, {**ROWS[0], "instruction": "foreign"}])
    with pytest.raises(ConfigError, match=r"1 rows are about .* not in the evaluation set \(first: row 5\)"):
        check_instructions(config, plan_judge(config).params, IDS)
    config = configured(tmp_path, ROWS[:2])
    with pytest.raises(ConfigError, match=r"has no row about 2 of the 4 instructions"):
        check_instructions(config, plan_judge(config).params, IDS)


@pytest.mark.parametrize(("field", "said"), [("output_1", "instead of 'r2'"), ("output_2", "instead of 'a2'")])
def test_annotations_of_other_texts_are_refused(tmp_path: Path, field: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^judge\.path: .* another {field} .*'other' {said}"):
        judged(tmp_path, [{**row, **({field: "other"} if i == 2 else {})} for i, row in enumerate(ROWS)])
