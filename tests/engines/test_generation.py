"""Sampling with a real (tiny, random) model through the real `generate`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from harness import chat
from harness.engines import generation, logprobs, models
from harness.engines.generation import Decoding, Request, Response

PROMPTS = ("Hi", "Tell me a story about a fox.", "Why?", "Add 2 and 3, then say it in words.")
SAMPLED = Decoding(temperature=0.8, top_p=1.0, max_new_tokens=12)
GREEDY = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=12)


def _requests(policy: Path, block: int = 0) -> list[Request]:
    _, tokenizer, _ = models.load(policy, "float32", False)
    encoded = [chat.encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    return [Request(str(i), ids, (0, str(i), block)) for i, ids in enumerate(encoded)]


def _generate(policy: Path, requests: list[Request], samples: int, decoding: Decoding) -> list[Response]:
    model, _, stops = models.load(policy, "float32", False)
    responses: list[Response] = generation.generate(model, stops, requests, samples, decoding)
    return responses


def test_greedy_equals_stock_generate_one_by_one(tiny_policy: Path) -> None:
    model, _, stops = models.load(tiny_policy, "float32", False)
    requests = _requests(tiny_policy)
    for samples in (1, 3):
        responses = _generate(tiny_policy, requests, samples, GREEDY)
        assert len(responses) == len(requests) * samples
        for response in responses:
            prompt = requests[int(response.request_id)].prompt_ids
            stock = model.generate(
                torch.tensor([prompt], device=model.device),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )[0, len(prompt) :].tolist()
            assert response.token_ids == stock


def test_a_request_does_not_depend_on_its_batch(tiny_policy: Path) -> None:
    requests = _requests(tiny_policy)
    together = _generate(tiny_policy, requests, 4, SAMPLED)
    alone = [response for request in requests for response in _generate(tiny_policy, [request], 4, SAMPLED)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]


def test_samples_differ_between_samples_blocks_and_seeds(tiny_policy: Path) -> None:
    first = _generate(tiny_policy, _requests(tiny_policy, block=0), 4, SAMPLED)
    second = _generate(tiny_policy, _requests(tiny_policy, block=1), 4, SAMPLED)
    assert len({tuple(r.token_ids) for r in first}) > 8
    assert [r.token_ids for r in first] != [r.token_ids for r in second]


def test_sampled_tokens_follow_the_model(tiny_policy: Path) -> None:
    """Frequencies of the first token over 4,000 draws against the model's own distribution, by chi-square."""
    model, _, _ = models.load(tiny_policy, "float32", False)
    request = _requests(tiny_policy)[0]
    decoding = Decoding(temperature=0.8, top_p=0.9, max_new_tokens=1)
    draws = [r.token_ids[0] for r in _generate(tiny_policy, [request], 4000, decoding)]
    with torch.inference_mode():
        logits = model(torch.tensor([request.prompt_ids], device=model.device)).logits[0, -1].double().cpu()
    probs = torch.softmax(logits / 0.8, -1).numpy()
    order = np.argsort(-probs)
    nucleus = order[np.cumsum(probs[order]) - probs[order] < 0.9]
    assert set(draws) <= set(nucleus.tolist())
    expected = probs[nucleus] / probs[nucleus].sum() * len(draws)
    observed = np.array([draws.count(token) for token in nucleus])
    common = expected >= 5
    statistic = ((observed - expected)[common] ** 2 / expected[common]).sum()
    assert statistic < common.sum() + 4 * np.sqrt(2 * common.sum())


def test_a_response_ends_at_its_stop_token(tiny_policy: Path) -> None:
    _, _, stops = models.load(tiny_policy, "float32", False)
    responses = _generate(tiny_policy, _requests(tiny_policy), 64, SAMPLED)
    ended = [r for r in responses if r.finish_reason == "stop"]
    assert ended
    for response in responses:
        inside = response.token_ids[:-1] if response.finish_reason == "stop" else response.token_ids
        assert not set(inside) & set(stops)
        assert (response.token_ids[-1] in stops) == (response.finish_reason == "stop")
        assert response.finish_reason == "stop" or len(response.token_ids) == SAMPLED.max_new_tokens


def test_logp_is_the_models_own(tiny_policy: Path) -> None:
    model, _, _ = models.load(tiny_policy, "float32", False)
    requests = _requests(tiny_policy)
    responses = _generate(tiny_policy, requests, 4, SAMPLED)
    pairs = [(requests[int(r.request_id)].prompt_ids, r.token_ids) for r in responses]
    logps = logprobs.response_logps(model, pairs, 512, "none", lambda _: None)
    assert logps == pytest.approx([r.logp for r in responses], abs=1e-4)
