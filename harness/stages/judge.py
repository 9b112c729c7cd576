"""Verdicts: each answer against its reference, in both orders."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import tables
from harness.stages import Context, Outcome
from harness.store import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Who judges."""

    engine: str


def run(context: Context, spec: Spec) -> Outcome:
    """Judge every instruction that both sides answered; an answer equal to its reference is a tie by definition.

    A judgement that is no number is kept as NaN in the table, counted as `failed_judgement`, and in no win rate.
    """
    answers = {r["prompt_id"]: r["text"] for r in context.input("answers").table("answers").to_pylist()}
    references = _references(context)
    instructions = context.input("instructions").table("prompts").to_pylist()
    both = [(i, p) for i, p in enumerate(instructions) if p["prompt_id"] in answers and p["prompt_id"] in references]
    asked = [p["messages"][-1]["content"] for _, p in both]
    ours = [answers[p["prompt_id"]] for _, p in both]
    theirs = [references[p["prompt_id"]] for _, p in both]
    untrained = context.input("references").manifest.stage == "respond"
    judge = make_judge(spec)
    with context.reporter.task(context.label, 2 * len(both), "verdicts") as task:
        first = _compare(judge, asked, ours, theirs)
        task.advance(len(both))
        second = 1.0 - _compare(judge, asked, theirs, ours)
        task.advance(len(both))
    rows = [_row(i, p["prompt_id"], first[k], second[k], ours[k] == theirs[k]) for k, (i, p) in enumerate(both)]
    tables.write(tables.build(tables.VERDICTS, rows), context.work / "verdicts.parquet")
    valid = np.array([r["preference"] for r in rows if np.isfinite(r["preference"])])
    dropped = {"unanswered": len(instructions) - len(both), "failed_judgement": len(both) - len(valid)}
    return Outcome(
        rows=Rows(taken=len(instructions), kept=len(valid), dropped={k: n for k, n in dropped.items() if n}),
        measures={
            "label": judge.label,
            "win_rate": float(valid.mean()) if len(valid) else None,
            "ties": int((valid == 0.5).sum()),
            "order_disagreement": int(((first - 0.5) * (second - 0.5) < 0).sum()),
            # Only against the untrained policy's answers is a difference a change.
            "share_changed": float(np.mean([not r["same_text"] for r in rows])) if rows and untrained else None,
        },
    )


def _references(context: Context) -> dict[str, str]:
    artifact = context.input("references")
    if artifact.manifest.stage == "respond":
        return {r["prompt_id"]: r["text"] for r in artifact.table("answers").to_pylist()}
    return {r["prompt_id"]: r["answer"] for r in artifact.table("prompts").to_pylist() if r["answer"] is not None}


def _compare(judge: Any, instructions: list[str], first: list[str], second: list[str]) -> Any:
    """Probability that the first answer is better, [instructions]."""
    return np.asarray(judge.compare(instructions, first, second), dtype=np.float64) if first else np.zeros(0)


def _row(index: int, prompt_id: str, first: float, second: float, same: bool) -> dict[str, Any]:
    """A probability is counted as it is, both orders averaged."""
    return {
        "prompt_id": prompt_id,
        "index": index,
        "preference_first": float(first),
        "preference_second": float(second),
        "preference": 0.5 if same else float((first + second) / 2),
        "same_text": same,
    }


def make_judge(spec: Spec) -> Any:
    """The judge of a spec: `label` and `compare(instructions, answers_a, answers_b)`."""
    from harness.engines.embedding import shared_encoder
    from harness.engines.proxy_judge import ProxyJudge, ShorterJudge

    return ProxyJudge(shared_encoder()) if spec.engine == "embedded" else ShorterJudge()
