"""The 21-cell grid against 21 separate pipelines: `python -m tests.benchmarks.bench_grid [key=value ...]`.

Three steps, each kept in `--store`, so that the same command goes on where it was ended; with `--minutes` it ends
itself in time. What is timed:

- `grid`: all cells with one command on one store.
- `plain`: one cell's pairs trained by TRL's trainer as it comes, with the reference in every step, and with what its
  options allow; with vLLM, the held-out instructions answered by a new engine of plain vLLM.
- `alone`: cells of which each runs on a store of its own, which is what a script for one cell does.

What is in proportion: 21 times the mean of `alone`, and 21 times `plain`. Seconds of stages are those of the manifests:
GPU-seconds where there is a GPU, the part of sharers where several workers share one. What an interruption cut short
is in the wall clock's seconds alone, which are summed over all calls. Overrides go to the grid and to the cells alone.
"""

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import cost, machine
from harness.store import Store
from tests.benchmarks import figures
from tests.benchmarks.versions import code

SAMPLE = (("max", "min"), ("mu+1s", "mu-1s"))
"""Cells that run on their own; the first one's pairs are those of `plain`."""

CELLS = 21

PLAIN = {"stock": "TRL as it comes", "tuned": "TRL, reference precomputed, no checkpointing"}
"""How a cell's pairs are trained otherwise."""

TARGETS = {"pipelines": 6.0, "training and answering, stock": 2.0}
"""How many times fewer GPU-seconds the grid takes, at least, on a GPU."""

MINUTES = 15.0
"""Of the whole grid at most, on a GPU."""

PROMPTS, INSTRUCTIONS = 512, 256

_UNFINISHED = 3
_GRACE = 60.0
"""Seconds that an interrupted command has to end by itself."""


@dataclass
class Clock:
    """The time of this call."""

    ends: float
    """When it has to stop, by `time.monotonic`."""

    @property
    def is_up(self) -> bool:
        """Whether to stop."""
        return time.monotonic() >= self.ends


class Steps:
    """What has been timed so far, in a file that is whole at any moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def time(self, name: str, command: Sequence[str], clock: Clock) -> None:
        """Run a command that goes on where it was ended, unless it has come to its end.

        Raises:
            SystemExit: it failed, or there is no time left.
        """
        step = self.found.setdefault(name, {"wall": 0.0, "calls": 0, "done": False})
        if step["done"]:
            return
        if clock.is_up:
            stop(name)
        step["calls"] += 1
        before, started = step["wall"], time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen([sys.executable, "-m", *command], stdout=output, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None and not clock.is_up:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(1)
                    self._note(step, before + time.monotonic() - started)
            finally:
                _end(process)
                self._note(step, before + time.monotonic() - started)
            if clock.is_up and process.returncode:
                stop(name)
            if process.returncode:
                output.seek(0)
                said = output.read().decode(errors="replace")[-6000:]
                sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{said}")
        self._note(step, step["wall"], done=True)

    def _note(self, step: dict[str, Any], wall: float, *, done: bool = False) -> None:
        step |= {"wall": wall, "done": done}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.found))
        partial.replace(self._path)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt a command that still runs, and wait for it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def stop(name: str) -> None:
    """End this call.

    Raises:
        SystemExit: always.
    """
    print(f"{name}: not at its end yet; the same command goes on from here", flush=True)
    sys.exit(_UNFINISHED)


@dataclass(frozen=True)
class Work:
    """What a store's artifacts took, by stage; an alias took nothing."""

    seconds: dict[str, float]
    starts: dict[str, float]
    """Of it, seconds in which an engine got ready."""


def work(*roots: Path) -> Work:
    """Seconds of work in stores: of GPUs where they were held, else of processes."""
    found = Work(defaultdict(float), defaultdict(float))
    for path in sorted(path for root in roots for path in root.glob("*/*/manifest.json")):
        manifest = json.loads(path.read_text())
        if manifest["alias_of"] is None:
            stage, took = manifest["stage"], cost.of(manifest["provenance"])
            found.seconds[stage] += took.gpu_seconds or took.seconds
            found.starts[stage] += manifest["measures"].get("engine_start_seconds") or 0.0
    return found


