"""lm-evaluation-harness as a child process, in an interpreter of its own."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.engines import lm_eval_child, process
from harness.engines.process import EngineProcess
from harness.errors import ConfigError

KEY = "cluster.python.lm_eval"
INSTALL = (
    "install it there (`pip install 'lm_eval[hf]' peft`; `make lm-eval` makes .venv-lm-eval), or name the interpreter "
    f"that has it: {KEY}=/path/to/bin/python"
)


def interpreter(python: str | None) -> str:
    """Path of the interpreter that has lm_eval.

    Raises:
        ConfigError: there is none, or it has no lm_eval; says how to install it.
    """
    return process.interpreter(python, "lm_eval", KEY, INSTALL)


def check_tasks(python: str | None, tasks: Sequence[str], include: str | None) -> None:
    """Refuse tasks that lm_eval does not have, before any work.

    Raises:
        ConfigError: names the task and those like it.
    """
    with TemporaryDirectory() as folder:
        answer = _ask(python, {"kind": "check", "tasks": list(tasks), "include": _folder(include)}, Path(folder))
    for task, alike in answer["unknown"].items():
        near = f"did you mean {', '.join(alike)}?" if alike else "no name is like it."
        own = f" and the tasks in {include}" if include is not None else ""
        raise ConfigError(
            f"regressions.tasks.{task}: lm_eval has no task of that name; {near} Valid are the names of "
            f"`{interpreter(python)} -m lm_eval ls tasks`{own}"
        )


def evaluate(
    python: str | None, request: Mapping[str, Any], include: str | None, work: Path, threads: int | None = None
) -> dict[str, Any]:
    """Run one task on one model.

    Args:
        request: model, task, shots, batch_size, limit, chat_template, seed and cache of `lm_eval_child.evaluate`.
        work: a folder for what goes to and fro.

    Raises:
        ConfigError: the task cannot be set up: a faulty file, or data that cannot be had.
        EngineError: lm_eval died; ends with its last words.
    """
    answer = _ask(python, {"kind": "evaluate", "include": _folder(include), **request}, work, threads)
    if "error" in answer:
        raise ConfigError(
            f"regressions.tasks.{request['task']}: lm_eval cannot set it up; its data come from a hub unless its file "
            "names local ones, so this machine needs a network, or the data in its cache (HF_HOME): "
            f"{' '.join(answer['text'].split())[:600]}"
        )
    return answer


def _folder(include: str | None) -> str | None:
    return None if include is None else str(Path(include).expanduser().absolute())


def _ask(python: str | None, request: Mapping[str, Any], work: Path, threads: int | None = None) -> dict[str, Any]:
    path, answer = work / "request.json", work / "answer.json"
    answer.unlink(missing_ok=True)
    path.write_text(json.dumps(request))
    command = [interpreter(python), str(lm_eval_child.__file__), str(os.getpid()), str(path), str(answer)]
    given = {"OMP_NUM_THREADS": str(threads)} if threads is not None else {}
    variables = {"TOKENIZERS_PARALLELISM": "false", **process.environment(python, hub=True), **given}
    engine = EngineProcess(command, variables, "lm_eval", keep_output=True)
    try:
        engine.process.wait()
        if not answer.exists():
            raise engine.death("ended without scores")
        found: dict[str, Any] = json.loads(answer.read_text())
        return found
    finally:
        engine.end(grace=0)
        for file in (path, answer):
            file.unlink(missing_ok=True)
