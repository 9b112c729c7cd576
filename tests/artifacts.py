"""Artifacts made by hand: rows of tables, published by the real store, and the context that a stage is given."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import tables
from harness.keys import digest
from harness.manifest import Manifest
from harness.progress import Reporter
from harness.stages import Context
from harness.store import Artifact, Rows, Store

Row = dict[str, Any]


def quiet() -> Reporter:
    """A reporter that prints into memory."""
    return Reporter(Console(file=io.StringIO()))


def manifest(stage: str, key: str, content: str | None = None, **fields: Any) -> Manifest:
    """A manifest without files; `publish` enters them."""
    defaults: dict[str, Any] = {
        "stage_version": 1,
        "spec": {},
        "inputs": {},
        "rows": {"taken": 1, "kept": 1, "dropped": {}},
        "measures": {},
        "files": {},
        "provenance": {},
    }
    return Manifest(stage=stage, key=key, content_id=content or key, **{**defaults, **fields})


class Shelf:
    """A store into which tables are put."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store").prepare()
        self._root, self._count = root, 0

    def put(self, stage: str, given: Mapping[str, tuple[Any, Sequence[Row]]], **fields: Any) -> Artifact:
        """Publish tables, each a schema with its rows, as one artifact of a stage."""
        self._count += 1
        key = digest([stage, self._count])
        with self.store.claim(key) as work:
            for name, (schema, rows) in given.items():
                tables.write(tables.build(schema, rows), work / f"{name}.parquet")
            return self.store.publish(work, manifest(stage, key, **fields), "made_by_hand")

    def prompts(self, texts: Mapping[str, str], answers: Mapping[str, str] | None = None) -> Artifact:
        """Prompts by id, of one user message each, with their reference answers."""
        rows = [
            {
                "prompt_id": prompt_id,
                "source_id": prompt_id,
                "kind": "",
                "messages": [{"role": "user", "content": text}],
                "answer": (answers or {}).get(prompt_id),
            }
            for prompt_id, text in texts.items()
        ]
        return self.put("prompts", {"prompts": (tables.PROMPTS, rows)})

    def responses(self, texts: Mapping[tuple[str, int], str]) -> Artifact:
        """Responses by prompt id and sample index; a word is a token."""
        rows = [
            {
                "prompt_id": prompt_id,
                "sample_index": index,
                "text": text,
                "token_ids": [len(word) for word in text.split()],
                "tokens": len(text.split()),
                "finish_reason": "stop",
                "logp": -1.0,
            }
            for (prompt_id, index), text in texts.items()
        ]
        return self.put("sample", {"responses": (tables.RESPONSES, rows)})

    def rewards(self, rewards: Mapping[tuple[str, int], float]) -> Artifact:
        """Rewards by prompt id and sample index."""
        rows = [{"prompt_id": p, "sample_index": i, "reward": reward} for (p, i), reward in rewards.items()]
        return self.put("score", {"rewards": (tables.rewards_schema(()), rows)})

    def answers(self, texts: Mapping[str, str]) -> Artifact:
        """A policy's answers by prompt id."""
        rows = [
            {
                "prompt_id": prompt_id,
                "instruction": "",
                "text": text,
                "token_ids": [1],
                "tokens": 1,
                "finish_reason": "stop",
                "kl": 0.0,
            }
            for prompt_id, text in texts.items()
        ]
        return self.put("respond", {"answers": (tables.ANSWERS, rows)})

    def context(self, name: str = "work", /, **inputs: Artifact | Sequence[Artifact]) -> Context:
        """What a stage is given: these inputs, and an empty folder."""
        work = self._root / name
        work.mkdir()
        groups = {n: (a,) if isinstance(a, Artifact) else tuple(a) for n, a in inputs.items()}
        return Context(inputs=groups, params={}, store=self.store.root, work=work, reporter=quiet(), label="test")


def written(context: Context, name: str) -> list[Row]:
    """Rows that a stage wrote: one file, or a folder of shards."""
    path = context.work / name
    rows: list[Row] = tables.read(path if path.is_dir() else path.with_suffix(".parquet")).to_pylist()
    return rows


def adds_up(rows: Rows, taken: int, kept: int, **dropped: int) -> bool:
    """Whether the accounting is this."""
    return (rows.taken, rows.kept, dict(rows.dropped)) == (taken, kept, dropped)