def full_size(folder: Path) -> list[str]:
    """The sizes that are required on a GPU, with the prompts and the reward model that they need."""
    from tests.benchmarks import bench_sampling, models

    texts = bench_sampling.prompts(PROMPTS + INSTRUCTIONS)
    for name, part in (("prompts", texts[:PROMPTS]), ("instructions", texts[PROMPTS:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in part))
    if not (folder / "reward").exists():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            models.reward_model(models.policy(None, Path(made)), Path(made)).rename(folder / "reward")
    return [
        *("prompts=file", f"prompts.path={folder / 'prompts.jsonl'}", "prompts.limit=null", "n=32"),
        *("sampler.sample_block=32", "sampler.pool=32", "sampler.prompt_blocks=1", "sampler.max_new_tokens=256"),
        *("sampler.max_prompt_tokens=256", "policy.dtype=bfloat16"),
        *("reward=sequence_classification", f"reward.model.id={folder / 'reward'}", "reward.model.dtype=bfloat16"),
        "reward.batch_tokens=65536",
        *("train.global_batch=32", "train.micro_batch=16", "train.batch_tokens=65536", "train.max_length=1024"),
        *("train.autocast=bfloat16", "train.save_steps=0"),
        *(f"evaluate.path={folder / 'instructions.jsonl'}", "evaluate.limit=null", "evaluate.max_new_tokens=256"),
    ]


def overrides(given: argparse.Namespace, folder: Path) -> list[str]:
    """What every cell is told."""
    engine = ["sampler=vllm", "evaluate.engine=vllm", f"cluster.python.vllm={given.python}"] if given.python else []
    # TRL's trainer as it comes trains all weights.
    whole = ["train=laptop", "train.epochs=1"]
    return [*engine, *whole, *(full_size(folder) if given.full else []), *given.overrides]


def run(given: argparse.Namespace, folder: Path) -> tuple[Steps, dict[str, Any]]:
    """All steps, and what the plain trainer and engine took."""
    steps = Steps(folder / "steps.json")
    clock = Clock(time.monotonic() + 60 * given.minutes if given.minutes else float("inf"))
    told = overrides(given, folder)
    steps.time("grid", ["harness", "-m", "+sweeps=grid", *told, f"store={folder / 'grid'}"], clock)
    chosen, rejected = SAMPLE[0]
    cell = ["tests.benchmarks.plain_cell", str(folder / "grid"), chosen, rejected, str(folder / "plain")]
    for part in (*PLAIN, *(["answers"] if given.python else [])):
        python = ["--python", given.python] if given.python else []
        steps.time(part, [*cell, part, "--micro", str(given.micro), *python], clock)
    for name, pair in zip(names(given), SAMPLE, strict=False):
        alone = ["harness", "-m", "+sweeps=grid", "hydra.sweeper.blocks=null", f"pair={'_'.join(pair)}"]
        steps.time(name, [*alone, *told, f"store={folder / name}"], clock)
    Store(folder / "grid").check()
    made = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "plain").glob("*.json"))}
    return steps, made


def names(given: argparse.Namespace) -> list[str]:
    """Names of the cells that run alone."""
    return [f"alone-{'_'.join(pair)}" for pair in SAMPLE[: given.alone]]


def show(given: argparse.Namespace, folder: Path, steps: Steps, plain: dict[str, Any]) -> dict[str, Any]:
    """Print the tables; returns the figures."""
    unit = "GPU-seconds" if machine.accelerators() else "seconds of work"
    walls = {name: step["wall"] for name, step in steps.found.items()}
    grid, alone = work(folder / "grid"), work(*(folder / name for name in names(given)))
    scale, calls = CELLS / given.alone, steps.found["grid"]["calls"]
    many = {stage: seconds * scale for stage, seconds in alone.seconds.items()}
    print(f"\n{f'{unit} by stage':<28}{'the grid':>10}{'21 alone':>12}{'ratio':>8}   ({given.alone} timed alone)")
    for stage, seconds in grid.seconds.items():
        print(_line(stage, seconds, many.get(stage, 0.0)))
    totals = sum(grid.seconds.values()), sum(many.values())
    print(_line("all", *totals))
    print(_line("  engines' starts, of it", sum(grid.starts.values()), sum(alone.starts.values()) * scale))
    print(_line("wall clock", walls["grid"], sum(walls[name] for name in names(given)) * scale))
    print(f"the whole grid: {walls['grid'] / 60:.1f} minutes{f', in {calls} calls' if calls > 1 else ''}")
    ratios = {"pipelines": totals[1] / totals[0], **training_and_answering(grid, plain, unit)}
    measured = {"grid": grid.seconds, "alone": alone.seconds, "starts": {"grid": grid.starts, "alone": alone.starts}}
    return {"wall": walls, "calls": calls, **measured, "counted": scale, "plain": plain, "ratios": ratios}


