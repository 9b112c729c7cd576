"""Disks that are full or read-only: the store's, which stops everything, or a machine's own."""

import errno
from pathlib import Path

import pytest

from harness.perform import _kind
from harness.ranks.launch import RankError
from harness.store import Store
from tests import test_execute
from tests.artifacts import quiet
from tests.fakes import local, node, plan_of
from tests.test_execute import FakeStages, fail, fake

__all__ = ["fake"]  # a fixture


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "/tmp/of/this/machine"),  # noqa: S108 - only a name
        OSError(30, "Read-only file system", "/local/cache"),
    ],
)
def test_a_disk_of_the_machine_is_not_the_stores(store: Store, error: OSError) -> None:
    assert _kind(error, store) == "io"


def test_a_full_disk_is_the_stores_where_the_file_is(store: Store) -> None:
    assert _kind(OSError(28, "No space left on device", str(store.root / "work" / "x")), store) == "store"


def test_a_full_disk_without_a_name_is_the_machines_where_that_takes_no_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/dev/null")
    monkeypatch.setattr("harness.perform.UNUSABLE", frozenset({errno.ENOTDIR}))
    assert _kind(RuntimeError("I/O error: No space left on device (os error 28)"), store) == "io"


def test_trouble_with_a_disk_names_the_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n17")
    bad = node("sample", "bad", {"do": "io"})
    summary = local(plan_of(bad), store, quiet())
    assert summary.failed[bad.key].text == "[Errno 5] Input/output error (on n17)"


def test_trouble_that_a_rank_met_names_its_machine(fake: FakeStages) -> None:
    error = RankError("rank 1 on n3: [Errno 5] Input/output error")
    error.machine, error.__cause__ = "n3", OSError(5, "Input/output error")
    fake.actions["a"] = fail(error)
    one = test_execute.node("train", "a")
    ending = fake.execute(test_execute.plan_of(one)).failed[one.key]
    assert (ending.failure, ending.on) == ("io", "n3")
    assert ending.text.endswith("Input/output error (on n3)")
