"""What users bring along instead of a stage's own work: responses, rewards, answers, a model.

An artifact of this stage is made by `harness.imports`, never by a run; `sample`, `score` and `respond` take what a node
needs out of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness import chat, tables
from harness.errors import ConfigError, PrefsweepError
from harness.stages import Context, Outcome
from harness.stages.blocks import SampleBlock
from harness.store import Artifact, Rows

VERSION = 1

KINDS = ("responses", "rewards", "answers", "model")

NOT_IMPORTED = "not_imported"
"""Why all samples of a prompt without any response are dropped, or an instruction has no answer."""
TOO_FEW_IMPORTED = "too_few_imported"
"""Why the samples are dropped that a prompt has not, which has some."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Something imported, named by its content."""

    kind: str
    content: str
    """Hash of the rows, or of the model's files."""


def run(context: Context, spec: Spec) -> Outcome:
    """Refuse: what a user brought along cannot be made anew.

    Raises:
        PrefsweepError: always.
    """
    raise PrefsweepError(f"{context.label}: the imported {spec.kind} are no longer whole; import them again")


@dataclass(frozen=True, kw_only=True)
class SampleSpec(SampleBlock):
    """One block of samples for one block of prompts, out of imported responses."""

    trust_remote_code: bool
    """Of the policy, whose tokenizer is used."""
    engine: str = "imported"

    @property
    def max_new_tokens(self) -> int:
        """Nothing is generated."""
        return 0


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """Rewards that were imported."""

    engine: str = "imported"


@dataclass(frozen=True, kw_only=True)
class RespondSpec:
    """Answers that were imported."""

    instructions: str
    """Hash of the instructions' ids."""
    engine: str = "imported"

    @property
    def max_new_tokens(self) -> int:
        """Nothing is generated."""
        return 0


def sample(context: Context, spec: SampleSpec) -> Outcome:
    """The imported responses of a block, tokenised by the policy where they bring no token ids."""
    from harness.engines import models

    path = context.input("policy").model_path
    tokenizer, stops = models.load_tokenizer(path, spec.trust_remote_code)
    prompts = context.input("prompts").table("prompts").to_pylist()
    mine = {p["prompt_id"]: p for p in prompts if spec.holds(p["prompt_id"])}
    first = spec.sample_block * spec.samples
    block = _samples(context.input("imported").table("responses"), first, first + spec.samples).to_pylist()
    block = [r for r in block if spec.holds(r["prompt_id"])]
    given = [r for r in block if r["prompt_id"] in mine]
    rows = _tokenised(context, tokenizer, chat.response_end(tokenizer, stops), given)
    (context.work / "responses").mkdir(exist_ok=True)
    tables.write(tables.build(tables.RESPONSES, rows), context.work / "responses" / "00000.parquet")
    tokens = [
        {"prompt_id": i, "prompt_ids": chat.encode_prompt(tokenizer, mine[i]["messages"])}
        for i in dict.fromkeys(r["prompt_id"] for r in rows)
    ]
    tables.write(tables.build(tables.PROMPT_TOKENS, tokens), context.work / "prompt_tokens.parquet")
    without = len(mine.keys() - prompts_of(context.input("imported"))) * spec.samples
    missing = {NOT_IMPORTED: without, TOO_FEW_IMPORTED: len(mine) * spec.samples - without - len(rows)}
    return Outcome(
        rows=_rows(len(mine) * spec.samples, len(rows), missing), measures=_pool_measures(rows, len(block) - len(rows))
    )


