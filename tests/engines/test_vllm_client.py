"""What surrounds a vLLM engine, with a fake one: starts, deaths, weights, devices. The real one: test_vllm_engine."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness import machine
from harness.cluster import PythonConfig, VllmConfig
from harness.engines import vllm_engine
from harness.engines.generation import Decoding, Request
from harness.engines.parallel import layout
from harness.engines.process import EngineError
from harness.engines.vllm_group import Weights
from harness.errors import ConfigError

SAMPLED = Decoding(temperature=0.8, top_p=0.9, max_new_tokens=12)
REQUESTS = [Request(f"r{i}", [1, 2, 3], (0, f"r{i}", 0)) for i in range(40)]


def save_model(
    folder: Path, *, width: int = 4, seed: int = 0, layers: int = 1, names: tuple[str, ...] = ("q",)
) -> Path:
    """A folder that has the files of a model, and no more."""
    folder.mkdir(parents=True)
    config = {"architectures": ["Tiny"], "num_hidden_layers": layers, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {f"model.{n}.weight": np.full((width, 6), seed, dtype=np.float32) for n in names}
    save_file(tensors, folder / "model.safetensors")
    return folder


def save_adapter(folder: Path, *, inputs: int = 6, outputs: int = 4, module: str = "q", rank: int = 4) -> Path:
    """A folder of adapters of one module."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    name = f"base_model.model.model.{module}"
    halves = {"lora_A": np.zeros((rank, inputs), np.float32), "lora_B": np.zeros((outputs, rank), np.float32)}
    save_file({f"{name}.{half}.weight": tensor for half, tensor in halves.items()}, folder / "adapter.safetensors")
    return folder


def _weights(path: Path, adapter: Path | None = None) -> Weights:
    return Weights(path=path, adapter=adapter, dtype="float32", trust_remote_code=False)


def _journal(fake_vllm: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (fake_vllm / "journal").read_text().splitlines()]


def _told(fake_vllm: Path, kind: str) -> list[list[Any]]:
    return [words[2:] for words in _journal(fake_vllm) if words[1] == kind]


def _draw(model: Weights, requests: list[Request] = REQUESTS, **given: Any) -> dict[str, list[list[int]]]:
    lines: list[str] = given.pop("lines", [])
    options = {"longest": 100, "tell": lines.append, **given}
    return {
        responses[0].request_id: [r.token_ids for r in responses]
        for responses in vllm_engine.generate(model, [2], requests, 3, SAMPLED, **options)
    }


def test_every_request_is_answered_once_and_in_order_of_its_samples(fake_vllm: Path, tmp_path: Path) -> None:
    drawn = _draw(_weights(save_model(tmp_path / "m")))
    assert sorted(drawn) == sorted(r.request_id for r in REQUESTS)
    assert all([tokens[1] for tokens in samples] == [0, 1, 2] for samples in drawn.values())
    assert len({samples[0][0] for samples in drawn.values()}) > 20  # each request has a seed of its own


def test_a_running_engine_takes_other_weights_of_the_same_architecture(fake_vllm: Path, tmp_path: Path) -> None:
    base, trained = save_model(tmp_path / "m"), save_model(tmp_path / "trained", seed=1)
    for model in (base, base, trained, base):
        _draw(_weights(model), REQUESTS[:2])
    assert len(_told(fake_vllm, "start")) == 1
    assert _told(fake_vllm, "reload_weights") == [[str(trained)], [str(base)]]
    assert _told(fake_vllm, "worker") == [["pack_head"], ["pack_head"]]
    assert len(_told(fake_vllm, "reset")) == 2


def test_weights_made_anew_under_the_same_path_are_loaded(fake_vllm: Path, tmp_path: Path) -> None:
    base = save_model(tmp_path / "m")
    _draw(_weights(base), REQUESTS[:2])
    os.utime(base / "model.safetensors", ns=(1, 1))
    _draw(_weights(base), REQUESTS[:2])
    assert _told(fake_vllm, "reload_weights") == [[str(base)]]


