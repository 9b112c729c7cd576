"""What a user would do with one cell's pairs: TRL's trainer, then plain vLLM.

`python -m tests.benchmarks.plain_cell STORE CHOSEN REJECTED OUT PART`, where the store has a trained cell; PART is
`stock` (TRL's trainer as it comes), `tuned` (what its options allow) or `answers` (the held-out instructions, by an
engine of its own on what `stock` has saved). Seconds are written to OUT/PART.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import chat, machine
from harness.config import read
from harness.manifest import Manifest, usable_manifest
from harness.stages import train
from harness.store import Artifact, Store


def manifests(store: Store, stage: str) -> Iterator[Manifest]:
    """Of a stage's artifacts."""
    yield from filter(None, map(usable_manifest, store.folders(stage)))


def found(store: Store, stage: str, key: str) -> Artifact:
    """An artifact that is there."""
    artifact = store.find(stage, key)
    assert artifact is not None
    return artifact


def cell(store: Store, chosen: str, rejected: str) -> tuple[Manifest, Artifact]:
    """The training of a cell, and its pairs."""
    pairs = next(m for m in manifests(store, "pairs") if (m.spec["chosen"], m.spec["rejected"]) == (chosen, rejected))
    training = next(m for m in manifests(store, "train") if m.inputs["pairs"] == [pairs.key])
    return training, found(store, "pairs", pairs.key)


def texts(store: Store, pairs: Artifact) -> list[dict[str, Any]]:
    """Its pairs as conversations, which is how users give them to TRL."""
    asked = {
        row["prompt_id"]: row["messages"]
        for manifest in manifests(store, "prompts")
        for row in found(store, "prompts", manifest.key).table("prompts").to_pylist()
    }

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    rows = pairs.table("pairs", ["prompt_id", "chosen_text", "rejected_text"]).to_pylist()
    return [
        {"prompt": asked[r["prompt_id"]], "chosen": said(r["chosen_text"]), "rejected": said(r["rejected_text"])}
        for r in rows
    ]


def trained(given: argparse.Namespace, store: Store) -> dict[str, Any]:
    """Load, train and save; the first step's compilations are a user's, too."""
    from tests.benchmarks import bench_training
    from tests.benchmarks.figures import timed

    training, pairs = cell(store, given.chosen, given.rejected)
    policy = found(store, "model", training.inputs["policy"][0]).model_path
    rows, spec, folder = texts(store, pairs), read(train.Spec, training.spec), given.out / given.part
    if spec.lora is not None:
        sys.exit("the plain trainer trains all weights: train.method=full")

    def work() -> Any:
        trainer = bench_training.stock(policy, rows, spec, given.micro, folder, tuned=given.part == "tuned")
        trainer.train()
        trainer.save_model(str(folder / "saved"))
        return trainer

    seconds, trainer = timed(work)
    return {"seconds": seconds, "pairs": len(rows), "steps": trainer.state.global_step}


def answered(given: argparse.Namespace, store: Store) -> dict[str, Any]:
    """Start an engine on the trained model, and answer every instruction."""
    from harness.engines import models, process, vllm_server

    model = given.out / "stock" / "saved"
    tokenizer, stops = models.load_tokenizer(model, False)
    respond = next(manifests(store, "respond"))
    rows = found(store, "respond", respond.key).table("answers", ["instruction"]).to_pylist()
    prompts = [chat.encode_prompt(tokenizer, [{"role": "user", "content": r["instruction"]}]) for r in rows]
    spec, on_gpu = respond.spec, bool(machine.accelerators())
    length = 1024 * -(-(spec["max_prompt_tokens"] + spec["max_new_tokens"]) // 1024)
    engine: dict[str, Any] = {"model": str(model), "dtype": spec["dtype"], "max_model_len": length, "seed": 0}
    variables = vllm_server.environment(given.python, None, offline=True)
    if not on_gpu:
        variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", **variables, "CUDA_VISIBLE_DEVICES": ""}
        engine |= {"max_num_seqs": 128, "enforce_eager": True}
    sampling = {"temperature": spec["temperature"], "max_tokens": spec["max_new_tokens"], "stop_token_ids": list(stops)}
    asked = {"engine": engine, "sampling": sampling, "prompts": prompts, "warm_up": prompts[:4], "samples": 1}
    requests, result = given.out / "requests", given.out / "answered"
    requests.write_text(json.dumps(asked))
    python = process.interpreter(given.python, "vllm", vllm_server.KEY, vllm_server.INSTALL)
    script = Path(__file__).with_name("plain_vllm.py")
    subprocess.run([python, str(script), str(requests), str(result)], env=variables, check=True)
    answers: dict[str, Any] = json.loads(result.read_text())
    return answers


def main() -> None:
    """Do one part, and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("chosen")
    parser.add_argument("rejected")
    parser.add_argument("out", type=Path)
    parser.add_argument("part", choices=("stock", "tuned", "answers"))
    parser.add_argument("--micro", type=int, default=4, help="pairs of one forward pass")
    parser.add_argument("--python", help="interpreter that has vLLM")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    made = (answered if given.part == "answers" else trained)(given, Store(given.store))
    (given.out / f"{given.part}.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
