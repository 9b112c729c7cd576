"""The estimate of a training's memory against a real one on a CPU: `python -m tests.benchmarks.bench_training_memory`.

Each training runs in a process of its own; what counts is how far its resident memory grows above what stood before.
"""

import gc
import importlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from harness.config import LoraConfig, LossConfig
from harness.resources import training as memory
from harness.resources.architecture import of_folder
from harness.resources.gpus import Gpu
from harness.resources.places import Place
from harness.stages.train import Spec
from tests.benchmarks import figures
from tests.benchmarks.models import policy

CASES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, checkpointing": {"gradient_checkpointing": True},
    "adapters": {"method": "lora", "lora": LoraConfig(r=16, alpha=32, target_modules="all-linear")},
    "float32, four pairs": {"global_batch": 4, "micro_batch": 4},
}

ON_CPU = Place(gpu=Gpu(name="cpu", memory=float(psutil.virtual_memory().total), is_cpu=True))


_NOTHING_HELD = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Has glibc give back what is freed: otherwise the process keeps much that is not in use."""


def spec_of(case: str, length: int) -> Spec:
    """A training of two steps, since Adam's moments are there from the end of the first on."""
    plain = Spec(
        loss=LossConfig(type="sigmoid", beta=0.1, label_smoothing=0.0),
        method="full",
        seed=0,
        learning_rate=1e-6,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        epochs=None,
        max_steps=2,
        global_batch=2,
        micro_batch=2,
        max_length=length,
        weights_dtype="float32",
        autocast="none",
        gradient_checkpointing=False,
        save_dtype="float32",
        lora=None,
        trust_remote_code=False,
    )
    return replace(plain, **CASES[case])


def rows_of(policy: Path, spec: Spec) -> list[dict[str, Any]]:
    """Rows of random tokens, all as long as they may be."""
    from harness.engines import logprobs, models

    random = np.random.default_rng(0)
    model, _, _ = models.load(policy, "float32", False)
    quarter, rows = spec.max_length // 4, []
    for number in range(2 * spec.global_batch):
        prompt = random.integers(100, 20000, quarter).tolist()
        sides = [random.integers(100, 20000, spec.max_length - quarter).tolist() for _ in range(2)]
        logps = logprobs.response_logps(
            model, [(prompt, side) for side in sides], 2 * spec.max_length, "none", lambda _: None
        )
        rows.append(
            {
                "prompt_id": str(number),
                "prompt_ids": prompt,
                "chosen_ids": sides[0],
                "rejected_ids": sides[1],
                "ref_chosen_logp": float(logps[0]),
                "ref_rejected_logp": float(logps[1]),
            }
        )
    return rows


def measure(policy: Path, case: str, length: int) -> int:
    """Bytes by which a training makes this process grow."""
    from harness.engines import loaded, training
    from harness.progress import Reporter

    spec = spec_of(case, length)
    rows = rows_of(policy, spec)
    importlib.import_module("peft")  # which is loaded late, and is no part of a training's memory
    loaded.forget()
    gc.collect()
    me = psutil.Process()
    before: int = me.memory_info().rss
    highest = before
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.is_set():
            highest = max(highest, me.memory_info().rss)
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    with tempfile.TemporaryDirectory() as work:
        training.train(policy, rows, spec, Path(work), save_steps=0, reporter=Reporter(), label="train")
    over.set()
    watching.join()
    return highest - before


def main() -> None:
    """Print a row for each case, and write them as JSON."""
    parser = figures.parser(__doc__)
    parser.add_argument(
        "--model", type=Path, help="folder of the policy; SmolLM2-135M of a package where none is named"
    )
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--case", choices=CASES, help="measure this one in this process")
    given = parser.parse_args()
    if given.case:
        print(measure(given.model, given.case, given.length))
        return
    with tempfile.TemporaryDirectory() as work:
        figures.write(given.json, compare(policy(given.model, Path(work)), given.length))


def compare(model: Path, length: int) -> dict[str, dict[str, float]]:
    """Bytes of each case, measured and estimated."""
    shape = of_folder(model)
    assert shape is not None
    found = {}
    for case in CASES:
        command = [sys.executable, "-m", "tests.benchmarks.bench_training_memory", "--model", str(model)]
        command += ["--length", str(length), "--case", case]
        grown = float(
            subprocess.run(
                command, capture_output=True, text=True, check=True, env={**os.environ, **_NOTHING_HELD}
            ).stdout.split()[-1]
        )
        spec = spec_of(case, length)
        asked = memory.asked(spec, ON_CPU, checkpointing=bool(spec.gradient_checkpointing))
        estimated = sum(memory.need(shape, asked).values())
        found[case] = {"measured": grown, "estimated": estimated}
        print(
            f"{case:<24}{grown / 1e9:8.2f} GB  estimated {estimated / 1e9:6.2f} GB  {estimated / grown:5.2f}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
