"""Tables of a whole pool, and what is done on them: `python -m tests.benchmarks.bench_store`.

A pool of synthetic text (2.4 million responses unless told) is written in shards as sampling and scoring write them,
read back, and taken through `select`, `reference` (all but its model) and `pairs`. Each step is a process of its own,
so that its peak of resident memory is its own.
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from harness import tables
from harness.positions import POSITIONS
from harness.stages import Context, pairs, reference, select
from harness.store import Artifact, Store
from tests.artifacts import manifest, quiet
from tests.benchmarks import figures

BLOCK_PROMPTS, BLOCK_SAMPLES = 512, 20
"""Prompts and samples of a block; a shard holds eight prompts of it, as `sampler=sweet_spot` writes them."""

SHARD = 160
SCORED = 1024
"""Rewards of a shard."""

MAX_GIGABYTES = 24.0
"""Of resident memory at the size of the published study, to which peaks are scaled in proportion to the prompts."""

STUDY_PROMPTS = 61_135


def text_of(random: np.random.Generator, words: np.ndarray[Any, Any], tokens: int) -> str:
    """So many made-up words."""
    return " ".join(words[random.integers(0, len(words), tokens)])


def prepare(folder: Path) -> Path:
    """An empty store with a policy."""
    store = Store(folder / "store").prepare()
    with store.claim("model") as work:
        store.publish(work, manifest("model", "0" * 16), "synthetic")
    return store.root


def write_block(store: Path, number: int, prompts: int, samples: range, median: int) -> tuple[int, int, float]:
    """Sampled and scored artifacts of one block; returns responses, bytes on disk and seconds of writing."""
    random = np.random.default_rng((number, samples.start))
    words = np.array([f"w{i:x}" for i in range(4096)])
    ids = [f"{number:06x}{i:010x}" for i in range(prompts)]
    lengths = np.clip(random.lognormal(np.log(median), 0.5, prompts * len(samples)), 1, 4 * median).astype(int)
    responses = [
        {
            "prompt_id": ids[i // len(samples)],
            "sample_index": samples.start + i % len(samples),
            "text": text_of(random, words, int(length)),
            "token_ids": random.integers(0, 128_000, length).tolist(),
            "tokens": int(length),
            "finish_reason": "stop",
            "logp": -float(length),
        }
        for i, length in enumerate(lengths)
    ]
    rewards = [
        {"prompt_id": r["prompt_id"], "sample_index": r["sample_index"], "reward": float(random.normal())}
        for r in responses
    ]
    tokens = [{"prompt_id": i, "prompt_ids": random.integers(0, 128_000, 150).tolist()} for i in ids]
    at = Store(store)
    with figures.watched() as took:
        kinds = (("sample", responses, tables.RESPONSES, SHARD), ("score", rewards, tables.rewards_schema(()), SCORED))
        for stage, rows, schema, size in kinds:
            key = f"{number:08x}{samples.start:08x}"
            with at.claim(f"{stage}{key}") as work:
                folder = work / ("responses" if stage == "sample" else "rewards")
                folder.mkdir()
                for shard, start in enumerate(range(0, len(rows), size)):
                    tables.write(tables.build(schema, rows[start : start + size]), folder / f"{shard:05d}.parquet")
                if stage == "sample":
                    tables.write(tables.build(tables.PROMPT_TOKENS, tokens), work / "prompt_tokens.parquet")
                at.publish(work, manifest(stage, key), "synthetic")
    stored = [at.find(stage, f"{number:08x}{samples.start:08x}") for stage in ("sample", "score")]
    return len(responses), sum(r["bytes"] for a in stored if a for r in a.manifest.files.values()), took.seconds


def artifacts(store: Path, stage: str) -> tuple[Artifact, ...]:
    """All artifacts of a stage, by name."""
    at = Store(store)
    found = (at.find(stage, folder.name.rpartition("-")[2]) for folder in at.folders(stage))
    return tuple(a for a in found if a is not None)


def context(store: Path, stage: str, **inputs: tuple[Artifact, ...]) -> Context:
    """What a stage is given."""
    work = store.parent / f"work-{stage}"
    work.mkdir()
    return Context(inputs=inputs, params={}, store=store, work=work, reporter=quiet(), label=stage)


def keep(given: Context, store: Path, stage: str) -> None:
    """Publish what a stage has left in its work folder."""
    at = Store(store)
    with at.claim(stage) as work:
        for entry in given.work.iterdir():
            entry.rename(work / entry.name)
        at.publish(work, manifest(stage, "0" * 16, inputs={"policy": ["0"]}), "synthetic")


def read(store: Path, _: int) -> int:
    """Every column of the responses, in parts; returns rows."""
    names = tables.RESPONSES.names
    return sum(len(part) for a in artifacts(store, "sample") for part in tables.parts(a.table_path("responses"), names))


def do_select(store: Path, n: int) -> int:
    """The stage on all rewards; returns rows taken in."""
    given = context(store, "select", rewards=artifacts(store, "score"))
    outcome = select.run(given, select.Spec(n=n, ddof=0, positions=POSITIONS, draws=None))
    keep(given, store, "select")
    assert outcome.rows.taken == outcome.rows.kept
    return outcome.rows.taken * n


def do_reference(store: Path, _: int) -> int:
    """The stage without its model; returns distinct picks."""

    def fill(_: Context, __: reference.Spec, shard: list[dict[str, Any]], advance: Callable[[int], None]) -> None:
        for row in shard:
            row["logp"] = -float(len(row["response_ids"]))
        advance(len(shard))

    given = context(
        store,
        "reference",
        policy=artifacts(store, "model"),
        picks=artifacts(store, "select"),
        responses=artifacts(store, "sample"),
    )
    spec = reference.Spec(max_length=4096, dtype="float32", autocast="none", batch_tokens=1, trust_remote_code=False)
    with patch.object(reference, "_fill", fill):
        rows = reference.run(given, spec).rows
    keep(given, store, "reference")
    return rows.kept


def do_pairs(store: Path, _: int) -> int:
    """One cell's rows; returns them."""
    given = context(
        store, "pairs", picks=artifacts(store, "select"), reference=artifacts(store, "reference"), others=()
    )
    return pairs.run(given, pairs.Spec(chosen="max", rejected="min")).rows.kept


