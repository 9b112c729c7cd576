"""Units of work, and the points of a command that need them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness import choice
from harness.choice import Choice, Literals
from harness.config import Config, used
from harness.judges import vllm_local
from harness.keys import digest, node_key
from harness.stages import (
    appraise,
    boundary,
    candidates,
    change,
    conversations,
    diversity,
    imported,
    judge,
    lm_eval,
    model,
    pairs,
    rank,
    reference,
    relabel,
    respond,
    sample,
    score,
    select,
    sft,
    train,
)
from harness.stages import prompts as prompts_stage
from harness.store import Artifact, Store

STAGES = (
    "imported",
    "model",
    "prompts",
    "conversations",
    "sft",
    "candidates",
    "sample",
    "score",
    "rank",
    "select",
    "relabel",
    "reference",
    "pairs",
    "train",
    "respond",
    "judge",
    "lm_eval",
    "appraise",
    "boundary",
    "diversity",
    "change",
)
"""The stages in the order of the data."""

VERSIONS: Mapping[str, int] = {
    "imported": imported.VERSION,
    "model": model.VERSION,
    "prompts": prompts_stage.VERSION,
    "conversations": conversations.VERSION,
    "sft": sft.VERSION,
    "candidates": candidates.VERSION,
    "sample": sample.VERSION,
    "score": score.VERSION,
    "rank": rank.VERSION,
    "select": select.VERSION,
    "relabel": relabel.VERSION,
    "reference": reference.VERSION,
    "pairs": pairs.VERSION,
    "train": train.VERSION,
    "respond": respond.VERSION,
    "judge": judge.VERSION,
    "lm_eval": lm_eval.VERSION,
    "appraise": appraise.VERSION,
    "boundary": boundary.VERSION,
    "diversity": diversity.VERSION,
    "change": change.VERSION,
}

_LOADS: Mapping[str, str] = {
    "sample": "policy",
    "score": "reward_model",
    "rank": "reward_model",
    "reference": "policy",
    "respond": "reference",
    "change": "policy",
    "judge": "reward_model",
    "appraise": "reward_model",
    "boundary": "reward_model",
}
"""Name of the input, where there is one, that is a model."""

_SCORERS = ("reward_model", vllm_local.INPUT)
"""Inputs that are a model which a node runs whatever its stage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Node:
    """One unit of work."""

    stage: str
    slug: str
    """Human-readable part of the folder's name; not part of the key."""
    spec: Any
    inputs: Mapping[str, tuple["Node", ...]] = field(default_factory=dict)
    """Nodes whose output decides this one's; their keys are in the key."""
    uses: Mapping[str, tuple["Node", ...]] = field(default_factory=dict)
    """Nodes that this one reads, but whose relevant content is in its spec already."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What the work needs but does not depend on, such as paths."""
    units: int = 1
    """Responses, answers or comparisons that this node is about, where it is about any; for estimates."""

    @property
    def version(self) -> int:
        """The stage's version."""
        return VERSIONS[self.stage]

    @cached_property
    def key(self) -> str:
        """The hash that names the node."""
        return node_key(self.stage, self.version, self.spec, self.input_keys)

    @property
    def input_keys(self) -> dict[str, list[str]]:
        """Keys of the inputs by name."""
        return {name: [node.key for node in nodes] for name, nodes in self.inputs.items()}

    def content_key(self, artifacts: Mapping[str, Artifact]) -> str:
        """The key that this node would have with its inputs' content ids: equal for nodes of equal content.

        Args:
            artifacts: of the parents, by key.
        """
        taken = self.groups(artifacts)
        contents = {n: [artifacts[p.key].manifest.content_id for p in taken[n]] for n in self.inputs if n in taken}
        return node_key(self.stage, self.version, self.spec, contents)

    @cached_property
    def choice(self) -> Choice | None:
        """What it takes one of, if it does."""
        return Choice(self.spec, self.input_keys) if choice.between(self.spec) else None

    def groups(self, known: Mapping[str, Artifact]) -> dict[str, tuple["Node", ...]]:
        """What it needs by name, inputs and the rest: without what a boundary that is known says it does not take."""
        groups = {**self.inputs, **self.uses}
        if self.choice is None or self.choice.boundary not in known:
            return groups
        said = choice.branch_of(known[self.choice.boundary])
        return {n: nodes for n, nodes in groups.items() if n == said or n not in self.choice.branches}

    def needed(self, store: Store) -> list["Node"]:
        """The parents without those that, as far as the store knows, it will not take."""
        known = {}
        if self.choice is not None:
            (boundary,) = self.inputs[choice.BOUNDARY]
            if (found := store.find(boundary.stage, boundary.key)) is not None:
                known[boundary.key] = found
        return [node for group in self.groups(known).values() for node in group]

    @property
    def loads(self) -> str:
        """What a worker has to load for this node, and keeps for the next that needs the same; empty if nothing."""
        base = _LOADS.get(self.stage, "")
        return self.inputs[base][0].key if base in self.inputs else ""

    @property
    def runs_scorer(self) -> bool:
        """Whether a model scores or judges in it: a reward model, or a judge that is served."""
        return any(name in self.inputs for name in _SCORERS)

    @property
    def parents(self) -> Iterator["Node"]:
        """All nodes that must be done first."""
        for group in (*self.inputs.values(), *self.uses.values()):
            yield from group


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration with its nodes."""

    config: Config
    nodes: Mapping[str, Node]
    """The point's own: `pairs`, `train`, `respond`, `judge`; where a model or answers are imported, `imported` instead
    of the first two."""
    beside: Mapping[str, Node] = field(default_factory=dict)
    """What is shown beside the win rate, and no win rate waits for: `appraise` and `appraise_references`, the selecting
    reward on the answers and on what they are judged against; `lm_eval TASK` and `lm_eval_policy TASK`, a task on the
    cell's model and on the policy; `boundary`; `on_policy_set` and `static_set`, what can be said of the candidates
    that rows are made of; `change`, the change of held-out responses' log-probability."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting that the point uses, under its dotted name; None for those that it does not."""
        return used(self.config)

    @cached_property
    def id(self) -> str:
        """Hash of the settings."""
        return digest(self.settings)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All points of a command, and the nodes they share."""

    points: tuple[Point, ...]
    nodes: Mapping[str, Node]
    """By key; parents stand before children."""
    naive: Mapping[str, int]
    """Nodes per stage if every point had a pipeline of its own."""

    @cached_property
    def conditions(self) -> Mapping[str, Literals]:
        """What must be said by boundaries for a node to be needed, of those that may not be; see `harness.choice`."""
        choices = {key: node.choice for key, node in self.nodes.items() if node.choice is not None}
        parents = {key: [p.key for p in node.parents] for key, node in self.nodes.items()} if choices else {}
        return choice.conditions(parents, choices)

    @cached_property
    def boundaries(self) -> Sequence[Node]:
        """What decides which of some nodes are needed, in the order of the plan."""
        keys = {boundary for literals in self.conditions.values() for boundary, _ in literals}
        return [node for key, node in self.nodes.items() if key in keys]

    def not_needed(self, found: Mapping[str, Artifact]) -> set[str]:
        """Nodes of which boundaries that are known have said that nobody needs them."""
        return self._of_branches(found, needed=False)

    def undecided(self, found: Mapping[str, Artifact]) -> set[str]:
        """Nodes of which boundaries that are not known yet will say whether anybody needs them."""
        return self._of_branches(found, needed=None)

    def _of_branches(self, found: Mapping[str, Artifact], *, needed: bool | None) -> set[str]:
        known = choice.decisions((node.key for node in self.boundaries), found.get)
        return {key for key, literals in self.conditions.items() if choice.is_needed(literals, known) is needed}

    def count(self, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Nodes per stage, of all nodes or of those named."""
        counts = Counter(self.nodes[key].stage for key in (self.nodes if keys is None else keys))
        return {stage: counts[stage] for stage in STAGES}

    def found(self, store: Store) -> dict[str, Artifact]:
        """Artifacts of the nodes that the store holds, by key."""
        found = {key: store.find(node.stage, key) for key, node in self.nodes.items()}
        return {key: artifact for key, artifact in found.items() if artifact is not None}
