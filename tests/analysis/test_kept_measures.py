"""Measures of answers that a report keeps: what is new is measured, what is doubtful is measured again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis import answers, kept_measures
from analysis.kept_measures import NAME, content_of, keep, read_kept
from analysis.load import begin_answers, load_answers
from analysis.parallel import Workers
from harness.positions import PAIRS
from harness.store import Store
from tests.benchmarks.synthetic_store import Shape, build

SHAPE = Shape(pairs=PAIRS[:2], sizes=(8,), policies=1, seeds=2, prompts=4, instructions=12, characters=200)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "store"
    build(folder, SHAPE)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[answers.Given]:
    """What is read and measured from now on."""
    found: list[answers.Given] = []
    read = answers.read_answers

    def told(given: answers.Given) -> answers.Columns:
        found.append(given)
        return read(given)

    monkeypatch.setattr(answers, "read_answers", told)
    return found


def load(store: Path, kept: Path) -> pd.DataFrame:
    with Workers() as workers:
        return begin_answers(store, None, workers, kept)()


def test_what_was_measured_is_not_measured_again(
    store: Path, tmp_path: Path, measured: Sequence[answers.Given]
) -> None:
    expected = load_answers(store)
    models = len(measured)
    assert models >= 2
    for _ in range(2):
        pd.testing.assert_frame_equal(load(store, tmp_path), expected, check_exact=True)
        assert len(measured) == 2 * models


def test_what_is_new_is_measured_and_what_is_not_asked_for_is_not_kept(
    store: Path, tmp_path: Path, measured: Sequence[answers.Given]
) -> None:
    expected = load(store, tmp_path)
    kept = read_kept(tmp_path)
    (one, columns), *_ = kept.items()
    keep(tmp_path, {one: columns, "of another sweep": columns})
    pd.testing.assert_frame_equal(load(store, tmp_path), expected, check_exact=True)
    assert len(measured) == 2 * len(kept) - 1
    assert set(read_kept(tmp_path)) == set(kept)


def test_a_sweep_without_answers_leaves_what_is_kept(store: Path, tmp_path: Path) -> None:
    kept = tmp_path / "report"
    kept.mkdir()
    load(store, kept)
    known = (kept / NAME).read_bytes()
    begun = tmp_path / "begun"
    build(begun, replace(SHAPE, pairs=PAIRS[:1], seeds=1, missing=1))
    frame = load(begun, kept)
    assert frame.empty
    assert "1 of 1 results have no answers" in frame.attrs["missing"]
    assert (kept / NAME).read_bytes() == known


def test_what_other_code_has_measured_is_measured_again(
    store: Path, tmp_path: Path, measured: Sequence[answers.Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(kept_measures, "measured_by", lambda: b"an older version")
        load(store, tmp_path)
    load(store, tmp_path)
    assert len(measured) == 2 * len(read_kept(tmp_path)) > 0


def test_a_damaged_file_is_not_believed(store: Path, tmp_path: Path, measured: Sequence[answers.Given]) -> None:
    expected = load(store, tmp_path)
    path, models = tmp_path / NAME, len(measured)
    whole = path.read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
    for damaged in (b"", whole[: len(whole) // 2], b"PAR1", flipped):
        path.write_bytes(damaged)
        assert read_kept(tmp_path) == {}
        pd.testing.assert_frame_equal(load(store, tmp_path), expected, check_exact=True)
    pd.DataFrame({"prompt_id": ["a"]}).to_parquet(path)
    assert read_kept(tmp_path) == {}
    assert len(measured) == 5 * models


def test_every_byte_of_the_numbers_is_checked(store: Path, tmp_path: Path) -> None:
    load(store, tmp_path)
    path = tmp_path / NAME
    whole, known = path.read_bytes(), read_kept(tmp_path)
    for place in range(4, len(whole) - 8, max(1, len(whole) // 200)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        for content, columns in read_kept(tmp_path).items():  # where the metadata's own text is what was changed
            for name, values in columns.items():
                same = known.get(content, columns)[name]
                assert values.equals(same) if name == "prompt_id" else pd.Series(values).equals(pd.Series(same))


def test_a_writer_that_was_killed_leaves_what_there_was(store: Path, tmp_path: Path) -> None:
    load(store, tmp_path)
    known = read_kept(tmp_path).keys()
    (tmp_path / f"{NAME}.1").write_bytes(b"half of it")
    assert read_kept(tmp_path).keys() == known


def test_what_the_measures_depend_on_is_all_of_a_results_artifacts(store: Path) -> None:
    opened = Store(store)
    first, second = (opened.find("respond", path.name.rpartition("-")[2]) for path in opened.folders("respond")[:2])
    found = {"respond": first, "references": second, "appraise": None, "appraise_references": None}
    others = [found | {"references": None}, found | {"respond": second}, found | {"appraise": second}]
    assert len({content_of(one) for one in [found, *others]}) == 4
