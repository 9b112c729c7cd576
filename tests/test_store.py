"""The store: whole or absent, one writer, aliases, and damage that is seen."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.claims import BusyError
from harness.files import write_json
from harness.manifest import Manifest, read_manifest
from harness.store import Artifact, Rows, Store, StoreError
from tests.artifacts import manifest

KEY, OTHER = "00000000000000aa", "00000000000000bb"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


def publish(store: Store, key: str = KEY, content: str | None = None, text: str = "weights") -> Artifact:
    with store.claim(key) as work:
        (work / "shards").mkdir(exist_ok=True)
        (work / "shards" / "0.txt").write_text(text)
        (work / "notes.txt").write_text("notes")
        return store.publish(work, manifest("train", key, content), "slug")


def publish_alias(store: Store, key: str, of: Artifact) -> Artifact:
    alias = Manifest(**{**asdict(manifest("train", key)), "alias_of": str(of.folder.relative_to(store.root))})
    with store.claim(key) as work:
        return store.publish(work, alias, "alias")


def test_what_is_published_is_found_by_its_key(store: Store) -> None:
    published = publish(store)
    found = store.find("train", KEY)
    assert found is not None
    assert found.folder == published.folder == store.root / "train" / f"slug-{KEY}"
    assert found.manifest == published.manifest
    assert (found.folder / "shards" / "0.txt").read_text() == "weights"
    assert store.find("train", OTHER) is None
    assert store.find("judge", KEY) is None


def test_the_manifest_records_size_and_hash_of_every_file(store: Store) -> None:
    files = publish(store, text="abc").manifest.files
    assert sorted(files) == ["notes.txt", "shards/0.txt"]
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files["shards/0.txt"] == {"bytes": 3, "sha256": sha256}


def test_the_work_folder_is_gone_once_published(store: Store) -> None:
    publish(store)
    assert not (store.root / "work" / KEY).exists()


def test_a_folder_without_manifest_is_no_artifact(store: Store) -> None:
    folder = publish(store).folder
    (folder / "manifest.json").unlink()
    assert store.find("train", KEY) is None
    assert store.damaged("train", KEY) == folder


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "train"}'])
def test_a_broken_manifest_is_no_artifact(store: Store, text: str) -> None:
    folder = publish(store).folder
    (folder / "manifest.json").write_text(text)
    assert read_manifest(folder) is None
    assert store.find("train", KEY) is None
    assert store.damaged("train", KEY) == folder


@pytest.mark.parametrize("lost", [False, True])
def test_a_file_that_is_missing_or_of_wrong_size_makes_the_artifact_damaged(store: Store, lost: bool) -> None:
    folder = publish(store).folder
    file = folder / "shards" / "0.txt"
    file.unlink() if lost else file.write_text("short")
    assert store.find("train", KEY) is None
    assert store.damaged("train", KEY) == folder


def test_what_is_absent_or_whole_is_not_damaged(store: Store) -> None:
    assert store.damaged("train", KEY) is None
    publish(store)
    assert store.damaged("train", KEY) is None


def test_publishing_replaces_a_damaged_artifact(store: Store) -> None:
    folder = publish(store).folder
    (folder / "notes.txt").unlink()
    publish(store, text="again")
    found = store.find("train", KEY)
    assert found is not None
    assert (found.folder / "shards" / "0.txt").read_text() == "again"


def test_a_whole_artifact_is_never_replaced(store: Store) -> None:
    publish(store, text="first")
    with pytest.raises(StoreError, match="cannot publish"):
        publish(store, text="second")
    found = store.find("train", KEY)
    assert found is not None
    assert (found.folder / "shards" / "0.txt").read_text() == "first"


def test_verify_finds_a_bit_flip_and_a_lost_file(store: Store) -> None:
    artifact = publish(store)
    assert store.verify(artifact) == []
    file = artifact.folder / "shards" / "0.txt"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    assert store.verify(artifact) == ["shards/0.txt"]
    (artifact.folder / "notes.txt").unlink()
    assert sorted(store.verify(artifact)) == ["notes.txt", "shards/0.txt"]


def test_leftovers_of_interrupted_writes_are_removed(store: Store) -> None:
    with store.claim(KEY) as work:
        (work / "shards").mkdir()
        for name in ("shards/0.txt", "shards/1.txt.partial", "a.parquet.partial", "manifest.json"):
            (work / name).write_text("x")
        artifact = store.publish(work, manifest("train", KEY), "slug")
    assert list(artifact.manifest.files) == ["shards/0.txt"]
    names = sorted(str(p.relative_to(artifact.folder)) for p in artifact.folder.rglob("*") if p.is_file())
    assert names == ["manifest.json", "shards/0.txt"]


def test_an_alias_is_found_in_the_folder_of_the_original_with_a_manifest_of_its_own(store: Store) -> None:
    original = publish(store, content="c0ffee")
    alias = publish_alias(store, OTHER, original)
    found = store.find("train", OTHER)
    assert found is not None
    assert found.folder == original.folder
    assert found.manifest.key == OTHER
    assert alias.manifest.files == {}
    assert store.verify(found) == []
    (original.folder / "shards" / "0.txt").write_text("WEIGHTS")
    assert store.verify(found) == ["shards/0.txt"]


def test_an_alias_of_a_damaged_original_is_not_found(store: Store) -> None:
    original = publish(store)
    alias = publish_alias(store, OTHER, original)
    (original.folder / "notes.txt").unlink()
    assert store.find("train", OTHER) is None
    assert store.damaged("train", OTHER) == alias.folder


def test_content_is_found_whichever_node_made_it(store: Store) -> None:
    original = publish(store, content="c0ffee")
    publish_alias(store, OTHER, original)
    found = store.find_content("c0ffee")
    assert found is not None
    assert found.manifest.key == KEY
    assert store.find_content("decaf") is None
    (original.folder / "notes.txt").unlink()
    assert store.find_content("c0ffee") is None


def test_the_work_folder_of_an_interrupted_node_is_found_again(store: Store) -> None:
    with store.claim(KEY) as work:
        (work / "shard").write_text("kept")
    with store.claim(KEY) as again:
        assert (again / "shard").read_text() == "kept"


def test_a_claim_excludes_a_second_one_and_ends_with_its_block(store: Store) -> None:
    with store.claim(KEY), store.claim(OTHER), pytest.raises(BusyError, match=KEY), store.claim(KEY):
        pytest.fail("claimed twice")
    with store.claim(KEY) as work:
        assert work.is_dir()


HOLDER = """
import sys, time
from pathlib import Path
from harness.store import Store
with Store(Path(sys.argv[1])).claim(sys.argv[2]) as work:
    (work / "shard").write_text("kept")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_claim_excludes_other_processes_and_is_free_once_its_holder_is_killed(store: Store) -> None:
    command = [sys.executable, "-c", HOLDER, str(store.root), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BusyError), store.claim(KEY):
                pytest.fail("claimed while another process holds it")
            with store.claim(OTHER):
                pass
        finally:
            holder.send_signal(signal.SIGKILL)
        holder.wait()
        with store.claim(KEY) as work:
            assert (work / "shard").read_text() == "kept"


