"""A judge's process killed half-way through 1,610 judgements, under every fault: each once, none paid for twice."""

import json
import subprocess
import zlib
from functools import partial
from pathlib import Path

import pytest

from tests.artifacts import Shelf
from tests.judges import server
from tests.judges.conftest import VARIABLE, texts
from tests.processes import kill, start, wait_until

MATCHES = 805
CONCURRENCY = 8
FAULTS = ("429", "500", "cut", "hang", "html", "retry_after", "503", "slow")


def faults(judge: server.Judge) -> None:
    """A fault at the first attempt of a tenth of the questions; a few give no answer that can be used, ever."""

    def fault(number: int, tries: int) -> str | None:
        place = zlib.crc32(judge.asked[number].encode())
        if place % 800 == 7:
            return "no_logprobs"
        if place % 800 == 8:
            return "garbage"
        if tries == 0 and place % 10 == 3:
            return FAULTS[place // 10 % len(FAULTS)] if place % 7 else None
        return None

    judge.faults = fault


def _has_paid(judge: server.Judge, number: float) -> bool:
    return judge.paid.total() > number


def test_every_verdict_exactly_once_and_none_paid_for_twice(
    tmp_path: Path, judge: server.Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path)
    given = texts(MATCHES)
    shelf.answers({i: answer for i, (answer, _) in given.items()})
    shelf.answers({i: reference for i, (_, reference) in given.items()})
    shelf.prompts({i: f"instruction {i}" for i in given})
    faults(judge)
    settings = json.dumps({"concurrency": CONCURRENCY, "timeout_seconds": 1.0, "attempts": 4, "max_failed_share": 0.1})
    arguments = ["-m", "tests.judges.node", str(tmp_path), judge.url, settings]
    killed_in_flight = 0
    for share in (0.3, 0.6):
        process = start(arguments, tmp_path, {VARIABLE: server.KEY}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_until(partial(_has_paid, judge, share * 2 * MATCHES), 120, "judgements")
        kill(process)
        process.communicate()
        killed_in_flight += CONCURRENCY
    process = start(arguments, tmp_path, {VARIABLE: server.KEY}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    outcome = json.loads(output)
    asked = set(judge.asked)
    assert len(asked) == 2 * MATCHES
    assert judge.paid.keys() == asked
    twice = {question: number for question, number in judge.paid.items() if number > 1}
    assert sum(number - 1 for number in twice.values()) <= killed_in_flight
    bad = {q for q in asked if zlib.crc32(q.encode()) % 800 in (7, 8)}
    assert 0 < len(bad) < 10
    assert outcome["rows"]["dropped"] == {"failed_judgement": sum(outcome["measures"]["failures"].values())}
    assert outcome["rows"]["kept"] + len(bad) >= MATCHES
    assert outcome["measures"]["judgements"] == 2 * MATCHES
    (journal,) = (shelf.store.root / "judgements").glob("*/*.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len({line["request"] for line in lines}) == len(lines) == 2 * MATCHES
