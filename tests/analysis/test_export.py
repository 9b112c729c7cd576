"""An exported folder stands in for its store, says what it is, and is refused when it is not what was written."""

import json
import os
import shutil
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.__main__ import main
from analysis.export import FRAMES, export, without_paths
from analysis.exported import MANIFEST, Exported
from analysis.frames import load_costs, load_picks, load_spreads, load_training
from analysis.load import load_overlap, load_results, load_verdicts
from analysis.report import load_details
from analysis.report.details import EXAMPLES
from analysis.reward_z import load_reward_z
from analysis.typed_columns import decode, encode
from harness.errors import PrefsweepError
from tests.analysis.exported import check_export, check_same
from tests.benchmarks.synthetic_store import Shape, build

SHAPE = Shape(
    pairs=(("mu-2s", "min"), ("max", "min"), ("max", "mu-2s"), ("mu+1s", "mu-1s")),
    sizes=(8, 16),
    policies=1,
    seeds=1,
    prompts=6,
    instructions=10,
    failed=1,
    missing=1,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "store"
    build(root, SHAPE)
    return root


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "folder"
    export(store, folder, "synthetic")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "folder"))


def test_every_loader_takes_the_folder_for_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, frame = set(), Exported.frame

    def noted(folder: Exported, name: str, columns: Iterable[str], sweep: str | None = None) -> pd.DataFrame:
        asked.add(name)
        return frame(folder, name, columns, sweep)

    monkeypatch.setattr(Exported, "frame", noted)
    loaded = check_export(store, tmp_path / "folder")
    assert asked == {one.name for one in FRAMES}
    empty = {name for name, value in loaded.items() if isinstance(value, pd.DataFrame) and value.empty}
    assert {name.rpartition(".")[2] for name in loaded.keys() - empty} >= {
        "load_results", "load_verdicts", "load_answers", "load_overlap", "load_training", "load_spreads", "load_picks",
        "load_costs", "load_details", "load_reward_z",
    }  # fmt: skip


def test_every_column_of_every_frame_has_a_type_and_a_meaning(whole: Path) -> None:
    said = json.loads((whole / MANIFEST).read_text())["frames"]
    readme = (whole / "README.md").read_text()
    for frame in FRAMES:
        schema = pq.read_schema(whole / f"{frame.name}.parquet")
        assert schema.names == list(said[frame.name]["columns"])
        assert f"## {frame.name}.parquet" in readme
        without = [name for name in schema.names if not (schema.field(name).metadata or {}).get(b"meaning")]
        if frame.name == "results":
            assert set(without).isdisjoint({"win_rate", "status", "judge_label"})
            assert "policy.name" in without  # a setting
        else:
            assert without == [] or frame.index is not None, frame.name
    assert pq.read_schema(whole / "training.parquet").field("loss").type == pa.float64()


def test_a_partial_sweep_says_what_is_missing_in_every_frame(store: Path, whole: Path) -> None:
    results = load_results(whole)
    counts = results["status"].value_counts()
    for frame, words in (
        (results, "2 of 8 results are not done"),
        (load_verdicts(store), f"{8 - counts['done']} of 8 results have no verdicts"),
        (load_training(store), "cells are not trained"),
        (load_costs(store), "units of work are not done"),
    ):
        assert words in frame.attrs["missing"]
    assert load_overlap(store).attrs["missing"] == ""
    assert "2 of 8 results are not done" in (whole / "README.md").read_text()


def test_nothing_of_the_machine_is_in_the_folder(store: Path, whole: Path) -> None:
    here = [str(store.parent), str(Path.home()), os.uname().nodename]
    for path in whole.iterdir():
        content = path.read_text() if path.suffix != ".parquet" else str(pq.read_table(path).to_pylist())
        assert not any(f"{name}/" in content or f"'{name}'" in content for name in here), path.name


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("org/name", "org/name"),
        ("my.jsonl", "my.jsonl"),
        ("and/or 1/2 a / b", "and/or 1/2 a / b"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("see https://host/a/b, please", "see https://host/a/b, please"),
        ("https://me:secret@host/v1", "https://host/v1"),
        ("/home/me/model", "model#"),
        ("~/model", "model#"),
        ("no file '/home/me/x.jsonl'", "no file 'x.jsonl#"),
        ("file:///home/me/x.jsonl", "x.jsonl#"),
        ("no /a b/c there", "no c#"),
    ],
)
def test_paths_and_accounts_are_left_out(text: str, kept: str) -> None:
    shown = without_paths(text, ["/a b/c"])
    assert shown.startswith(kept)
    assert "home" not in shown
    assert "secret" not in shown
    assert (shown == kept) == ("#" not in kept)


def test_two_files_of_one_name_stay_two() -> None:
    assert without_paths("/a/model") != without_paths("/b/model")


def test_examples_are_kept_as_they_are(store: Path, whole: Path) -> None:
    given, again = load_details(store), load_details(whole)
    assert any(detail.pairs and detail.answers for detail in given.values())
    assert given == again
    assert load_details(whole, examples_of=[])[next(iter(given))].pairs == []
    assert max(len(detail.pairs) for detail in load_details(whole).values()) == EXAMPLES


