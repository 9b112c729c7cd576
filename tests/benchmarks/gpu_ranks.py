"""Training through the launcher of several processes on this machine's GPUs, against one process without it.

`python -m tests.benchmarks.gpu_ranks [PROCESSES]`, 1 by default, which takes the whole way (torchrun, NCCL, FSDP) with
one GPU. A step has eight pairs, so that PROCESSES is 1, 2, 4 or 8. It prints the seconds and the largest difference of
each way of training, and ends with 1 where the curves differ.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harness.config import LoraConfig
from harness.engines import loaded, training
from harness.progress import Reporter
from harness.ranks import launch
from harness.world import Sharding, World
from tests.engines.test_training import SPEC, rows_of
from tests.tiny import save_tiny_policy

PAIRS, STEPS = 61, 12
TOLERANCE = {"none": 1e-3, "bfloat16": 5e-2}
"""Of losses and margins, by the type of the computation; kernels add up in another order each time."""

_FULL = dataclasses.replace(
    SPEC, global_batch=8, micro_batch=1, epochs=None, max_steps=STEPS, learning_rate=1e-4, max_length=48
)
WAYS: dict[str, tuple[Any, Sharding]] = {
    "full, sharded": (_FULL, "full"),
    "full, sharded, bfloat16, by tokens": (
        dataclasses.replace(_FULL, autocast="bfloat16", micro_batch=None, batch_tokens=200, save_dtype="bfloat16"),
        "full",
    ),
    "full, sharded, bfloat16, checkpointed": (
        dataclasses.replace(_FULL, autocast="bfloat16", gradient_checkpointing=True),
        "full",
    ),
    "adapters, sharded": (
        dataclasses.replace(_FULL, method="lora", lora=LoraConfig(r=4, alpha=8, target_modules="all-linear")),
        "full",
    ),
    "full, not sharded": (_FULL, "none"),
}


def main(processes: int) -> int:
    """Train each way twice; returns the exit code."""
    if torch.cuda.device_count() < processes:
        print(f"{processes} GPUs are needed, and {torch.cuda.device_count()} are here", file=sys.stderr)
        return 2
    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        policy = save_tiny_policy(Path(root) / "policy")
        rows = rows_of(policy, PAIRS)
        loaded.forget()
        for number, (way, (spec, sharding)) in enumerate(WAYS.items()):
            seconds, histories = [], []
            for by in ("one", "launched"):
                work = Path(root) / f"{number}-{by}"
                work.mkdir()
                begun = time.monotonic()
                given: dict[str, Any] = {"save_steps": 5, "reporter": Reporter(), "label": by}
                if by == "one":
                    histories.append(training.train(policy, rows, spec, work, **given))
                else:
                    world = World(processes=processes, threads=4, sharding=sharding)
                    histories.append(launch.train(policy, rows, spec, work, world, **given))
                seconds.append(time.monotonic() - begun)
            off = max(abs(a[n] - b[n]) for a, b in zip(*histories, strict=True) for n in ("loss", "margin"))
            verdict = "equal" if off <= TOLERANCE[spec.autocast] else "DIFFERENT"
            wrong += verdict != "equal"
            print(f"{way}: {verdict}, off by {off:.1e}; {seconds[0]:.1f} s alone, {seconds[1]:.1f} s launched")
    print(f"{torch.cuda.get_device_name()}, {processes} of {torch.cuda.device_count()}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
