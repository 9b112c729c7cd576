"""Imports: what is refused and how it is said, keys by content, and whole runs that begin in the middle."""

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from analysis.load import load_overlap, load_results, load_verdicts
from analysis.report import write_report
from analysis.schema import plain
from harness import app, imports, record
from harness.config import used
from harness.engines import models
from harness.errors import ConfigError, PrefsweepError
from harness.packages import model_files
from harness.plan import make_plan
from harness.progress import Reporter
from harness.prompts import prompt_id
from harness.stages import imported, sample, score
from harness.store import Artifact, Store
from tests.artifacts import Row, Shelf, adds_up, quiet, written
from tests.configs import composed, point


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def id_of(text: str) -> str:
    return prompt_id(user(text), "here")


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


RESPONSES: list[Row] = [
    {"prompt": "a", "sample_index": 0, "response": "one"},
    {"prompt": "a", "sample_index": 1, "response": "two three", "finish_reason": "length"},
    {"prompt": "b", "sample_index": 0, "response": "four"},
]
REWARDS: list[Row] = [
    {"prompt": "a", "sample_index": 0, "reward": 1.5, "attribute_tone": 2.0},
    {"prompt": "a", "sample_index": 1, "reward": None, "attribute_tone": None},
    {"prompt": "b", "sample_index": 0, "reward": 2.0, "attribute_tone": 0.5},
]
ANSWERS: list[Row] = [{"prompt": "a", "answer": "yes"}, {"prompt": "b", "answer": ""}]
ROWS: Mapping[str, list[Row]] = {"responses": RESPONSES, "rewards": REWARDS, "answers": ANSWERS}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").prepare()


def bring(store: Store, kind: str, path: Path, name: str = "mine") -> Artifact:
    return imports.bring(store, kind, path, name, quiet()).artifact


@pytest.mark.parametrize("kind", ["responses", "rewards", "answers"])
def test_every_format_and_order_has_one_key(tmp_path: Path, kind: str) -> None:
    keys = set()
    rows = ROWS[kind]
    for number, name in enumerate(("a.parquet", "b.jsonl", "c.json", "d.jsonl")):
        store = Store(tmp_path / str(number)).prepare()
        given = rows[::-1] if name == "d.jsonl" else rows
        keys.add(bring(store, kind, write(tmp_path / name, given), f"name{number}").manifest.key)
    assert len(keys) == 1


def test_messages_an_id_and_a_prompt_name_the_same_row(tmp_path: Path, store: Store) -> None:
    as_text = bring(store, "answers", write(tmp_path / "1.jsonl", [{"prompt": "a", "answer": "x"}]), "text")
    as_messages = write(tmp_path / "2.jsonl", [{"messages": user("a"), "answer": "x"}])
    as_id = write(tmp_path / "3.parquet", [{"prompt_id": id_of("a"), "answer": "x"}])
    as_instruction = write(
        tmp_path / "4.json", [{"instruction": "a", "output": "x", "generator": "me", "dataset": "d", "datasplit": "e"}]
    )
    for number, path in enumerate((as_messages, as_id, as_instruction)):
        assert bring(store, "answers", path, f"n{number}").manifest.key == as_text.manifest.key


@pytest.mark.parametrize("kind", ["responses", "rewards", "answers"])
def test_changed_content_has_another_key(tmp_path: Path, store: Store, kind: str) -> None:
    rows = ROWS[kind]
    changes: Mapping[str, Row] = {
        "responses": {"response": "other"},
        "rewards": {"reward": 9.0},
        "answers": {"answer": "no"},
    }
    one = bring(store, kind, write(tmp_path / "1.jsonl", rows), "one")
    other = bring(store, kind, write(tmp_path / "2.jsonl", [rows[0] | changes[kind], *rows[1:]]), "other")
    assert one.manifest.key != other.manifest.key


def test_an_import_is_an_artifact_with_its_account(tmp_path: Path, store: Store) -> None:
    artifact = bring(store, "rewards", write(tmp_path / "r.jsonl", REWARDS), "judge.v1")
    manifest = artifact.manifest
    assert artifact.folder.parent.name == "imported"
    assert artifact.folder.name == f"rewards-judge.v1-{manifest.key}"
    assert manifest.rows == {"taken": 3, "kept": 3, "dropped": {}}
    assert manifest.measures == {
        "kind": "rewards",
        "name": "judge.v1",
        "prompts": 2,
        "invalid": 1,
        "attributes": ["tone"],
    }
    assert manifest.provenance["imported"] is True
    assert manifest.provenance["file"] == "r.jsonl"
    assert len(manifest.provenance["sha256"]) == 64
    assert manifest.provenance["versions"]["pyarrow"]
    assert store.verify(artifact) == []


def test_the_same_again_is_there_already_and_other_content_is_refused(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "a.jsonl", ANSWERS)
    first = imports.bring(store, "answers", path, "mine", quiet())
    again = imports.bring(store, "answers", path, "mine", quiet())
    assert (first.new, again.new) == (True, False)
    assert again.artifact.manifest.key == first.artifact.manifest.key
    with pytest.raises(PrefsweepError, match="import of answers: the name 'mine' stands for other content"):
        bring(store, "answers", write(tmp_path / "b.jsonl", ANSWERS[:1]))
    bring(store, "responses", write(tmp_path / "c.jsonl", RESPONSES), "mine")  # names of one kind only


