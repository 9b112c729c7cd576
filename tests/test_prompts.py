"""Prompt files: the embedded sets, the forms a line may have, and errors that name file and line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.prompts import HELD_OUT, TRAIN, PromptSet, block_of, load

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write lines, each an object or raw text, as a file of prompts."""

    def lines(*rows: Any, name: str = "prompts.jsonl") -> Path:
        path = tmp_path / name
        text = "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    return lines


def read(path: Path | None, embedded: str = TRAIN, limit: int | None = None, duplicates: str = "error") -> PromptSet:
    return load(None if path is None else str(path), embedded, limit=limit, duplicates=duplicates, key="prompts.path")


def asked(prompts: PromptSet) -> list[str]:
    return [prompt.instruction for prompt in prompts.prompts]


@pytest.mark.parametrize(("embedded", "least"), [(TRAIN, 96), (HELD_OUT, 64)])
def test_embedded_sets_are_large_and_varied(embedded: str, least: int) -> None:
    prompts = read(None, embedded).prompts
    assert len(prompts) >= least
    assert len({p.source_id for p in prompts}) == len(prompts)
    assert len({p.prompt_id for p in prompts}) == len(prompts)
    assert len({p.kind for p in prompts}) >= 8
    assert all(p.kind for p in prompts)


@pytest.mark.parametrize("embedded", [TRAIN, HELD_OUT])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_any_prefix_of_an_embedded_set_covers_many_kinds(embedded: str, size: int) -> None:
    assert len({p.kind for p in read(None, embedded, limit=size).prompts}) >= 8


def test_embedded_sets_do_not_overlap() -> None:
    train, held_out = read(None, TRAIN), read(None, HELD_OUT)
    assert not {p.prompt_id for p in train.prompts} & {p.prompt_id for p in held_out.prompts}
    assert not {p.instruction.casefold() for p in train.prompts} & {p.instruction.casefold() for p in held_out.prompts}


def test_a_line_holds_a_prompt_or_messages(write: Write) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Two?"},
    ]
    path = write({"prompt": "Hi", "id": "a", "kind": "chat", "answer": "Hello"}, {"messages": messages})
    first, second = read(path).prompts
    assert (first.source_id, first.kind, first.answer, first.instruction) == ("a", "chat", "Hello", "Hi")
    assert first.messages == ({"role": "user", "content": "Hi"},)
    assert (second.source_id, second.kind, second.answer, second.instruction) == ("2", "", None, "Two?")
    assert second.messages == tuple(messages)


def test_blank_lines_are_skipped_and_line_numbers_kept(write: Write) -> None:
    prompts = read(write({"prompt": "a"}, "", "   ", {"prompt": "b"}))
    assert asked(prompts) == ["a", "b"]
    assert prompts.lines == 2
    assert [p.source_id for p in prompts.prompts] == ["1", "4"]


def test_limit_takes_the_first_lines(write: Write) -> None:
    prompts = read(write(*({"prompt": text} for text in "abcd")), limit=2)
    assert asked(prompts) == ["a", "b"]
    assert prompts.lines == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_line(write: Write, separator: str) -> None:
    prompts = read(write(f'{{"prompt": "one{separator}two"}}', {"prompt": "three"}))
    assert asked(prompts) == [f"one{separator}two", "three"]


