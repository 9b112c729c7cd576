"""Faults of published pipelines that have no place of their own among the tests: each would be caught here.

Elsewhere: relabelled rows that are not turned round, goals twice in a prompt, prompts inside responses, ties
(`stages.test_relabel`); work that is lost or done again (`test_end_to_end`, `test_crashes`); reference
log-probabilities computed again for every pair (`test_end_to_end`); a template's own doubled token
(`engines.test_models`); cells that are one experiment (`test_selection`, `analysis.test_comparisons`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import app, chat, tables
from harness.engines import generation, models, proxy_reward
from harness.engines.embedding import SentenceEncoder
from harness.stages import Context, Outcome, pairs, reference, respond, sample, score, select
from harness.stages.reference import Spec as ReferenceSpec
from harness.store import Artifact
from tests.artifacts import Row, Shelf, adds_up, written
from tests.configs import composed
from tests.stages.test_relabel import Policy
from tests.tiny import TEMPLATE, save_tiny_policy

REFERENCE = ReferenceSpec(max_length=600, dtype="float32", autocast="none", batch_tokens=2048, trust_remote_code=False)
PAIRS = pairs.Spec(chosen="max", rejected="min")
SAMPLED = sample.Spec(
    engine="transformers",
    seed=0,
    temperature=1.0,
    top_p=1.0,
    max_new_tokens=12,
    max_prompt_tokens=600,
    batch_size=4,
    dtype="float32",
    trust_remote_code=False,
    blocks=1,
    block=0,
    prompts="",
    sample_block=0,
    samples=2,
)
ANSWERED = respond.Spec(
    instructions="",
    max_new_tokens=4,
    max_prompt_tokens=600,
    temperature=0.0,
    top_p=1.0,
    seed=0,
    batch_size=2,
    dtype="float32",
    trust_remote_code=False,
    asked=None,
)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


# Special tokens twice: a template rendered to text and tokenised with special tokens


@pytest.fixture(scope="module")
def beginning() -> Any:
    """A tokenizer that puts a beginning-of-sequence token before every text, as its chat template does, too."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    inner = Tokenizer(kinds.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>", additional_special_tokens=special[1:]
    )
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    assert tokenizer("a")["input_ids"][0] == 0
    return tokenizer


def test_a_conversation_begins_once_whoever_adds_the_token(beginning: Any) -> None:
    user, answer = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    encoded = {
        "prompt": chat.encode_prompt(beginning, [user]),
        "asked": chat.encode_asked(beginning, [user], "Score: 9.", "system"),
        "turns": chat.encode_turns(beginning, [user, answer], 2)[0],
        "conversation": chat.encode_conversation(beginning, [user, answer]),
    }
    assert {name: (ids[0], ids.count(0)) for name, ids in encoded.items()} == dict.fromkeys(encoded, (0, 1))
    assert 0 not in chat.encode_response(beginning, "So.", 2)
    chat.check_tokenizer(beginning, [2], "made by hand")


# No way to go on with what was interrupted


