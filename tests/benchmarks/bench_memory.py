"""Resident memory of sampling and scoring at 1x and 10x responses: `python -m tests.benchmarks.bench_memory`.

Prompts are the same, samples of each ten times as many. Sampling runs the real stage with its writers, once with a
policy of random weights that draws, and twice with what makes tokens up in the place of an engine. Scoring runs a real
reward model of random weights, and the reward that counts words. Every run is a process of its own; its peak must not
grow.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from harness import tables
from harness.stages import Context, Outcome, model_score, sample, score
from harness.store import Artifact, Store
from tests.artifacts import Shelf, manifest, quiet
from tests.benchmarks import figures
from tests.tiny import save_tiny_policy
from tests.tiny_rewards import save_classifier

TARGET = 0.05
"""GB by which ten times the responses may raise the peak: far less than the responses themselves take."""


def drawn(requests: Sequence[Any], samples: int, tokens: int) -> list[Any]:
    """Made-up responses, in the place of an engine's."""
    from harness.engines.generation import Response

    random = np.random.default_rng(len(requests))
    return [
        Response(
            request_id=r.request_id,
            number=number,
            token_ids=random.integers(3, 250, tokens).tolist(),
            finish_reason="stop",
            logp=-1.0,
        )
        for r in requests
        for number in range(samples)
    ]


def sampling(engine: str, folder: Path, samples: int, tokens: int) -> tuple[Outcome, figures.Watched]:
    """The sample stage, with an engine that only makes up tokens or with the policy."""
    from harness.engines import generation, models, vllm_engine

    def stream(_: Any, __: Any, requests: Sequence[Any], samples: int, *___: Any, **____: Any) -> Iterator[list[Any]]:
        for request in requests:
            yield drawn([request], samples, tokens)

    def at_once(_: Any, __: Any, requests: Sequence[Any], samples: int, *___: Any) -> list[Any]:
        return drawn(requests, samples, tokens)

    shared: dict[str, Any] = {
        "seed": 0,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_new_tokens": tokens,
        "max_prompt_tokens": 512,
        "dtype": "float32",
        "trust_remote_code": False,
        "blocks": 1,
        "block": 0,
        "prompts": "",
        "sample_block": 0,
        "samples": samples,
    }
    other = sample.Spec(engine="transformers", batch_size=160, **shared)
    spec = sample.VllmSpec(**shared) if engine == "vllm" else other
    given = context(folder, policy=found(folder, "model"), prompts=found(folder, "prompts"))
    models.load(folder / "policy", "float32", False)
    if engine == "policy":
        with figures.watched() as took:
            return sample.run(given, spec), took
    with (
        patch.object(vllm_engine, "generate", stream),
        patch.object(vllm_engine, "running", lambda: "made up"),
        patch.object(generation, "generate", at_once),
        figures.watched() as took,
    ):
        return sample.run(given, spec), took


def scoring(engine: str, folder: Path, samples: int, _: int) -> tuple[Outcome, figures.Watched]:
    """The score stage on a pool of so many samples, with a real model or by counting."""
    given = context(
        folder,
        responses=found(folder, f"sample{samples}"),
        prompts=found(folder, "prompts"),
        reward_model=found(folder, "reward_model"),
    )
    spec: Any = score.Spec(engine="length", weights={"words": 1.0})
    if engine == "model":
        spec = model_score.Spec(
            engine="sequence_classification",
            dtype="float32",
            trust_remote_code=False,
            max_tokens=512,
            batch_tokens=8192,
            objectives=(),
        )
    with figures.watched() as took:
        return score.run(given, spec), took


RUNS: dict[str, tuple[Callable[..., Any], str]] = {
    "sample, vLLM's way": (sampling, "vllm"),
    "sample, transformers' way": (sampling, "transformers"),
    "sample, a policy": (sampling, "policy"),
    "score, a model": (scoring, "model"),
    "score, counted words": (scoring, "length"),
}


