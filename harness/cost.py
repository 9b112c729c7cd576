"""What results took in machine time, by the manifests of all that they needed."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time of machines, in seconds: that of the attempts that ended well, and not of those cut short before them."""

    seconds: float = 0.0
    gpu_seconds: float = 0.0
    """Times the GPUs that were held, a part of one where processes share it."""
    core_seconds: float = 0.0
    """Times the threads."""

    def facts(self) -> dict[str, float]:
        """The same in hours, as plain data."""
        return {
            "hours": self.seconds / 3600,
            "gpu_hours": self.gpu_seconds / 3600,
            "core_hours": self.core_seconds / 3600,
        }


def of(provenance: Mapping[str, Any]) -> Cost:
    """What making one artifact took; without a word of GPUs each process is taken to have held one, unless on a CPU."""
    seconds, processes = float(provenance.get("seconds", 0.0)), int(provenance.get("processes", 1))
    gpus = provenance.get("gpus", 0 if str(provenance.get("device", "cpu")).startswith("cpu") else 1)
    each = seconds * processes
    return Cost(seconds=seconds, gpu_seconds=each * float(gpus), core_seconds=each * int(provenance.get("threads", 1)))


def total(costs: Iterable[Cost], share: float = 1.0) -> Cost:
    """All of it, or a share."""
    given = list(costs)
    return Cost(
        seconds=share * sum(one.seconds for one in given),
        gpu_seconds=share * sum(one.gpu_seconds for one in given),
        core_seconds=share * sum(one.core_seconds for one in given),
    )


def split(needed: Mapping[str, Collection[str]], costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """What each user's work took: what several need is split evenly among them, so that nothing counts twice.

    Args:
        needed: by user, the artifacts that it needs, itself or through others.
        costs: of each artifact; those that are not there yet have taken nothing.
    """
    users = Counter(key for keys in needed.values() for key in set(keys))
    shares = {
        key: [value * (1 / users[key]) for value in (cost.seconds, cost.gpu_seconds, cost.core_seconds)]
        for key, cost in costs.items()
        if key in users
    }
    found = {}
    for user, keys in needed.items():
        own = [shares[key] for key in set(keys) if key in shares] or [[0.0, 0.0, 0.0]]
        seconds, gpu_seconds, core_seconds = map(sum, zip(*own, strict=True))
        found[user] = Cost(seconds=seconds, gpu_seconds=gpu_seconds, core_seconds=core_seconds)
    return found