def test_a_second_name_for_the_same_content_holds_nothing_of_its_own(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "a.jsonl", ANSWERS)
    one, two = (bring(store, "answers", path, name) for name in ("one", "two"))
    assert one.folder == two.folder
    for name in ("one", "two"):
        assert imports.find(store, "answers", name, "evaluate.answers").manifest.key == one.manifest.key
    assert len(list((store.root / "imported").iterdir())) == 2


BAD: list[tuple[str, Any, str]] = [
    ("responses", {"response": 5}, "line 2, response: expected text, got 5"),
    ("responses", {"sample_index": -1}, "line 2, sample_index: expected an integer from 0, got -1"),
    ("responses", {"sample_index": 1.0}, "line 2, sample_index: expected an integer from 0, got 1.0"),
    ("responses", {"sample_index": True}, "line 2, sample_index: expected an integer from 0, got True"),
    ("responses", {"sample_index": 2**31}, "line 2, sample_index: expected an integer from 0, got 2147483648"),
    ("responses", {"sample_index": 0}, "line 2: the same prompt_id .* and sample_index 0 as in line 1"),
    ("responses", {"token_ids": []}, "line 2, token_ids: expected a list of token ids that is not empty"),
    ("responses", {"token_ids": "1 2"}, "line 2, token_ids: expected a list of token ids"),
    ("responses", {"token_ids": [1, 2.5]}, r"line 2, token_ids\[1\]: expected an integer from 0, got 2.5"),
    ("responses", {"finish_reason": "eos"}, "line 2, finish_reason: expected stop or length, got 'eos'"),
    ("responses", {"finish_reason": ""}, "line 2, finish_reason: expected stop or length, got ''"),
    ("responses", {"response": "", "finish_reason": "length"}, "line 2, response: empty, and cut by its length"),
    ("responses", {"response": "\ud800"}, "line 2, response: expected text without half a surrogate pair"),
    (
        "responses",
        {"text": "x"},
        "line 2, text: unknown column; valid are prompt, messages, prompt_id, sample_index, response, token_ids, "
        "finish_reason$",
    ),
    ("responses", {"prompt": None}, "line 2: no prompt; expected one of prompt, messages, prompt_id"),
    ("responses", {"prompt": " "}, "line 2: the prompt is empty"),
    ("responses", {"prompt": 5}, "line 2, prompt: expected text, got 5"),
    ("responses", {"messages": user("a")}, "line 2: 'prompt' and 'messages' are both there"),
    ("responses", {"prompt_id": "xyz"}, "line 2, prompt_id: expected 16 hex digits, got 'xyz'"),
    ("responses", {"prompt_id": "0" * 16}, "line 2, prompt_id: 0{16} is not the id of this row's prompt, which is"),
    ("responses", {"prompt": None, "messages": []}, "line 2: 'messages' must be a list that is not empty"),
    (
        "responses",
        {"prompt": None, "messages": [{"role": "robot", "content": "a"}]},
        "line 2: each message needs 'role'",
    ),
    ("responses", 5, "line 2: expected an object, got int"),
    ("rewards", {"reward": "high"}, "line 2, reward: expected a number or null, got 'high'"),
    ("rewards", {"reward": True}, "line 2, reward: expected a number or null, got True"),
    ("rewards", {"reward": 1e200}, r"line 2, reward: expected at most 1e\+150 either way"),
    ("rewards", {"reward": 10**400}, "line 2, reward: expected a number that fits 64 bits"),
    ("rewards", {"attribute_tone": "x"}, "line 2, attribute_tone: expected a number or null, got 'x'"),
    ("rewards", {"score": 1.0}, "line 2, score: unknown column; valid are .*, response, attribute_<name>$"),
    ("rewards", {"response": 5}, "line 2, response: expected text, got 5"),
    ("answers", {"answer": None}, "line 2, answer: expected text, got None"),
    ("answers", {"prompt": "a"}, "line 2: the same prompt_id [0-9a-f]{16} as in line 1"),
    ("answers", {"instruction": "b"}, "line 2, output: missing"),
    ("answers", {"instruction": "b", "output": 5}, "line 2, answer: expected text, got 5"),
    ("answers", {"model": "m"}, "line 2, model: unknown column; valid are .*; or alpaca_eval's instruction and output"),
]


@pytest.mark.parametrize(("kind", "change", "message"), BAD)
def test_a_bad_row_is_named_with_its_field(tmp_path: Path, store: Store, kind: str, change: Any, message: str) -> None:
    rows: list[Any] = [dict(row) for row in ROWS[kind]]
    rows[1] = rows[1] | change if isinstance(change, dict) else change
    with pytest.raises(ConfigError, match=message):
        bring(store, kind, write(tmp_path / "bad.jsonl", rows))
    assert not (store.root / "imported").exists()


