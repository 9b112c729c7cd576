"""The project as users install it: a wheel, outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder into which the built wheel is unpacked, as pip would."""
    root = Path(__file__).resolve().parent.parent
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(root)],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def _run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_a_sweep_of_the_wheel_is_planned(installed: Path, tmp_path: Path) -> None:
    where = _run(installed, tmp_path, "-c", "import harness; print(harness.__file__)")
    assert where.stdout.startswith(str(installed))
    plan = _run(installed, tmp_path, "-m", "harness", "-m", "+sweeps=grid", "dry_run=true")
    assert plan.returncode == 0, plan.stderr
    assert "21 points" in plan.stderr


def test_the_wheel_holds_prompts_and_its_report(installed: Path, tmp_path: Path) -> None:
    held = {path.name for path in (installed / "harness" / "data").glob("*.jsonl")}
    assert held == {"prompts_train.jsonl", "prompts_heldout.jsonl", "candidates_train.jsonl"}
    report = _run(installed, tmp_path, "-m", "analysis", "report", "--store", "nowhere")
    assert report.returncode == 2
    assert "nowhere" in report.stderr


def test_the_wheel_has_what_a_report_page_is_made_of(installed: Path, tmp_path: Path) -> None:
    script = (
        "from analysis.report import page; print(len(page._vendored('tabulator.min.js')), len(page._own('page.js')))"
    )
    made = _run(installed, tmp_path, "-c", script)
    assert made.returncode == 0, made.stderr
    assert all(int(size) > 1000 for size in made.stdout.split())
    assert (installed / "analysis" / "_vendor" / "tabulator" / "LICENSE").is_file()


def test_the_wheel_has_the_notebooks(installed: Path) -> None:
    assert len(list((installed / "analysis" / "notebooks").glob("*.ipynb"))) == 4
