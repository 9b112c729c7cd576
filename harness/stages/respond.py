"""Held-out answers of a policy, with its divergence from the reference on them."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import chat, goals, memory, tables
from harness.keys import ADDED
from harness.progress import Task
from harness.stages import Context, Outcome, imported
from harness.store import Artifact, Rows

VERSION = 1

KL_ROWS = 8
"""Answers whose two full distributions are in memory together: at 512 tokens and 128,000 words 2 GB each."""

_KL_GROUP = 32
"""Answers of vLLM in one shard."""


@dataclass(frozen=True, kw_only=True)
class _Answering:
    """How the instructions are answered, whatever answers."""

    instructions: str
    """Hash of the instructions' ids."""
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float
    top_p: float
    seed: int
    dtype: str
    trust_remote_code: bool
    asked: goals.Asked | None = field(default=None, metadata=ADDED)
    """Goal that stands before every instruction; None: they are asked as they are."""


@dataclass(frozen=True, kw_only=True)
class Spec(_Answering):
    """How the instructions are answered."""

    batch_size: int


@dataclass(frozen=True, kw_only=True)
class VllmSpec(_Answering):
    """How the instructions are answered by vLLM, whose scheduler composes the batches."""

    engine: str = "vllm"


def run(context: Context, spec: Spec | VllmSpec | imported.RespondSpec) -> Outcome:
    """Answer every instruction once; the untrained policy's divergence from itself is 0 and not computed."""
    if isinstance(spec, imported.RespondSpec):
        return imported.respond(context, spec)
    if isinstance(spec, VllmSpec):
        return _with_vllm(context, spec)
    from harness.engines import generation

    answering = context.input("model")
    model, tokenizer, stops = _load(context, spec)
    _check_foreign(answering, tokenizer, stops)
    asked = _fitting(context, spec, tokenizer, model.config)
    decoding = generation.Decoding(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)

    def answer(ids: list[str]) -> list[Any]:
        requests = [generation.Request(i, asked.encoded[i], (spec.seed, i, 0)) for i in ids]
        responses: list[Any] = generation.generate(model, stops, requests, 1, decoding, context.parts)
        return responses

    with context.reporter.task(context.label, len(asked.fitting), "answers") as task:
        _write(context, spec, tokenizer, asked, spec.batch_size, answer, task)
    return _finish(context, spec, asked, {})


