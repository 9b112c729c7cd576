"""What comes next: order, what a worker has loaded, empty cells, other hands, attempts, and the end of it all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.claims import Owner
from harness.keys import node_key
from harness.perform import Ending, Failure
from harness.plan import Node, Plan
from harness.schedule import ATTEMPTS, Schedule
from harness.store import Artifact
from tests.artifacts import manifest


@dataclass
class FakeStore:
    """Says what is there and who is at work, as told."""

    there: dict[str, Artifact] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def put(self, node: Node, *, content: str | None = None, rows: int = 1) -> None:
        dropped = {"equal_text": 2 - rows} if rows < 2 else {}
        accounting = {"taken": 2, "kept": rows, "dropped": dropped}
        made = manifest(node.stage, node.key, content, rows=accounting)
        self.there[node.key] = Artifact(Path("nowhere"), made)

    def find(self, _: str, key: str) -> Artifact | None:
        return self.there.get(key)

    def owner(self, key: str) -> Owner | None:
        someone = Owner(nonce="", host="there", namespace="", pid=1, born="", since=0.0)
        return someone if key in self.held else None


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@dataclass(frozen=True, kw_only=True)
class Spec:
    name: str


def node(stage: str, name: str, **inputs: Node | Sequence[Node]) -> Node:
    groups = {group: (given,) if isinstance(given, Node) else tuple(given) for group, given in inputs.items()}
    return Node(stage=stage, slug=name, spec=Spec(name=name), inputs=groups)


def schedule(store: FakeStore, *nodes: Node, found: Sequence[Node] = ()) -> Schedule:
    for one in found:
        if one.key not in store.there:
            store.put(one)
    plan = Plan(points=(), nodes={n.key: n for n in nodes}, naive={})
    return Schedule(plan, store, {n.key: store.there[n.key] for n in found})  # type: ignore[arg-type]


def taken(schedule: Schedule, like: str = "") -> Node:
    node = schedule.take(like)
    assert node is not None
    schedule.attempt(node)
    return node


def finish(schedule: Schedule, store: FakeStore, node: Node) -> None:
    store.put(node)
    assert not schedule.settle(node, Ending(how="computed"))


def fail(schedule: Schedule, node: Node, failure: Failure = "error") -> bool:
    return schedule.settle(node, Ending(how="failed", failure=failure, text="the reason"))


def names(keys: Sequence[str] | Mapping[str, object], *nodes: Node) -> list[str]:
    by_key = {n.key: n.slug for n in nodes}
    return [by_key[key] for key in keys]


def test_nodes_come_in_the_order_of_the_plan_once_their_inputs_are_there(store: FakeStore) -> None:
    a, b = node("model", "a"), node("model", "b")
    c = node("sample", "c", policy=b, more=a)
    s = schedule(store, a, b, c)
    assert (s.total, s.left) == (3, 3)
    first, second = taken(s), taken(s)
    assert (first, second) == (a, b)
    assert s.take() is None
    finish(s, store, b)
    assert s.take() is None
    finish(s, store, a)
    assert taken(s) is c
    finish(s, store, c)
    assert s.left == 0
    assert s.close().ok


def test_what_is_found_is_done(store: FakeStore) -> None:
    a = node("model", "a")
    b = node("sample", "b", policy=a)
    s = schedule(store, a, b, found=[a])
    assert s.summary.done == [a.key]
    assert taken(s) is b
    assert s.label(b) == "[1/1] sample b"


def test_what_a_worker_has_loaded_goes_first(store: FakeStore) -> None:
    one, two = node("model", "one"), node("model", "two")
    samples = [node("sample", f"{i}", policy=policy) for i, policy in enumerate((one, two, one, two))]
    s = schedule(store, one, two, *samples, found=[one, two])
    assert taken(s, two.key) is samples[1]
    assert taken(s, two.key) is samples[3]
    assert taken(s, two.key) is samples[0]
    assert taken(s) is samples[2]


def cell(name: str, **inputs: Node) -> tuple[Node, Node, Node, Node]:
    rows = node("pairs", f"pairs_{name}", **inputs)
    trained = node("train", f"train_{name}", pairs=rows)
    answers = node("respond", f"respond_{name}", model=trained)
    return rows, trained, answers, node("judge", f"judge_{name}", answers=answers)


def test_a_cell_without_rows_is_empty_to_its_end(store: FakeStore) -> None:
    base = node("respond", "base")
    rows, trained, answers, _ = cell("a")
    verdicts = node("judge", "judge_a", answers=answers, references=base)
    s = schedule(store, rows, trained, answers, base, verdicts)
    assert taken(s) is rows
    store.put(rows, rows=0)
    s.settle(rows, Ending(how="computed"))
    assert names(s.summary.empty, trained, answers, verdicts) == ["train_a", "respond_a", "judge_a"]
    assert s.news() == ["train train_a: empty (no preference rows: 2 equal_text)"]
    assert s.news() == []
    finish(s, store, taken(s))  # the base's answers, which the empty verdicts need, too
    assert s.left == 0
    assert s.close().ok


def test_an_empty_cell_of_an_earlier_command_is_empty_again(store: FakeStore) -> None:
    rows, trained, answers, verdicts = cell("a")
    store.put(rows, rows=0)
    s = schedule(store, rows, trained, answers, verdicts, found=[rows])
    assert s.left == 0
    assert len(s.summary.empty) == 3


def test_what_is_done_behind_an_empty_cell_stays_done(store: FakeStore) -> None:
    """An untrained policy has answers, whatever the rows are; here they were made by another version."""
    rows, trained, answers, verdicts = cell("a")
    store.put(rows, rows=0)
    s = schedule(store, rows, trained, answers, verdicts, found=[rows, answers])
    assert list(s.summary.empty) == [trained.key]
    assert taken(s) is verdicts


def test_a_failure_blocks_what_is_behind_it_and_nothing_else(store: FakeStore) -> None:
    a, b = cell("a"), cell("b")
    s = schedule(store, *a, *b)
    assert not fail(s, taken(s))
    while (ready := s.take()) is not None:
        finish(s, store, ready)
    summary = s.close()
    assert list(summary.failed) == [a[0].key]
    assert summary.blocked == [n.key for n in a[1:]]
    assert summary.computed == [n.key for n in b]
    assert not summary.ok


@pytest.mark.parametrize("failure", ATTEMPTS)
def test_attempts_are_bounded_by_the_kind_of_failure(store: FakeStore, failure: Failure) -> None:
    a = node("model", "a")
    s = schedule(store, a)
    again = [fail(s, taken(s), failure) for _ in range(ATTEMPTS[failure])]
    assert again == [True] * (ATTEMPTS[failure] - 1) + [False]
    assert s.take() is None
    assert s.close().retried[failure] == ATTEMPTS[failure] - 1


def test_an_attempt_that_came_to_nothing_does_not_count(store: FakeStore) -> None:
    a = node("model", "a")
    s = schedule(store, a)
    for _ in range(4):
        node_, number = taken(s), s.label(a)
        assert number == "[1/1] model a"
        s.settle(node_, Ending(how="busy"))
        s.poll()
    assert s.attempt(a) == 1
    s.take()
    assert fail(s, a, "died")


def test_a_node_keeps_its_number(store: FakeStore) -> None:
    a, b = node("model", "a"), node("model", "b")
    s = schedule(store, a, b)
    assert s.label(taken(s)) == "[1/2] model a"
    fail(s, a, "died")
    assert s.label(taken(s)) == "[1/2] model a"
    assert s.label(taken(s)) == "[2/2] model b"


def test_a_store_that_cannot_be_written_stops_everything(store: FakeStore) -> None:
    a, b, c = node("model", "a"), node("model", "b"), node("model", "c")
    d = node("sample", "d", policy=b)
    s = schedule(store, a, b, c, d)
    first, second = taken(s), taken(s)
    assert not fail(s, first, "store")
    finish(s, store, second)  # which was under way, and makes another ready
    assert s.take() is None
    assert not s.waiting
    summary = s.close()
    assert summary.stopped == "the reason"
    assert not summary.ok
    assert summary.blocked == [c.key, d.key]


def test_nothing_is_waited_for_once_the_store_cannot_be_written(store: FakeStore) -> None:
    a, b = node("model", "a"), node("model", "b")
    s = schedule(store, a, b)
    store.held.add(a.key)
    s.settle(taken(s), Ending(how="busy"))
    assert not s.waiting
    fail(s, taken(s), "store")
    assert not s.waiting


def test_a_node_in_other_hands_is_followed_until_it_is_done(store: FakeStore) -> None:
    a = node("model", "a")
    b = node("sample", "b", policy=a)
    s = schedule(store, a, b)
    store.held.add(a.key)
    s.settle(taken(s), Ending(how="busy", text="at work"))
    assert s.waiting
    assert not s.poll()
    store.put(a)
    assert s.poll()
    assert s.summary.done == [a.key]
    assert taken(s) is b


def test_a_node_that_others_leave_undone_is_ours_again(store: FakeStore) -> None:
    a = node("model", "a")
    s = schedule(store, a)
    store.held.add(a.key)
    s.settle(taken(s), Ending(how="busy"))
    assert s.take() is None
    store.held.clear()
    assert s.poll()
    assert taken(s) is a


def test_a_node_of_equal_content_in_other_hands_is_followed_by_its_content(store: FakeStore) -> None:
    rows, trained, *_ = cell("a")
    store.put(rows, content="same", rows=2)
    s = schedule(store, rows, trained, found=[rows])
    content = node_key(trained.stage, trained.version, trained.spec, {"pairs": ["same"]})
    store.held.add(content)
    s.settle(taken(s), Ending(how="deferred"))
    assert not s.poll()
    store.held.clear()
    assert s.poll()
    assert taken(s) is trained


def test_what_is_in_other_hands_and_behind_it_is_alive_and_the_rest_blocked(store: FakeStore) -> None:
    a, b = cell("a"), cell("b")
    both = node("judge", "both", one=a[3], other=b[3])
    s = schedule(store, *a, *b, both)
    store.held.add(a[0].key)
    s.settle(taken(s), Ending(how="busy"))
    fail(s, taken(s))
    summary = s.close()
    assert summary.alive == [*(n.key for n in a), both.key]
    assert summary.blocked == [n.key for n in b[1:]]


def test_a_web_of_shared_nodes_is_closed_at_once(store: FakeStore) -> None:
    """Each of 15 layers of 20 nodes needs all of the layer before: 20^15 ways lead from the first to the last."""
    layers = [[node("model", f"0-{i}") for i in range(20)]]
    for depth in range(1, 15):
        layers.append([node("model", f"{depth}-{i}", all=layers[-1]) for i in range(20)])
    s = schedule(store, *(n for layer in layers for n in layer))
    store.held.add(layers[0][0].key)
    s.settle(taken(s), Ending(how="busy"))
    started = time.monotonic()
    summary = s.close()
    assert time.monotonic() - started < 5
    assert len(summary.alive) == 14 * 20 + 1