@pytest.mark.parametrize("other", [{"width": 8}, {"layers": 2}, {"names": ("q", "k")}])
def test_another_architecture_gets_an_engine_of_its_own(fake_vllm: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    _draw(_weights(save_model(tmp_path / "m")), REQUESTS[:2])
    _draw(_weights(save_model(tmp_path / "other", **other)), REQUESTS[:2])
    assert len(_told(fake_vllm, "start")) == 2
    assert _told(fake_vllm, "shutdown") == [[]]


def test_a_longer_context_needs_a_new_engine_and_a_shorter_one_does_not(fake_vllm: Path, tmp_path: Path) -> None:
    model = _weights(save_model(tmp_path / "m"))
    for longest in (100, 900, 1100, 200):
        _draw(model, REQUESTS[:2], longest=longest)
    assert [words[1] for words in _told(fake_vllm, "start")] == [1024, 2048]


def test_adapters_share_an_engine_over_their_base(fake_vllm: Path, tmp_path: Path) -> None:
    base = save_model(tmp_path / "m")
    one, two = save_adapter(tmp_path / "one"), save_adapter(tmp_path / "two")
    for adapter in (one, two, None, one):
        _draw(_weights(base, adapter), REQUESTS[:1])
    assert _told(fake_vllm, "start") == [[str(base), 1024, 8]]
    assert [words[1] for words in _told(fake_vllm, "request")] == [str(one), str(two), None, str(one)]


@pytest.mark.parametrize("wrong", [{"inputs": 5}, {"outputs": 5}, {"module": "k"}])
def test_adapters_of_another_base_are_refused(fake_vllm: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    adapter = save_adapter(tmp_path / "adapter", **wrong)
    with pytest.raises(ConfigError, match=rf"adapters in {adapter} are of another base model: .*model\.(q|k)"):
        _draw(_weights(save_model(tmp_path / "m"), adapter))
    assert not (fake_vllm / "journal").exists()


def test_a_dead_engine_is_replaced_and_what_came_back_is_not_asked_again(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM_DIES", "once")
    (fake_vllm / "die").write_text("15")
    lines: list[str] = []
    drawn = _draw(_weights(save_model(tmp_path / "m")), lines=lines)
    assert sorted(drawn) == sorted(r.request_id for r in REQUESTS)
    assert len(_told(fake_vllm, "start")) == 2
    started = [i for i, words in enumerate(_journal(fake_vllm)) if words[1] == "start"]
    again = [words[2] for words in _journal(fake_vllm)[started[1] :] if words[1] == "request"]
    assert len(again) == len(REQUESTS) - 15
    (line,) = lines
    assert line.startswith("the vLLM engine died (SIGKILL; ")
    assert line.endswith("); a fresh one goes on with 25 prompts")


def test_an_engine_that_dies_again_is_told_with_its_last_words(fake_vllm: Path, tmp_path: Path) -> None:
    (fake_vllm / "die").write_text("5")
    with pytest.raises(EngineError, match=r"(?s)^twice, the vLLM engine died \(SIGKILL.*the fake engine dies now"):
        _draw(_weights(save_model(tmp_path / "m")))
    assert len(_told(fake_vllm, "start")) == 2


def test_a_model_that_vllm_does_not_run_says_so(fake_vllm: Path, tmp_path: Path) -> None:
    (fake_vllm / "refuse").write_text(
        "1 error\n  Value error, Model architectures ['Tiny'] are not supported for now. "
        "Supported architectures: dict_keys(['A', 'B'])"
    )
    with pytest.raises(
        EngineError, match=r"did not start: Value error, .*\['Tiny'\] are not supported for now\. Another .*"
    ):
        _draw(_weights(save_model(tmp_path / "m")))
    assert len(_told(fake_vllm, "start")) == 1


def test_a_refused_request_is_an_error_and_no_response(fake_vllm: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="refused a request: ValueError: a prompt of no tokens"):
        _draw(_weights(save_model(tmp_path / "m")), [Request("empty", [], (0,))])


def test_work_that_is_given_up_leaves_nothing_in_the_engine(fake_vllm: Path, tmp_path: Path) -> None:
    model = _weights(save_model(tmp_path / "m"))
    work = vllm_engine.generate(model, [2], REQUESTS, 3, SAMPLED, longest=100, tell=print)
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert sorted(_draw(model)) == sorted(r.request_id for r in REQUESTS)
    assert len(_told(fake_vllm, "start")) == 2


def test_gpus_beyond_those_of_one_engine_run_further_engines(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_vllm / "cuda").touch()
    mine = machine.Machine(visible="0,1,2,3", vllm=VllmConfig(tensor_parallel=2, memory_fraction=0.5))
    monkeypatch.setattr(machine, "_MINE", [mine])
    model = _weights(save_model(tmp_path / "m"))
    assert len(_draw(model)) == len(REQUESTS)
    assert sorted(words[0] for words in _journal(fake_vllm) if words[1] == "start") == ["0,1", "2,3"]
    assert {words[0] for words in _journal(fake_vllm) if words[1] == "request"} == {"0,1", "2,3"}
    vllm_engine.rest()
    vllm_engine.rest()
    assert len(_told(fake_vllm, "sleep")) == 2
    assert len(_draw(model)) == len(REQUESTS)
    assert len(_told(fake_vllm, "wake")) == 2
    assert len(_told(fake_vllm, "start")) == 2


def test_a_judges_key_is_not_in_an_engines_environment(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-unlikely")
    _draw(_weights(save_model(tmp_path / "m")), REQUESTS[:1])
    told = Path(f"/proc/{vllm_engine._RUNNING[0].engines[0].process.process.pid}/environ").read_bytes()
    assert b"FAKE_VLLM=" in told
    assert b"sk-unlikely" not in told


def test_an_engine_that_died_idle_is_no_failure_of_what_comes_next(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_vllm / "cuda").touch()
    monkeypatch.setattr(machine, "_MINE", [machine.Machine(visible="0")])
    model = _weights(save_model(tmp_path / "m"))
    _draw(model, REQUESTS[:2])
    vllm_engine._RUNNING[0].engines[0].process.process.kill()
    vllm_engine.rest()
    assert sorted(_draw(model, REQUESTS[:2])) == ["r0", "r1"]
    assert len(_told(fake_vllm, "start")) == 2


def test_an_interpreter_without_vllm_is_told_before_anything_starts(
    fake_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_MINE", [machine.Machine(visible="", python=PythonConfig(vllm="/bin/false"))])
    with pytest.raises(ConfigError, match=r"^cluster\.python\.vllm: /bin/false is no Python interpreter that runs"):
        _draw(_weights(save_model(tmp_path / "m")))


GB = 10**9


@pytest.mark.parametrize(
    ("devices", "asked", "weights", "memory", "expected"),
    [
        ("", None, 16, None, [""]),
        ("0", None, 16, 72, ["0"]),
        ("0123", None, 16, 72, ["0", "1", "2", "3"]),
        ("0123", None, 60, 72, ["01", "23"]),
        ("0123", None, 140, 72, ["0123"]),
        ("012", None, 60, 72, ["01"]),
        ("0123", 4, 16, 72, ["0123"]),
        ("01", None, 16, None, ["0", "1"]),
    ],
)
def test_devices_are_shared_out(
    devices: str, asked: int | None, weights: int, memory: int | None, expected: Any
) -> None:
    found = layout(list(devices), asked, weights * GB, None if memory is None else memory * GB)
    assert ["".join(group) for group in found.groups] == expected


@pytest.mark.parametrize(
    ("devices", "asked", "message"),
    [
        ("", 2, "2 GPUs are asked for, and this process has none"),
        ("01", 4, r"4 GPUs are asked for, and this process has 2 \(0, 1\)"),
    ],
)
def test_more_gpus_than_there_are_is_an_error(devices: str, asked: int, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^cluster\.vllm\.tensor_parallel: {message}$"):
        layout(list(devices), asked, GB, GB)


def test_weights_that_fit_nowhere_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^cluster\.vllm: weights of 140\.0 GB do not fit into 0\.7 of .* 2 GPUs"):
        layout(["0", "1", "2"], None, 140 * GB, 72 * GB)
