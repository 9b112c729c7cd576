"""The pool: one block of samples for one block of prompts."""

from dataclasses import dataclass
from typing import Any

from harness import chat, tables
from harness.stages import Context, Outcome, imported, static
from harness.stages.blocks import SampleBlock
from harness.store import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class _Drawn(SampleBlock):
    """What decides the responses of one block, whatever draws them."""

    seed: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_prompt_tokens: int
    dtype: str
    trust_remote_code: bool


@dataclass(frozen=True, kw_only=True)
class Spec(_Drawn):
    """Everything that decides the responses of one block."""

    engine: str
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class VllmSpec(_Drawn):
    """Everything that decides the responses of one block where vLLM draws them.

    Its scheduler composes the batches, so that no batch size is a setting; its version is recorded, but draws of
    another one are as valid.
    """

    engine: str = "vllm"


def run(context: Context, spec: Spec | VllmSpec | imported.SampleSpec | static.SampleSpec) -> Outcome:
    """Sample shard by shard; shards that stand from an interrupted run are kept."""
    if isinstance(spec, imported.SampleSpec):
        return imported.sample(context, spec)
    if isinstance(spec, static.SampleSpec):
        return static.sample(context, spec)
    (context.work / "responses").mkdir(exist_ok=True)
    if isinstance(spec, VllmSpec):
        return _with_vllm(context, spec)
    from harness.engines import generation, models

    model, tokenizer, stops = models.load(context.input("policy").model_path, spec.dtype, spec.trust_remote_code)
    fitting, too_long = _fitting(context, spec, tokenizer, model.config)
    shards = _shards(fitting, max(1, spec.batch_size // spec.samples))
    todo = [(path, ids) for i, ids in enumerate(shards) if not (path := _shard_path(context, i)).exists()]
    total, missing = len(fitting) * spec.samples, sum(len(ids) for _, ids in todo) * spec.samples
    with context.reporter.task(context.label, total, "responses", total - missing) as task:
        for path, ids in todo:
            requests = [generation.Request(i, fitting[i], (spec.seed, i, spec.sample_block)) for i in ids]
            responses = generation.generate(model, stops, requests, spec.samples, _decoding(spec), context.parts)
            rows = [_row(tokenizer, r, spec) for r in responses]
            tables.write(tables.build(tables.RESPONSES, rows), path)
            task.advance(len(rows))
    return _finish(context, spec, fitting, too_long, {})


def _with_vllm(context: Context, spec: VllmSpec) -> Outcome:
    """Keep the engine fed, and write down what comes back; only what is neither written nor back is lost by an end."""
    from harness.engines import generation, models, vllm_engine, vllm_group

    path, begun = context.input("policy").model_path, vllm_engine.seconds_starting()
    tokenizer, stops = models.load_tokenizer(path, spec.trust_remote_code)
    fitting, too_long = _fitting(context, spec, tokenizer, models.load_config(path, spec.trust_remote_code))
    folder = context.work / "responses"
    done = tables.written(folder, "prompt_id")
    # The longest first: what is left at the end, when the engine runs empty, is short.
    todo = sorted(fitting.keys() - done, key=lambda i: (-len(fitting[i]), i))
    requests = [generation.Request(i, fitting[i], (spec.seed, i, spec.sample_block)) for i in todo]
    weights = vllm_group.Weights(path=path, dtype=spec.dtype, trust_remote_code=spec.trust_remote_code)
    total, engine = len(fitting) * spec.samples, ""
    with (
        context.reporter.task(context.label, total, "responses", len(done) * spec.samples) as task,
        tables.Shards(folder, tables.RESPONSES) as shards,
    ):
        for responses in vllm_engine.generate(
            weights,
            stops,
            requests,
            spec.samples,
            _decoding(spec),
            longest=spec.max_prompt_tokens,
            tell=context.reporter.line,
        ):
            engine = vllm_engine.running()
            shards.add([_row(tokenizer, r, spec) for r in responses])
            task.advance(len(responses))
    starting = round(vllm_engine.seconds_starting() - begun, 1)
    return _finish(context, spec, fitting, too_long, {"engine": engine or None, "engine_start_seconds": starting})


def _fitting(context: Context, spec: Spec | VllmSpec, tokenizer: Any, config: Any) -> tuple[dict[str, list[int]], int]:
    """Token ids of the block's prompts that leave room for a response, by their ids; and how many do not."""
    from harness.engines import models

    prompts = context.input("prompts").table("prompts").to_pylist()
    mine = [p for p in prompts if spec.holds(p["prompt_id"])]
    encoded = {p["prompt_id"]: chat.encode_prompt(tokenizer, p["messages"]) for p in mine}
    limit = models.prompt_room(config, spec.max_prompt_tokens, spec.max_new_tokens, "sampler.max_new_tokens")
    fitting = {i: ids for i, ids in encoded.items() if len(ids) <= limit}
    return fitting, len(encoded) - len(fitting)


def _finish(
    context: Context, spec: Spec | VllmSpec, fitting: dict[str, list[int]], too_long: int, measures: dict[str, Any]
) -> Outcome:
    """Write what stands beside the responses, and account for all rows."""
    if not any((context.work / "responses").glob("*.parquet")):
        tables.write(tables.build(tables.RESPONSES, []), _shard_path(context, 0))
    token_rows = [{"prompt_id": i, "prompt_ids": ids} for i, ids in fitting.items()]
    tables.write(tables.build(tables.PROMPT_TOKENS, token_rows), context.work / "prompt_tokens.parquet")
    dropped = {"prompt_too_long": too_long * spec.samples} if too_long else {}
    total = len(fitting) * spec.samples
    return Outcome(
        rows=Rows(taken=total + too_long * spec.samples, kept=total, dropped=dropped),
        measures={**_measures(context, spec), **measures},
    )


def _decoding(spec: Spec | VllmSpec) -> Any:
    from harness.engines.generation import Decoding

    return Decoding(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)


def _shards(prompts: dict[str, list[int]], size: int) -> list[list[str]]:
    """Prompts in batches of similar length, so that little of a batch is padding; ties by id, never by file order."""
    ordered = sorted(prompts, key=lambda i: (-len(prompts[i]), i))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _shard_path(context: Context, number: int) -> Any:
    return context.work / "responses" / f"{number:05d}.parquet"


def _row(tokenizer: Any, response: Any, spec: Spec | VllmSpec) -> dict[str, Any]:
    return {
        "prompt_id": response.request_id,
        "sample_index": spec.sample_block * spec.samples + response.number,
        "text": chat.decode_response(tokenizer, response.token_ids),
        "token_ids": response.token_ids,
        "tokens": len(response.token_ids),
        "finish_reason": response.finish_reason,
        "logp": response.logp,
    }


def _measures(context: Context, spec: Spec | VllmSpec) -> dict[str, Any]:
    tokens = finished = empty = 0
    for part in tables.parts(context.work / "responses", ["tokens", "finish_reason", "text"]):
        tokens += sum(part.column("tokens").to_pylist())
        finished += part.column("finish_reason").to_pylist().count("stop")
        empty += sum(not text.strip() for text in part.column("text").to_pylist())
    return {
        "tokens": tokens,
        "finished": finished,
        "empty": empty,
        "decoding": f"temperature {spec.temperature:g}, top-p {spec.top_p:g}, {spec.max_new_tokens} tokens",
    }
