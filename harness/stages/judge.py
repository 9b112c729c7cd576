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
    """Judge every instruction that both sides answered; an answer equal to its reference is a tie by definition."""
    answers = {r["prompt_id"]: r for r in context.input("answers").table("answers").to_pylist()}
    references = _references(context)
    instructions = context.input("instructions").table("prompts").to_pylist()
    both = [
        (i, p["prompt_id"])
        for i, p in enumerate(instructions)
        if {p["prompt_id"]} <= answers.keys() & references.keys()
    ]
    texts = [[instructions[i]["messages"][-1]["content"] for i, _ in both]]
    texts += [[side[p] for _, p in both] for side in ({k: r["text"] for k, r in answers.items()}, references)]
    judge = make_judge(spec)
    with context.reporter.task(context.label, 2 * len(both), "verdicts") as task:
        first = _compare(judge, texts[0], texts[1], texts[2])
        task.advance(len(both))
        second = 1.0 - _compare(judge, texts[0], texts[2], texts[1])
        task.advance(len(both))
    rows = [
        _row(i, prompt_id, first[k], second[k], texts[1][k] == texts[2][k]) for k, (i, prompt_id) in enumerate(both)
    ]
    tables.write(tables.build(tables.VERDICTS, rows), context.work / "verdicts.parquet")
    preferences = np.array([r["preference"] for r in rows])
    dropped = {"unanswered": len(instructions) - len(both)} if len(both) < len(instructions) else {}
    return Outcome(
        rows=Rows(taken=len(instructions), kept=len(both), dropped=dropped),
        measures={
            "label": judge.label,
            "win_rate": float(preferences.mean()) if rows else None,
            "ties": int((preferences == 0.5).sum()),
            "order_disagreement": int(((first - 0.5) * (second - 0.5) < 0).sum()),
            "share_changed": float(np.mean([not r["same_text"] for r in rows])) if rows else None,
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
