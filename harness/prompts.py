"""Prompt files: read, checked, and named by the hash of their messages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.keys import digest

TRAIN, HELD_OUT = "prompts_train.jsonl", "prompts_heldout.jsonl"
"""The embedded sets, written for this project."""

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One conversation that awaits a response."""

    prompt_id: str
    """Hash of the canonical messages: the same prompt has the same id in every file."""
    source_id: str
    """The file's own id, or its line number."""
    kind: str
    """Kind of task, or an empty string."""
    messages: tuple[dict[str, str], ...]
    """Messages with `role` and `content`; the last is the user's."""
    answer: str | None
    """Reference answer, where the file gives one."""

    @property
    def instruction(self) -> str:
        """The last user message: what a judge sees."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of one file, and what was left out."""

    prompts: tuple[Prompt, ...]
    lines: int
    """Lines read: prompts + dropped."""
    dropped: dict[str, int]
    """Count of prompts left out, by reason."""

    @cached_property
    def hash(self) -> str:
        """Hash of the prompts' ids, in any order."""
        return digest(sorted(p.prompt_id for p in self.prompts))

    @cached_property
    def answers_hash(self) -> str | None:
        """Hash of the reference answers, in any order; None where there are none."""
        answers = sorted([p.prompt_id, p.answer] for p in self.prompts if p.answer is not None)
        return digest(answers) if answers else None

    def without(self, other: "PromptSet", reason: str) -> "PromptSet":
        """Leave out the prompts that `other` also holds, counted under `reason`."""
        held = {p.prompt_id for p in other.prompts}
        kept = tuple(p for p in self.prompts if p.prompt_id not in held)
        left_out = len(self.prompts) - len(kept)
        dropped = {**self.dropped, reason: left_out} if left_out else self.dropped
        return PromptSet(prompts=kept, lines=self.lines, dropped=dropped)


def block_of(prompt_id: str, blocks: int) -> int:
    """The block a prompt falls into, by its hash alone."""
    return int(prompt_id, 16) % blocks


def load(path: str | None, embedded: str, *, limit: int | None, duplicates: str, key: str) -> PromptSet:
    """Read a JSON-lines file of prompts; `embedded` names the bundled file used when `path` is None.

    Args:
        limit: use only the first so many lines.
        duplicates: `error` or `drop`.
        key: config path that errors name.

    Raises:
        ConfigError: missing file, broken line, empty or duplicate prompt, or no prompt at all; names file and line.
    """
    if path is None:
        where, text = embedded, (resources.files("harness") / "data" / embedded).read_text(encoding="utf-8")
    else:
        where, text = path, _read(Path(path), key)
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()][:limit]
    prompts: dict[str, Prompt] = {}
    first: dict[str, int] = {}
    repeated = 0
    for number, line in lines:
        prompt = _parse(line, f"{key}: {where}, line {number}", number)
        if prompt.prompt_id not in prompts:
            prompts[prompt.prompt_id], first[prompt.prompt_id] = prompt, number
        elif duplicates == "drop":
            repeated += 1
        else:
            raise ConfigError(
                f"{key}: {where}, line {number}: the same prompt as in line {first[prompt.prompt_id]}; "
                "remove it, or set prompts.duplicates=drop"
            )
    if not prompts:
        raise ConfigError(f"{key}: {where} holds no prompts")
    dropped = {"duplicate": repeated} if repeated else {}
    return PromptSet(prompts=tuple(prompts.values()), lines=len(lines), dropped=dropped)


def _read(path: Path, key: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: cannot read {path}: {error}") from None


def _parse(line: str, where: str, number: int) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: no valid JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
        raise ConfigError(f"{where}: expected an object with either 'prompt' or 'messages'")
    messages = [{"role": "user", "content": row["prompt"]}] if "prompt" in row else row["messages"]
    return Prompt(
        prompt_id=prompt_id(messages, where),
        source_id=str(row.get("id", number)),
        kind=str(row.get("kind", "")),
        messages=tuple(messages),
        answer=_text(row, "answer", where) if "answer" in row else None,
    )


def prompt_id(messages: Any, where: str) -> str:
    """The id of a conversation: the hash of its messages, which are checked.

    Raises:
        ConfigError: no messages, a wrong role, or an empty text; begins with `where`.
    """
    return digest({"messages": _messages(messages, where)})


def _messages(messages: Any, where: str) -> Sequence[dict[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where}: 'messages' must be a list that is not empty")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"} or message["role"] not in _ROLES:
            raise ConfigError(f"{where}: each message needs 'role' (one of {', '.join(_ROLES)}) and 'content'")
        if not _text(message, "content", where).strip():
            raise ConfigError(f"{where}: the prompt is empty")
    if messages[-1]["role"] != "user":
        raise ConfigError(f"{where}: the last message must be the user's")
    return messages


def _text(row: dict[str, Any], field: str, where: str) -> str:
    if not isinstance(row[field], str):
        raise ConfigError(f"{where}: {field!r} must be text, got {type(row[field]).__name__}")
    if any("\ud800" <= c <= "\udfff" for c in row[field]):
        raise ConfigError(f"{where}: {field!r} holds half of a surrogate pair (a \\ud800 escape without its partner)")
    return str(row[field])