STEPS: dict[str, Callable[[Path, int], int]] = {
    "read all": read,
    "select": do_select,
    "reference, no model": do_reference,
    "pairs, one cell": do_pairs,
}


def step(name: str, store: Path, n: int, answer: Any) -> None:
    """One step in a process of its own."""
    with figures.watched() as took:
        rows = STEPS[name](store, n)
    answer.send({"rows": rows, **dataclasses.asdict(took)})


def run(given: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Write the pool, and do every step on it."""
    store = prepare(folder)
    spawn = multiprocessing.get_context("spawn")
    starts = range(0, given.prompts, BLOCK_PROMPTS)
    blocks = [
        (
            store,
            start,
            min(BLOCK_PROMPTS, given.prompts - start),
            range(s, min(s + BLOCK_SAMPLES, given.n)),
            given.median,
        )
        for start in starts
        for s in range(0, given.n, BLOCK_SAMPLES)
    ]
    with spawn.Pool(given.processes) as pool:
        wrote = pool.starmap(write_block, blocks, chunksize=1)
    rows, size, seconds = (sum(column) for column in zip(*wrote, strict=True))
    found: dict[str, dict[str, float]] = {"write": {"rows": rows, "bytes": size, "seconds": seconds}}
    show("write", found["write"])
    for name in STEPS:
        mine, its = spawn.Pipe(duplex=False)
        process = spawn.Process(target=step, args=(name, store, given.n, its))
        process.start()
        its.close()
        found[name] = mine.recv()
        process.join()
        if name == "read all":
            found[name]["bytes"] = size
        show(name, found[name])
    return found


def show(name: str, took: dict[str, float]) -> None:
    """A line of the table."""
    speed = f"{took['bytes'] / took['seconds'] / 1e6:10.0f}" if "bytes" in took else " " * 10
    peak = f"{took['peak']:9.2f}{took['peak'] - took['before']:9.2f}" if "peak" in took else ""
    line = f"{name:<21}{took['rows']:>10.0f}{took['seconds']:>9.1f}{took['rows'] / took['seconds']:>12.0f}{speed}{peak}"
    print(line, flush=True)


def main() -> int:
    """Print rows and bytes a second with peaks of memory; 1 where a step would not fit at the study's size."""
    parser = figures.parser(__doc__)
    parser.add_argument("--prompts", type=int, default=6000)
    parser.add_argument("--n", type=int, default=400, help="samples of each prompt")
    parser.add_argument("--median", type=int, default=200, help="tokens of a response")
    parser.add_argument("--processes", type=int, default=2, help="that write the pool")
    parser.add_argument("--folder", type=Path, help="where to work; otherwise a temporary folder")
    given = parser.parse_args()
    print(f"{given.prompts} prompts x {given.n} responses of {given.median} tokens at the median")
    print(f"{'step':<21}{'rows':>10}{'seconds':>9}{'rows/s':>12}{'MB/s':>10}{'peak GB':>9}{'of it':>9}")
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        found = run(given, Path(name))
    scale = STUDY_PROMPTS / given.prompts
    peaks = {n: took["before"] + (took["peak"] - took["before"]) * scale for n, took in found.items() if "peak" in took}
    print(f"at {STUDY_PROMPTS} prompts, in proportion: " + ", ".join(f"{n} {gb:.1f} GB" for n, gb in peaks.items()))
    print(json.dumps({"largest_gigabytes": round(max(peaks.values()), 1), "required_below": MAX_GIGABYTES}))
    figures.write(given.json, {"steps": found, "gigabytes_at_study": peaks})
    return 0 if max(peaks.values()) < MAX_GIGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
