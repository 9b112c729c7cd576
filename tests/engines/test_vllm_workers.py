"""A real vLLM engine that spreads its weights over two workers: on a CPU, too, these are processes of their own."""

from pathlib import Path

import psutil
import pytest

from harness import machine
from harness.cluster import PythonConfig, VllmConfig
from harness.engines import generation, models, vllm_engine
from harness.engines.generation import Decoding, Request
from harness.engines.vllm_group import Weights
from tests.tiny import save_tiny_policy

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=12)
REQUESTS = [Request(str(i), [5 + i, 6, 7, 8 + i, 9] * 4, (0, str(i), 0)) for i in range(8)]


@pytest.fixture
def devices() -> str:
    """Two of them; without any, names that an engine on a CPU passes over."""
    found = machine.accelerators()
    if len(found) == 1:
        pytest.skip("there is one GPU, and two workers need two")
    return ",".join(found[:2]) or "0,1"


def _agreeing(policy: Path) -> int:
    """Answers of the engine that are those of transformers."""
    weights = Weights(path=policy, dtype="float32", trust_remote_code=False)
    drawn = vllm_engine.generate(weights, [2], REQUESTS, 1, GREEDY, longest=64, tell=print)
    answers = {response.request_id: response.token_ids for (response,) in drawn}
    assert len(answers) == len(REQUESTS)
    model, _, _ = models.load(policy, "float32", False)
    expected = generation.generate(model, [2], REQUESTS, 1, GREEDY)
    return sum(answers[response.request_id] == response.token_ids for response in expected)


def _processes(group: int) -> list[psutil.Process]:
    """Those of an engine that run."""
    lead = psutil.Process(group)
    return [p for p in (lead, *lead.children(recursive=True)) if p.status() != psutil.STATUS_ZOMBIE]


def test_weights_over_two_workers_answer_and_are_exchanged(
    vllm_python: str, tmp_path: Path, devices: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A head is 32 wide, the least that an engine on a CPU has kernels for; its output layer is the embedding, which is
    # packed anew in every worker.
    policy, trained = (save_tiny_policy(tmp_path / str(i), seed=i, tied=True, width=128) for i in (0, 1))
    vllm = VllmConfig(tensor_parallel=2, eager=True)
    mine = machine.Machine(threads=1, visible=devices, python=PythonConfig(vllm=vllm_python), vllm=vllm)
    monkeypatch.setattr(machine, "_MINE", [mine])
    vllm_engine.close()
    try:
        assert _agreeing(policy) >= len(REQUESTS) - 1  # float32 sums in another order may turn a near tie
        (group,) = vllm_engine._RUNNING
        (engine,) = group.engines
        processes = _processes(engine.process.process.pid)
        assert len(processes) > 2  # its own, and the workers
        assert _agreeing(trained) >= len(REQUESTS) - 1
        assert _agreeing(policy) >= len(REQUESTS) - 1
        assert [group] == vllm_engine._RUNNING
    finally:
        vllm_engine.close()
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
