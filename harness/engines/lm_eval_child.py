"""The other end of an engine process: runs where lm-evaluation-harness is installed, which need not hold this project.

`python lm_eval_child.py PARENT REQUEST ANSWER` reads a JSON file and writes another. PARENT is the process with which
this one ends, however that ends. Only the standard library, lm_eval with what it brings and files beside this one that
import no more are used.
"""

import difflib
import importlib.metadata
import json
import os
import runpy
import signal
import sys
import threading
import time
from typing import Any

_PARENT_POLL = 0.25
"""Seconds between looks whether the parent still lives."""

_PACKAGES = ("lm_eval", "torch", "transformers", "datasets", "peft")

Answer = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Check or evaluate, as the request says."""
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path.pop(0)  # modules beside this file are no top-level packages
    parent, request, answer = arguments
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    with open(request, encoding="utf-8") as file:
        asked = json.load(file)
    if asked["include"] is not None:
        os.chdir(asked["include"])  # where the paths of its data begin
    result = check(asked) if asked["kind"] == "check" else evaluate(asked)
    with open(answer + ".partial", "w", encoding="utf-8") as file:
        json.dump(result, file, default=str)
    os.replace(answer + ".partial", answer)


def check(asked: dict[str, Any]) -> Answer:
    """Tasks that lm_eval does not have, each with names like it."""
    names = _known(asked["tasks"], asked["include"])[1]
    unknown = [task for task in asked["tasks"] if task not in names]
    return {"unknown": {task: difflib.get_close_matches(task, names, 5, 0.5) for task in unknown}}


def evaluate(asked: dict[str, Any]) -> Answer:
    """The scores of one task, its versions, and what every question scored."""
    import lm_eval
    import torch

    runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "first_calls.py"))["make"]()
    manager, _ = _known([asked["task"]], asked["include"])
    try:
        manager.load([asked["task"]])
    except Exception as error:  # whatever a data set or a user's own file may raise
        return {"error": "task", "text": f"{type(error).__name__}: {error}"}
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=asked["model"],
        tasks=[asked["task"]],
        num_fewshot=asked["shots"],
        batch_size=asked["batch_size"],
        device="cuda" if torch.cuda.is_available() else "cpu",
        limit=asked["limit"],
        use_cache=asked["cache"],
        apply_chat_template=asked["chat_template"],
        fewshot_as_multiturn=asked["chat_template"],
        fewshot_random_seed=asked["seed"],
        task_manager=manager,
        log_samples=True,
    )
    return {
        "scores": [row for task in found["results"] for row in _scores(found, task)],
        "samples": [row for task, samples in found["samples"].items() for s in samples for row in _samples(task, s)],
        "questions": found["n-samples"],
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _known(tasks: list[str], include: str | None) -> tuple[Any, list[str]]:
    """A manager that has the tasks, and all names that it knows; reading lm_eval's own 14,000 tasks takes seconds."""
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own, list(own.all_tasks)
    manager = TaskManager(include_path=include)
    return manager, list(manager.all_tasks)


def _scores(found: dict[str, Any], task: str) -> list[dict[str, Any]]:
    """One row per metric and filter of a task or group."""
    results = found["results"][task]
    rows = []
    for key, value in results.items():
        metric, comma, name = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            error = results.get(f"{metric}_stderr,{name}")
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": name,
                    "value": float(value),
                    # "N/A" where lm_eval has none.
                    "stderr": float(error) if isinstance(error, int | float) else None,
                    "higher_is_better": (found["higher_is_better"].get(task) or {}).get(metric),
                    "shots": found["n-shot"].get(task),
                    "version": str(found["versions"].get(task)),
                }
            )
    return rows


def _samples(task: str, sample: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per metric of a question whose score is a number of its own; some are only made of all together."""
    numbers = {metric: sample.get(metric) for metric in sample["metrics"]}
    return [
        {
            "task": task,
            "question": sample["doc_id"],
            "hash": sample["doc_hash"],
            "filter": sample["filter"],
            "metric": metric,
            "value": float(value),
        }
        for metric, value in numbers.items()
        if isinstance(value, int | float)
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