@pytest.mark.parametrize(
    ("kind", "field"),
    [("responses", "sample_index"), ("responses", "response"), ("rewards", "reward"), ("answers", "answer")],
)
def test_a_missing_field_is_named(tmp_path: Path, store: Store, kind: str, field: str) -> None:
    rows = [{name: value for name, value in row.items() if name != field} for row in ROWS[kind]]
    with pytest.raises(ConfigError, match=rf"row 1, {field}: missing"):
        bring(store, kind, write(tmp_path / "bad.json", rows))


def test_parquet_rows_are_numbered_too(tmp_path: Path, store: Store) -> None:
    rows = [row | {"finish_reason": "eos"} if i == 2 else row for i, row in enumerate(RESPONSES)]
    with pytest.raises(ConfigError, match=r"bad.parquet, row 3, finish_reason: expected stop or length"):
        bring(store, "responses", write(tmp_path / "bad.parquet", rows))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"x", "unknown kind of file; expected a name that ends in .parquet, .jsonl, .ndjson, .json"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.json", b'{"a": 1}', r"expected a JSON list of objects \(a file of JSON lines is named .jsonl\)"),
        ("a.json", b'{"a": 1}\n{"a": 2}', r"no valid JSON .* \(a file of JSON lines is named .jsonl\)"),
        ("a.jsonl", b'{"a": \n', "line 1: no valid JSON"),
        ("a.jsonl", b"\xff\n", r"line 1: no UTF-8 text"),
        ("a.parquet", b"PAR1", "no readable Parquet file"),
        ("none.jsonl", None, "there is no such file"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, store: Store, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        bring(store, "answers", tmp_path / name)


DIGITS, NESTED = b"7" * 5000, b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("value", "why"),
    [(DIGITS, "a number of too many digits"), (NESTED, "lists or objects that are nested too deep")],
    ids=["digits", "nested"],
)
@pytest.mark.parametrize(
    ("name", "form", "row"),
    [
        ("a.jsonl", b'{"prompt": "a", "answer": "[x"}\n{"answer": %s}\n', "line 2"),
        ("a.json", b'[{"prompt": "a", "answer": "[x"},\n {"answer": %s}]', "row 2"),
        ("b.json", b'{"answer": %s}', "row 1"),
    ],
)
def test_json_that_cannot_be_taken_in_is_refused(
    tmp_path: Path, store: Store, name: str, form: bytes, row: str, value: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(form % value)
    with pytest.raises(ConfigError) as raised:
        bring(store, "answers", tmp_path / name)
    assert str(raised.value) == f"{tmp_path / name}, {row}: {why}"


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_a_value_that_is_just_not_nested_too_deep_is_wrong_in_one_line(
    tmp_path: Path, store: Store, depth: int
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "a", "answer": %s}' % (b"[" * depth + b"]" * depth))
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 1"):
        bring(store, "answers", tmp_path / "a.jsonl")


def test_two_columns_of_one_name_are_refused(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], ["yes"], ["no"]], names=["prompt", "answer", "answer"]), path)
    with pytest.raises(ConfigError, match=r"a\.parquet, answer: two columns have this name"):
        bring(store, "answers", path)
    fields = [pa.field("role", pa.string()), pa.field("content", pa.string()), pa.field("content", pa.string())]
    message = pa.StructArray.from_arrays([pa.array(["user"]), pa.array(["a"]), pa.array(["b"])], fields=fields)
    messages = pa.ListArray.from_arrays([0, 1], message)
    pq.write_table(pa.table({"messages": messages, "answer": ["yes"]}), path)
    with pytest.raises(ConfigError, match=r"a\.parquet, after row 0: cannot be read: .*[Dd]uplicate"):
        bring(store, "answers", path)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", ".x", "-x"])