def test_preparing_twice_changes_nothing(store: Store) -> None:
    before = (store.root / "store.json").read_text()
    assert Store(store.root).prepare().root == store.root
    assert (store.root / "store.json").read_text() == before


def test_a_store_of_another_format_is_refused(store: Store) -> None:
    write_json(store.root / "store.json", {"format": 99})
    for use in (Store(store.root).prepare, Store(store.root).check):
        with pytest.raises(StoreError, match=r"has format 99; this version reads format 2"):
            use()


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match="is no prefsweep store"):
        Store(tmp_path).check()


def test_a_file_where_the_store_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match=r"store: cannot write to .*store: "):
        Store(tmp_path / "store").prepare()


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere; for as long as this lasts the process is nobody."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def test_a_read_only_folder_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with ordinary_user(), pytest.raises(StoreError, match=r"cannot write to .*: Permission denied"):
            Store(Path(folder) / "store").prepare()


def test_a_relative_store_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store(Path("here")).root == tmp_path / "here"


def test_rows_must_add_up() -> None:
    rows = Rows(taken=5, kept=2, dropped={"too_few": 1, "zero_spread": 2})
    assert rows.dropped == {"too_few": 1, "zero_spread": 2}
    with pytest.raises(ValueError, match=r"rows do not add up: 5 in, 2 out, dropped {'too_few': 1}"):
        Rows(taken=5, kept=2, dropped={"too_few": 1})


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    for value in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            write_json(path, value)
    assert json.loads(path.read_text()) == {"a": 1}