def context(folder: Path, **inputs: Artifact) -> Context:
    """What a stage is given."""
    work = Path(tempfile.mkdtemp(dir=folder))
    groups = {name: (artifact,) for name, artifact in inputs.items()}
    return Context(inputs=groups, params={}, store=folder / "store", work=work, reporter=quiet(), label="memory")


def found(folder: Path, key: str) -> Artifact:
    """An input that was prepared."""
    at = Store(folder / "store")
    (artifact,) = (a for stage in at.stages() if (a := at.find(stage, key)) is not None)
    return artifact


def prepare(folder: Path, prompts: int, sizes: Sequence[int], tokens: int) -> None:
    """Models, prompts and pools, once."""
    shelf = Shelf(folder)
    for key, model in (
        ("model", save_tiny_policy(folder / "policy")),
        ("reward_model", save_classifier(folder / "reward")),
    ):
        with shelf.store.claim(key) as work:
            (work / "model.json").write_text(f'{{"path": "{model}"}}')
            shelf.store.publish(work, manifest("model", key, spec={"id": "", "revision": "made up"}), "tiny")
    texts = {f"{i:016x}": f"Question {i}?" for i in range(prompts)}
    rows = shelf.prompts(texts).table("prompts")
    with shelf.store.claim("prompts") as work:
        tables.write(rows, work / "prompts.parquet")
        shelf.store.publish(work, manifest("prompts", "prompts"), "prompts")
    for samples in sizes:
        with shelf.store.claim(f"sample{samples}") as work, pool(work) as shards:
            for prompt_id in texts:
                shards.add([response(prompt_id, i, tokens) for i in range(samples)])
            shards._write()
            shelf.store.publish(work, manifest("sample", f"sample{samples}"), "pool")


def pool(work: Path) -> tables.Shards:
    """Where a pool's responses are written."""
    (work / "responses").mkdir()
    return tables.Shards(work / "responses", tables.RESPONSES)


def response(prompt_id: str, index: int, tokens: int) -> dict[str, Any]:
    """A row of the response table."""
    return {
        "prompt_id": prompt_id,
        "sample_index": index,
        "text": "ab " * (tokens // 3),
        "token_ids": [5] * tokens,
        "tokens": tokens,
        "finish_reason": "stop",
        "logp": None,
    }


def one(name: str, folder: Path, samples: int, tokens: int, answer: Any) -> None:
    """One run in a process of its own."""
    work, engine = RUNS[name]
    outcome, took = work(engine, folder, samples, tokens)
    answer.send((outcome.rows.kept, took.seconds, took.before, took.peak))


def main() -> int:
    """Print peaks at both sizes; 1 where one grows."""
    parser = figures.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--samples", type=int, default=20, help="of each prompt; then ten times as many")
    parser.add_argument("--tokens", type=int, default=90, help="of a response")
    given = parser.parse_args()
    sizes = (given.samples, 10 * given.samples)
    spawn = multiprocessing.get_context("spawn")
    measured: dict[str, list[dict[str, float]]] = {}
    print(f"{'stage':<27}{'responses':>10}{'seconds':>9}{'before GB':>11}{'peak GB':>9}{'growth':>9}")
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), given.prompts, sizes, given.tokens)
        for what in RUNS:
            measured[what] = []
            for samples in sizes:
                mine, its = spawn.Pipe(duplex=False)
                process = spawn.Process(target=one, args=(what, Path(name), samples, given.tokens, its))
                process.start()
                its.close()
                rows, seconds, before, peak = mine.recv()
                process.join()
                growth = peak - measured[what][0]["peak"] if measured[what] else 0.0
                measured[what].append({"rows": rows, "seconds": seconds, "before": before, "peak": peak})
                line = f"{what:<27}{rows:>10}{seconds:>9.1f}{before:>11.3f}{peak:>9.3f}{growth:>9.3f}"
                print(line, flush=True)
    grown = {what: big["peak"] - small["peak"] for what, (small, big) in measured.items()}
    figures.write(given.json, {"runs": measured, "grown_gigabytes": grown})
    return 0 if max(grown.values()) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
