"""A package of vLLM's name and shape, for tests of what surrounds the engine: it draws no text worth reading.

FAKE_VLLM is a folder: what the engine is told is noted in its `journal`. A file `die` holds how many requests come back
before the engine kills itself (where FAKE_VLLM_DIES is `once`, only the first one), `refuse` what it says instead of
starting; `cuda` makes it one of a GPU.
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
__version__ = "0.0.fake"

_FOLDER = Path(os.environ["FAKE_VLLM"])


def note(*words: Any) -> None:
    """Add a line to the journal."""
    with (_FOLDER / "journal").open("a") as file:
        file.write(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], *words]) + "\n")


class _Engine:
    def __init__(self, options: dict[str, Any]) -> None:
        scheduler = SimpleNamespace(max_num_seqs=options["max_num_seqs"] or 8)
        self.vllm_config = SimpleNamespace(scheduler_config=scheduler)
        self.engine_core = SimpleNamespace(shutdown=lambda: note("shutdown"))
        self._waiting: list[Any] = []
        self._out = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: Any, lora_request: Any = None) -> None:
        if not prompt["prompt_token_ids"]:
            raise ValueError("a prompt of no tokens")
        self._waiting.append((name, params))
        note("request", name, lora_request and lora_request.lora_path)

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def step(self) -> list[Any]:
        deaths = _FOLDER / "die"
        if deaths.exists() and self._out >= int(deaths.read_text()):
            if "once" in os.environ.get("FAKE_VLLM_DIES", ""):
                deaths.unlink()
            print("the fake engine dies now", file=sys.stderr, flush=True)
            time.sleep(0.5)  # an engine takes long over a step: what came back before has been told by then
            os.kill(os.getpid(), signal.SIGKILL)
        name, params = self._waiting.pop(0)
        self._out += 1
        samples = [
            SimpleNamespace(
                index=i, token_ids=[(params.seed or 0) % 97, i, 2], finish_reason="stop", cumulative_logprob=None
            )
            for i in reversed(range(params.n))
        ]
        return [SimpleNamespace(request_id=name, outputs=samples, finished=True)]


class LLM:
    """Takes what the real one takes, and notes it."""

    def __init__(self, **options: Any) -> None:
        note("start", options["model"], options["max_model_len"], options.get("max_lora_rank", 0))
        refusal = _FOLDER / "refuse"
        if refusal.exists():
            raise ValueError(refusal.read_text())
        print("to standard output, between the frames", flush=True)
        module, _, name = options.get("worker_extension_cls", "builtins.object").rpartition(".")
        self._worker = getattr(importlib.import_module(module), name)
        self.llm_engine = _Engine(options)

    def collective_rpc(self, method: str, kwargs: dict[str, Any] | None = None) -> None:
        """New weights, by their name; and what every worker does after it, which it must have been given."""
        note(*((method, kwargs["weights_path"]) if kwargs else ("worker", getattr(self._worker, method).__name__)))

    def reset_prefix_cache(self) -> None:
        """What was read with other weights is not read again."""
        note("reset")

    def sleep(self, level: int) -> None:
        """Give up memory."""
        note("sleep", level)

    def wake_up(self) -> None:
        """Take it again."""
        note("wake")
