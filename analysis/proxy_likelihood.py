"""Does the judge follow the policy's likelihood, or length? Rank correlations on real answers cut short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import proxy_data
from analysis.proxy_data import AlpacaData
from analysis.proxy_scores import Floats, spearman
from harness.engines.proxy_judge import ProxyJudge

MAX_TOKENS = 96
MAX_ASKED_WORDS = 60
PAIRS = 150


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Two answers to each of n instructions; every column is [n, 2], `full_*` before the answers were cut."""

    score: Floats
    log_likelihood: Floats
    tokens: Floats
    words: Floats
    full_score: Floats
    full_words: Floats


def _log_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Summed log-probability of the answer's tokens after the prompt's."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        picked = torch.log_softmax(logits, dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return float(picked.sum())


def draw_sample(data: AlpacaData, judge: ProxyJudge, policy: Path) -> Sample:
    """Answers of two models to each of `PAIRS` short instructions of the report half, cut to `MAX_TOKENS`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(policy)
    model: Any = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    model.eval()
    rows = [row for row in data.rows(fit=False) if len(data.instructions[row].split()) <= MAX_ASKED_WORDS]
    sources = [data.reference, *(data.outputs[name] for name in data.models)]
    asked, full, short, found = [], [], [], []
    for place, row in enumerate(rows[:PAIRS]):
        message = [{"role": "user", "content": data.instructions[row]}]
        rendered = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        for step in (0, 1 + place % (len(sources) - 1)):
            text = sources[(place + step) % len(sources)][row]
            ids = tokenizer(text, add_special_tokens=False)["input_ids"][:MAX_TOKENS]
            asked.append(data.instructions[row])
            full.append(text)
            short.append(str(tokenizer.decode(ids)))
            found.append((_log_likelihood(model, prompt, ids), len(ids)))
    figures = np.array(found, dtype=np.float64)
    return Sample(
        score=judge.score(asked, short).reshape(-1, 2),
        log_likelihood=figures[:, 0].reshape(-1, 2),
        tokens=figures[:, 1].reshape(-1, 2),
        words=np.array([len(text.split()) for text in short], dtype=np.float64).reshape(-1, 2),
        full_score=judge.score(asked, full).reshape(-1, 2),
        full_words=np.array([len(text.split()) for text in full], dtype=np.float64).reshape(-1, 2),
    )


def likelihood_section(data: AlpacaData, judge: ProxyJudge, policy: Path) -> list[str]:
    """Markdown lines: Spearman correlations of the judge's score, over answers and within instructions."""
    sample = draw_sample(data, judge, policy)
    columns = {
        "policy log-likelihood, summed": (sample.score, sample.log_likelihood),
        "policy log-likelihood per token": (sample.score, sample.log_likelihood / sample.tokens),
        "words": (sample.score, sample.words),
        "tokens": (sample.score, sample.tokens),
        "words, of whole answers": (sample.full_score, sample.full_words),
    }
    both_cut = (sample.tokens == MAX_TOKENS).all(axis=1)
    columns["words, where both answers were cut"] = (sample.score[both_cut], sample.words[both_cut])
    count = len(sample.score)
    lines = [
        "Spearman correlation of the judge's score with the policy's log-likelihood and with length, over",
        f"{2 * count} answers, two to each of {count} instructions of at most {MAX_ASKED_WORDS} words, cut",
        f"after {MAX_TOKENS} tokens (one row: whole answers). Within an instruction is what a",
        "comparison sees: the difference of its two answers. Brackets: 95 % bootstrap interval. An answer",
        "that ends within the limit has fewer tokens and is not marked as unfinished, which ties the score",
        "to length wherever a limit cuts answers. Where both were cut, tokens are equal, so fewer words mean",
        "more tokens to a word (names, marks, line breaks), which the judge favours.",
        "",
        "| judge's score with | one answer per instruction | difference within an instruction |",
        "| --- | --- | --- |",
    ]
    for name, (score, other) in columns.items():
        across = spearman(score[:, 0], other[:, 0])
        within = spearman(score[:, 0] - score[:, 1], other[:, 0] - other[:, 1])
        lines.append(f"| {name} | {across} (n = {across.n}) | {within} (n = {within.n}) |")
    lines += ["", *_length_lines(data, judge), ""]
    return lines


def _length_lines(data: AlpacaData, judge: ProxyJudge) -> list[str]:
    """Spearman correlation of score and words over one answer per instruction, of many lengths."""
    rows = data.rows(fit=False)
    rng = np.random.default_rng(2)
    sources = [data.reference, *(data.outputs[name] for name in data.models)]
    chosen = []
    for row in rows:
        text = sources[int(rng.integers(len(sources)))][row]
        kept = proxy_data.end_at_sentence(text, int(rng.choice([25, 50, 100, 200, 10_000])))
        if kept is not None and kept.strip():
            chosen.append((data.instructions[row], kept))
    score = judge.score([pair[0] for pair in chosen], [pair[1] for pair in chosen])
    found = spearman(score, np.array([len(pair[1].split()) for pair in chosen], dtype=np.float64))
    return [
        f"Over {found.n} answers of different instructions, ended at a sentence after at most 25, 50, 100,",
        f"200 or all words (drawn at random), the score's correlation with the count of words is {found}.",
    ]
