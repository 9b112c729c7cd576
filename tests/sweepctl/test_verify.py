"""`sweepctl verify`: every kind of damage is named and set aside, and the next run makes exactly that again."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import PrefsweepError
from harness.files import file_record
from harness.manifest import digest_of, read_manifest
from harness.sweepctl import checks, verify
from tests.artifacts import manifest
from tests.sweepctl.conftest import COMMAND, Desk
from tests.test_store import KEY

WHOLE = "every artifact is whole and belongs to the others"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip(folder: Path) -> None:
    content = bytearray((folder / "table.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "table.parquet").write_bytes(content)


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def truncate(folder: Path) -> None:
    (folder / "table.parquet").write_bytes((folder / "table.parquet").read_bytes()[:-1])


def grow(folder: Path) -> None:
    (folder / "table.parquet").write_bytes((folder / "table.parquet").read_bytes() + b"x")


def lose(folder: Path) -> None:
    (folder / "table.parquet").unlink()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "bit flip": (flip, "table.parquet: changed"),
    "truncation": (truncate, "table.parquet: truncated ("),
    "growth": (grow, "table.parquet: changed"),
    "lost file": (lose, "table.parquet: missing"),
    "lost manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: missing"),
    "broken manifest": (break_manifest, "manifest.json: cannot be read"),
    "misshapen manifest": (lambda f: rewrite(f, files=["table.parquet"]), "manifest.json: cannot be read"),
    "misshapen record": (lambda f: rewrite(f, files={"table.parquet": 7}), "manifest.json: cannot be read"),
    "other spec": (lambda f: rewrite(f, spec={"name": "other"}), "stage, version, spec and inputs give the key"),
    "other version": (lambda f: rewrite(f, stage_version=7), "stage, version, spec and inputs give the key"),
    "other key": (lambda f: rewrite(f, key="0" * 16), "which the folder's name does not end with"),
    "other stage": (lambda f: rewrite(f, stage="judge"), "is of stage judge, but stands in sample"),
    "no canonical spec": (lambda f: rewrite(f, spec={"x": float("inf")}), "give the key none at all"),
    "lost rows": (lambda f: rewrite(f, rows={"taken": 9, "kept": 2, "dropped": {}}), "rows do not add up: 9 in, 2 out"),
    "other digest": (lambda f: rewrite(f, digest="0" * 16), "its digest is not that of its files"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_set_aside_and_made_again(desk: Desk, kind: str) -> None:
    desk.run()
    damage, said = DAMAGE[kind]
    damage(desk.folder("sample"))
    result = desk.ctl("verify")
    assert result.code == 1
    assert f"damaged: sample/{desk.folder('sample').name}: " in result.out
    assert said in result.out
    assert "1 damaged, 0 that do not belong; set aside" in result.out
    assert f"to make them again (both): {COMMAND}" in result.out
    assert not (desk.folder("sample") / "manifest.json").exists()
    again = desk.ctl("verify")
    assert again.code == 0
    assert f"set aside earlier: sample/{desk.folder('sample').name}" in again.out
    assert desk.run().ok
    assert desk.fake.ran == ["sample"]
    after = desk.ctl("verify")
    assert (after.code, "set aside" in after.out, WHOLE in after.out) == (0, False, True)


def test_a_whole_store_is_whole_and_the_rate_is_shown(desk: Desk) -> None:
    desk.run()
    result = desk.ctl("verify", "--jobs", "3")
    assert result.code == 0
    assert re.match(r"12 artifacts, 12 files, [\d.]+ kB read in [\d.]+ s \([\d.]+ GB/s\)\n", result.out)


def test_a_dry_run_changes_nothing(desk: Desk) -> None:
    desk.run()
    flip(desk.folder("sample"))
    result = desk.ctl("verify", "--dry-run")
    assert result.code == 1
    assert "left where they are (--dry-run)" in result.out
    assert (desk.folder("sample") / "manifest.json").exists()


def test_what_was_made_from_damage_is_kept_and_counted(desk: Desk) -> None:
    desk.run()
    flip(desk.folder("pairs_a"))
    result = desk.ctl("verify")
    assert "3 artifacts made from damaged ones are kept" in result.out
    assert f"`sweepctl retry --dependents {desk.key('pairs_a')}`" in result.out
    assert desk.run().ok
    assert desk.fake.ran == ["pairs_a"]


def test_files_that_no_manifest_names_are_no_damage(desk: Desk) -> None:
    desk.run()
    (desk.folder("sample") / "notes.txt").write_text("mine")
    result = desk.ctl("verify")
    assert result.code == 0
    assert f"not in the manifest: sample/{desk.folder('sample').name}/notes.txt" in result.out


def test_released_files_are_no_damage(desk: Desk) -> None:
    desk.run()
    folder = desk.folder("train_a")
    (folder / "weights").mkdir()
    (folder / "weights" / "w").write_text("weights")
    facts = json.loads((folder / "manifest.json").read_text())
    files = {**facts["files"], "weights/w": file_record(folder / "weights" / "w")}
    rewrite(folder, files=files, digest=digest_of(files))
    for key in ("respond_a", "judge_a"):  # made from it as it is now
        made = json.loads((desk.folder(key) / "manifest.json").read_text())["made_from"]
        rewrite(
            desk.folder(key),
            made_from={k: digest_of(files) if k == desk.key("train_a") else d for k, d in made.items()},
        )
    desk.store.release(desk.fake.find(desk.nodes["train_a"]), "weights")
    assert not (folder / "weights").exists()
    assert desk.ctl("verify").code == 0


def swap(desk: Desk, name: str) -> None:
    """Replace an artifact by one of the same key that another store made, and that came out differently."""
    folder = desk.folder(name)
    (folder / "table.parquet").write_bytes(b"another table")
    files = {"table.parquet": file_record(folder / "table.parquet")}
    rewrite(folder, files=files, digest=digest_of(files))


def test_a_mixed_store_is_named_and_mended_in_one_pass(desk: Desk) -> None:
    desk.run()
    swap(desk, "pairs_a")
    with pytest.raises(PrefsweepError, match="parts of two stores are mixed"):
        desk.run()
    result = desk.ctl("verify")
    assert result.code == 1
    assert "0 damaged, 3 that do not belong; set aside" in result.out
    pairs, trained = f"pairs pairs_a-{desk.key('pairs_a')}", f"train train_a-{desk.key('train_a')}"
    assert f"train_a-{desk.key('train_a')}: was made from another {pairs}" in result.out
    assert f"respond_a-{desk.key('respond_a')}: was made from {trained}, which does not belong" in result.out
    assert desk.run().computed == desk.keys("train_a", "respond_a", "judge_a")
    assert desk.ctl("verify").code == 0


def test_a_damaged_input_says_nothing_about_what_was_made_from_it(desk: Desk) -> None:
    desk.run()
    swap(desk, "pairs_a")
    flip(desk.folder("pairs_a"))
    result = desk.ctl("verify")
    assert "1 damaged, 0 that do not belong" in result.out


def same_cells(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()


def test_an_alias_of_a_damaged_original_is_whole_once_that_is(desk: Desk) -> None:
    same_cells(desk)
    flip(desk.folder("train_a"))
    assert "1 damaged, 0 that do not belong" in desk.ctl("verify").out
    assert desk.run().computed == desk.keys("train_a")
    assert desk.ctl("verify").code == 0


def test_an_alias_of_an_original_that_is_gone_is_damaged(desk: Desk) -> None:
    same_cells(desk)
    desk.store.remove(desk.folder("train_a"))
    result = desk.ctl("verify")
    assert result.code == 1
    assert f"damaged: train/{desk.folder('train_b').name}: is an alias of train/train_a-" in result.out
    assert "which is not there" in result.out
    assert desk.run().ok
    assert desk.fake.ran == ["train"]
    assert desk.ctl("verify").code == 0


def test_an_alias_of_another_content_or_of_an_alias_is_found(desk: Desk) -> None:
    same_cells(desk)
    swap(desk, "respond_a")
    assert "has another content now" in desk.ctl("verify", "--dry-run").out
    rewrite(desk.folder("train_a"), alias_of=f"train/{desk.folder('train_b').name}")
    assert "which is an alias itself" in desk.ctl("verify", "--dry-run").out


def test_a_pointer_to_another_content_is_found_and_one_to_nothing_is_absent(desk: Desk) -> None:
    desk.run()
    content = desk.store.root / "content"
    (content / "c0ffee").write_text(f"sample/{desk.folder('sample').name}\n")
    (content / "decaf").write_text("sample/nothing-0000000000000000\n")
    result = desk.ctl("verify")
    assert result.code == 1
    assert f"wrong: content/c0ffee: leads to sample/{desk.folder('sample').name}, whose content is" in result.out
    assert not (content / "c0ffee").exists()
    assert desk.store.find_content("decaf") is None
    assert desk.ctl("verify").code == 0


def test_one_sweep_is_verified_alone(desk: Desk) -> None:
    desk.run()
    desk.run("only_b", "b")
    flip(desk.folder("train_a"))
    flip(desk.folder("sample"))
    result = desk.ctl("verify", "--sweep", "only_b", "--dry-run")
    assert "8 artifacts" in result.out
    assert "1 damaged" in result.out
    assert desk.ctl("verify", "--sweep", "nothing").code == 2


def test_a_sweep_is_verified_with_the_originals_of_its_aliases(desk: Desk) -> None:
    same_cells(desk)
    desk.run("only_b", "b")
    flip(desk.folder("train_a"))
    result = desk.ctl("verify", "--sweep", "only_b")
    assert f"damaged: train/{desk.folder('train_a').name}: table.parquet: changed" in result.out


def test_what_is_being_made_again_is_left_alone(desk: Desk) -> None:
    desk.run()
    flip(desk.folder("sample"))
    with desk.held("sample"):
        assert "left where it is, since it is being made again" in desk.ctl("verify").out
    assert (desk.folder("sample") / "manifest.json").exists()


def test_a_renamed_folder_is_found(desk: Desk) -> None:
    desk.run()
    desk.folder("sample").rename(desk.folder("sample").with_name("mine"))
    result = desk.ctl("verify")
    assert "damaged: sample/mine: manifest.json: has key" in result.out


def test_a_damaged_import_has_to_be_imported_again(desk: Desk) -> None:
    with desk.store.claim(KEY) as work:
        folder = desk.store.publish(work, manifest("imported", KEY), "mine").folder
    assert f"nothing can make mine-{KEY} anew but the import" in desk.ctl("verify").out
    assert folder.name not in desk.ctl("gc", "--yes").out
    assert folder.exists()


def test_jobs_must_be_positive(desk: Desk) -> None:
    result = desk.ctl("verify", "--jobs", "0")
    assert (result.code, result.err) == (2, "error: --jobs: expected 1 or more, got 0\n")


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Have something happen after everything was hashed, and before anything is done about it."""
    before = checks.judge_origins

    def judged(*arguments: Any) -> None:
        before(*arguments)
        happens()

    monkeypatch.setattr(verify, "judge_origins", judged)


