"""Judgements that were paid for, kept as they arrive.

store/judgements/<judge>/<requests>.jsonl     one line for each answer, on disk before it counts

One folder for each judge: its model, revision, prompt, decoding and parser. Every node of the store that asks this
judge reads all its files, and writes one of its own; what any of them has answered already is not asked again.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import PrefsweepError

FOLDER = "judgements"

_LOOK = 5.0
"""Seconds between two looks at what other nodes have added; each file costs a call to the file system."""

_FORGET = "forget_failures"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a judge answered to one request."""

    answer: str
    logprobs: Mapping[str, float] | None
    model: str
    """As the server calls what answered."""
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    """Whether the server did not count its tokens, and these are an estimate."""
    failure: str | None


class Journal:
    """The answers of one judge in a store, and the file to which one node adds its own.

    Args:
        folder: of the judge.
        own: name of the node's file. Failures are taken over from this file only: what another node was content with is
            asked again here.
    """

    def __init__(self, folder: Path, own: str) -> None:
        self.folder = folder
        self.path = folder / f"{own}.jsonl"
        self.prompt_tokens = self.completion_tokens = 0
        """Of all answers of this judge in the store, failed ones included."""
        self._entries: dict[str, Entry] = {}
        self._failures: dict[str, Entry] = {}
        self._read: dict[Path, int] = {}
        self._looked = 0.0
        self._drop_torn_line()
        self.refresh()

    def get(self, request: str) -> Entry | None:
        """What was answered to a request, if anything was."""
        return self._entries.get(request) or self._failures.get(request)

    def add(self, request: str, entry: Entry) -> None:
        """Keep an answer; it is on disk when this returns. Now and then, look what other nodes have added."""
        self._append({"request": request, **asdict(entry)})
        if time.monotonic() - self._looked >= _LOOK:
            self.refresh()
        else:
            self._take_in(self.path)

    def forget_failures(self) -> None:
        """Let the next run ask again for what failed in this one."""
        self._append({_FORGET: True})
        self._take_in(self.path)

    def refresh(self) -> None:
        """Take in what was written since, by whomever."""
        for path in sorted(self.folder.glob("*.jsonl")):
            self._take_in(path)
        self._looked = time.monotonic()

    def _take_in(self, path: Path) -> None:
        for line in self._new_lines(path):
            try:
                self._take(json.loads(line), own=path == self.path)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise PrefsweepError(
                    f"{path}: holds a line that is none of a journal ({line[:60]!r}); without the file its answers are "
                    "asked for, and paid, again"
                ) from None

    def _take(self, line: Mapping[str, Any], *, own: bool) -> None:
        if _FORGET in line:
            if own:
                self._failures.clear()
            return
        entry = Entry(**{name: value for name, value in line.items() if name != "request"})
        self.prompt_tokens += entry.prompt_tokens
        self.completion_tokens += entry.completion_tokens
        if entry.failure is None:
            self._entries.setdefault(line["request"], entry)
        elif own:
            self._failures[line["request"]] = entry

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        """Whole lines after those that were read; one that its writer is at is left for later."""
        start = self._read.get(path, 0)
        if path.stat().st_size == start:
            return
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = start + len(whole)
        yield from whole.splitlines()

    def _append(self, line: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _drop_torn_line(self) -> None:
        """Cut off what a killed process left of its last line."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if not data.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