def training_and_answering(grid: Work, plain: Mapping[str, Any], unit: str) -> dict[str, float]:
    """Print what training and answering alone take here, and what they do otherwise; returns ratios."""
    seconds, answers = grid.seconds, plain.get("answers")
    training = seconds["reference"] + seconds["train"]
    said = f"reference {seconds['reference']:.1f}, training {seconds['train']:.1f}"
    print(f"\n{unit} of {'training and answering' if answers else 'training'} alone, {CELLS} cells")
    if answers is None:
        print(f"  here: {said}; without vLLM answering is not compared")
        ratios = {f"training, {name}": CELLS * plain[name]["seconds"] / training for name in PLAIN}
        for name, what in PLAIN.items():
            print(f"  {what}: {plain[name]['seconds']:.1f} a cell, {ratios[f'training, {name}']:.1f} times as much")
        return ratios
    # The engine that answers is the one that drew the pool: who begins with the pairs would pay for its start here.
    start = 0.0 if grid.starts["respond"] else grid.starts["sample"]
    ours = training + seconds["respond"] + start
    print(f"  here: {said}, answers with their divergences {seconds['respond']:.1f}, engine {start:.1f}: {ours:.1f}")
    ratios = {}
    for name, what in PLAIN.items():
        trained, ready, drawn = plain[name]["seconds"], answers["ready"], answers["seconds"]
        each, once = CELLS * (trained + ready + drawn), CELLS * (trained + drawn) + ready
        print(f"  {what}: training {trained:.1f}, engine {ready:.1f}, answers {drawn:.1f} a cell")
        print(f"    an engine for each cell, as scripts have it: {each:.0f}, {each / ours:.1f} times as much")
        print(f"    one engine for all: {once:.0f}, {once / ours:.1f} times as much")
        ratios |= {f"training and answering, {name}": each / ours, f"one engine, {name}": once / ours}
    return ratios


def missed(found: Mapping[str, Any]) -> list[str]:
    """What is required on a GPU and was not reached, or not measured."""
    ratios, lines = found["ratios"], list[str]()
    for name, target in TARGETS.items():
        if name not in ratios:  # of the targets only answering needs vLLM
            lines.append(f"{name}: not compared: no vLLM (--python)")
        elif ratios[name] < target:
            lines.append(f"{name}: {ratios[name]:.1f}, not {target}")
    took = found["wall"]["grid"] / 60
    return [*lines, *([f"the grid: {took:.1f} minutes, not {MINUTES:g}"] if took > MINUTES else [])]


def _line(name: str, one: float, many: float) -> str:
    return f"{name:<28}{one:>10.1f}{many:>12.1f}{many / max(one, 1e-9):>8.1f}"


def main() -> int:
    """Run what is not done yet and print the tables; 1 where a GPU's targets are missed."""
    parser = figures.parser(__doc__)
    parser.add_argument("overrides", nargs="*", help="of the configuration, for the grid and the cells alone")
    parser.add_argument("--store", type=Path, help="folder to keep everything in, and to go on in")
    parser.add_argument("--alone", type=int, default=1, choices=range(1, len(SAMPLE) + 1), help="cells to run alone")
    parser.add_argument("--python", help="interpreter that has vLLM, which then samples and answers")
    parser.add_argument("--micro", type=int, default=4, help="pairs of one forward pass of the plain trainer")
    parser.add_argument("--full", action="store_true", help="512 prompts x 32 samples of 256 tokens, 256 instructions")
    parser.add_argument("--minutes", type=float, help="stop after so many, to go on with the same command")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = [given.overrides, given.python, given.micro, given.full, code()]
        folder = (given.store or Path(name)).absolute() / hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        found = show(given, folder, *run(given, folder))
    figures.write(given.json, {**found, "overrides": given.overrides, "full": given.full})
    lines = missed(found) if machine.accelerators() else []
    print("".join(f"MISSED: {line}\n" for line in lines), end="")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
