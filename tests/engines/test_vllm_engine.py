"""A real vLLM engine on SmolLM2 against transformers: answers, log-probabilities, draws, other weights, adapters."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness import chat, machine
from harness.cluster import PythonConfig, VllmConfig
from harness.engines import generation, logprobs, models, vllm_engine
from harness.engines.generation import Decoding, Request, Response
from harness.engines.vllm_group import Weights

PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
    "What is 2 + 3?",
    "Why is the sky blue?",
    "Say hello in Spanish.",
)
GREEDY = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=16)
SAMPLED = Decoding(temperature=0.8, top_p=1.0, max_new_tokens=12)
DTYPE = "float32"


@pytest.fixture(scope="module", autouse=True)
def _engine(vllm_python: str) -> Iterator[None]:
    """This module's engines, which its tests share."""
    before = machine.mine()
    machine.use(python=PythonConfig(vllm=vllm_python), vllm=VllmConfig(eager=True, memory_fraction=0.5), threads=2)
    yield
    vllm_engine.close()
    machine._MINE[:] = [before]


def _requests(policy: Path, block: int = 0) -> list[Request]:
    tokenizer, _ = models.load_tokenizer(policy, False)
    encoded = [chat.encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    return [Request(str(i), ids, (0, str(i), block)) for i, ids in enumerate(encoded)]


def _draw(
    policy: Path, requests: list[Request], samples: int, decoding: Decoding, adapter: Path | None = None
) -> dict[str, list[Response]]:
    _, stops = models.load_tokenizer(policy, False)
    weights = Weights(path=policy, adapter=adapter, dtype=DTYPE, trust_remote_code=False)
    given = vllm_engine.generate(
        weights, stops, requests, samples, decoding, longest=256, tell=print, logprobs=adapter is None
    )
    return {responses[0].request_id: responses for responses in given}


def _process() -> int:
    (group,) = vllm_engine._RUNNING
    return group.engines[0].process.process.pid


def _agrees(drawn: dict[str, list[Response]], expected: list[Response]) -> int:
    return sum(drawn[r.request_id][0].token_ids == r.token_ids for r in expected)


def test_greedy_answers_and_their_log_probabilities_are_those_of_transformers(smollm2: Path) -> None:
    requests = _requests(smollm2)
    drawn = _draw(smollm2, requests, 1, GREEDY)
    model, _, stops = models.load(smollm2, DTYPE, False)
    expected = generation.generate(model, stops, requests, 1, GREEDY)
    assert _agrees(drawn, expected) >= len(requests) - 1  # float32 sums in another order may turn a near tie
    for theirs in expected:
        (ours,) = drawn[theirs.request_id]
        if ours.token_ids == theirs.token_ids:
            assert ours.finish_reason == theirs.finish_reason
            assert ours.logp == pytest.approx(theirs.logp, abs=2e-3)
    assert {r.finish_reason for r in expected} == {"stop", "length"}


def test_draws_depend_on_their_seed_and_follow_the_policy(smollm2: Path) -> None:
    requests = _requests(smollm2)
    first, again, second = (_draw(smollm2, _requests(smollm2, block), 8, SAMPLED) for block in (0, 0, 1))
    tokens = [{i: [r.token_ids for r in responses] for i, responses in d.items()} for d in (first, again, second)]
    assert tokens[0] == tokens[1]
    assert all(tokens[0][i] != tokens[2][i] for i in tokens[0])
    pairs = [(r.prompt_ids, response.token_ids) for r in requests for response in second[r.request_id]]
    model, _, _ = models.load(smollm2, DTYPE, False)
    exact = logprobs.response_logps(model, pairs, 4096, "none", lambda _: None)
    given = [response.logp for r in requests for response in second[r.request_id]]
    assert given == pytest.approx([float(e) for e in exact], abs=5e-3)


def test_first_tokens_come_as_often_as_the_policy_says(smollm2: Path) -> None:
    request, draws = _requests(smollm2)[2], 256
    once = Decoding(temperature=0.8, top_p=1.0, max_new_tokens=1)
    drawn = _draw(smollm2, [request], draws, once)[request.request_id]
    model, _, _ = models.load(smollm2, DTYPE, False)
    with torch.inference_mode():
        logits = model(torch.tensor([request.prompt_ids], device=model.device)).logits[0, -1].double()
    probs = torch.softmax(logits / once.temperature, -1).tolist()
    counts = Counter(response.token_ids[0] for response in drawn)
    frequent = [token for token, p in enumerate(probs) if p > 0.03]
    assert frequent
    for token in frequent:
        p = probs[token]
        assert abs(counts[token] / draws - p) < 4.5 * (p * (1 - p) / draws) ** 0.5


def test_other_weights_are_loaded_into_the_running_engine(smollm2: Path, tmp_path: Path) -> None:
    other = _trained(smollm2, tmp_path / "other")
    requests = _requests(smollm2)
    before = _draw(smollm2, requests, 1, GREEDY)
    process = _process()
    drawn = _draw(other, requests, 1, GREEDY)
    assert _process() == process
    model, _, stops = models.load(other, DTYPE, False)
    expected = generation.generate(model, stops, requests, 1, GREEDY)
    assert _agrees(before, expected) < len(requests) - 1  # the two policies do not answer alike
    assert _agrees(drawn, expected) >= len(requests) - 1
    back = _draw(smollm2, requests, 1, GREEDY)
    assert [back[r.request_id][0].token_ids for r in requests] == [before[r.request_id][0].token_ids for r in requests]
    assert _process() == process


def _trained(policy: Path, folder: Path) -> Path:
    """The policy with its weights moved a little, as training does; embeddings, which the head shares, too."""
    model, tokenizer = models.load_for_training(policy, DTYPE, False)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.03)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_adapters_answer_as_the_model_they_are_merged_into(smollm2: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    models.quieten()
    base, _ = models.load_for_training(smollm2, DTYPE, False)
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)
    requests = _requests(smollm2)
    drawn = _draw(smollm2, requests, 1, GREEDY, adapter)
    merged, _, stops = models.load(adapter, DTYPE, False, smollm2)
    expected = generation.generate(merged, stops, requests, 1, GREEDY)
    assert _agrees(drawn, expected) >= len(requests) - 1
    plain = _draw(smollm2, requests, 1, GREEDY)
    assert _agrees(plain, expected) < len(requests) - 1
