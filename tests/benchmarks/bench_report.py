"""Time to write the report of a large sweep, its page's size, and how long a browser takes to open it.

`python -m tests.benchmarks.bench_report STORE`; without a store two of 1,260 results of 805 instructions are made
(`synthetic_store`), which takes minutes: one of short answers, one of answers as long as real ones. Each report is
written twice, the second time with what the first has measured. The command is typed as a reader types it, imports
included. Other work on the machine stretches seconds, so those of its processors stand beside them; two cores need at
least half as many.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import figures
from tests.benchmarks.synthetic_store import Shape, build
from tests.browser import MISSING, browser

SECONDS = 30.0
MEGABYTES = 15.0
OPENING_SECONDS = 2.0
"""At most, for 21 cells x 5 sizes x 4 policies x 3 seeds on two cores."""
CHARACTERS = (0, 1_800)
"""Mean length of an answer: some words, and about what models answer AlpacaEval 2 with."""


def report(store: Path, out: Path) -> dict[str, Any]:
    """Wall and processor seconds of the command, and the most memory that its processes held together, in GB."""
    before, started, peak = psutil.Process().cpu_times(), time.perf_counter(), 0
    command = [sys.executable, "-m", "analysis", "report", "--store", str(store), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.1)
    seconds, after = time.perf_counter() - started, psutil.Process().cpu_times()
    if process.returncode:
        raise SystemExit(f"the report ended with {process.returncode}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": seconds, "cpu_seconds": spent, "peak_gb": peak / 1e9}


def _resident(pid: int) -> int:
    """Bytes that a process and those it started share and hold."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # ended while it was looked at
        pass
    return total


def opened(page: Path) -> float:
    """Seconds until a browser that has started has loaded the page and its table stands."""
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as reader:
        started = time.perf_counter()
        reader.open(page)
        if not reader.run("return document.querySelectorAll('.tabulator-row').length"):
            raise SystemExit("the page's table was not built")
        return time.perf_counter() - started


def measured(store: Path, out: Path) -> dict[str, Any]:
    """Figures of one store, written into a folder that is not there yet."""
    found = report(store.absolute(), out)
    again = report(store.absolute(), out)
    page = out / "report.html"
    return found | {
        "seconds_again": again["seconds"],
        "cpu_seconds_again": again["cpu_seconds"],
        "page_mb": page.stat().st_size / 1e6,
        "files": len(list(out.iterdir())),
        "opening_seconds": None if MISSING else opened(page),
    }


def told(found: dict[str, Any]) -> None:
    """Print the figures of one store beside what is required."""
    opening = f"not measured: {MISSING}" if MISSING else f"{found['opening_seconds']:.2f} s"
    print(f"written in {found['seconds']:.1f} s (at most {SECONDS:g}), of the processors {found['cpu_seconds']:.1f} s")
    print(f"once more in {found['seconds_again']:.1f} s, of the processors {found['cpu_seconds_again']:.1f} s")
    print(f"memory of all processes together: {found['peak_gb']:.2f} GB at most")
    print(f"page: {found['page_mb']:.1f} MB (at most {MEGABYTES:g}), one of {found['files']} files")
    print(f"opened in Chromium: {opening} (at most {OPENING_SECONDS:g})")


def enough(found: dict[str, Any]) -> bool:
    """Whether one store's report is as required."""
    quick = found["opening_seconds"] is None or found["opening_seconds"] <= OPENING_SECONDS
    return bool(found["seconds"] <= SECONDS and found["page_mb"] <= MEGABYTES and quick)


def main() -> int:
    """Print seconds, memory and size, and whether each is as required."""
    parser = figures.parser(__doc__)
    parser.add_argument("store", type=Path, nargs="?")
    given = parser.parse_args()
    results = dict[str, dict[str, Any]]()
    for characters in (None,) if given.store else CHARACTERS:
        with tempfile.TemporaryDirectory() as folder:
            store, name = given.store or Path(folder) / "store", "the given store"
            if characters is not None:
                name = f"answers of {characters} characters" if characters else "answers of 20 to 59 words"
                build(store, Shape(instructions=805, characters=characters))
            print(f"{name}:")
            results[name] = measured(store, Path(folder) / "report")
            told(results[name])
    figures.write(given.json, results)
    return 0 if all(map(enough, results.values())) else 1


if __name__ == "__main__":
    raise SystemExit(main())
