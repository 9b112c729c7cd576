"""Judges that compare texts where they stand: no server, no money, no failed answers but those that are no number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from harness import tables
from harness.judges import Comparison, Judge, Judgement, Order, Planned
from harness.judges.config import JudgeConfig
from harness.stages import Context

NO_NUMBER = "no_number"
"""Why a judgement that is NaN or infinite counts as failed."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Who judges."""

    engine: str


class Comparer(Protocol):
    """Compares answers row by row."""

    label: str

    def compare(self, instructions: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]) -> Any:
        """Probability [n] that answer a is the better one."""


class ComparingJudge:
    """A judge out of anything that compares row by row.

    Args:
        shard: comparisons of one order that are judged together and kept, so that an interrupted run goes on after
            them; None judges them all at once, for judges that take seconds.
        folder: where shards are kept.
    """

    order: Order = "both"

    def __init__(self, comparer: Comparer, folder: Path, shard: int | None = None) -> None:
        self.label = comparer.label
        self._comparer, self._folder, self._shard = comparer, folder, shard

    def judge(self, comparisons: Sequence[Comparison], advance: Callable[[int], None]) -> list[Judgement]:
        """One judgement for each; a number that is not finite is a failed one."""
        found: list[Judgement] = []
        for _, group in groupby(comparisons, key=lambda comparison: comparison.reversed):
            rows = list(group)
            size = self._shard or len(rows)
            for start in range(0, len(rows), size):
                shard = rows[start : start + size]
                found += map(_judgement, self._preferences(shard, len(found)))
                advance(len(shard))
        return found

    def _preferences(self, rows: Sequence[Comparison], start: int) -> list[float]:
        path = self._folder / f"{start:06d}.parquet"
        if self._shard is not None and path.exists():
            kept: list[float] = tables.read(path).column("preference").to_pylist()
            return kept
        texts = ([c.instruction for c in rows], [c.first for c in rows], [c.second for c in rows])
        preferences = [float(p) for p in np.asarray(self._comparer.compare(*texts), dtype=np.float64)]
        if self._shard is not None:
            self._folder.mkdir(exist_ok=True)
            ids = [c.prompt_id for c in rows]
            table = [{"prompt_id": i, "preference": p} for i, p in zip(ids, preferences, strict=True)]
            tables.write(tables.build(tables.COMPARED, table), path)
        return preferences

    def measures(self) -> Mapping[str, Any]:
        """Nothing but what the spec says."""
        return {}


def _judgement(preference: float) -> Judgement:
    if not np.isfinite(preference):
        return Judgement(preference=None, failure=NO_NUMBER)
    return Judgement(preference=preference)


def plan(config: JudgeConfig) -> Planned:
    """A judge that is all in its engine."""
    if config.engine == "embedded":
        from harness.engines.embedding import find_model_folder

        find_model_folder()
    return Planned(spec=Spec(engine=config.engine), params={})


@contextmanager
def open_judge(spec: Spec, context: Context) -> Iterator[Judge]:
    """The embedded judges; both take seconds, and are not cut into shards."""
    from harness.engines.embedding import shared_encoder
    from harness.engines.proxy_judge import ProxyJudge, ShorterJudge

    comparer = ProxyJudge(shared_encoder()) if spec.engine == "embedded" else ShorterJudge()
    yield ComparingJudge(comparer, context.work / "compared")
