"""Static candidates in the tables of a pool: tokenised by the policy, with the scores that they come with.

`sample` and `score` take this part for them, so that nothing after them needs to know where responses come from.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness import chat, tables
from harness.errors import ConfigError
from harness.stages import Context, Outcome
from harness.stages.blocks import PromptBlock
from harness.stages.candidates import NO_CANDIDATES
from harness.store import Rows

_SHARD = 2048
"""Responses tokenised between two writes."""


@dataclass(frozen=True, kw_only=True)
class SampleSpec(PromptBlock):
    """The static candidates of one block of prompts."""

    trust_remote_code: bool
    """Of the policy, whose tokenizer is used."""
    engine: str = "static"

    @property
    def max_new_tokens(self) -> int:
        """Nothing is generated."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """The scores that the data come with."""

    engine: str = "static"


def sample(context: Context, spec: SampleSpec) -> Outcome:
    """A block's candidates as responses that ended by themselves: text, and the tokens of the policy's template."""
    from harness.engines import models

    tokenizer, stops = models.load_tokenizer(context.input("policy").model_path, spec.trust_remote_code)
    end = chat.response_end(tokenizer, stops)
    prompts = context.input("prompts").table("prompts").to_pylist()
    mine = {p["prompt_id"]: p for p in prompts if spec.holds(p["prompt_id"])}
    table = context.input("candidates").table("candidates", ["prompt_id", "sample_index", "text"])
    given = _of_prompts(table, mine.keys()).to_pylist()
    folder = context.work / "responses"
    folder.mkdir(exist_ok=True)
    with context.reporter.task(context.label, len(given), "responses") as task:
        for number, start in enumerate(range(0, max(1, len(given)), _SHARD)):
            path, shard = folder / f"{number:05d}.parquet", given[start : start + _SHARD]
            if not path.exists():
                encoded = [(r, chat.encode_response(tokenizer, r["text"], end)) for r in shard]
                rows = [
                    {**r, "token_ids": ids, "tokens": len(ids), "finish_reason": "stop", "logp": None}
                    for r, ids in encoded
                ]
                tables.write(tables.build(tables.RESPONSES, rows), path)
            task.advance(len(shard))
    there = dict.fromkeys(r["prompt_id"] for r in given)
    tokens = [{"prompt_id": i, "prompt_ids": chat.encode_prompt(tokenizer, mine[i]["messages"])} for i in there]
    tables.write(tables.build(tables.PROMPT_TOKENS, tokens), context.work / "prompt_tokens.parquet")
    without = len(mine) - len(there)
    written = tables.read(folder, ["tokens"])
    return Outcome(
        rows=Rows(taken=len(given) + without, kept=len(given), dropped={NO_CANDIDATES: without} if without else {}),
        measures={
            "tokens": sum(written.column("tokens").to_pylist()),
            "finished": len(given),
            "empty": 0,
            "decoding": "static",
        },
    )


def score(context: Context, _: ScoreSpec) -> Outcome:
    """The data's own score of every response; one without is kept, counted, and invalid for selection.

    Raises:
        ConfigError: none of the block has a score.
    """
    ids = set(context.input("responses").table("responses", ["prompt_id"]).column("prompt_id").to_pylist())
    found = _of_prompts(context.input("candidates").table("candidates"), ids).drop_columns(["text"])
    rewards = found.column("reward")
    if len(found) and rewards.null_count == len(found):
        raise ConfigError(no_rewards())
    attributes = [n.removeprefix("attribute_") for n in found.column_names if n.startswith("attribute_")]
    found = found.set_column(
        found.column_names.index("reward"), "reward", pc.fill_null(rewards, pa.scalar(float("nan"), pa.float64()))
    )
    (context.work / "rewards").mkdir(exist_ok=True)
    table = found.select(tables.rewards_schema(attributes).names).cast(tables.rewards_schema(attributes))
    tables.write(table, context.work / "rewards" / "00000.parquet")
    return Outcome(
        rows=Rows(taken=len(found), kept=len(found)),
        measures={"invalid": rewards.null_count, "label": f"scores of the static data {context.params['name']}"},
    )


def no_rewards() -> str:
    """What is said where scores are asked for that the data do not have."""
    return (
        "candidates.rewards: the static data have no scores; set candidates.rewards=score, and the stage `score` gives "
        "them those of the group `reward`"
    )


def _of_prompts(table: Any, ids: Collection[str]) -> Any:
    chosen = table.filter(pc.is_in(table.column("prompt_id"), value_set=pa.array(sorted(ids), pa.string())))
    return chosen.sort_by([("prompt_id", "ascending"), ("sample_index", "ascending")])
