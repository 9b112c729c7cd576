"""Imported files: keys by content, accounts, and how a bad row or file is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import imports
from harness.errors import ConfigError, PrefsweepError
from harness.store import Store
from tests.artifacts import Row, quiet
from tests.imports.rows import ANSWERS, RESPONSES, REWARDS, ROWS, bring, id_of, user, write


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
