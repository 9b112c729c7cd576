"""What is kept loaded is given up where room is needed, whoever keeps it."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch

from harness.engines import loaded, models, reward_models, vllm_engine


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was given up, of a cache with one value and an engine, on a machine with a GPU of 100 bytes."""
    given_up: list[str] = []

    class Cache:
        def cache_clear(self) -> None:
            given_up.append("models")

    monkeypatch.setattr(loaded, "_CACHES", [])
    monkeypatch.setattr(loaded, "_RESTS", [])
    loaded.kept(Cache())
    loaded.rests(lambda: given_up.append("engine"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (100, 100))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return given_up


@pytest.mark.parametrize(("weights", "given_up"), [(50, ["engine"]), (51, ["engine", "models"])])
def test_models_are_dropped_for_one_that_has_too_little_room_beside_them(
    weights: int, given_up: list[str], told: list[str], tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(weights))
    loaded.make_room(tmp_path)
    assert told == given_up


def test_all_is_given_up_for_another_process(told: list[str]) -> None:
    loaded.release()
    assert told == ["engine", "models"]


def test_without_a_gpu_nothing_has_to_make_room(
    told: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    loaded.make_room(tmp_path)
    loaded.release()
    assert told == []


def test_policies_reward_models_and_engines_are_among_what_is_given_up() -> None:
    assert {models._cached, reward_models._load} <= set(loaded._CACHES)
    assert vllm_engine.rest in loaded._RESTS


def test_a_function_stays_cached_when_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "_CACHES", [])
    calls: list[int] = []

    @loaded.kept
    @lru_cache(maxsize=1)
    def load(number: int) -> int:
        calls.append(number)
        return number

    assert (load(1), load(1)) == (1, 1)
    loaded.forget()
    assert (load(1), calls) == (1, [1, 1])