def test_a_name_must_be_a_file_name(tmp_path: Path, store: Store, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--as: .* names a folder"):
        bring(store, "answers", write(tmp_path / "a.jsonl", ANSWERS), name)


def test_numbers_that_are_none_are_invalid_in_every_format(tmp_path: Path, store: Store) -> None:
    nan, inf = float("nan"), float("inf")
    rows = [REWARDS[0] | {"sample_index": i, "reward": r} for i, r in enumerate((1, nan, None, inf, -inf, -0.0))]
    lines = bring(store, "rewards", write(tmp_path / "a.jsonl", rows), "lines")
    table = bring(store, "rewards", write(tmp_path / "a.parquet", rows), "table")
    assert lines.manifest.key == table.manifest.key
    assert lines.manifest.measures["invalid"] == 4
    assert lines.table("rewards").column("reward").to_pylist() == [1.0, None, None, inf, -inf, 0.0]


def model_folder(folder: Path, *, adapters: bool = False) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"w": np.zeros(2, dtype=np.float32)}, folder / f"{'adapter_' * adapters}model.safetensors")
    (folder / f"{'adapter_' * adapters}config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"12")


def _one_shard(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-2.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no such folder; expected one with config.json or adapter_config.json"),
        (_without("config.json"), r"no model; expected config.json \(a full model\) or adapter_config.json"),
        (_pickled, "no .safetensors weights; pytorch_model.bin is pickled, and pickled weights can run code"),
        (_without("model.safetensors"), "no .safetensors weights"),
        (_without("tokenizer_config.json"), "no tokenizer; save it into the same folder"),
        (_cut, "no readable safetensors"),
        (_one_shard, "model-2.safetensors: missing, though model.safetensors.index.json names it"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(
    tmp_path: Path, store: Store, spoil: Callable[[Path], None], message: str
) -> None:
    folder = model_folder(tmp_path / "model")
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        bring(store, "model", folder)


@pytest.mark.parametrize("adapters", [False, True])
def test_a_model_is_copied_and_named_by_its_files(tmp_path: Path, store: Store, adapters: bool) -> None:
    folder = model_folder(tmp_path / "model", adapters=adapters)
    (folder / "training_args.bin").write_bytes(b"pickle")
    artifact = bring(store, "model", folder)
    assert artifact.manifest.measures["format"] == ("adapters" if adapters else "full")
    assert {p.name for p in artifact.model_path.iterdir()} == {
        p.name for p in folder.iterdir() if p.name != "training_args.bin"
    }
    weights = f"{'adapter_' * adapters}model.safetensors"
    (folder / weights).write_bytes((folder / weights).read_bytes() + b"\0")  # the user trains on in that folder
    assert store.verify(artifact) == []


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}),
        ("config.json", {"text_config": [{"auto_map": {"AutoConfig": "someone/somewhere--evil.Config"}}]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("adapter_config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("generation_config.json", {"auto_map": {"x": "evil.y"}}),
    ],
)
def test_a_model_that_names_code_of_its_own_is_refused(
    tmp_path: Path, store: Store, name: str, config: dict[str, Any]
) -> None:
    folder = model_folder(tmp_path / "model", adapters=name.startswith("adapter"))
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"{name}: auto_map names code that comes with the model"):
        bring(store, "model", folder)


def test_code_beside_a_model_is_not_taken_along(tmp_path: Path, store: Store) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"auto_map": null}')
    without = bring(store, "model", folder)
    (folder / "evil.py").write_text("raise SystemExit")
    beside = bring(store, "model", folder, "beside")
    assert beside.manifest.key == without.manifest.key
    assert list(beside.model_path.glob("*.py")) == []


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_a_model_whose_configuration_cannot_be_read_is_refused(tmp_path: Path, store: Store, content: bytes) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json: no readable JSON$"):
        bring(store, "model", folder)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.imported=x"], "sampler.imported: 'x' would do nothing with sampler.engine=transformers"),
        (["reward.imported=x"], "reward.imported: 'x' would do nothing with reward.engine=embedded"),
        (["sampler.engine=imported"], "sampler.imported: must be given with sampler.engine=imported"),
        (["reward.engine=imported"], "reward.imported: must be given with reward.engine=imported"),
        (["reward=imported", "reward.imported=x", "+reward.weights.a=1"], "reward.weights: would do nothing"),
        (["train=imported", "train.imported=x", "evaluate.answers=y"], "evaluate.answers: imported answers"),
        (["sampler=imported"], r"sampler.imported: must be given \(sampler.imported=...\)"),
        (["reward=imported"], r"reward.imported: must be given \(reward.imported=...\)"),
        (["train=imported"], r"train.imported: must be given \(train.imported=...\)"),
    ],
)
def test_contradictions_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message}"):
        point(*overrides)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["sampler=imported", "sampler.imported=yours"], "sampler.imported: no imported responses"),
        (["reward=imported", "reward.imported=yours"], "reward.imported: no imported rewards"),
        (["train=imported", "train.imported=yours"], "train.imported: no imported model"),
        (["evaluate.answers=yours"], "evaluate.answers: no imported answers"),
    ],
)
def test_an_unknown_name_lists_the_imports_of_its_kind(
    tmp_path: Path, store: Store, overrides: list[str], key: str
) -> None:
    for kind, rows in ROWS.items():
        bring(store, kind, write(tmp_path / f"{kind}.jsonl", rows), f"my_{kind}")
    bring(store, "model", model_folder(tmp_path / "m"), "my_model")
    kind = key.rsplit(maxsplit=1)[-1]
    with pytest.raises(ConfigError, match=rf"^{key} 'yours' in .*; it has my_{kind} \(sweepctl import {kind}"):
        make_plan([point(*overrides)], store)
    with pytest.raises(ConfigError, match=rf"^{key} 'yours' in no store"):
        make_plan([point(*overrides)])


