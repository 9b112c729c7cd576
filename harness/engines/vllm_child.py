"""The other end of an engine process: runs where vLLM is installed, which need not hold this project.

`python vllm_child.py PARENT serve ARGUMENT...` is vLLM's OpenAI-compatible server; `python vllm_child.py PARENT sample`
is an engine that is spoken to in frames over its standard input and output: four bytes of length, then JSON. PARENT is
the process with which this one ends, however that ends. Only the standard library, vLLM with what it brings and files
beside this one that import no more are used.
"""

import json
import os
import queue
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any

_PARENT_POLL = 0.25
"""Seconds between looks whether the parent still lives."""

_CPU_BATCHED_TOKENS = 2048
"""Tokens of one step on a CPU, where a prompt has to fit into one."""

_CPU_BLOCK = 32
"""Tokens in a block of keys and values on a CPU, of which its kernels want a multiple of this."""


def main(arguments: list[str]) -> None:
    """Serve or sample until the parent ends, or says so."""
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
        sys.path.pop(0)  # modules beside this file are no top-level packages
    parent, kind, *rest = arguments
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    if kind == "serve":
        _serve(rest)
    else:
        _Sampler().run()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL)
    _end()


def _end() -> None:
    """End this process and all that it has started: it leads a process group of its own."""
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _serve(arguments: list[str]) -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        arguments = [*arguments, *_cpu_arguments(arguments)]
    sys.argv = ["api_server", *arguments]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


def _cpu_arguments(arguments: list[str]) -> list[str]:
    """A CPU engine compiles nothing, and reads prompts whole: those with a seed end it when read in parts."""
    length = int(arguments[arguments.index("--max-model-len") + 1])
    tokens = max(_CPU_BATCHED_TOKENS, length)
    return [
        "--enforce-eager",
        "--distributed-executor-backend",
        "uni",
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        str(tokens),
    ]


class _Sampler:
    """An engine, and the loop that feeds it without ever letting it run dry."""

    def __init__(self) -> None:
        # What libraries print must not get between the frames.
        self._input, self._output = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        self._llm: Any = None
        self._kind: Any = None
        self._cpu = False

    def run(self) -> None:
        """Take messages between the engine's steps; wait for them only where it has nothing to do."""
        while True:
            while (message := self._next()) is not None:
                if message["do"] == "end":
                    self._stop()
                    return
                try:
                    self._take(message)
                except Exception as error:  # told to the parent, which decides
                    self._send({"is": "failed", "id": message.get("id"), "error": _story(error)})
            for output in self._llm.llm_engine.step():
                if output.finished:
                    self._send({"is": "responses", "id": output.request_id, "samples": _samples(output)})

    def _next(self) -> dict[str, Any] | None:
        idle = self._llm is None or not self._llm.llm_engine.has_unfinished_requests()
        with suppress(queue.Empty):
            return self._inbox.get(block=idle)
        return None

    def _take(self, message: dict[str, Any]) -> None:
        if message["do"] == "start":
            self._send({"is": "ready", **self._start(message)})
        elif message["do"] == "generate":
            self._generate(message)
        elif message["do"] == "load":
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": message["path"]})
            if self._cpu:
                self._llm.collective_rpc("pack_head")
            self._llm.reset_prefix_cache()
            self._send({"is": "loaded"})
        elif message["do"] == "sleep":
            self._llm.sleep(level=1)
            self._send({"is": "asleep"})
        elif message["do"] == "wake":
            self._llm.wake_up()
            self._send({"is": "awake"})

    def _start(self, given: dict[str, Any]) -> dict[str, Any]:
        import vllm
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind

        self._kind = RequestOutputKind.FINAL_ONLY
        cpu = self._cpu = current_platform.is_cpu()
        sleeps = not cpu and current_platform.is_sleep_mode_available()
        options = dict(given["options"])
        if cpu:
            # An engine keeps the rotations of all positions as it has computed them once.
            runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "first_calls.py"))["make"]()
            tokens = max(_CPU_BATCHED_TOKENS, options["max_model_len"])
            options |= {"enforce_eager": True, "enable_chunked_prefill": False, "max_num_batched_tokens": tokens}
            # Only whole blocks of a prompt are shared by its samples, and a CPU's are longer than most prompts.
            options |= {"block_size": _CPU_BLOCK}
            # Workers may be processes of their own, which import this file as their main module.
            options |= {"worker_extension_cls": f"{__name__}.{CpuWorker.__name__}"}
        else:
            options |= {"gpu_memory_utilization": given["memory_fraction"], "enable_sleep_mode": sleeps}
        # Token ids go in and come out; vLLM needs no tokenizer, and stops at what each request names.
        self._llm = vllm.LLM(skip_tokenizer_init=True, generation_config="vllm", seed=0, **options)
        config = self._llm.llm_engine.vllm_config
        return {
            "version": vllm.__version__,
            "device": "cpu" if cpu else str(current_platform.get_device_name()),
            "sequences": int(config.scheduler_config.max_num_seqs),
            "sleeps": sleeps,
        }

    def _generate(self, given: dict[str, Any]) -> None:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        # Built anew for every request: the engine keeps and changes what it is given.
        params = SamplingParams(**given["sampling"], detokenize=False, output_kind=self._kind)
        adapter = given["adapter"]
        lora = LoRARequest(adapter["name"], adapter["number"], adapter["path"]) if adapter else None
        prompt = {"prompt_token_ids": given["prompt"]}
        self._llm.llm_engine.add_request(given["id"], prompt, params, lora_request=lora)

    def _stop(self) -> None:
        """Let the engine's own processes end first."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._outbox.put(None)
        self._writer.join()
        _end()

    def _listen(self) -> None:
        while (frame := read(self._input)) is not None:
            self._inbox.put(frame)
        _end()

    def _send(self, message: dict[str, Any]) -> None:
        self._outbox.put(message)

    def _write(self) -> None:
        """Write in a thread of its own: a pipe is full before a large answer is in it, and the engine must not wait."""
        while (message := self._outbox.get()) is not None:
            data = json.dumps(message, separators=(",", ":")).encode()
            try:
                self._output.write(len(data).to_bytes(4, "big") + data)
                self._output.flush()
            except OSError:
                _end()


class CpuWorker:
    """What vLLM adds to its own worker, of which there is one for each part of the weights."""

    model_runner: Any

    def pack_head(self) -> None:
        """Pack the output layer anew: where it is the embeddings, it would go on with its copy of the old ones."""
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        method = getattr(head, "quant_method", None)
        if method is not None:
            method.process_weights_after_loading(head)


def read(file: IO[bytes]) -> dict[str, Any] | None:
    """The next frame; None at the end."""
    head = file.read(4)
    if len(head) < 4:
        return None
    frame: dict[str, Any] = json.loads(file.read(int.from_bytes(head, "big")))
    return frame


def _samples(output: Any) -> list[list[Any]]:
    ordered = sorted(output.outputs, key=lambda sample: sample.index)
    return [[list(s.token_ids), s.finish_reason, s.cumulative_logprob] for s in ordered]


def _story(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main(sys.argv[1:])
