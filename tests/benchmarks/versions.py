"""Which code a figure was measured with."""

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = ("harness", "analysis", "conf", "sweeps", "tests/benchmarks")
"""Folders whose files a figure depends on."""


def code() -> str:
    """Hash of everything that a figure depends on but the packages."""
    hashed = hashlib.sha256()
    for folder in CODE:
        for path in sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".yaml", ".jsonl", ".txt"}):
            hashed.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return hashed.hexdigest()[:16]
