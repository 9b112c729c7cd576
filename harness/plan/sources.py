"""The nodes that nothing stands before: models, prompts and what was imported."""

from collections.abc import Callable
from typing import Any, TypeVar

from harness import imports
from harness.config import Config, PolicyConfig
from harness.errors import ConfigError
from harness.judges import vllm_local
from harness.judges.config import AnyJudgeConfig, JudgeModelConfig, VllmJudgeConfig
from harness.judges.model_config import ModelJudgeConfig
from harness.model_rewards import RewardModelConfig
from harness.packages import package_folder
from harness.plan.data import folder_hash, load_held_out, slug_of
from harness.plan.nodes import Node
from harness.prompts import PromptSet
from harness.sft import NoSftConfig, SftConfig, local_content
from harness.stages import (
    conversations,
    imported,
    model,
    sft,
)
from harness.stages import prompts as prompts_stage
from harness.store import Artifact, Store

T = TypeVar("T")


class Sources:
    """Makes nodes, each key once."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.brought: dict[tuple[str, str], Artifact] = {}
        self.nodes: dict[str, Node] = {}
        self.asked: list[str] = []
        self.made: dict[str, tuple[Any, list[str]]] = {}
        """What many points share, by the settings that decide it: what was made, and the keys that it asked for."""

    def once(self, decided_by: Any, make: Callable[[], T]) -> T:
        """What `make` gives, worked out once for all points whose settings that decide it are the same.

        Args:
            decided_by: those settings, and what is made of them; anything with a faithful `repr`.
        """
        known = repr(decided_by)
        if known not in self.made:
            start = len(self.asked)
            made = make()
            self.made[known] = made, self.asked[start:]
        else:
            self.asked += self.made[known][1]
        found: T = self.made[known][0]
        return found

    def node(self, **fields: Any) -> Node:
        node = Node(**fields)
        self.asked.append(node.key)
        return self.nodes.setdefault(node.key, node)

    def imported(self, kind: str, name: str, key: str, prompts: PromptSet | None = None) -> Node:
        """What the store holds under a name.

        Raises:
            ConfigError: no such import, or none of its rows is about any of the prompts.
        """
        if (kind, name) not in self.brought:
            self.brought[kind, name] = imports.find(self.store, kind, name, key)
        artifact = self.brought[kind, name]
        if prompts is not None and imported.prompts_of(artifact).isdisjoint(p.prompt_id for p in prompts.prompts):
            raise ConfigError(
                f"{key}: the imported {kind} {name!r} are about none of the {len(prompts.prompts)} prompts; what "
                "belongs to a prompt carries its text, its messages, or their hash"
            )
        spec = imported.Spec(kind=kind, content=artifact.manifest.spec["content"])
        return self.node(stage="imported", slug=f"{kind}-{name}", spec=spec)

    def policy(self, config: Config) -> Node:
        """The model that is aligned: as it is, or fine-tuned on conversations first."""
        if isinstance(config.sft, NoSftConfig):
            return self.model(config.policy, config.policy.name, "policy.id")
        base = self.model(config.policy, config.policy.name, "policy.id", model.BaseSpec)
        return self.sft(config, config.sft, base, self.conversations(config, config.sft))

    def sft(self, config: Config, settings: SftConfig, base: Node, data: Node) -> Node:
        return self.node(
            stage="sft",
            slug=slug_of(config.policy.name, settings.name, f"s{settings.seed}"),
            spec=sft.spec_of(settings, config.policy.trust_remote_code),
            inputs={"policy": (base,), "conversations": (data,)},
            params={"save_steps": settings.save_steps, "name": config.policy.name},
        )

    def conversations(self, config: Config, settings: SftConfig) -> Node:
        """The data of a fine-tuning, without what the point is evaluated on."""
        held_out, local = load_held_out(config), settings.source == "local"
        return self.node(
            stage="conversations",
            slug=slug_of(settings.name),
            spec=conversations.Spec(
                source=settings.source,
                id="" if local else settings.id,
                revision=local_content(settings.id, settings.files) if local else str(settings.revision),
                files=None if local else settings.files,
                limit=settings.limit,
                held_out=held_out.hash,
            ),
            uses={"instructions": (self.prompts(held_out, config.evaluate.name),)},
            params={"id": settings.id, "files": settings.files, "duplicates": settings.duplicates},
        )

    def model(
        self, given: PolicyConfig | JudgeModelConfig, name: str, key: str, kind: type[model.Spec] = model.Spec
    ) -> Node:
        if given.source == "package":
            group, (package, colon, _) = key.removesuffix(".id"), given.id.partition(":")
            if not colon or not package.isidentifier():
                raise ConfigError(
                    f"{key}: {given.id!r} is no PACKAGE:FILE of an installed package; a folder is {group}.source=local "
                    f"{key}=FOLDER, a model of a hub {group}.source=hub {key}=ORG/NAME {group}.revision=COMMIT"
                )
            package_folder(package, given.revision, group)
        local = given.source == "local"
        return self.node(
            stage="model",
            slug=slug_of(name),
            spec=kind(
                source=given.source,
                id="" if local else given.id,
                revision=folder_hash(given.id, key) if local else str(given.revision),
                trust_remote_code=given.trust_remote_code,
            ),
            params={"id": given.id, "name": name, "key": key},
        )

    def prompts(self, prompts: PromptSet, name: str) -> Node:
        return self.node(
            stage="prompts",
            slug=slug_of(name),
            spec=prompts_stage.Spec(prompts=prompts.hash, answers=prompts.answers_hash),
            params={"prompts": prompts},
        )

    def judge_model(self, config: AnyJudgeConfig, group: str) -> dict[str, tuple[Node, ...]]:
        """The model of a judge as an input by name; none where it has none of ours.

        Args:
            group: of the configuration, that errors name.
        """
        if isinstance(config, VllmJudgeConfig):
            return {vllm_local.INPUT: (self.model(config.model, config.name, f"{group}.model.id"),)}
        if isinstance(config, ModelJudgeConfig):
            return {"reward_model": (self.reward_model(config.scorer, config.model, config.name, group),)}
        return {}

    def reward_model(self, engine: str, settings: RewardModelConfig, name: str, group: str = "reward") -> Node:
        """A reward model's weights, which scores or judges."""
        key = f"{group}.model.id"
        content = folder_hash(settings.id, key) if settings.source == "local" else None
        return self.node(
            stage="model",
            slug=slug_of(name),
            spec=model.reward_spec(engine, settings, content),
            params={"id": settings.id, "key": key},
        )