def test_what_was_made_again_while_it_was_hashed_is_left_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    whole = (desk.folder("sample") / "table.parquet").read_bytes()
    flip(desk.folder("sample"))
    meanwhile(monkeypatch, lambda: (desk.folder("sample") / "table.parquet").write_bytes(whole))
    result = desk.ctl("verify")
    assert (result.code, WHOLE in result.out) == (0, True)
    assert f"made whole, replaced or removed meanwhile: sample/{desk.folder('sample').name}" in result.out
    assert desk.run().computed == []


def test_what_was_removed_while_it_was_hashed_is_no_damage(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    flip(desk.folder("judge_a"))
    meanwhile(monkeypatch, lambda: desk.store.remove(desk.folder("judge_a")))
    assert desk.ctl("verify").code == 0
    assert not desk.folder("judge_a").exists()


def test_what_was_made_anew_of_the_same_input_belongs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    swap(desk, "pairs_a")

    def anew() -> None:
        for name in ("train_a", "respond_a", "judge_a"):
            desk.store.remove(desk.folder(name))
        desk.store.forget()
        assert desk.run().computed == desk.keys("train_a", "respond_a", "judge_a")

    meanwhile(monkeypatch, anew)
    assert desk.ctl("verify").code == 0
    assert desk.folder("train_a").exists()


def test_weights_released_while_they_are_hashed_are_no_damage(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run()
    folder = desk.folder("judge_a")
    (folder / "weights").mkdir()
    (folder / "weights" / "w").write_text("weights")
    facts = json.loads((folder / "manifest.json").read_text())
    files = {**facts["files"], "weights/w": file_record(folder / "weights" / "w")}
    rewrite(folder, files=files, digest=digest_of(files))
    before = read_manifest

    def read(path: Path) -> Any:
        found = before(path)
        if path == folder and found is not None and found.files == files:
            desk.store.release(desk.fake.find(desk.nodes["judge_a"]), "weights")
        return found

    monkeypatch.setattr(checks, "read_manifest", read)
    result = desk.ctl("verify")
    assert "weights/w: missing" in result.out
    assert (result.code, (folder / "manifest.json").exists()) == (0, True)
