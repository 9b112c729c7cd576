"""What training has cost elsewhere: tasks of lm-evaluation-harness on every model and on the policy it came from.

Light to import: planning needs none of it done. The work itself is `harness.stages.lm_eval`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness.errors import ConfigError
from harness.files import file_record
from harness.keys import digest


@dataclass(frozen=True, kw_only=True)
class RegressionsConfig:
    """Tasks that stand beside the win rates; no part of a point's identity."""

    name: str
    """Short name; not part of any key."""
    tasks: Mapping[str, int | None]
    """lm_eval's name of each task (or group), and how many examples stand before a question; None: as the task has
    it."""
    include: str | None
    """Folder of further tasks in lm_eval's own format. Python code that they name is run."""
    limit: int | None
    """Only the first so many questions of each task; its scores are then those of a part."""
    batch_size: int
    """Questions answered together."""
    chat_template: bool
    """Put questions and examples into the policy's chat template."""
    seed: int
    """Of the examples that stand before a question."""


def check_regressions(config: RegressionsConfig) -> None:
    """Refuse what no task could be run with.

    Raises:
        ConfigError: names the dotted key, the value and what was expected.
    """
    for name in ("limit", "batch_size"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"regressions.{name}: expected 1 or more, got {value}")
    for task, shots in config.tasks.items():
        if shots is not None and shots < 0:
            raise ConfigError(f"regressions.tasks.{task}: expected 0 or more examples, or null, got {shots}")
    if config.include is None:
        return
    if not config.tasks:
        raise ConfigError(
            f"regressions.tasks: none; expected those of {config.include} to run, with how many examples stand before "
            "a question: '+regressions.tasks.NAME=null'"
        )
    if not Path(config.include).expanduser().is_dir():
        raise ConfigError(f"regressions.include: there is no folder {config.include}")


@lru_cache(maxsize=16)
def tasks_hash(include: str) -> str:
    """Hash of a folder of tasks and their data: names and contents of all that lies in it."""
    folder = Path(include).expanduser()
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest({str(path.relative_to(folder)): file_record(path)["sha256"] for path in files})
