"""The shape of the code: modules build on each other, and none on one that builds on it."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _modules(package: str) -> dict[str, Path]:
    files = {file.relative_to(ROOT).with_suffix(""): file for file in (ROOT / package).rglob("*.py")}
    return {".".join(path.parts).removesuffix(".__init__"): file for path, file in files.items()}


def _imported(source: str, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules that a source imports, be it at its top or in a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (package := node.module or "") in known:
            inside = [f"{package}.{alias.name}" for alias in node.names]
            yield from (name if name in known else package for name in inside)


def _order(imports: Mapping[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(imports).static_order())


def test_a_circle_is_found() -> None:
    known = {"a": Path(), "b": Path()}
    imports = {"a": set(_imported("import b", known)), "b": set(_imported("def f():\n    from a import x", known))}
    with pytest.raises(CycleError):
        _order(imports)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count: they hide a circle, and break none."""
    known = _modules("harness") | _modules("analysis") | _modules("hydra_plugins")
    imports = {name: set(_imported(file.read_text(encoding="utf-8"), known)) - {name} for name, file in known.items()}
    assert len(_order(imports)) == len(known) > 200
