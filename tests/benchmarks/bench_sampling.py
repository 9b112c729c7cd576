"""Our sampler against plain vLLM `generate`, same requests: `python -m tests.benchmarks.bench_sampling --out OUT`.

Each part runs in a process of its own, one after the other, and is written to OUT when it is done: the same command
again goes on with the next part. `plain` is what a user would write, with a seed for every request as ours has them;
`plain_unseeded` without; `plain_ids` with seeds, but without turning tokens into text, which is the most that vLLM
gives; `ours` is the sample stage as it is: text, shards, measures, manifest; `transformers` (without a GPU) the other
engine. Seconds are those of drawing, start-up and warm-up apart.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import figures

TARGET = 0.95
"""Tokens per second of ours by those of plain `generate`, at least, on a GPU."""

_TEMPERATURE = 0.8
_MAX_PROMPT = 256
_WARM_UP = 4

_KINDS = ("Explain {} to a child.", "Write a short story about {}.", "List five facts about {}.", "Why does {} matter?")
_TOPICS = ("rain", "bread", "the moon", "chess", "honesty", "trains", "coral reefs", "volcanoes", "sleep", "money")
_ANGLES = (
    "in winter",
    "long ago",
    "in a city",
    "at sea",
    "for a teacher",
    "with an example",
    "in simple words",
    "today",
)


def prompts(count: int) -> list[str]:
    """So many different instructions."""
    texts = [kind.format(f"{topic} {angle}") for angle in _ANGLES for topic in _TOPICS for kind in _KINDS]
    return [f"{texts[i % len(texts)]} (Variant {i // len(texts) + 1}.)" for i in range(count)]


def overrides(given: argparse.Namespace) -> list[str]:
    """The configuration of ours: all prompts in one block, all samples in another's."""
    return [
        "policy=local",
        f"policy.id={given.out / 'model'}",
        f"policy.dtype={given.dtype}",
        "prompts=file",
        f"prompts.path={given.out / 'prompts.jsonl'}",
        "reward=shorter",
        "judge=shorter",
        f"sampler.temperature={_TEMPERATURE}",
        f"sampler.max_new_tokens={given.tokens}",
        f"sampler.max_prompt_tokens={_MAX_PROMPT}",
        "sampler.prompt_blocks=1",
        f"sampler.sample_block={given.samples}",
        f"sampler.pool={given.samples}",
        f"n={given.samples}",
    ]