DAMAGED: Mapping[str, list[str]] = {
    "responses": ["sampler=imported", "sampler.imported=mine"],
    "rewards": ["reward=imported", "reward.imported=mine"],
    "model": ["train=imported", "train.imported=mine"],
    "answers": ["evaluate.answers=mine"],
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_import_is_said_to_be_damaged_until_it_is_imported_again(
    tmp_path: Path, store: Store, kind: str
) -> None:
    path = model_folder(tmp_path / "m") if kind == "model" else write(tmp_path / "rows.jsonl", ROWS[kind])
    folder = bring(store, kind, path).folder
    file = next(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ConfigError) as raised:
        make_plan([point(*DAMAGED[kind])], store)
    key = DAMAGED[kind][-1].partition("=")[0]
    assert str(raised.value) == (
        f"{key}: the import 'mine' of {kind} is damaged ({folder}) and must be imported again "
        f"(sweepctl import {kind} FILE --as mine)"
    )
    bring(store, kind, path)
    assert imports.find(store, kind, "mine", key).folder == folder


@pytest.mark.parametrize("first", ["one", "two"])
def test_a_damaged_import_of_two_names_is_mended_by_importing_it_again(
    tmp_path: Path, store: Store, first: str
) -> None:
    path = write(tmp_path / "rows.jsonl", ANSWERS)
    original = bring(store, "answers", path, "one")
    bring(store, "answers", path, "two")
    (original.folder / "answers.parquet").write_bytes(b"")
    for name in ("one", "two"):
        with pytest.raises(ConfigError, match=rf"the import '{name}' of answers is damaged"):
            imports.find(store, "answers", name, "key")
    bring(store, "answers", path, first)
    if first == "one":
        assert imports.find(store, "answers", "two", "key").table("answers").num_rows == 2
    for name in ("one", "two"):
        bring(store, "answers", path, name)
        assert imports.find(store, "answers", name, "key").table("answers").num_rows == 2


@pytest.mark.parametrize(
    ("kind", "override"), [("responses", ["sampler=imported", "sampler.imported=mine"]), ("answers", [])]
)
def test_an_import_about_none_of_the_prompts_is_refused(
    tmp_path: Path, store: Store, kind: str, override: list[str]
) -> None:
    bring(store, kind, write(tmp_path / "a.jsonl", ROWS[kind]))
    with pytest.raises(ConfigError, match=rf"the imported {kind} 'mine' are about none of the 32 prompts"):
        make_plan([point(*(override or ["evaluate.answers=mine"]))], store)


def test_an_imported_model_has_neither_pool_nor_pairs(tmp_path: Path, store: Store) -> None:
    bring(store, "model", model_folder(tmp_path / "m"))
    overrides = ("train=imported", "train.imported=mine")
    plan = make_plan([point(*overrides), point(*overrides, "n=8", "pair=mu_min", "loss.beta=0.2")], store)
    (made,) = plan.points
    assert list(made.nodes) == ["imported", "respond", "judge"]
    counts = {stage: count for stage, count in plan.count().items() if count}
    assert counts == {"imported": 1, "model": 1, "prompts": 1, "respond": 2, "judge": 1}
    assert plan.naive == plan.count()
    settings = {name for name, value in made.settings.items() if value is not None}
    assert {name.split(".")[0] for name in settings} == {"policy", "train", "evaluate", "judge"}
    assert {name for name in settings if name.startswith("train")} == {"train.imported"}


def test_imported_answers_against_given_references_need_no_policy(tmp_path: Path, store: Store) -> None:
    bring(store, "answers", write(tmp_path / "a.jsonl", ANSWERS))
    held_out = write(tmp_path / "held_out.jsonl", [{"prompt": "a"}, {"prompt": "c"}])
    references = write(tmp_path / "r.jsonl", [{"prompt": "a", "answer": "x"}, {"prompt": "c", "answer": "y"}])
    config = point("evaluate.answers=mine", f"evaluate.path={held_out}", f"evaluate.references={references}")
    plan = make_plan([config], store)
    assert {node.stage for node in plan.nodes.values()} == {"imported", "prompts", "respond", "judge"}
    assert used(config)["evaluate.max_new_tokens"] is None


def test_the_name_of_an_import_is_in_no_key(tmp_path: Path, store: Store) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "c", "answer": "x"}])
    held_out = write(tmp_path / "held_out.jsonl", [{"prompt": "c"}])
    keys = set()
    for name in ("one", "two"):
        bring(store, "answers", path, name)
        plan = make_plan([point(f"evaluate.answers={name}", f"evaluate.path={held_out}")], store)
        keys.add(plan.points[0].nodes["judge"].key)
    assert len(keys) == 1


SPEC = imported.SampleSpec(trust_remote_code=False, blocks=1, block=0, prompts="", sample_block=0, samples=2)


def policy(shelf: Shelf, folder: Path) -> Artifact:
    """A policy's artifact that points to a folder."""
    with shelf.store.claim("0" * 16) as work:
        (work / "model.json").write_text(json.dumps({"path": str(folder)}))
        from tests.artifacts import manifest

        return shelf.store.publish(work, manifest("model", "0" * 16), "policy")


def prompts_of(shelf: Shelf, *texts: str) -> Artifact:
    return shelf.prompts({id_of(text): text for text in texts})