def _with_vllm(context: Context, spec: VllmSpec) -> Outcome:
    """Answer everything with vLLM, which then may rest; then work out the divergences with transformers' models."""
    from harness.engines import generation, models, vllm_engine, vllm_group, weights

    base, answering = context.input("reference").model_path, context.input("model")
    trusted = spec.trust_remote_code and not _is_foreign(answering)
    adapter = answering.model_path if weights.is_adapter(answering.model_path) else None
    whole = base if adapter is not None else answering.model_path
    model = vllm_group.Weights(path=whole, adapter=adapter, dtype=spec.dtype, trust_remote_code=trusted)
    tokenizer, stops = models.load_tokenizer(whole, trusted)
    _check_foreign(answering, tokenizer, stops)
    asked = _fitting(context, spec, tokenizer, models.load_config(whole, trusted))
    decoding = generation.Decoding(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
    drawn = context.work / "drawn"
    drawn.mkdir(exist_ok=True)
    done, engine, begun = tables.written(drawn, "prompt_id"), "", vllm_engine.seconds_starting()
    requests = [generation.Request(i, asked.encoded[i], (spec.seed, i, 0)) for i in asked.fitting if i not in done]
    with (
        context.reporter.task(context.label, len(asked.fitting), "answers", len(done)) as task,
        tables.Shards(drawn, tables.DRAWN) as shards,
    ):
        for (response,) in vllm_engine.generate(
            model, stops, requests, 1, decoding, longest=asked.longest, tell=context.reporter.line
        ):
            engine = vllm_engine.running()
            shards.add([{name: getattr(response, attribute) for name, attribute in _DRAWN.items()}])
            task.advance(1)
    rows = {r["prompt_id"]: r for r in tables.read(drawn).to_pylist()} if asked.fitting else {}

    def answer(ids: list[str]) -> list[Any]:
        found = [{attribute: rows[i][name] for name, attribute in _DRAWN.items()} for i in ids]
        return [generation.Response(number=0, logp=None, **response) for response in found]

    with context.reporter.task(context.label, len(asked.fitting), "divergences") as task:
        _write(context, spec, tokenizer, asked, _KL_GROUP, answer, task)
    shutil.rmtree(drawn)
    starting = round(vllm_engine.seconds_starting() - begun, 1)
    return _finish(context, spec, asked, {"engine": engine or None, "engine_start_seconds": starting})


_DRAWN = {"prompt_id": "request_id", "token_ids": "token_ids", "finish_reason": "finish_reason"}
"""Columns of answers without a divergence yet, with the response's attributes that they hold."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The instructions."""

    encoded: dict[str, list[int]]
    """Token ids of every one, by id."""
    text: dict[str, str]
    fitting: list[str]
    """Ids of those that leave room for an answer, the longest first."""
    longest: int
    """Most tokens that a fitting one may have."""
    placement: str | None
    """Where the goal's text stands, if there is a goal."""


def _fitting(context: Context, spec: Spec | VllmSpec, tokenizer: Any, config: Any) -> _Asked:
    from harness.engines import models

    prompts = context.input("instructions").table("prompts").to_pylist()
    encoded = {p["prompt_id"]: chat.encode_prompt(tokenizer, p["messages"]) for p in prompts}
    # A goal's own tokens do not count: the limit is to keep the same instructions, whatever stands before them.
    short = {i for i, tokens in encoded.items() if len(tokens) <= spec.max_prompt_tokens}
    placement, longest = None, spec.max_prompt_tokens
    if spec.asked is not None:
        placement, plain = chat.place_goal(tokenizer, spec.asked.placement, spec.asked.text), encoded
        encoded = {
            p["prompt_id"]: chat.encode_asked(tokenizer, p["messages"], spec.asked.text, placement) for p in prompts
        }
        longest += max((len(encoded[i]) - len(plain[i]) for i in encoded), default=0)
    limit = models.prompt_room(config, longest, spec.max_new_tokens, "evaluate.max_new_tokens")
    fitting = sorted((i for i in short if len(encoded[i]) <= limit), key=lambda i: (-len(encoded[i]), i))
    return _Asked(
        encoded=encoded,
        text={p["prompt_id"]: p["messages"][-1]["content"] for p in prompts},
        fitting=fitting,
        longest=longest,
        placement=placement,
    )


def _write(
    context: Context,
    spec: Spec | VllmSpec,
    tokenizer: Any,
    asked: _Asked,
    size: int,
    answer: Callable[[list[str]], list[Any]],
    task: Task,
) -> None:
    """Write answers with their divergences in shards of so many; those that stand stay."""
    folder = context.work / "answers"
    folder.mkdir(exist_ok=True)
    for number, start in enumerate(range(0, max(1, len(asked.fitting)), size)):
        path, batch = folder / f"{number:05d}.parquet", asked.fitting[start : start + size]
        if not path.exists():
            responses = answer(batch) if batch else []
            kls = _divergence(context, spec, [(asked.encoded[r.request_id], r.token_ids) for r in responses])
            rows = [_row(tokenizer, r, asked.text[r.request_id], kl) for r, kl in zip(responses, kls, strict=True)]
            tables.write(tables.build(tables.ANSWERS, rows), path)
        task.advance(len(batch))


def _finish(context: Context, spec: Spec | VllmSpec, asked: _Asked, measures: dict[str, Any]) -> Outcome:
    taken, kept = len(asked.encoded), len(asked.fitting)
    rows = Rows(taken=taken, kept=kept, dropped={"prompt_too_long": taken - kept} if kept < taken else {})
    goal = {} if asked.placement is None else {"placement": asked.placement}
    return Outcome(rows=rows, measures={**_measures(context.work / "answers", spec), **goal, **measures})


def _load(context: Context, spec: Spec | VllmSpec) -> tuple[Any, Any, list[int]]:
    """The answering model, its tokenizer and its stop tokens, with transformers."""
    from harness.engines import models

    base, answering = context.input("reference").model_path, context.input("model")
    trusted = spec.trust_remote_code and not _is_foreign(answering)
    return models.load(answering.model_path, spec.dtype, trusted, base)


def _check_foreign(answering: Artifact, tokenizer: Any, stops: Sequence[int]) -> None:
    if answering.manifest.stage == "imported":
        chat.check_tokenizer(tokenizer, stops, f"train.imported={answering.manifest.measures['name']}")


def _is_foreign(answering: Artifact) -> bool:
    """Whether a model is nothing of the policy's, whose code is trusted: imported adapters are loaded over that."""
    return answering.manifest.stage == "imported" and not (answering.model_path / "adapter_config.json").exists()


def _divergence(
    context: Context, spec: Spec | VllmSpec, answers: list[tuple[list[int], list[int]]]
) -> list[float | None]:
    """KL divergence from the reference of each answer; None where the two models do not share their tokens."""
    from harness.engines import logprobs, models

    reference_path, answering = context.input("reference").model_path, context.input("model")
    if reference_path == answering.model_path or not answers:
        return [0.0] * len(answers)
    model, tokenizer, _ = _load(context, spec)
    reference, policys, _ = models.load(reference_path, spec.dtype, spec.trust_remote_code)
    if answering.manifest.stage == "imported" and not _same_tokens((model, tokenizer), (reference, policys)):
        return [None] * len(answers)
    longest = max(len(p) + len(r) for p, r in answers)
    kls = logprobs.response_kls(
        model, reference, answers, longest * memory.smaller(KL_ROWS, context.parts), lambda _: None
    )
    return [float(kl) for kl in kls]


def _same_tokens(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two models, each with its tokenizer, mean the same by every token."""
    same_size = one[0].config.vocab_size == other[0].config.vocab_size
    return bool(same_size and one[1].get_vocab() == other[1].get_vocab())


def _row(tokenizer: Any, response: Any, instruction: str, kl: float | None) -> dict[str, Any]:
    tokens = response.token_ids
    return {
        "prompt_id": response.request_id,
        "instruction": instruction,
        "text": chat.decode_response(tokenizer, tokens),
        "token_ids": tokens,
        "tokens": len(tokens),
        "finish_reason": response.finish_reason,
        "kl": kl,
    }


def _measures(folder: Any, spec: Spec | VllmSpec) -> dict[str, Any]:
    table = tables.read(folder, ["tokens", "finish_reason", "kl", "text"])
    finish = table.column("finish_reason").to_pylist()
    kind = "greedy" if spec.temperature == 0 else f"temperature {spec.temperature:g}, top-p {spec.top_p:g}"
    kls = table.column("kl").drop_null().to_numpy()
    return {
        "tokens": float(np.mean(table.column("tokens").to_numpy())) if finish else None,
        "kl": float(np.mean(kls)) if len(kls) else None,
        "share_finished": finish.count("stop") / len(finish) if finish else None,
        "empty": sum(not t.strip() for t in table.column("text").to_pylist()),
        "decoding": f"{kind}, {spec.max_new_tokens} tokens",
    }
