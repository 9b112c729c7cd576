"""The prompts of a run, frozen: what was read, what was left out and why."""

from dataclasses import dataclass

from harness import tables
from harness.prompts import PromptSet
from harness.stages import Context, Outcome
from harness.store import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A set of prompts, named by its content."""

    prompts: str
    """Hash of the prompt ids."""
    answers: str | None
    """Hash of the reference answers, where the file gives some."""


def run(context: Context, spec: Spec) -> Outcome:
    """Write the prompts' table."""
    prompts: PromptSet = context.params["prompts"]
    rows = [
        {
            "prompt_id": p.prompt_id,
            "source_id": p.source_id,
            "kind": p.kind,
            "messages": list(p.messages),
            "answer": p.answer,
        }
        for p in prompts.prompts
    ]
    tables.write(tables.build(tables.PROMPTS, rows), context.work / "prompts.parquet")
    return Outcome(rows=Rows(taken=prompts.lines, kept=len(rows), dropped=prompts.dropped))