def test_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert asked(read(path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"', "no valid JSON"),
        ("plain text", "no valid JSON"),
        ('["x"]', "expected an object with either 'prompt' or 'messages'"),
        ('{"text": "x"}', "expected an object with either 'prompt' or 'messages'"),
        ('{"prompt": "x", "messages": []}', "expected an object with either 'prompt' or 'messages'"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": " \\n\\t"}', "the prompt is empty"),
        ('{"prompt": 5}', "must be text, got int"),
        ('{"prompt": null}', "must be text, got NoneType"),
        ('{"prompt": "half an emoji: \\ud83d"}', "holds half of a surrogate pair"),
        ('{"prompt": "x", "answer": 5}', "'answer' must be text, got int"),
        ('{"messages": []}', "'messages' must be a list that is not empty"),
        ('{"messages": "x"}', "'messages' must be a list that is not empty"),
        ('{"messages": [{"role": "user"}]}', "each message needs 'role'"),
        ('{"messages": [{"role": "user", "content": "x", "name": "y"}]}', "each message needs 'role'"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "(one of system, user, assistant)"),
        (
            '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
            "must be the user's",
        ),
        ('{"messages": [{"role": "system", "content": "x"}]}', "the last message must be the user's"),
    ],
)
def test_a_broken_line_is_named_by_key_file_and_line(write: Write, line: str, message: str) -> None:
    path = write({"prompt": "good"}, "", line)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert str(caught.value).startswith(f"prompts.path: {path}, line 3: ")
    assert message in str(caught.value)


def test_a_duplicate_is_refused_by_both_lines(write: Write) -> None:
    path = write({"prompt": "a"}, {"prompt": "b"}, {"messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(ConfigError, match=r"line 3: the same prompt as in line 1; .*prompts.duplicates=drop"):
        read(path)


def test_duplicates_can_be_dropped_and_are_counted(write: Write) -> None:
    prompts = read(write(*({"prompt": text} for text in "abaca")), duplicates="drop")
    assert asked(prompts) == ["a", "b", "c"]
    assert prompts.dropped == {"duplicate": 2}
    assert prompts.lines == len(prompts.prompts) + 2


def test_an_empty_file_is_refused(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"^prompts.path: .*empty.jsonl holds no prompts"):
        read(write("", "  ", name="empty.jsonl"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^prompts.path: cannot read .*absent.jsonl: "):
        read(tmp_path / "absent.jsonl")


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "café"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^prompts.path: cannot read .*latin.jsonl: .*utf-8"):
        read(path)


def test_prompt_ids_are_what_they_have_always_been(write: Write) -> None:
    path = write({"prompt": "Why is the sky blue?"}, {"prompt": "Grüße, 世界"})
    assert [p.prompt_id for p in read(path).prompts] == ["fef07d486d1603e9", "9a9c346858e80eaf"]


def test_a_prompt_id_depends_on_the_messages_alone(write: Write) -> None:
    one = read(write({"prompt": "a", "id": "1"}, {"prompt": "b"}))
    swapped = write(
        {"messages": [{"content": "b", "role": "user"}], "kind": "x"},
        {"prompt": "a", "answer": "z"},
        name="other.jsonl",
    )
    other = read(swapped)
    assert [p.prompt_id for p in one.prompts] == [p.prompt_id for p in reversed(other.prompts)]
    assert one.hash == other.hash


def test_every_message_is_in_the_prompt_id(write: Write) -> None:
    def line(system: str, role: str = "system") -> dict[str, Any]:
        return {"messages": [{"role": role, "content": system}, {"role": "user", "content": "a"}]}

    prompts = read(write(line("x"), line("y"), line("x", "user"), {"prompt": "a"})).prompts
    assert len({p.prompt_id for p in prompts}) == 4


def test_answers_have_a_hash_of_their_own(write: Write) -> None:
    without = read(write({"prompt": "a"}, name="0.jsonl"))
    answered = read(write({"prompt": "a", "answer": "x"}, name="1.jsonl"))
    otherwise = read(write({"prompt": "a", "answer": "y"}, name="2.jsonl"))
    assert without.answers_hash is None
    assert len({without.answers_hash, answered.answers_hash, otherwise.answers_hash}) == 3
    assert without.hash == answered.hash


def test_without_leaves_out_and_counts_what_the_other_set_holds(write: Write) -> None:
    prompts = read(write(*({"prompt": text} for text in "abcda"), name="0.jsonl"), duplicates="drop")
    other = read(write({"prompt": "c"}, {"prompt": "a"}, {"prompt": "z"}, name="1.jsonl"))
    left = prompts.without(other, "in_evaluation_set")
    assert asked(left) == ["b", "d"]
    assert left.dropped == {"duplicate": 1, "in_evaluation_set": 2}
    assert left.lines == len(left.prompts) + sum(left.dropped.values())
    assert asked(prompts) == ["a", "b", "c", "d"]


def test_without_overlap_nothing_is_counted(write: Write) -> None:
    prompts = read(write({"prompt": "a"}, name="0.jsonl"))
    assert prompts.without(read(write({"prompt": "b"}, name="1.jsonl")), "overlap").dropped == {}


def test_blocks_split_the_prompts_by_their_hash_alone() -> None:
    ids = [p.prompt_id for p in read(None).prompts]
    blocks = [block_of(prompt_id, 4) for prompt_id in ids]
    assert set(blocks) == {0, 1, 2, 3}
    assert [block_of(prompt_id, 4) for prompt_id in reversed(ids)] == blocks[::-1]
