"""The stages: one module each, with its spec, its version and `run`.

A stage module is light to import, so that planning needs no torch; what is heavy is imported inside `run`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.progress import Reporter
from harness.store import Artifact, Rows
from harness.world import ALONE, World


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a stage is given to do one node."""

    inputs: Mapping[str, tuple[Artifact, ...]]
    """Finished inputs by name, in the order of the plan."""
    params: Mapping[str, Any]
    """What is needed to do the work but does not change what comes out."""
    store: Path
    """Folder of the store, for pointers from one artifact to another."""
    work: Path
    """The folder that becomes the artifact; what an interrupted run left there is found again."""
    reporter: Reporter
    label: str
    """Short name of the node for progress."""
    parts: int = 1
    """In how many parts a batch is to be done, since it did not fit into memory; see `harness.memory`."""
    world: World = ALONE
    """The processes that a training is to have."""

    def input(self, name: str) -> Artifact:
        """The only input of that name."""
        (artifact,) = self.inputs[name]
        return artifact


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage says of the node it has done."""

    rows: Rows
    measures: Mapping[str, Any] = field(default_factory=dict)
    content: str | None = None
    """Hash of the content, for a stage whose different nodes may turn out equal."""


class Stage(Protocol):
    """What a stage module offers."""

    VERSION: int
    """Raised by hand when the meaning of the output changes."""

    def run(self, context: Context, spec: Any) -> Outcome:
        """Do one node."""
