"""Held-out answers of a policy, with its divergence from the reference on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import chat, memory, tables
from harness.stages import Context, Outcome, imported
from harness.store import Artifact, Rows

VERSION = 1

_KL_ROWS = 8
"""Answers whose two full distributions are in memory together: at 512 tokens and 128,000 words 2 GB each."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How the instructions are answered."""

    instructions: str
    """Hash of the instructions' ids."""
    max_new_tokens: int
    max_prompt_tokens: int
    temperature: float
    top_p: float
    seed: int
    batch_size: int
    dtype: str
    trust_remote_code: bool


def run(context: Context, spec: Spec | imported.RespondSpec) -> Outcome:
    """Answer every instruction once; the untrained policy's divergence from itself is 0 and not computed."""
    if isinstance(spec, imported.RespondSpec):
        return imported.respond(context, spec)
    from harness.engines import generation, models

    base, answering = context.input("reference").model_path, context.input("model")
    trusted = spec.trust_remote_code and not _is_foreign(answering)
    model, tokenizer, stops = models.load(answering.model_path, spec.dtype, trusted, base)
    if answering.manifest.stage == "imported":
        chat.check_tokenizer(tokenizer, stops, f"train.imported={answering.manifest.measures['name']}")
    prompts = context.input("instructions").table("prompts").to_pylist()
    encoded = {p["prompt_id"]: chat.encode_prompt(tokenizer, p["messages"]) for p in prompts}
    limit = models.prompt_room(model, spec.max_prompt_tokens, spec.max_new_tokens, "evaluate.max_new_tokens")
    fitting = sorted((i for i in encoded if len(encoded[i]) <= limit), key=lambda i: (-len(encoded[i]), i))
    decoding = generation.Decoding(temperature=spec.temperature, top_p=spec.top_p, max_new_tokens=spec.max_new_tokens)
    folder = context.work / "answers"
    folder.mkdir(exist_ok=True)
    text = {p["prompt_id"]: p["messages"][-1]["content"] for p in prompts}
    with context.reporter.task(context.label, len(fitting), "answers") as task:
        for number, start in enumerate(range(0, max(1, len(fitting)), spec.batch_size)):
            path, batch = folder / f"{number:05d}.parquet", fitting[start : start + spec.batch_size]
            if not path.exists():
                requests = [generation.Request(i, encoded[i], (spec.seed, i, 0)) for i in batch]
                responses = generation.generate(model, stops, requests, 1, decoding, context.parts) if batch else []
                kls = _divergence(
                    context, spec, model, tokenizer, [(encoded[r.request_id], r.token_ids) for r in responses]
                )
                rows = [_row(tokenizer, r, text[r.request_id], kl) for r, kl in zip(responses, kls, strict=True)]
                tables.write(tables.build(tables.ANSWERS, rows), path)
            task.advance(len(batch))
    dropped = {"prompt_too_long": len(encoded) - len(fitting)} if len(fitting) < len(encoded) else {}
    return Outcome(rows=Rows(taken=len(encoded), kept=len(fitting), dropped=dropped), measures=_measures(folder, spec))


def _is_foreign(answering: Artifact) -> bool:
    """Whether a model is nothing of the policy's, whose code is trusted: imported adapters are loaded over that."""
    return answering.manifest.stage == "imported" and not (answering.model_path / "adapter_config.json").exists()


def _divergence(
    context: Context, spec: Spec, model: Any, tokenizer: Any, answers: list[tuple[list[int], list[int]]]
) -> list[float | None]:
    """KL divergence from the reference of each answer; None where the two models do not share their tokens."""
    from harness.engines import logprobs, models

    reference_path, answering = context.input("reference").model_path, context.input("model")
    if reference_path == answering.model_path or not answers:
        return [0.0] * len(answers)
    reference, policys, _ = models.load(reference_path, spec.dtype, spec.trust_remote_code)
    if answering.manifest.stage == "imported" and not _same_tokens((model, tokenizer), (reference, policys)):
        return [None] * len(answers)
    longest = max(len(p) + len(r) for p, r in answers)
    kls = logprobs.response_kls(
        model, reference, answers, longest * memory.smaller(_KL_ROWS, context.parts), lambda _: None
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


def _measures(folder: Any, spec: Spec) -> dict[str, Any]:
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
