"""The record of a sweep: what several commands wanted of one point."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import record
from harness.plan import Node
from harness.record import Sweep
from harness.store import Store
from tests import fakes


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point, as far as records look at it."""

    id: str
    nodes: Mapping[str, Node]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Mapping[str, Node] = field(default_factory=dict)


JUDGED = fakes.node("judge", "verdicts")
SHORT, LONG, CHANGE = (
    fakes.node(stage, stage + name) for stage, name in (("boundary", "1"), ("boundary", "2"), ("change", ""))
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


def asked(store: Store, command: str, beside: Mapping[str, Node], id: str = "p", **settings: Any) -> Sweep:
    point = Point(id=id, nodes={"judge": JUDGED}, beside=beside, settings=settings)
    record.write(fakes.plan_of(JUDGED, *beside.values(), points=[point]), "sweep", command, store)
    return record.read(store, "sweep")


def test_what_an_earlier_command_wanted_beside_a_point_stays_though_another_has_its_name(store: Store) -> None:
    asked(store, "first", {"boundary": SHORT, "change": CHANGE})
    sweep = asked(store, "second", {"boundary": LONG})
    (point,) = sweep.points.values()
    assert point["beside"] == {"boundary": LONG.key, "change": CHANGE.key}
    assert record.beside(point, "boundary") == [LONG.key, SHORT.key]
    assert set(record.beside(point)) == {LONG.key, SHORT.key, CHANGE.key}
    assert set(sweep.nodes) == {node.key for node in (JUDGED, SHORT, LONG, CHANGE)}


def test_every_node_is_made_by_the_command_that_wanted_it(store: Store) -> None:
    asked(store, "first", {"boundary": SHORT, "change": CHANGE})
    sweep = asked(store, "second", {"boundary": LONG})
    made = {node: sweep.commands([node.key]) for node in (JUDGED, SHORT, LONG, CHANGE)}
    assert made == {JUDGED: ["second"], SHORT: ["first"], LONG: ["second"], CHANGE: ["first"]}
    again = asked(store, "third", {"boundary": SHORT})
    (point,) = again.points.values()
    assert record.beside(point, "boundary") == [SHORT.key, LONG.key]
    made = {node: again.commands([node.key]) for node in (JUDGED, SHORT, LONG, CHANGE)}
    assert made == {JUDGED: ["third"], SHORT: ["third"], LONG: ["second"], CHANGE: ["first"]}


def test_a_point_that_is_recorded_anew_under_a_further_setting_keeps_what_stood_beside_it(store: Store) -> None:
    asked(store, "first", {"boundary": SHORT}, id="old", n=8)
    sweep = asked(store, "second", {"change": CHANGE}, id="new", n=8, seed=0)
    ((key, point),) = sweep.points.items()
    assert key == "new"
    assert point["beside"] == {"boundary": SHORT.key, "change": CHANGE.key}
    assert sweep.commands([SHORT.key]) == ["first"]


def test_records_without_earlier_wishes_are_what_they_have_always_been(store: Store) -> None:
    asked(store, "first", {"boundary": SHORT})
    (point,) = asked(store, "second", {"boundary": SHORT}).points.values()
    assert set(point) == {"config", "nodes", "beside", "command"}
    older = {name: value for name, value in point.items() if name != "beside"}  # before there was any
    assert record.beside(older) == []
