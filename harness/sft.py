"""Supervised fine-tuning of a base model into a policy: its configuration, its data's identity, its chat template."""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

from harness import dataset_files
from harness.errors import ConfigError
from harness.files import file_record
from harness.keys import digest
from harness.model_rewards import check_commit

OWN = "own"
"""Name for the chat template that comes with the model."""

TEMPLATES = ("zephyr", "chatml")
"""Chat templates that are carried along, by name."""


@dataclass(frozen=True, kw_only=True)
class NoSftConfig:
    """The policy is used as it is."""

    name: str
    """Short name; not part of any key."""
    source: Literal["none"]
    """There are no conversations to train on."""


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """The policy is first fine-tuned on conversations, and what comes out is the policy of everything else."""

    name: str
    """Short name; not part of any key."""
    source: Literal["hub", "local"]
    """`hub`: a data set of a hub; `local`: a file or folder of Parquet or JSON lines with a column `messages`."""
    id: str
    """Hub id, or path."""
    revision: str | None
    """Commit on the hub; None for local files, which are named by their content."""
    files: str
    """Files of the data set or folder, as a glob pattern: the split."""
    limit: int | None
    """Use only the first so many rows."""
    duplicates: Literal["error", "drop"]
    """What to do with a conversation that stands there twice: refuse the data, or drop and count the later ones."""
    chat_template: str
    """How conversations become text: `zephyr`, `chatml`, `own` (the model's), or a file of a Jinja template."""
    loss_on: Literal["assistant", "all"]
    """Tokens whose prediction is learnt: those that the assistant writes, its end of turn included, or all."""
    packing: bool
    """Several conversations in one sequence, none of which sees another; otherwise each is padded."""
    seed: int
    """Order of the sequences, and tokens that the template adds to the vocabulary."""
    learning_rate: float
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    """Learning-rate schedule."""
    warmup_ratio: float
    """Share of the steps spent on warm-up."""
    weight_decay: float
    """AdamW's weight decay."""
    max_grad_norm: float
    """Gradients are clipped to this norm."""
    epochs: float
    """Passes over the sequences."""
    max_steps: int | None
    """Optimiser steps; overrides epochs."""
    global_batch: int
    """Sequences per optimiser step; gradient accumulation is derived from it."""
    micro_batch: int
    """Sequences per forward pass; must divide global_batch."""
    max_length: int
    """Tokens of a sequence; a longer conversation loses its end."""
    autocast: Literal["none", "bfloat16"]
    """Type of the computation; weights are float32 while training."""
    gradient_checkpointing: bool
    """Less memory, more time."""
    save_steps: int
    """Checkpoint every so many steps, from which an interrupted training goes on; 0 for none."""
    save_dtype: Literal["float32", "bfloat16"]
    """Type of the weights that are kept."""


AnySftConfig = NoSftConfig | SftConfig

_POSITIVE = ("limit", "learning_rate", "max_grad_norm", "epochs", "max_steps", "global_batch", "micro_batch")
_NOT_NEGATIVE = ("weight_decay", "save_steps", "seed")
_SHORTEST = 8
"""Tokens; a shorter sequence holds no turn of both sides."""


def check_sft(config: AnySftConfig, policy: str, *, base: bool) -> None:
    """Refuse contradictions, and a base model that nothing would turn into a policy.

    Args:
        policy: name of the policy.
        base: whether it is said to be a base model, without a chat template.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    if isinstance(config, NoSftConfig):
        if base:
            raise ConfigError(
                f"policy: {policy} is a base model, which has no chat template and cannot answer: set sft=ultrachat, "
                "or sft=file with sft.id, to fine-tune it first; or give a folder that is fine-tuned: policy=local "
                "policy.id=/folder"
            )
        return
    for name in _POSITIVE:
        if (value := getattr(config, name)) is not None and value <= 0:
            raise ConfigError(f"sft.{name}: expected a number above 0, got {value}")
    for name in _NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise ConfigError(f"sft.{name}: expected 0 or more, got {getattr(config, name)}")
    if not 0 <= config.warmup_ratio < 1:
        raise ConfigError(f"sft.warmup_ratio: expected a value from 0 to 1 without 1, got {config.warmup_ratio}")
    if config.max_length < _SHORTEST:
        raise ConfigError(f"sft.max_length: expected {_SHORTEST} tokens or more, got {config.max_length}")
    if config.global_batch % config.micro_batch:
        raise ConfigError(
            f"sft.micro_batch: {config.micro_batch} does not divide sft.global_batch = {config.global_batch}"
        )
    if config.source == "hub":
        check_commit(config.revision, "sft.revision")
    elif config.revision is not None:
        raise ConfigError(f"sft.revision: {config.revision!r} would do nothing; local files are named by their content")
    if config.chat_template == OWN and base:
        raise ConfigError(
            f"sft.chat_template: {policy} is a base model, which has none of its own; choose one of "
            f"{', '.join(TEMPLATES)}, or give a file"
        )
    template_text(config.chat_template)


@lru_cache(maxsize=16)
def template_text(name: str) -> str | None:
    """The Jinja template that a name or path means; None for the model's own.

    Raises:
        ConfigError: no such template, or one that cannot be read.
    """
    if name == OWN:
        return None
    if name in TEMPLATES:
        return (resources.files("harness") / "data" / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"sft.chat_template: {name!r} is none of {', '.join((*TEMPLATES, OWN))}, and no file that can be read: "
            f"{error}"
        ) from None
    if not text.strip():
        raise ConfigError(f"sft.chat_template: {name} is empty")
    return text


def locate(source: str, data: str, revision: str, pattern: str) -> list[Path]:
    """The files of the conversations; those of a hub are fetched into its own cache.

    Raises:
        ConfigError: there are none, or they cannot be fetched.
    """
    folder = dataset_files.fetch(data, revision, pattern, "sft") if source == "hub" else Path(data)
    if not folder.exists():
        raise ConfigError(f"sft.id: {folder} does not exist; expected a file or folder of conversations")
    return dataset_files.files_of(folder, pattern, "sft")


def content_of(files: list[Path]) -> str:
    """Hash of files by their content, in the order of their names."""
    return digest([file_record(path)["sha256"] for path in files])


@lru_cache(maxsize=16)
def local_content(path: str, pattern: str) -> str:
    """Hash of local conversations, read once by a command.

    Raises:
        ConfigError: there are none.
    """
    return content_of(locate("local", path, "", pattern))
