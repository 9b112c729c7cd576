"""Many like pieces of work, in as many processes as there are CPUs."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import TracebackType
from typing import Final, Self, TypeVar

from harness.provenance import cpus

Given = TypeVar("Given")
Made = TypeVar("Made")

MOST: Final = 16
"""Processes that are started at most: reading and pickling keep no more of them busy."""

_PARTS: Final = 32
"""Parts of the work for each process: the last ones to end leave the others idle for no longer than one of them."""

_COLLECTED: Final = 200_000
"""New objects after which a process looks for circles that nobody uses: figures are made of so many objects that the
usual few hundred would have it look all the time."""

_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Workers:
    """Processes that start once there is enough to do, and end with the block.

    A process takes a second or two to start. It is a fresh one, since this one may have threads; functions and values
    are pickled.
    """

    def __init__(self) -> None:
        self._count = min(cpus(), MOST)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def started(self) -> bool:
        """Whether there are any processes yet."""
        return self._pool is not None

    def map(self, function: Callable[[Given], Made], given: Sequence[Given], *, least: int) -> Iterable[Made]:
        """`function` of each of the given, in their order.

        It begins at once in other processes; below `least` of them, unless these have started, in this one as the
        values are taken.
        """
        if self._pool is None and (len(given) < least or self._count < 2):
            return map(function, given)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                max_workers=self._count,
                mp_context=get_context("spawn"),
                initializer=gc.set_threshold,
                initargs=(_COLLECTED,),
            )
        with _one_thread_each():
            return self._pool.map(function, given, chunksize=max(1, len(given) // (_PARTS * self._count)))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start now use one thread for their arithmetic: together they use all CPUs."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
