"""A judge's server, and nodes that ask it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.judges import client
from harness.judges.config import OpenAIJudgeConfig
from harness.judges.engines import plan_judge
from harness.stages import Context, Outcome
from harness.stages.judge import run
from tests.artifacts import Shelf
from tests.configs import point
from tests.judges import server

VARIABLE = "TEST_JUDGE_KEY"

Ask = Callable[..., tuple[Outcome, Context]]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[server.Judge]:
    """A running server; its key is in the environment, and pauses are short."""
    monkeypatch.setenv(VARIABLE, server.KEY)
    monkeypatch.setattr(client, "_FIRST_WAIT", 0.01)
    with server.serving(server.Judge()) as running:
        yield running


def configured(url: str, **settings: Any) -> OpenAIJudgeConfig:
    """A configuration that asks a server."""
    given = {"base_url": url, "api_key_env": VARIABLE, "timeout_seconds": 2.0, "attempts": 3}
    shipped = point("judge=openai", f"judge.model={server.MODEL}").judge
    assert isinstance(shipped, OpenAIJudgeConfig)
    return dataclasses.replace(shipped, **{**given, **settings})


@pytest.fixture
def ask(tmp_path: Path, judge: server.Judge) -> Ask:
    """Runs a judge node over so many instructions, or over given answers and references."""
    shelf = Shelf(tmp_path)
    names = iter(f"work{i}" for i in range(100))

    def asking(
        matches: int | Mapping[str, tuple[str, str]] = 10, name: str | None = None, **settings: Any
    ) -> tuple[Outcome, Context]:
        given = matches if isinstance(matches, Mapping) else texts(matches)
        planned = plan_judge(configured(judge.url, **settings))
        context = shelf.context(
            name or next(names),
            answers=shelf.answers({i: answer for i, (answer, _) in given.items()}),
            references=shelf.answers({i: reference for i, (_, reference) in given.items()}),
            instructions=shelf.prompts({i: f"instruction {i}" for i in given}),
        )
        context = dataclasses.replace(context, params=planned.params)
        return run(context, planned.spec), context

    return asking


def texts(matches: int) -> dict[str, tuple[str, str]]:
    """Answers and references."""
    return {f"p{i}": (f"an answer to {i}", f"a reference to {i}") for i in range(matches)}
