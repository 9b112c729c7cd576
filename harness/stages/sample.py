"""The pool: one block of samples for one block of prompts."""

from dataclasses import dataclass
from typing import Any

from harness import chat, tables
from harness.prompts import block_of
from harness.stages import Context, Outcome, imported
from harness.store import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Everything that decides the responses of one block."""

    engine: str
    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    batch_size: int
    dtype: str
    trust_remote_code: bool
    blocks: int
    block: int
    """Prompts whose hash falls into this one of `blocks`."""
    prompts: str
    """Hash of the ids of the block's prompts."""
    sample_block: int
    """Number of the sample block."""
    samples: int
    """Samples per prompt in a block: this one holds sample_block * samples onwards."""


def run(context: Context, spec: Spec | imported.SampleSpec) -> Outcome:
    """Sample shard by shard; shards that stand from an interrupted run are kept."""
    if isinstance(spec, imported.SampleSpec):
        return imported.sample(context, spec)
    from harness.engines import generation, models

    model, tokenizer, stops = models.load(context.input("policy").model_path, spec.dtype, spec.trust_remote_code)
    prompts = context.input("prompts").table("prompts").to_pylist()
    mine = [p for p in prompts if block_of(p["prompt_id"], spec.blocks) == spec.block]
    encoded = {p["prompt_id"]: chat.encode_prompt(tokenizer, p["messages"]) for p in mine}
    limit = models.prompt_room(model, spec.max_prompt_tokens, spec.max_new_tokens, "sampler.max_new_tokens")
    fitting = {i: ids for i, ids in encoded.items() if len(ids) <= limit}
    too_long = len(encoded) - len(fitting)
    shards = _shards(fitting, max(1, spec.batch_size // spec.samples))
    (context.work / "responses").mkdir(exist_ok=True)
    todo = [(path, ids) for i, ids in enumerate(shards) if not (path := _shard_path(context, i)).exists()]
    total, missing = len(fitting) * spec.samples, sum(len(ids) for _, ids in todo) * spec.samples
    with context.reporter.task(context.label, total, "responses", total - missing) as task:
        for path, ids in todo:
            requests = [generation.Request(i, fitting[i], (spec.seed, i, spec.sample_block)) for i in ids]
            responses = generation.generate(model, stops, requests, spec.samples, _decoding(spec), context.parts)
            rows = [_row(tokenizer, r, spec) for r in responses]
            tables.write(tables.build(tables.RESPONSES, rows), path)
            task.advance(len(rows))
    if not shards:
        tables.write(tables.build(tables.RESPONSES, []), _shard_path(context, 0))
    token_rows = [{"prompt_id": i, "prompt_ids": ids} for i, ids in fitting.items()]
    tables.write(tables.build(tables.PROMPT_TOKENS, token_rows), context.work / "prompt_tokens.parquet")
    dropped = {"prompt_too_long": too_long * spec.samples} if too_long else {}
    return Outcome(
        rows=Rows(taken=len(mine) * spec.samples, kept=total, dropped=dropped), measures=_measures(context, spec)
    )


def _decoding(spec: Spec) -> Any:
    from harness.engines.generation import Decoding

    return Decoding(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)


def _shards(prompts: dict[str, list[int]], size: int) -> list[list[str]]:
    """Prompts in batches of similar length, so that little of a batch is padding; ties by id, never by file order."""
    ordered = sorted(prompts, key=lambda i: (-len(prompts[i]), i))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _shard_path(context: Context, number: int) -> Any:
    return context.work / "responses" / f"{number:05d}.parquet"


def _row(tokenizer: Any, response: Any, spec: Spec) -> dict[str, Any]:
    return {
        "prompt_id": response.request_id,
        "sample_index": spec.sample_block * spec.samples + response.number,
        "text": chat.decode_response(tokenizer, response.token_ids),
        "token_ids": response.token_ids,
        "tokens": len(response.token_ids),
        "finish_reason": response.finish_reason,
        "logp": response.logp,
    }


def _measures(context: Context, spec: Spec) -> dict[str, Any]:
    table = tables.read(context.work / "responses", ["tokens", "finish_reason", "text"])
    texts = table.column("text").to_pylist()
    return {
        "tokens": sum(table.column("tokens").to_pylist()),
        "finished": table.column("finish_reason").to_pylist().count("stop"),
        "empty": sum(not text.strip() for text in texts),
        "decoding": f"temperature {spec.temperature:g}, top-p {spec.top_p:g}, {spec.max_new_tokens} tokens",
    }
