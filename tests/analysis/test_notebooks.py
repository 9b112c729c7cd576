"""The notebooks: stripped in git, on public functions only, and run as they stand."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.export import export
from tests.benchmarks.synthetic_store import Shape, build

FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ("01_grid", "02_scaling", "03_reward_distributions", "04_compare_constructions")

FIGURES = {"01_grid": 2, "02_scaling": 3, "03_reward_distributions": 2, "04_compare_constructions": 2}
"""How many each draws of the sweep below: a heatmap per n; curves, multiples, costs; positions, normality; rows in
common, training."""

SHAPE = Shape(
    pairs=(("mu-2s", "min"), ("max", "min"), ("max", "mu-2s"), ("mu+1s", "mu-1s")),
    sizes=(8, 16),
    policies=1,
    seeds=2,
    prompts=6,
    instructions=30,
    failed=1,
)


def cells(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    return (cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind)


def source(cell: dict[str, Any]) -> str:
    lines = "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


def test_there_are_four() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_no_output_is_in_git(path: Path) -> None:
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}
    assert set(json.loads(path.read_text())["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_they_rest_on_public_functions(path: Path) -> None:
    trees = [ast.parse(source(cell)) for cell in cells(path, "code")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [node.module or "" for node in imports] + [name.name for node in imports for name in node.names]
    assert any(name.startswith("analysis.") for name in names)
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert {(node.module or "").split(".")[0] for node in imports} == {"analysis", "IPython"}
    assert sum(len(source(cell).splitlines()) for cell in cells(path, "code")) < 80


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "store"
    build(root, SHAPE)
    return root


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_they_run(path: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (make test installs it)")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (make test installs it)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (make test installs it)")
    if path.stem == "02_scaling":  # one of them on an export, which is to make no difference
        export(store, tmp_path / "export")
        store = tmp_path / "export"
    monkeypatch.setenv("PREFSWEEP_STORE", str(store))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300, resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[path.stem]
    text = "".join(output.get("text", "") for output in outputs)
    assert ("nothing is missing" if "reward" in path.stem else "1 of 16 results are not done") in text