def _tokenised(context: Context, tokenizer: Any, end: int, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the response table.

    Raises:
        ConfigError: token ids that are not those of the policy's tokenizer.
    """
    rows = []
    with context.reporter.task(context.label, len(given), "responses") as task:
        for r in given:
            ids = r["token_ids"]
            if ids is None:
                ids = chat.encode_response(tokenizer, r["text"], end if r["finish_reason"] == "stop" else None)
            elif not _spells(tokenizer, ids, r["text"]):
                raise ConfigError(
                    f"sampler.imported: the token_ids of prompt_id {r['prompt_id']}, sample_index {r['sample_index']} "
                    "are not its response in the policy's tokenizer; they are of another model (import the responses "
                    "without token_ids, and the policy's tokenizer makes them)"
                )
            rows.append({**r, "token_ids": ids, "tokens": len(ids), "logp": None})
            task.advance(1)
    return rows


def _spells(tokenizer: Any, ids: Sequence[int], text: str) -> bool:
    """Whether token ids are a text, up to blanks and a character that was cut in its middle."""
    if max(ids) >= len(tokenizer):
        return False
    decoded, given = ("".join(t.split()).rstrip("\ufffd") for t in (chat.decode_response(tokenizer, ids), text))
    return decoded == given


def _pool_measures(rows: Sequence[Mapping[str, Any]], unused: int) -> dict[str, Any]:
    return {
        "tokens": sum(r["tokens"] for r in rows),
        "finished": sum(r["finish_reason"] == "stop" for r in rows),
        "empty": sum(not r["text"].strip() for r in rows),
        "decoding": "as imported",
        # Imported responses of this block to prompts that the set does not hold.
        "unused": unused,
    }


def score(context: Context, _: ScoreSpec) -> Outcome:
    """The imported reward of every response; one that is not finite is kept, counted, and invalid for selection.

    Raises:
        ConfigError: a response without a reward, or a reward of another text.
    """
    responses = context.input("responses").table("responses", ["prompt_id", "sample_index", "text"]).to_pylist()
    imported = context.input("imported")
    table = _of_prompts(imported.table("rewards"), {r["prompt_id"] for r in responses})
    given = {(r["prompt_id"], r["sample_index"]): r for r in table.to_pylist()}
    _check_rewards(responses, given)
    attributes = [n.removeprefix("attribute_") for n in table.column_names if n.startswith("attribute_")]
    schema = tables.rewards_schema(attributes)
    found = [given[r["prompt_id"], r["sample_index"]] for r in responses]
    rows = [{name: r[name] for name in schema.names} for r in found]
    tables.write(tables.build(schema, [{**r, "reward": _number(r["reward"])} for r in rows]), _shard(context))
    invalid = sum(not np.isfinite(_number(r["reward"])) for r in rows)
    label = f"imported rewards {imported.manifest.measures['name']}"
    return Outcome(
        rows=Rows(taken=len(rows), kept=len(rows)),
        measures={"invalid": invalid, "label": label},
    )


def _shard(context: Context) -> Any:
    (context.work / "rewards").mkdir(exist_ok=True)
    return context.work / "rewards" / "00000.parquet"


def _number(reward: float | None) -> float:
    return float("nan") if reward is None else reward


def _check_rewards(responses: Sequence[Mapping[str, Any]], given: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """An id that was mistyped must not pass for a reward that is invalid."""
    keys = [(r["prompt_id"], r["sample_index"]) for r in responses]
    missing = [key for key in keys if key not in given]
    if missing:
        raise ConfigError(
            f"reward.imported: {len(missing)} of {len(keys)} responses have no imported reward (first: prompt_id "
            f"{missing[0][0]}, sample_index {missing[0][1]}); a reward that could not be given is imported as null"
        )
    for response, key in zip(responses, keys, strict=True):
        scored = given[key]["response"]
        if scored is not None and scored != response["text"]:
            raise ConfigError(
                f"reward.imported: the reward of prompt_id {key[0]}, sample_index {key[1]} scores another response "
                f"than the pool's: {scored[:60]!r} instead of {response['text'][:60]!r}"
            )


def respond(context: Context, _: RespondSpec) -> Outcome:
    """The imported answer to every instruction that has one; how they were decoded is not known."""
    instructions = context.input("instructions").table("prompts").to_pylist()
    table = context.input("imported").table("answers")
    given = dict(zip(table.column("prompt_id").to_pylist(), table.column("answer").to_pylist(), strict=True))
    answered = [p for p in instructions if p["prompt_id"] in given]
    unknown = dict.fromkeys(("token_ids", "tokens", "finish_reason", "kl"))
    rows = [
        {"prompt_id": p["prompt_id"], "instruction": p["messages"][-1]["content"], "text": given[p["prompt_id"]]}
        | unknown
        for p in answered
    ]
    (context.work / "answers").mkdir(exist_ok=True)
    tables.write(tables.build(tables.ANSWERS, rows), context.work / "answers" / "00000.parquet")
    return Outcome(
        rows=_rows(len(instructions), len(rows), {NOT_IMPORTED: len(instructions) - len(rows)}),
        measures={
            **dict.fromkeys(("tokens", "kl", "share_finished")),
            "empty": sum(not r["text"].strip() for r in rows),
            "decoding": "as imported",
            "unused": len(given) - len(rows),
        },
    )


def prompts_of(imported: Artifact) -> set[str]:
    """Ids of the prompts that imported rows are about."""
    return set(imported.table("prompts", ["prompt_id"]).column("prompt_id").to_pylist())


def _rows(asked: int, there: int, missing: Mapping[str, int]) -> Rows:
    return Rows(taken=asked, kept=there, dropped={reason: number for reason, number in missing.items() if number})


def _samples(table: Any, first: int, end: int) -> Any:
    index = table.column("sample_index")
    return table.filter(pc.and_(pc.greater_equal(index, first), pc.less(index, end)))


def _of_prompts(table: Any, prompts: set[str]) -> Any:
    return table.filter(pc.is_in(table.column("prompt_id"), value_set=pa.array(sorted(prompts), pa.string())))
