"""Training against stock TRL, in one run on the same pairs: `python -m tests.benchmarks.bench_training`.

Pairs a second, reference pass included, of TRL's trainer as it comes (gradient checkpointing, the reference model in
every step), of the same with what its options allow (reference precomputed, no checkpointing), and of ours; and the
reference pass alone against TRL's own. The pairs are made-up words with lengths as answers have them. Writes JSON.
"""

import argparse
import dataclasses
import io
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from trl import DPOConfig, DPOTrainer

from harness.config import LossConfig
from harness.engines import logprobs, models, runs, training
from harness.progress import Reporter
from harness.stages.train import Spec
from tests.benchmarks import figures
from tests.benchmarks import models as small
from tests.benchmarks.figures import timed


def made_up(tokenizer: Any, count: int, median: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of texts; response lengths are log-normal with the given median in tokens, prompts are about 60."""
    random = np.random.default_rng(seed)
    words = small.words(tokenizer)

    def text(tokens: int) -> str:
        return " ".join(random.choice(words, tokens))

    def response() -> str:
        return " " + text(int(np.clip(random.lognormal(np.log(median), 0.5), 10, 3 * median)))

    return [{"prompt": text(60), "chosen": response(), "rejected": response()} for _ in range(count)]


def settings(given: argparse.Namespace, on_gpu: bool) -> Spec:
    """Of all trainings."""
    return Spec(
        loss=LossConfig(type="sigmoid", beta=0.1, label_smoothing=0.0),
        method="full",
        seed=0,
        learning_rate=5e-6,
        schedule="cosine",
        warmup_ratio=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        epochs=1.0,
        max_steps=None,
        global_batch=given.batch,
        micro_batch=None,
        batch_tokens=given.batch_tokens,
        max_length=1024,
        weights_dtype="float32",
        autocast="bfloat16" if on_gpu else "none",
        gradient_checkpointing=False,
        save_dtype="float32",
        lora=None,
        trust_remote_code=False,
    )


def stock(policy: Path, pairs: list[dict[str, str]], spec: Spec, micro: int, work: Path, *, tuned: bool) -> Any:
    """TRL's trainer, not begun; construction tokenises, and with `tuned` runs the reference model."""
    model, tokenizer = models.load_for_training(policy, "float32", False)
    ours = training._arguments(dataclasses.replace(spec, batch_tokens=None, micro_batch=micro), work, 0)
    arguments = DPOConfig(
        **{name: getattr(ours, name) for name in ("use_cpu", "bf16", "seed", "data_seed", "learning_rate")},
        **{name: getattr(ours, name) for name in ("max_length", "max_grad_norm", "report_to", "disable_tqdm", "beta")},
        output_dir=str(work),
        lr_scheduler_type=spec.schedule,
        warmup_steps=spec.warmup_ratio,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.global_batch // micro,
        num_train_epochs=1,
        precompute_ref_log_probs=tuned,
        **({runs.CHECKPOINTING: False} if tuned else {}),
        save_strategy="no",
        logging_steps=1,
    )
    return DPOTrainer(model, args=arguments, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)


def references(policy: Path, rows: list[dict[str, Any]], spec: Spec, batch_tokens: int) -> None:
    """Fill in the reference log-probabilities, each distinct response once."""
    model, _, _ = models.load(policy, "float32", False)
    for side in ("chosen", "rejected"):
        responses = [(r["prompt_ids"], r[f"{side}_ids"]) for r in rows]
        logps = logprobs.response_logps(model, responses, batch_tokens, spec.autocast, lambda _: None)
        for row, logp in zip(rows, logps, strict=True):
            row[f"ref_{side}_logp"] = float(logp)


def run(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure everything; seconds by name, and the losses of each training."""
    policy = small.policy(given.policy, work)
    on_gpu = torch.cuda.is_available()
    spec = settings(given, on_gpu)
    _, tokenizer = models.load_for_training(policy, "float32", False)
    pairs = made_up(tokenizer, given.pairs, given.median)
    out: dict[str, Any] = {"seconds": {}, "losses": {}, "peak_gb": {}}

    def measure(name: str, action: Callable[[], Any]) -> Any:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        out["seconds"][name], result = timed(action)
        if on_gpu:
            out["peak_gb"][name] = torch.cuda.max_memory_allocated() / 1e9
        print(f"{name}: {out['seconds'][name]:.1f} s", flush=True)
        return result

    warm = made_up(tokenizer, 2 * given.batch, given.median, seed=1)  # kernels are compiled at the first use
    stock(policy, warm, spec, given.micro, work / "warm", tuned=False).train()
    for name, tuned in (("stock", False), ("stock_tuned", True)):
        if name not in given.skip:

            def train(tuned: bool = tuned, name: str = name) -> Any:
                trainer = stock(policy, pairs, spec, given.micro, work / name, tuned=tuned)
                trainer.train()
                trainer.save_model(str(work / name / "saved"))  # as ours does
                return trainer

            trainer = measure(name, train)
            out["losses"][name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            del trainer
    tokenised = stock(policy, pairs, spec, given.micro, work / "tokens", tuned=False).train_dataset.to_list()
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [{"prompt_id": str(i), **{name: row[name] for name in columns}} for i, row in enumerate(tokenised)]
    for row in rows:
        for side in ("chosen_ids", "rejected_ids"):
            row[side] = row[side][: spec.max_length - len(row["prompt_ids"])]
    out["tokens_per_pair"] = float(np.mean([sum(len(r[c]) for c in columns) + len(r["prompt_ids"]) for r in rows]))
    references(policy, rows[: given.batch], spec, given.reference_tokens)
    measure("reference", lambda: references(policy, rows, spec, given.reference_tokens))
    reporter = Reporter(Console(file=io.StringIO()))

    def ours() -> Any:
        return training.train(policy, rows, spec, work / "ours", save_steps=0, reporter=reporter, label="ours")

    history = measure("ours", ours)
    out["losses"]["ours"] = [row["loss"] for row in history]
    if "trl_reference" not in given.skip:
        trainer = stock(policy, pairs, spec, given.micro, work / "again", tuned=False)
        trainer.precompute_ref_logps = True
        measure("trl_reference", lambda: trainer._precompute_ref_logps(trainer.train_dataset, "train", given.micro))
    return out


def main() -> int:
    """Print pairs a second and ratios; 1 where ours is less than twice the stock one."""
    parser = figures.parser(__doc__)
    parser.add_argument("--policy", type=Path, help="folder of safetensors; otherwise SmolLM2 out of its package")
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--median", type=int, default=250, help="tokens of a response")
    parser.add_argument("--batch", type=int, default=32, help="pairs a step")
    parser.add_argument("--micro", type=int, default=16, help="pairs of one forward pass of the stock trainer")
    parser.add_argument("--batch-tokens", type=int, default=65536, help="of one forward pass of ours")
    parser.add_argument("--reference-tokens", type=int, default=16384, help="of one forward pass of the reference")
    parser.add_argument("--skip", nargs="*", default=[], help="stock, stock_tuned, trl_reference")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        out = run(given, Path(name))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    out |= {"pairs": given.pairs, "device": device, "torch": torch.__version__}
    seconds = out["seconds"]
    whole = {name: seconds[name] for name in ("stock", "stock_tuned") if name in seconds}
    whole["ours"] = seconds["ours"] + seconds["reference"]
    print(f"{device}; {given.pairs} pairs, {out['tokens_per_pair']:.0f} tokens a pair, {given.batch} a step")
    for name, value in whole.items():
        ratio = f"; ours is {value / whole['ours']:.2f} times as fast" if name != "ours" else ""
        print(f"  {name:<12}{given.pairs / value:8.1f} pairs/s, reference included{ratio}")
        if name != "ours":
            apart = np.abs(np.array(out["losses"][name]) - np.array(out["losses"]["ours"])).max()
            print(f"  {'':<12}largest difference of a step's loss: {apart:.1e}")
    if "trl_reference" in seconds:
        print(f"  reference pass: {seconds['trl_reference'] / seconds['reference']:.2f} times as fast as TRL's own")
    figures.write(given.json, out)
    return 0 if whole.get("stock", np.inf) >= 2 * whole["ours"] else 1


if __name__ == "__main__":
    sys.exit(main())