@pytest.mark.parametrize("stage", ["sample", "respond"])
def test_what_was_generated_before_an_interruption_is_not_generated_again(
    shelf: Shelf, tiny_policy: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts, two to a shard: at the end of the first shard the process dies."""
    policy, prompts = Policy(tiny_policy), shelf.prompts({name: f"question {name}" for name in "abcd"})
    given = {
        "sample": {"policy": policy, "prompts": prompts},
        "respond": {"model": policy, "reference": policy, "instructions": prompts},
    }[stage]
    asked: list[str] = []
    generate = generation.generate

    def dying(model: Any, stops: Any, requests: Sequence[generation.Request], *rest: Any) -> Any:
        if len(asked) == 2:
            asked.append("died")
            raise KeyboardInterrupt
        asked.extend(request.request_id for request in requests)
        return generate(model, stops, requests, *rest)

    def run(context: Context) -> Outcome:
        return sample.run(context, SAMPLED) if stage == "sample" else respond.run(context, ANSWERED)

    monkeypatch.setattr(generation, "generate", dying)
    context, undisturbed = shelf.context("work", **given), shelf.context("undisturbed", **given)
    with pytest.raises(KeyboardInterrupt):
        run(context)
    run(context)
    assert sorted(asked) == ["a", "b", "c", "d", "died"]
    run(undisturbed)
    name = {"sample": "responses", "respond": "answers"}[stage]
    assert written(context, name) == written(undisturbed, name)


# One answer where there are usually several


@pytest.mark.parametrize("engine", ["length", "embedded"])
def test_a_last_shard_of_one_response_is_scored_like_any_other(
    shelf: Shelf, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {("a", i): f"Apples number {i} grow on trees." for i in range(4)}
    weights = {"length": {"words": -1.0}, "embedded": proxy_reward.DEFAULT_WEIGHTS}[engine]
    given = {"responses": shelf.responses(texts), "prompts": shelf.prompts({"a": "What grows on trees?"})}
    scored = {}
    for size in (256, 3, 1):
        monkeypatch.setattr(score, "_SHARD", size)
        context = shelf.context(f"work{size}", **given)
        outcome = score.run(context, score.Spec(engine=engine, weights=weights))
        assert adds_up(outcome.rows, 4, 4)
        scored[size] = [row["reward"] for row in written(context, "rewards")]
        assert len(list((context.work / "rewards").iterdir())) == -(-4 // size)
    assert scored[3] == pytest.approx(scored[256], abs=1e-6)
    assert scored[1] == pytest.approx(scored[256], abs=1e-6)


def test_a_batch_of_one_response_is_sampled_like_any_other(tiny_policy: Path) -> None:
    """Five samples in two parts leave a batch of one; the draws do not depend on the batch."""
    model, tokenizer, stops = models.load(tiny_policy, "float32", False)
    ids = chat.encode_prompt(tokenizer, [{"role": "user", "content": "Hi"}])
    decoding = generation.Decoding(temperature=0.8, top_p=1.0, max_new_tokens=8)
    request = generation.Request("a", ids, (0, "a", 0))
    together, apart = (generation.generate(model, stops, [request], 5, decoding, parts) for parts in (1, 2))
    assert [r.token_ids for r in together] == [r.token_ids for r in apart]
    assert [r.number for r in apart] == list(range(5))


def test_one_prompt_with_single_samples_goes_all_the_way(tiny_policy: Path, tmp_path: Path) -> None:
    """Blocks of one sample, one prompt, one row, one step, one instruction."""
    single = [
        *("policy=local", f"policy.id={tiny_policy}", "reward=longer", "judge=shorter", f"store={tmp_path / 'store'}"),
        *("n=2", "sampler.pool=2", "sampler.sample_block=1", "sampler.batch_size=1", "construction=max_min"),
        *("prompts.limit=1", "sampler.max_new_tokens=16", "sampler.max_prompt_tokens=600", "sampler.temperature=2"),
        *("train=lora", "train.epochs=1", "train.global_batch=1", "train.micro_batch=1", "train.max_length=900"),
        *("evaluate.limit=1", "evaluate.batch_size=1", "evaluate.max_prompt_tokens=600", "evaluate.max_new_tokens=4"),
    ]
    assert app.run([composed(*single)]) == 0
    (rows,) = (tmp_path / "store" / "pairs").glob("*/pairs.parquet")
    assert tables.read(rows).num_rows == 1
    (verdicts,) = (tmp_path / "store" / "judge").glob("*/verdicts.parquet")
    assert tables.read(verdicts).num_rows == 1


# A prompt read anew for every answer


def test_a_prompt_is_read_once_for_all_its_samples(tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, stops = models.load(tiny_policy, "float32", False)
    ids = chat.encode_prompt(tokenizer, [{"role": "user", "content": "A question of some length, asked eight times."}])
    read: list[int] = []
    forward = model.forward

    def counted(*args: Any, **named: Any) -> Any:
        read.append((args[0] if args else named["input_ids"]).numel())
        return forward(*args, **named)

    monkeypatch.setattr(model, "forward", counted)
    decoding = generation.Decoding(temperature=0.8, top_p=1.0, max_new_tokens=4)
    generation.generate(model, stops, [generation.Request("a", ids, (0, "a", 0))], 8, decoding)
    assert sum(read) <= len(ids) - 1 + 8 * 4  # its last token and those before the last one of each response
    assert sum(read) < 2 * len(ids)


def test_a_prompt_is_embedded_once_for_all_its_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, embedded = SentenceEncoder(), []

    def embed(ids: list[list[int]]) -> Any:
        embedded.extend(ids)
        return torch.ones(len(ids), 384).numpy() / np.sqrt(384)

    monkeypatch.setattr(encoder, "_embed", embed)
    reward = proxy_reward.ProxyReward(proxy_reward.DEFAULT_WEIGHTS, encoder)
    reward.score(["What is red?"] * 8, [f"Apple number {i}" for i in range(8)], ["stop"] * 8)
    assert len(embedded) == 1 + 8


# Joins by place or by rendered text


def test_prompts_that_render_alike_keep_their_own_responses(shelf: Shelf, tmp_path: Path) -> None:
    """The template leaves system messages out, so that both prompts have the same tokens."""
    silent = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    policy = Policy(save_tiny_policy(tmp_path / "policy", template=silent))
    asked = {p: [{"role": "system", "content": p}, {"role": "user", "content": "Why?"}] for p in ("a" * 16, "b" * 16)}
    prompts = shelf.put(
        "prompts",
        {
            "prompts": (
                tables.PROMPTS,
                [
                    {"prompt_id": p, "source_id": p, "kind": "", "messages": messages, "answer": None}
                    for p, messages in asked.items()
                ],
            )
        },
    )
    context = shelf.context("sample", policy=policy, prompts=prompts)
    sample.run(context, SAMPLED)
    pool = {(r["prompt_id"], r["sample_index"]): r["text"] for r in written(context, "responses")}
    same = {tuple(r["prompt_ids"]) for r in written(context, "prompt_tokens")}
    assert len(same) == 1
    assert len(set(pool.values())) == len(pool) == 4
    sampled = _published(shelf, "sample", context.work, "responses", "prompt_tokens")
    rewards = shelf.rewards({key: float(place) for place, key in enumerate(sorted(pool))})
    rows = _rows(shelf, "alike", policy, [sampled], [rewards])
    assert [row["prompt_id"] for row in rows] == sorted(asked)
    for row in rows:
        assert (row["chosen_text"], row["rejected_text"]) == (pool[row["prompt_id"], 1], pool[row["prompt_id"], 0])


def _published(shelf: Shelf, stage: str, work: Path, *names: str) -> Artifact:
    """What a stage wrote, as an artifact."""
    schemas = {"responses": tables.RESPONSES, "prompt_tokens": tables.PROMPT_TOKENS}
    read = {n: tables.read(p if (p := work / n).is_dir() else p.with_suffix(".parquet")).to_pylist() for n in names}
    return shelf.put(stage, {name: (schemas[name], rows) for name, rows in read.items()})


def _rows(
    shelf: Shelf, name: str, policy: Artifact, pool: Sequence[Artifact], rewards: Sequence[Artifact]
) -> list[Row]:
    """Preference rows of a pool, by the real stages."""
    context = shelf.context(f"{name}-select", rewards=rewards)
    spec = select.Spec(n=64, ddof=0, positions=("min", "max"), draws=None)
    select.run(context, spec)
    picks = shelf.put("select", {"picks": (tables.PICKS, written(context, "picks"))})
    context = shelf.context(f"{name}-reference", policy=policy, picks=picks, responses=pool)
    reference.run(context, REFERENCE)
    logps = shelf.put(
        "reference", {"reference": (tables.REFERENCE, written(context, "reference"))}, inputs={"policy": ["0"]}
    )
    context = shelf.context(f"{name}-pairs", picks=picks, reference=logps)
    pairs.run(context, PAIRS)
    return written(context, "pairs")


def _block(shelf: Shelf, texts: Mapping[tuple[str, int], str]) -> Artifact:
    """One seed's responses, in the order given; a prompt's tokens spell its id."""
    rows = [
        {
            "prompt_id": p,
            "sample_index": i,
            "text": text,
            "token_ids": list(text.encode()),
            "tokens": len(text),
            "finish_reason": "stop",
            "logp": None,
        }
        for (p, i), text in texts.items()
    ]
    tokens = [{"prompt_id": p, "prompt_ids": list(p.encode())} for p in dict.fromkeys(p for p, _ in texts)]
    return shelf.put("sample", {"responses": (tables.RESPONSES, rows), "prompt_tokens": (tables.PROMPT_TOKENS, tokens)})


def test_seeds_are_joined_by_id_whatever_the_order_of_files_and_rows(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each seed's table has its own order, and one lacks a prompt: by place, responses would change prompts."""

    def fill(_: Any, __: Any, shard: list[Row], advance: Callable[[int], None]) -> None:
        for row in shard:
            row["logp"] = -float(len(row["response_ids"]))
        advance(len(shard))

    monkeypatch.setattr(reference, "_fill", fill)
    prompts, random = [f"prompt{i}" for i in range(6)], np.random.default_rng(0)
    texts = {(p, i): f"{p} says {i * 7 % 5}{'!' * i}" for p in prompts for i in range(4)}
    del texts["prompt2", 2], texts["prompt2", 3]
    rewards = {(p, i): float((i * 7 + int(p[-1])) % 5) for p, i in texts}
    policy, found = shelf.put("model", {}), []
    for trial in range(4):
        keys = list(texts)
        if trial:
            random.shuffle(keys)
        seeds = [[key for key in keys if key[1] // 2 == seed] for seed in (0, 1)]
        if trial % 2:
            seeds.reverse()
        pool = [_block(shelf, {key: texts[key] for key in seed}) for seed in seeds]
        scored = [shelf.rewards({key: rewards[key] for key in seed}) for seed in seeds]
        random.shuffle(scored)
        found.append(_rows(shelf, f"trial{trial}", policy, pool, scored))
    assert found[1:] == found[:1] * 3
    assert len(found[0]) == len(prompts)
    for row in found[0]:
        own = {i: reward for (p, i), reward in rewards.items() if p == row["prompt_id"]}
        assert row["prompt_ids"] == list(row["prompt_id"].encode())
        assert row["chosen_reward"] == max(own.values())
        assert row["chosen_text"] == texts[row["prompt_id"], row["chosen_index"]]
        assert row["rejected_text"] == texts[row["prompt_id"], row["rejected_index"]]
        assert own[row["rejected_index"]] == min(own.values())
