"""What sweeps recorded of their results: settings, nodes, and what stands beside each."""

from collections.abc import Iterator, Mapping
from typing import Any

from analysis.stores import Reading, Stores, points_of
from harness import record
from harness.store import Store


def each_point(store: Stores, sweep: str | None) -> Iterator[tuple[Store, str, Mapping[str, Any]]]:
    """Every point with its store and its id.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    for opened, points in points_of(store, sweep):
        for key, point in points.items():
            yield opened, key, point


def read_beside(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, str]]:
    """Keys of what stands beside each result, by name; see `harness.plan.Point.beside`.

    Raises:
        StoreError: no such sweep.
    """
    return {key: point.get("beside", {}) for _, key, point in each_point(store, sweep)}


def read_measured(store: Reading, name: str, sweep: str | None = None) -> dict[str, list[str]]:
    """Keys of all that commands wanted beside each result under one name, the last first; see `harness.record.beside`.

    Raises:
        StoreError: no such sweep.
    """
    return {key: record.beside(point, name) for _, key, point in each_point(store, sweep)}


def read_nodes(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Every recorded node of a sweep, or of all, by key; see `harness.record.Sweep.nodes`.

    Raises:
        StoreError: no such sweep.
    """
    recorded = {point["sweep"].name: point["sweep"] for _, _, point in each_point(store, sweep)}
    return {key: node for one in recorded.values() for key, node in one.nodes.items()}


def read_settings(store: Reading, sweep: str | None = None) -> dict[str, Mapping[str, Any]]:
    """What each result was made with, by dotted key.

    Raises:
        StoreError: no such sweep.
    """
    return {key: point["config"] for _, key, point in each_point(store, sweep)}


def read_ancestors(store: Reading, sweep: str | None, stage: str) -> dict[str, list[str]]:
    """Keys of the nodes of a stage that each result rests on, its judge's own left out.

    Raises:
        StoreError: no such sweep.
    """
    found: dict[str, list[str]] = {}
    for _, key, point in each_point(store, sweep):
        recorded, pairs = point["sweep"], point["nodes"].get("pairs")
        above = recorded.ancestors(pairs) if pairs is not None else []
        found[key] = [one for one in above if recorded.nodes[one]["stage"] == stage]
    return found
