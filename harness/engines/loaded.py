"""What this process keeps loaded for its next nodes, and how it makes room on a GPU for what comes next.

Who keeps something says here how it is given up, so that nobody has to know of everybody.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar


class _Cache(Protocol):
    def cache_clear(self) -> None:
        """Drop what is kept."""


_Kept = TypeVar("_Kept", bound=_Cache)
_Rest = Callable[[], None]

_CACHES: list[_Cache] = []
_RESTS: list[_Rest] = []


def kept(cache: _Kept) -> _Kept:
    """Of a cached function that loads models: what it has loaded is dropped with all the others."""
    _CACHES.append(cache)
    return cache


def rests(rest: _Rest) -> _Rest:
    """Of a function that has an engine of another process leave the GPU's memory to this one."""
    _RESTS.append(rest)
    return rest


def make_room(path: Path) -> None:
    """Have engines rest, and drop the models kept in memory where a GPU has too little left for the next one."""
    import torch

    if not torch.cuda.is_available():
        return
    _rest()
    weights = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    if torch.cuda.mem_get_info()[0] < 2 * weights:
        forget()


def release() -> None:
    """Drop the models kept in memory, and have engines rest, where a GPU has to hold the next model beside them."""
    import torch

    if torch.cuda.is_available():
        _rest()
        forget()


def forget() -> None:
    """Drop the models kept in memory."""
    import torch

    for cache in _CACHES:
        cache.cache_clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _rest() -> None:
    for rest in _RESTS:
        rest()