def prepare(given: argparse.Namespace) -> None:
    """Model, prompts and requests, once."""
    from harness import chat
    from harness.engines import models

    given.out.mkdir(parents=True, exist_ok=True)
    model, partial = given.out / "model", given.out / "model.partial"
    if not model.exists():
        gguf = sorted(given.model.glob("*.gguf"))
        if gguf:
            models.convert_gguf(gguf[0], partial)
            partial.rename(model)
        else:
            model.symlink_to(given.model.absolute())
    texts = prompts(given.prompts)
    (given.out / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    tokenizer, stops = models.load_tokenizer(model, False)
    encoded = [chat.encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    engine = {
        "model": str(model),
        "dtype": given.dtype,
        "max_model_len": 1024 * -(-(_MAX_PROMPT + given.tokens) // 1024),
        "enforce_eager": given.eager,
        "seed": 0,
    }
    if given.gpu:
        engine["gpu_memory_utilization"] = 0.9
    else:
        engine |= {"max_num_seqs": 128, "enforce_eager": True}
        # On a CPU a request with a seed ends the engine when its prompt is read in parts.
        engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, engine["max_model_len"])}
    if given.sequences:
        engine["max_num_seqs"] = given.sequences
    sampling = {"temperature": _TEMPERATURE, "max_tokens": given.tokens, "stop_token_ids": list(stops)}
    shared = {"engine": engine, "prompts": encoded, "warm_up": encoded[:_WARM_UP], "samples": given.samples}
    for part, more in (("plain", {"seed": 0}), ("plain_unseeded", {}), ("plain_ids", {"seed": 0, "detokenize": False})):
        (given.out / f"{part}.requests.json").write_text(json.dumps({**shared, "sampling": {**sampling, **more}}))


def plain(given: argparse.Namespace, part: str, result: Path) -> None:
    """Plain `generate`, in the interpreter that has vLLM."""
    from harness.engines import process, vllm_server

    python = process.interpreter(given.python, "vllm", vllm_server.KEY, vllm_server.INSTALL)
    variables = vllm_server.environment(given.python, given.threads, offline=True)
    if not given.gpu:
        variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **variables, "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).with_name("plain_vllm.py")
    command = [python, str(script), str(given.out / f"{part}.requests.json"), str(result)]
    subprocess.run(command, env=variables, check=True)


def ours(given: argparse.Namespace, part: str, result: Path) -> None:
    """The sample stage, with its engine started and warmed up before."""
    from rich.console import Console

    from harness import machine
    from harness.cluster import PythonConfig, VllmConfig
    from harness.engines import models, vllm_engine, vllm_group
    from harness.engines.generation import Decoding, Request
    from harness.perform import perform, prepare_process
    from harness.plan import make_plan
    from harness.progress import Reporter
    from harness.store import Store
    from tests.configs import point

    engine = "vllm" if part == "ours" else "transformers"
    store = Store(given.out / f"store-{part}-{time.time_ns()}").prepare()
    config = point(*overrides(given), f"sampler.engine={engine}", "sampler.batch_size=128")
    nodes = make_plan([config], store).nodes.values()
    threads = given.threads or 1
    vllm = VllmConfig(sequences=given.sequences, eager=given.eager)
    machine.use(python=PythonConfig(vllm=given.python), vllm=vllm, threads=threads)
    prepare_process(threads)
    reporter = Reporter(Console(stderr=True, width=200))
    started = time.monotonic()
    if part == "ours":
        warm_up = json.loads((given.out / "plain.requests.json").read_text())["warm_up"]
        requests = [Request(f"warm-up {i}", ids, (0, i)) for i, ids in enumerate(warm_up)]
        decoding = Decoding(temperature=_TEMPERATURE, top_p=1.0, max_new_tokens=given.tokens)
        weights = vllm_group.Weights(path=given.out / "model", dtype=given.dtype, trust_remote_code=False)
        _, stops = models.load_tokenizer(given.out / "model", False)
        list(vllm_engine.generate(weights, stops, requests, 2, decoding, longest=_MAX_PROMPT, tell=reporter.line))
    ready = time.monotonic() - started
    measures: dict[str, Any] = {}
    seconds = 0.0
    for node in (n for n in nodes if n.stage in ("model", "prompts", "sample")):
        begun = time.monotonic()
        ending = perform(node, store, reporter, f"{node.stage} {node.slug}", threads)
        if ending.how != "computed":
            sys.exit(f"{node.stage} {node.slug}: {ending.text} (log: {ending.log})")
        if node.stage == "sample":
            found = store.find(node.stage, node.key)
            assert found is not None
            seconds += time.monotonic() - begun
            measures = {**found.manifest.measures, "responses": found.manifest.rows["kept"]}
    vllm_engine.close()
    figures = {name: measures.get(name) for name in ("responses", "tokens", "finished", "engine")}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result.write_text(json.dumps({"ready": ready, "seconds": seconds, **figures, "megabytes": round(memory)}) + "\n")


PARTS = {"plain": plain, "plain_unseeded": plain, "plain_ids": plain, "ours": ours, "transformers": ours}


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """What the figures of a part depend on."""
    names = ("prompts", "samples", "tokens", "dtype", "eager", "sequences", "gpu")
    return {name: getattr(given, name) for name in names}


def run(given: argparse.Namespace, part: str) -> dict[str, Any]:
    """A part's figures: those that stand, or new ones."""
    path, fresh = given.out / f"{part}.json", given.out / f"{part}.new.json"
    if path.exists():
        stands: dict[str, Any] = json.loads(path.read_text())
        if stands["settings"] == settings(given):
            return stands
    command = [sys.executable, "-m", "tests.benchmarks.bench_sampling", *given.arguments, "--part", part]
    print(f"{part} ...", flush=True)
    subprocess.run(command, check=True)
    figures = {**json.loads(fresh.read_text()), "settings": settings(given)}
    path.write_text(json.dumps(figures, indent=1) + "\n")
    fresh.unlink()
    return figures


def show(figures: dict[str, dict[str, Any]]) -> None:
    """A line for each part."""
    print(f"{'part':<14}{'ready s':>9}{'seconds':>9}{'responses':>11}{'tokens':>11}{'tokens/s':>10}{'of plain':>10}")
    base = figures["plain"]["tokens"] / figures["plain"]["seconds"]
    for part, given in figures.items():
        rate = given["tokens"] / given["seconds"]
        print(
            f"{part:<14}{given['ready']:>9.1f}{given['seconds']:>9.1f}{given['responses']:>11}{given['tokens']:>11}"
            f"{rate:>10.0f}{rate / base:>10.2f}",
            flush=True,
        )


def read() -> argparse.Namespace:
    """The command line."""
    parser = figures.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, which the same command goes on in")
    parser.add_argument("--model", type=Path, required=True, help="folder of safetensors, or of a GGUF file")
    parser.add_argument("--python", help="interpreter that has vLLM; without it, this one")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--sequences", type=int, help="that an engine works on together; otherwise as vLLM has it")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--smoke", action="store_true", help="8 prompts, 4 samples, 16 tokens, nothing compiled")
    parser.add_argument("--parts", default=None, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out = given.out.absolute()
    given.arguments = sys.argv[1:]
    if given.smoke:
        given.prompts, given.samples, given.tokens, given.eager = 8, 4, 16, True
    given.gpu = bool(_devices())
    return given


def _devices() -> list[str]:
    from harness.machine import accelerators

    return accelerators()


def main() -> int:
    """Run what is not done yet, print a table, and say whether the target is met."""
    given = read()
    if given.part:
        PARTS[given.part](given, given.part, given.out / f"{given.part}.new.json")
        return 0
    prepare(given)
    usual = ["plain", "ours", "plain_unseeded", "plain_ids", *([] if given.gpu else ["transformers"])]
    parts = given.parts.split(",") if given.parts else usual
    print(f"load before: {os.getloadavg()[0]:.1f}; {settings(given)}", flush=True)
    parts_found = {part: run(given, part) for part in parts}
    show(parts_found)
    figures.write(given.json, {"parts": parts_found})
    if "ours" not in parts_found:
        return 0
    plain_rate, rate = (parts_found[part]["tokens"] / parts_found[part]["seconds"] for part in ("plain", "ours"))
    print(f"ours by plain vLLM: {rate / plain_rate:.3f} (target on a GPU: at least {TARGET})")
    return 0 if rate / plain_rate >= TARGET or not given.gpu or given.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