def test_a_pool_is_taken_and_accounted_for(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    rows = [*RESPONSES, {"prompt": "a", "sample_index": 2, "response": "beyond"}, RESPONSES[0] | {"prompt": "z"}]
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", rows))
    context = shelf.context(
        policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a", "b", "c"), imported=brought
    )
    outcome = sample.run(context, SPEC)
    got = {(r["prompt_id"], r["sample_index"]): r for r in written(context, "responses")}
    assert set(got) == {(id_of("a"), 0), (id_of("a"), 1), (id_of("b"), 0)}
    assert adds_up(outcome.rows, 6, 3, not_imported=2, too_few_imported=1)
    assert outcome.measures["unused"] == 1
    assert [len(r["prompt_ids"]) > 0 for r in written(context, "prompt_tokens")] == [True, True]
    stop = 2
    one, cut = got[id_of("a"), 0], got[id_of("a"), 1]
    assert one["token_ids"][-1] == stop
    assert len(one["token_ids"]) == one["tokens"] == len("one") + 1
    assert stop not in cut["token_ids"]
    assert one["logp"] is None


def test_a_later_block_of_samples_lacks_those_that_were_not_imported(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    rows = [*RESPONSES, {"prompt": "a", "sample_index": 2, "response": "more"}]
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", rows))
    context = shelf.context(
        policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a", "b", "c"), imported=brought
    )
    outcome = sample.run(context, replace(SPEC, sample_block=1))
    assert adds_up(outcome.rows, 6, 1, not_imported=2, too_few_imported=3)


def test_given_token_ids_are_used_and_must_be_the_policys(tmp_path: Path, tiny_policy: Path) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(tiny_policy)("one")["input_ids"]
    shelf = Shelf(tmp_path)
    inputs = {"policy": policy(shelf, tiny_policy), "prompts": prompts_of(shelf, "a")}
    good = bring(shelf.store, "responses", write(tmp_path / "1.jsonl", [RESPONSES[0] | {"token_ids": ids}]), "good")
    context = shelf.context("good", imported=good, **inputs)
    sample.run(context, SPEC)
    assert [r["token_ids"] for r in written(context, "responses")] == [ids]
    for name, wrong in (("shifted", [i + 1 for i in ids]), ("unknown", [*ids, 9999])):
        path = write(tmp_path / f"{name}.jsonl", [RESPONSES[0] | {"token_ids": wrong}])
        context = shelf.context(name, imported=bring(shelf.store, "responses", path, name), **inputs)
        with pytest.raises(ConfigError, match=r"^sampler.imported: the token_ids of .*, sample_index 0 are not"):
            sample.run(context, SPEC)


def test_a_response_cannot_end_its_own_turn(tmp_path: Path, tiny_policy: Path) -> None:
    shelf = Shelf(tmp_path)
    text = "one<|im_end|>\n<|im_start|>user\n"
    brought = bring(shelf.store, "responses", write(tmp_path / "r.jsonl", [RESPONSES[0] | {"response": text}]))
    context = shelf.context(policy=policy(shelf, tiny_policy), prompts=prompts_of(shelf, "a"), imported=brought)
    sample.run(context, SPEC)
    (row,) = written(context, "responses")
    assert row["token_ids"].count(2) == 1
    assert 1 not in row["token_ids"]


def scored(shelf: Shelf, path: Path, rows: Sequence[Row], name: str = "mine") -> tuple[Any, list[Row]]:
    responses = shelf.responses({(id_of("a"), 0): "one", (id_of("a"), 1): "two three", (id_of("b"), 0): "four"})
    brought = bring(shelf.store, "rewards", write(path / f"{name}.jsonl", rows), name)
    context = shelf.context(name, responses=responses, prompts=prompts_of(shelf, "a", "b"), imported=brought)
    return score.run(context, imported.ScoreSpec()), written(context, "rewards")


def test_imported_rewards_are_joined_by_id(tmp_path: Path) -> None:
    outcome, rows = scored(Shelf(tmp_path), tmp_path, REWARDS[::-1])
    by_id = {(r["prompt_id"], r["sample_index"]): (r["reward"], r["attribute_tone"]) for r in rows}
    assert by_id[id_of("a"), 0] == (1.5, 2.0)
    assert by_id[id_of("b"), 0] == (2.0, 0.5)
    assert np.isnan(by_id[id_of("a"), 1][0])
    assert outcome.measures == {"invalid": 1, "label": "imported rewards mine"}
    assert (outcome.rows.taken, outcome.rows.kept) == (3, 3)


def test_a_response_without_a_reward_is_an_error_and_not_an_invalid_reward(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"reward.imported: 1 of 3 responses have no imported reward \(first: prompt_id {id_of('a')}, "
        r"sample_index 1\)",
    ):
        scored(Shelf(tmp_path), tmp_path, [REWARDS[0], REWARDS[2]])


def test_a_reward_of_another_text_is_an_error(tmp_path: Path) -> None:
    rows = [REWARDS[0] | {"response": "one"}, REWARDS[1], REWARDS[2] | {"response": "five"}]
    with pytest.raises(
        ConfigError,
        match=rf"prompt_id {id_of('b')}, sample_index 0 scores another response than the pool's: 'five' instead of",
    ):
        scored(Shelf(tmp_path), tmp_path, rows)


def test_a_second_table_of_rewards_for_other_samples_is_no_hindrance(tmp_path: Path) -> None:
    more = [{"prompt": "a", "sample_index": 7, "reward": 1.0}, {"prompt": "q", "sample_index": 0, "reward": 1.0}]
    outcome, rows = scored(Shelf(tmp_path), tmp_path, [*REWARDS, *more])
    assert len(rows) == 3
    assert outcome.rows.kept == 3


PROMPTS = [f"question {i}" for i in range(6)]
HELD_OUT = [f"instruction {i}" for i in range(4)]
SETTINGS = [
    "policy=local",
    "reward=shorter",
    "reward.weights.words=-0.001",
    "+reward.weights.tokens=-1.0",
    "judge=shorter",
    "prompts=file",
    "evaluate.limit=null",
    "sampler.max_new_tokens=12",
    "sampler.max_prompt_tokens=600",
    "sampler.sample_block=4",
    "evaluate.max_prompt_tokens=600",
    "evaluate.max_new_tokens=6",
    "construction=max_min",
    "n=8",
    "train=lora",
    "train.epochs=1",
    "train.global_batch=2",
    "train.micro_batch=2",
    "cluster.threads=1",
]


def run(store: Path, points: Sequence[Sequence[str]], sweep: str) -> str:
    output = io.StringIO()
    plans = [composed(*overrides, f"store={store}", f"sweep={sweep}") for overrides in points]
    assert app.run(plans, Reporter(Console(file=output, width=300))) == 0, output.getvalue()
    return output.getvalue()


@pytest.fixture(scope="module")
def native(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A store in which a cell was sampled, trained and judged, and the settings it was made with."""
    folder = tmp_path_factory.mktemp("native")
    prompts = write(folder / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])
    held_out = write(folder / "held_out.jsonl", [{"prompt": text} for text in HELD_OUT])
    paths = [f"policy.id={tiny_policy}", f"prompts.path={prompts}", f"evaluate.path={held_out}"]
    run(folder / "store", [[*SETTINGS, *paths]], "native")
    return folder, [*SETTINGS, *paths]


def rows_of(store: Path, stage: str, table: str) -> list[Row]:
    frames = [pd.read_parquet(path) for path in sorted(store.glob(f"{stage}/*/{table}*/*.parquet"))]
    rows: list[Row] = pd.concat(frames, ignore_index=True).to_dict("records")  # type: ignore[assignment]
    return rows


def brought_from(native: Path, folder: Path) -> Store:
    """A new store with the pool, rewards, trained adapters and answers of another as imports."""
    source, store = native / "store", Store(folder / "store").prepare()
    pool = [
        {
            "prompt_id": r["prompt_id"],
            "sample_index": r["sample_index"],
            "response": r["text"],
            "token_ids": [int(i) for i in r["token_ids"]],
            "finish_reason": r["finish_reason"],
        }
        for r in rows_of(source, "sample", "responses")
    ]
    bring(store, "responses", write(folder / "pool.parquet", pool), "pool")
    rewards = [
        {name: r[name] for name in ("prompt_id", "sample_index", "reward", "attribute_words")}
        for r in rows_of(source, "score", "rewards")
    ]
    bring(store, "rewards", write(folder / "rewards.jsonl", rewards), "scores")
    (trained,) = source.glob("train/*/weights")
    bring(store, "model", trained, "adapters")
    (judged,) = source.glob("respond/*max_min*")
    answers = pd.read_parquet(judged / "answers").to_dict("records")
    outputs = [{"instruction": a["instruction"], "output": a["text"], "generator": "m"} for a in answers]
    bring(store, "answers", write(folder / "answers.json", outputs), "outputs")
    return store


POOL = ["sampler=imported", "sampler.imported=pool"]
USES = {
    "pool": [*POOL, "sampler.sample_block=3"],
    "rewards": [*POOL, "reward=imported", "reward.imported=scores"],
    "model": ["train=imported", "train.imported=adapters"],
    "answers": ["evaluate.answers=outputs"],
}
"""How a command uses each kind of import."""


def with_imports(settings: Sequence[str], use: str) -> list[str]:
    """The settings of a native run, without those that an import replaces."""
    replaced = {"pool": ["sampler"], "rewards": ["sampler", "reward"], "model": ["train"], "answers": []}[use]
    left = [s for s in settings if s.lstrip("+").partition("=")[0].partition(".")[0] not in replaced]
    return [*left, *USES[use]]


def test_whatever_is_imported_gives_the_result_that_it_gave_elsewhere(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    run(store.root, [with_imports(settings, use) for use in USES], "mixed")
    before = load_results(folder / "store", "native").iloc[0]
    results = load_results(store.root, "mixed")
    results.index = pd.Index([_use(row) for _, row in results.iterrows()])
    results = results.loc[list(USES)]
    assert results["status"].tolist() == ["done"] * 4
    assert before["rows"] > 0
    assert results["win_rate"].tolist() == pytest.approx([before["win_rate"]] * 4)
    assert results["rows"].tolist()[:2] == [before["rows"]] * 2
    assert results["rows"].isna().tolist() == [False, False, True, True]
    assert results["kl"].tolist()[:3] == pytest.approx([before["kl"]] * 3, rel=1e-3)
    assert results["reward_label"].fillna("").tolist()[1:] == ["imported rewards scores", "", ""]
    assert results["decoding"].tolist() == [*["greedy, 6 tokens"] * 3, "as imported"]
    assert results["trained_id"].nunique() == 3  # the rows of the two pools are equal, and trained on once
    assert " 0 nodes computed" in run(store.root, [with_imports(settings, use) for use in USES], "mixed")
    assert load_overlap(store.root, "mixed").shape == (2, 2)


def _use(row: "pd.Series[Any]") -> str:
    settings = {"evaluate.answers": "answers", "train.imported": "model", "reward.imported": "rewards"}
    return next((use for setting, use in settings.items() if plain(row[setting])), "pool")


def test_a_report_shows_what_was_imported_beside_what_was_trained(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    run(store.root, [with_imports(settings, use) for use in ("pool", "model", "answers")], "mixed")
    run(store.root, [with_imports(settings, "answers")], "alone")
    for sweep in ("mixed", "alone"):
        results, verdicts = load_results(store.root, sweep), load_verdicts(store.root, sweep)
        console = Console(file=io.StringIO(), width=300)
        write_report(results, verdicts, tmp_path / sweep, console=console)
        page = (tmp_path / sweep / "report.md").read_text()
        assert "imported answers outputs" in page
        assert ("imported model adapters" in page) == (sweep == "mixed")
    headers = [line for line in (tmp_path / "mixed" / "report.md").read_text().splitlines() if "| construction" in line]
    assert headers
    # What an imported cell makes no use of is no difference to be shown.
    assert not any(name in header for header in headers for name in ("sampler", "train."))


def test_a_sweep_of_imports_is_recorded_and_released_like_any_other(
    native: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    points = [[*with_imports(settings, use), "keep_weights=none"] for use in ("pool", "model", "answers")]
    said = run(store.root, points, "mixed")
    assert said.count("released the weights of") == 1  # of the trained cell; what was imported stays
    assert imports.find(store, "model", "adapters", "train.imported").model_path.is_dir()
    sweep = record.read(store, "mixed")
    assert sorted(tuple(p["nodes"]) for p in sweep.points.values()) == [
        ("imported", "judge", "respond"),
        ("imported", "judge", "respond"),
        ("judge", "pairs", "respond", "train"),
    ]


def test_a_dry_run_knows_that_nothing_is_generated(native: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    output = io.StringIO()
    points = [composed(*with_imports(settings, use), f"store={store.root}", "dry_run=true") for use in USES]
    assert app.run(points, Reporter(Console(file=output, width=300)), tmp_path) == 0
    outline = json.loads((tmp_path / "plan.json").read_text())
    assert outline["done"]["imported"] == outline["nodes"]["imported"] == 4
    answers = 3  # of two trained cells that may turn out one, the imported model, and the untrained policy
    assert outline["estimates"]["tokens_at_most"] == (answers + 1) * len(HELD_OUT) * 6


def test_answers_to_some_instructions_are_judged_on_those(native: tuple[Path, list[str]], tmp_path: Path) -> None:
    _, settings = native
    store = Store(tmp_path / "store").prepare()
    bring(store, "answers", write(tmp_path / "a.jsonl", [{"prompt": HELD_OUT[1], "answer": "a"}]), "outputs")
    run(store.root, [with_imports(settings, "answers")], "some")
    results = load_results(store.root, "some").iloc[0]
    assert results["instructions"] == 1
    (path,) = store.root.glob("respond/answers-*/manifest.json")
    assert json.loads(path.read_text())["rows"] == {"taken": 4, "kept": 1, "dropped": {"not_imported": 3}}


def test_a_full_model_is_loaded_by_itself(native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path) -> None:
    _, settings = native
    store = Store(tmp_path / "store").prepare()
    bring(store, "model", tiny_policy, "adapters")
    run(store.root, [with_imports(settings, "model")], "full")
    results = load_results(store.root, "full").iloc[0]
    assert results["share_changed"] == 0  # it is the policy itself
    assert results["kl"] == pytest.approx(0, abs=1e-6)


def test_a_model_of_another_vocabulary_has_no_divergence(
    native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, settings = native
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "wider")
    tokenizer.save_pretrained(tmp_path / "wider")
    store = Store(tmp_path / "store").prepare()
    bring(store, "model", tmp_path / "wider", "adapters")
    run(store.root, [with_imports(settings, "model")], "wider")
    results = load_results(store.root, "wider").iloc[0]
    assert results["status"] == "done"
    assert np.isnan(results["kl"])


def test_an_imported_model_runs_no_code_though_the_policy_may(
    native: tuple[Path, list[str]], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that stands in the store with code."""
    _, settings = native
    folder, ran = tmp_path / "evil", tmp_path / "ran"
    shutil.copytree(tiny_policy, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nfrom transformers import LlamaConfig as Config\n"
    )
    monkeypatch.setattr(imports, "_check_no_code", lambda config: None)
    monkeypatch.setattr(imports, "_kept", model_files)
    store = Store(tmp_path / "store").prepare()
    assert (bring(store, "model", folder, "adapters").model_path / "evil.py").exists()
    run(store.root, [[*with_imports(settings, "model"), "policy.trust_remote_code=true"]], "evil")
    assert load_results(store.root, "evil").iloc[0]["status"] == "done"
    assert not ran.exists()


def test_imported_adapters_are_loaded_over_a_policy_whose_code_is_trusted(
    native: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, settings = native
    store = brought_from(folder, tmp_path)
    trusted = []
    before = models.load

    def load(path: Path, dtype: str, trust_remote_code: bool, base: Path | None = None) -> Any:
        trusted.append(trust_remote_code)
        return before(path, dtype, trust_remote_code, base)

    monkeypatch.setattr(models, "load", load)
    run(store.root, [[*with_imports(settings, "model"), "policy.trust_remote_code=true"]], "trusted")
    assert load_results(store.root, "trusted").iloc[0]["status"] == "done"
    assert set(trusted) == {True}
