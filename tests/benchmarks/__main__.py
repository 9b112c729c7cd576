"""All benchmarks, or those named: `python -m tests.benchmarks [NAME ...]`; `--list` says what there is.

Each is a process of its own. Its figures, what it printed, its settings, the machine, the versions and a hash of the
code are kept in `--out`, one JSON file for each. The same command goes on where it was ended: a benchmark that came to
its end with the same code and settings is not run again, but with `--again`. What follows `--` goes to the one that is
named. Sizes suit the machine: small without a GPU, those of the requirements with one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import machine, provenance
from harness.packages import package_folder
from tests.benchmarks.models import PACKAGED
from tests.benchmarks.versions import ROOT, code


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A program of this folder, and how it is called."""

    about: str
    cpu: Sequence[str] = ()
    """Arguments on a machine without a GPU."""
    gpu: Sequence[str] = ()
    needs_vllm: bool = False


SMALL = ("--prompts", "8", "--median", "40")

BENCHMARKS: Mapping[str, Benchmark] = {
    "sampling": Benchmark(
        about="tokens a second against plain vLLM `generate`, and against transformers where there is no GPU",
        cpu=("--prompts", "16", "--samples", "16", "--tokens", "64", "--parts", "plain,ours,transformers"),
        gpu=("--parts", "ours,plain"),
        needs_vllm=True,
    ),
    "scoring": Benchmark(
        about="responses a second of a reward model against one conversation at a time",
        cpu=(*SMALL, "--samples", "8", "--batch-tokens", "1024"),
    ),
    "reference": Benchmark(about="reference log-probabilities of 21 cells against TRL's own precomputation", cpu=SMALL),
    "training": Benchmark(
        about="DPO pairs a second against stock TRL, reference pass included",
        cpu=("--pairs", "16", "--median", "30", "--batch", "4", "--micro", "2", "--batch-tokens", "1024"),
    ),
    "grid": Benchmark(
        about="21 cells with one command against 21 separate pipelines, and against stock TRL with plain vLLM",
        cpu=(
            *("cluster.threads=1", "prompts.limit=4", "n=8", "sampler.sample_block=8", "sampler.max_new_tokens=16"),
            *("train.global_batch=4", "evaluate.limit=4", "evaluate.max_new_tokens=8"),
        ),
        gpu=("--full", "--micro", "16", "--minutes", "9"),
    ),
    "store": Benchmark(about="tables of 2.4 million responses: rows and bytes a second, peak memory"),
    "memory": Benchmark(about="resident memory of sampling and scoring at 1x and 10x responses"),
    "pick": Benchmark(about="seven positions of 61,135 prompts x 400 rewards"),
    "planning": Benchmark(about="CPU time from a command to its plan", cpu=("2000", "5000"), gpu=("2000", "5000")),
    "noop": Benchmark(about="a finished sweep of 500 cells, typed again"),
    "ranking": Benchmark(about="rankings of 1,000 prompts x 16 responses, beside a judge that answers at once"),
    "load": Benchmark(about="a finished sweep of 1,260 results as frames"),
    "report": Benchmark(about="the report of 1,260 results of 805 instructions: seconds, page, opening in Chromium"),
    "training_memory": Benchmark(about="the estimate of a training's memory against resident memory on a CPU"),
    "workers": Benchmark(about="two workers against one"),
    "findings": Benchmark(
        about="verdicts on published claims in 400 simulated sweeps: how many are false, how many find"
    ),
    "length_control": Benchmark(about="length-controlled win rates of a grid"),
    "cluster": Benchmark(about="what SLURM costs beside the work; boots a cluster of this machine"),
}


def arguments_of(name: str, given: argparse.Namespace) -> list[str]:
    """The arguments of a benchmark here.

    Raises:
        SystemExit: further ones for several benchmarks.
    """
    benchmark = BENCHMARKS[name]
    if given.further:
        if given.names != [name]:
            sys.exit("what follows `--` is for one benchmark; name it")
        return list(given.further)
    found = list(benchmark.gpu if machine.accelerators() else benchmark.cpu)
    if name == "sampling":
        package, version = PACKAGED[0].partition(":")[0], PACKAGED[1]
        found += ["--model", str(package_folder(package, version)), "--out", str(given.out / name)]
    if name == "grid":
        found += ["--store", str(given.out / name)]
    if name in ("sampling", "grid") and (vllm := os.environ.get("PREFSWEEP_VLLM_PYTHON")):
        found += ["--python", vllm]
    return found


def missing(name: str) -> str:
    """Why a benchmark cannot be run here; an empty text where it can."""
    if BENCHMARKS[name].needs_vllm and not os.environ.get("PREFSWEEP_VLLM_PYTHON"):
        return "PREFSWEEP_VLLM_PYTHON names no interpreter that has vLLM"
    if name == "cluster":
        from tests.cluster import boot

        return boot.missing()
    return ""


def here() -> dict[str, Any]:
    """The machine, its load now, versions and commit."""
    cpu = Path("/proc/cpuinfo")
    names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    return {
        **provenance.provenance(),
        "cpu": names[0].partition(": ")[2] if names else "unknown",
        "cores": provenance.cpus(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "load": os.getloadavg()[0],
    }


def kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """A finished run of the same code, settings and versions."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("settings") == settings else None


def run(name: str, arguments: list[str], given: argparse.Namespace) -> dict[str, Any] | None:
    """The record of a benchmark, new or kept; None where it broke off."""
    path, fresh = given.out / f"{name}.json", given.out / f"{name}.figures"
    settings = {
        "arguments": arguments,
        "code": code(),
        "versions": provenance.software()["versions"],
        "accelerators": machine.accelerators(),
    }
    if not given.again and (found := kept(path, settings)) is not None:
        print(found["said"], end="")
        print(f"({name}: kept, measured {found['when']} on {found['machine']['host']})")
        return found
    fresh.unlink(missing_ok=True)
    if given.again:  # nor what it has kept itself, to go on from
        shutil.rmtree(given.out / name, ignore_errors=True)
    around, begun, lines = here(), time.monotonic(), []
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{name}", "--json", str(fresh), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if not fresh.exists():
        return None
    record = {
        "benchmark": name,
        "settings": settings,
        "machine": around,
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "seconds": time.monotonic() - begun,
        "met": process.returncode == 0,
        "said": "".join(lines),
        "figures": json.loads(fresh.read_text()),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)
    fresh.unlink()
    return record


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder for figures")
    given = parser.parse_args(arguments[:at])
    given.further = arguments[at + 1 :]
    given.out = given.out.absolute()
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    return given


def main() -> int:
    """Run what is to be run and print a summary; 1 where a benchmark broke off or missed what is required."""
    given = read(sys.argv[1:])
    if given.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<16}{benchmark.about}{'; not here: ' + why if (why := missing(name)) else ''}")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    endings: dict[str, str] = {}
    for name in given.names or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name].about}", flush=True)
        if why := missing(name):
            endings[name] = f"not here: {why}"
            continue
        record = run(name, arguments_of(name, given), given)
        endings[name] = "broke off" if record is None else "met" if record["met"] else "MISSED what is required"
    print()
    for name, ending in endings.items():
        print(f"{name:<16}{ending}")
    return 1 if any(ending.startswith(("broke", "MISSED")) for ending in endings.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
