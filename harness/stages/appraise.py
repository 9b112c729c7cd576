"""The selecting reward on held-out answers: what the pairs were chosen by, on text that nothing was trained on.

An answer is scored as a response that was sampled once, by the same engine and the same spec as the pool. One that was
brought along as text counts as finished; how many tokens it has is not known.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import tables
from harness.stages import Context, Outcome, model_score, score
from harness.store import Artifact

VERSION = score.VERSION
"""A reward means here what it means there."""


def run(context: Context, spec: score.Spec | model_score.Spec) -> Outcome:
    """Score every answer of a policy, or every reference answer that prompts bring."""
    responses = _Responses(context.input("answers"), context.work / "responses.parquet")
    outcome = score.run(replace(context, inputs={**context.inputs, "responses": (responses,)}), spec)
    responses.path.unlink()  # the answers are an input; here is what they scored
    rewards = tables.read(context.work / "rewards", ["reward"]).column("reward").to_numpy()
    finite = rewards[np.isfinite(rewards)]
    return replace(outcome, measures={**outcome.measures, "reward": float(finite.mean()) if len(finite) else None})


class _Responses(Artifact):
    """Answers that are read as a table of responses."""

    def __init__(self, answers: Artifact, path: Path) -> None:
        super().__init__(answers.folder, answers.manifest)
        self.path = path
        given = answers.manifest.stage == "prompts"
        rows = answers.table("prompts" if given else "answers").to_pylist()
        responses = [_given(row) for row in rows if row["answer"] is not None] if given else map(_response, rows)
        tables.write(tables.build(tables.RESPONSES, list(responses)), path)

    def table_path(self, name: str) -> Path:
        assert name == "responses"
        return self.path


def _response(row: dict[str, Any]) -> dict[str, Any]:
    kept = {name: row[name] for name in ("prompt_id", "text", "token_ids", "tokens")}
    return {**kept, "sample_index": 0, "finish_reason": row["finish_reason"] or "stop", "logp": None}


def _given(row: dict[str, Any]) -> dict[str, Any]:
    unknown = dict.fromkeys(("token_ids", "tokens", "finish_reason"))
    return _response({"prompt_id": row["prompt_id"], "text": row["answer"], **unknown})
