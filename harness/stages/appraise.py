"""The selecting reward on held-out answers: what the pairs were chosen by, on text that nothing was trained on.

An answer is scored as a response that was sampled once, by the same engine and the same spec as the pool.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from harness import tables
from harness.stages import Context, Outcome, score
from harness.store import Artifact

VERSION = score.VERSION
"""A reward means here what it means there."""


def run(context: Context, spec: score.Spec) -> Outcome:
    """Score every answer. One that was brought along as text counts as finished; how many tokens it has is not known."""
    answers = context.input("answers")
    outcome = score.run(replace(context, inputs={**context.inputs, "responses": (_Responses(answers),)}), spec)
    rewards = tables.read(context.work / "rewards", ["reward"]).column("reward").to_numpy()
    finite = rewards[np.isfinite(rewards)]
    mean = {"reward": float(finite.mean()) if len(finite) else None}
    return replace(outcome, measures={**outcome.measures, **mean})


class _Responses(Artifact):
    """Answers, or the reference answers among prompts, as a table of responses."""

    def __init__(self, answers: Artifact) -> None:
        super().__init__(answers.folder, answers.manifest)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        assert name == "responses"
        table = tables.build(tables.RESPONSES, answers_as_responses(self))
        return table if columns is None else table.select(columns)


def answers_as_responses(answers: Artifact) -> Sequence[dict[str, Any]]:
    """Rows of the response table out of an artifact of `respond`, or of `prompts` that bring answers."""
    read = Artifact.table
    if answers.manifest.stage == "respond":
        rows = read(answers, "answers").to_pylist()
    else:
        given = [r for r in read(answers, "prompts").to_pylist() if r["answer"] is not None]
        unknown = {"token_ids": None, "tokens": None, "finish_reason": None}
        rows = [{"prompt_id": r["prompt_id"], "text": r["answer"], **unknown} for r in given]
    kept = ("prompt_id", "text", "token_ids", "tokens")
    return [
        {name: r[name] for name in kept}
        | {"sample_index": 0, "finish_reason": r["finish_reason"] or "stop", "logp": None}
        for r in rows
    ]
