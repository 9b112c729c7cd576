"""What a language model is asked: a template of chat messages, and the two answers put into it.

`alpaca_eval` is the prompt of alpaca_eval 0.6.6 (`alpaca_eval_clf.txt`, Apache-2.0; Li et al. 2023), letter by letter.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

from harness.errors import ConfigError
from harness.keys import digest

PUBLISHED = "alpaca_eval"

PLACEHOLDERS = ("{instruction}", "{output_1}", "{output_2}")

FIRST, SECOND = "m", "M"
"""The names under which a prompt shows the first and the second answer, and one of which the judge answers."""

_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Template:
    """Messages with placeholders."""

    messages: tuple[tuple[str, str], ...]
    """Role and content."""

    @cached_property
    def hash(self) -> str:
        """Hash of the messages."""
        return digest([list(message) for message in self.messages])

    def fill(self, instruction: str, first: str, second: str) -> list[dict[str, str]]:
        """The messages with the texts in them.

        The template is cut into messages before the texts go in, and they go in together: a text that holds
        `<|im_start|>` or a placeholder stays what it is. alpaca_eval fills in first and cuts then, so that such an
        answer can write messages of its own; for all others the messages are the same.
        """
        texts = dict(zip(PLACEHOLDERS, (instruction, first, second), strict=True))
        pattern = re.compile("|".join(map(re.escape, PLACEHOLDERS)))
        return [
            {"role": role, "content": pattern.sub(lambda found: texts[found.group()], content)}
            for role, content in self.messages
        ]


def load(prompt: str) -> Template:
    """The published prompt, or one from a file.

    Raises:
        ConfigError: no such file, not in the form of messages, or a placeholder that is missing or there twice.
    """
    if prompt == PUBLISHED:
        packaged = resources.files("harness") / "data" / "judge_prompts" / f"{PUBLISHED}.txt"
        return parse(packaged.read_text(encoding="utf-8"), PUBLISHED)
    try:
        text = Path(prompt).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.prompt: {prompt!r} is neither {PUBLISHED!r} nor a readable file: {error}") from None
    return parse(text, prompt)


def text(template: Template) -> str:
    """A template as it stands in a file."""
    return "\n".join(f"<|im_start|>{role}\n{content}\n<|im_end|>" for role, content in template.messages)


def parse(text: str, name: str) -> Template:
    """Cut a text into its messages, as alpaca_eval does.

    Raises:
        ConfigError: names the prompt, and what was expected.
    """
    messages = tuple((role, content.strip()) for role, content in _MESSAGE.findall(text))
    if not messages or _MESSAGE.sub("", text).strip() or any(role not in _ROLES for role, _ in messages):
        raise ConfigError(
            f"judge.prompt: {name}: expected messages as <|im_start|>ROLE, a new line, the text, <|im_end|>, and "
            f"nothing between them; roles are {', '.join(_ROLES)}"
        )
    _check_placeholders([content for _, content in messages], name)
    return Template(messages=messages)


def _check_placeholders(contents: Sequence[str], name: str) -> None:
    for placeholder in PLACEHOLDERS:
        number = sum(content.count(placeholder) for content in contents)
        if number != 1:
            raise ConfigError(f"judge.prompt: {name}: expected {placeholder} once, found it {number} times")