def test_parts_of_a_frame_may_be_asked_for(store: Path, whole: Path) -> None:
    given, again = (load_spreads(source, shapes=2) for source in (store, whole))
    check_same(given, again, "spreads")
    assert given["normal_p"].notna().sum() == 2 * given["pool"].nunique()
    pool = given["pool"].iloc[0]
    check_same(load_reward_z(store, only=[pool]), load_reward_z(whole, only=[pool]), "reward_z")


def test_an_export_of_an_earlier_version_says_what_it_lacks(folder: Path) -> None:
    said = json.loads((folder / MANIFEST).read_text())["frames"]
    del said["picks"]["columns"]["z_mean"]
    _edit(folder, frames=said)
    with pytest.raises(PrefsweepError, match="frame picks has no column z_mean: it is of another version"):
        load_picks(folder)


def test_texts_may_be_left_out(store: Path, tmp_path: Path) -> None:
    export(store, tmp_path / "bare", texts=False)
    given, again = load_details(store), load_details(tmp_path / "bare")
    assert given.keys() == again.keys()
    assert not any(detail.pairs or detail.answers for detail in again.values())
    assert all(given[key].rows == detail.rows and given[key].keys == detail.keys for key, detail in again.items())


def test_reports_and_comparisons_are_those_of_the_store(
    store: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = load_results(store).query("status == 'done'").drop_duplicates("trained_id")["result"].iloc[:2]
    said = []
    for source in (store, whole):
        assert main(["compare", first, second, "--store", str(source)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert main(["report", "--watch", "--store", str(whole)]) == 2
    assert "nothing changes" in capsys.readouterr().err


def test_the_command_writes_a_folder_once(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(tmp_path / "out"), "--store", str(store), "--sweep", "synthetic"]
    assert main(command) == 0
    assert f"{len(FRAMES)} frames of 8 results" in (said := capsys.readouterr().out)
    assert "2 of 8 results are not done" in said
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command[:1], str(tmp_path / "other"), *command[2:4], "--sweep", "nope"]) == 2
    assert "it has synthetic" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "results.parquet").unlink(), "results.parquet cannot be read"),
        (lambda f: (f / "results.parquet").write_bytes(b"PAR1"), "is not the file that was exported"),
        (lambda f: (f / MANIFEST).unlink(), "the folder is incomplete"),
        (lambda f: (f / MANIFEST).write_text('{"format": 1, "fra'), f"{MANIFEST} cannot be read"),
        (lambda f: (f / MANIFEST).write_text("[]"), f"{MANIFEST} cannot be read"),
        (lambda f: _edit(f, format=2), "has format 2; this version reads format 1"),
        (lambda f: _edit(f, frames={"costs": {}}), "has no frame results, only costs: it is of another version"),
        (lambda f: _edit(f, frames={"results": {}}), "is not the file that was exported"),
        (
            lambda f: _edit(f, frames={"results": {"sha256": digest_of(f / "results.parquet")}}),
            "does not describe results",
        ),
    ],
)
def test_a_damaged_folder_is_one_clear_error(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(PrefsweepError, match=message.replace("[", r"\[")) as caught:
        load_results(folder)
    assert str(folder) in str(caught.value)


def test_another_sweep_or_a_second_folder_is_refused(store: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(PrefsweepError, match="holds sweep 'synthetic', not 'other'"):
        load_results(whole, "other")
    with pytest.raises(PrefsweepError, match="is loaded alone"):
        load_results([store, whole])
    assert len(load_results([whole], "synthetic")) == 8
    both = Path(shutil.copytree(whole, tmp_path / "both"))
    _edit(both, sweep=None, sweeps=["a", "b"])
    with pytest.raises(PrefsweepError, match="holds the sweeps a, b together"):
        load_results(both, "a")


def through_parquet(array: pa.Array) -> pa.ChunkedArray:
    file = pa.BufferOutputStream()
    pq.write_table(pa.table({"column": array}), file)
    return pq.read_table(pa.BufferReader(file.getvalue())).column("column")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.lists(st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(-9, 9), max_size=2),
    st.fixed_dictionaries({"a": st.dictionaries(st.just("b"), st.integers(), max_size=1), "c": st.lists(st.none())}),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, max_size=6))
def test_values_of_all_kinds_come_back_as_they_were(values: list[Any]) -> None:
    given = pd.Series(values, dtype=object)
    array, said = encode(given)
    again = decode(through_parquet(array), said)
    assert [type(value) for value in again] == [type(value) for value in given]
    assert repr(again.tolist()) == repr(given.tolist())
    assert again.dtype == given.dtype


@pytest.mark.parametrize(
    "given",
    [
        pd.Series([1, 2], dtype="int32"),
        pd.Series([1.5, np.nan]),
        pd.Series([True, False]),
        pd.Series(["a", None]),
        pd.Series(["\ud800", "b"], dtype=object),
        pd.Series([], dtype=object),
        pd.Series([], dtype="float64"),
        pd.Series([np.int64(3), None, "x"], dtype=object),
    ],
)
def test_types_of_columns_come_back(given: "pd.Series[Any]") -> None:
    array, said = encode(given)
    pd.testing.assert_series_equal(decode(through_parquet(array), said), given, check_names=False)


def test_a_type_that_no_frame_has_is_refused() -> None:
    with pytest.raises(TypeError, match="no way to keep a datetime64"):
        encode(pd.Series(pd.to_datetime(["2020-01-01"])))
