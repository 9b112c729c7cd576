"""From configurations to nodes: what has to be done, each unit once, whoever needs it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from harness import benchmarks, imports, prompt_datasets
from harness import prompts as prompt_files
from harness.config import Config, PolicyConfig, PromptsConfig, trains, used
from harness.engines.embedding import find_model_folder
from harness.errors import ConfigError
from harness.judges import vllm_local
from harness.judges.config import JudgeModelConfig, PrecomputedJudgeConfig, VllmJudgeConfig
from harness.judges.engines import plan_judge
from harness.judges.model_config import ModelJudgeConfig
from harness.judges.precomputed import check_instructions
from harness.keys import digest, node_key
from harness.model_rewards import ModelRewardConfig, RewardModelConfig
from harness.packages import content_hash, package_folder
from harness.positions import POSITIONS
from harness.prompt_datasets import DatasetPromptsConfig
from harness.prompts import PromptSet, block_of
from harness.regressions import tasks_hash
from harness.stages import (
    appraise,
    imported,
    judge,
    lm_eval,
    model,
    model_score,
    pairs,
    reference,
    respond,
    sample,
    score,
    select,
    train,
)
from harness.stages import prompts as prompts_stage
from harness.store import Artifact, Store

STAGES = (
    "imported",
    "model",
    "prompts",
    "sample",
    "score",
    "select",
    "reference",
    "pairs",
    "train",
    "respond",
    "judge",
    "lm_eval",
    "appraise",
)
"""The stages in the order of the data."""

_VERSIONS: Mapping[str, int] = {
    "imported": imported.VERSION,
    "model": model.VERSION,
    "prompts": prompts_stage.VERSION,
    "sample": sample.VERSION,
    "score": score.VERSION,
    "select": select.VERSION,
    "reference": reference.VERSION,
    "pairs": pairs.VERSION,
    "train": train.VERSION,
    "respond": respond.VERSION,
    "judge": judge.VERSION,
    "lm_eval": lm_eval.VERSION,
    "appraise": appraise.VERSION,
}

_REFERENCE_BATCH_TOKENS = 2048
"""Padded tokens of a reference batch, unless train.batch_tokens says how many fit: 16 responses of 128 tokens, whose
logits fit a laptop."""


_LOADS: Mapping[str, str] = {
    "sample": "policy",
    "score": "reward_model",
    "reference": "policy",
    "respond": "reference",
    "judge": "reward_model",
    "appraise": "reward_model",
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
        return _VERSIONS[self.stage]

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
        contents = {n: [artifacts[p.key].manifest.content_id for p in nodes] for n, nodes in self.inputs.items()}
        return node_key(self.stage, self.version, self.spec, contents)

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
    cell's model and on the policy."""

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

    def count(self, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Nodes per stage, of all nodes or of those named."""
        counts = Counter(self.nodes[key].stage for key in (self.nodes if keys is None else keys))
        return {stage: counts[stage] for stage in STAGES}

    def found(self, store: Store) -> dict[str, Artifact]:
        """Artifacts of the nodes that the store holds, by key."""
        found = {key: store.find(node.stage, key) for key, node in self.nodes.items()}
        return {key: artifact for key, artifact in found.items() if artifact is not None}


def make_plan(configs: Sequence[Config], store: Store | None = None, *, regressions_early: bool = False) -> Plan:
    """Plan all points together; points that differ only in settings without effect are one.

    Args:
        store: where imports are looked up by their name.
        regressions_early: a cell's tasks come right after its win rate, so that its weights can be given up; otherwise
            they come after all win rates.

    Raises:
        ConfigError: unreadable prompts, a missing model folder, an unknown import, points that differ in what stands
            beside them; nothing has been done by then.
    """
    if any(config.regressions != configs[0].regressions for config in configs):
        raise ConfigError("regressions: one choice for all points of a command; it cannot be swept")
    builder = _Builder(store)
    distinct: dict[str, Config] = {}
    for config in configs:
        distinct.setdefault(digest(used(config)), config)
    configs = list(distinct.values())
    own, unshared = [], []
    for config in configs:
        start = len(builder.asked)
        own.append(builder.point(config) if trains(config) else None)
        unshared.append(set(builder.asked[start:]))
    rows = builder.with_common_rows(configs, own)
    points = []
    for config, made, asked in zip(configs, rows, unshared, strict=True):
        start = len(builder.asked)
        points.append(builder.finish(config, made))
        asked.update(builder.asked[start:])
    naive = Counter(builder.nodes[key].stage for asked in unshared for key in asked)
    return Plan(
        points=tuple(points), nodes=builder.reachable(points, regressions_early), naive={s: naive[s] for s in STAGES}
    )


class _Builder:
    """Makes nodes, each key once."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.brought: dict[tuple[str, str], Artifact] = {}
        self.nodes: dict[str, Node] = {}
        self.asked: list[str] = []
        self.pools: dict[str, tuple[tuple[Node, list[Node], list[Node]], list[str]]] = {}
        """By the settings that decide a pool: what was made, and the keys that making it asked for."""

    def node(self, **fields: Any) -> Node:
        node = Node(**fields)
        self.asked.append(node.key)
        return self.nodes.setdefault(node.key, node)

    def point(self, config: Config) -> Node:
        """Everything up to the cell's own rows."""
        policy, sampled, scored = self.pool(config)
        picks = self.select(config, scored)
        logps = self.reference(config, policy, picks, sampled)
        high, low = pair_of(config)
        return self.node(
            stage="pairs",
            slug=_slug(config.policy.name, f"n{config.n}", f"{high}_{low}"),
            spec=pairs.Spec(chosen=high, rejected=low),
            inputs={"picks": (picks,), "reference": (logps,)},
        )

    def pool(self, config: Config) -> tuple[Node, list[Node], list[Node]]:
        """Policy, samples and rewards of a point, worked out once for all points that share them."""
        held_out = _held_out_of(config)
        shared = repr((config.policy, config.prompts, held_out, config.sampler, config.reward, config.n))
        if shared not in self.pools:
            start = len(self.asked)
            made = self._pool(config)
            self.pools[shared] = made, self.asked[start:]
        else:
            self.asked += self.pools[shared][1]
        return self.pools[shared][0]

    def _pool(self, config: Config) -> tuple[Node, list[Node], list[Node]]:
        policy, prompts = self.policy(config), load_train_prompts(config)
        frozen = self.prompts(prompts, config.prompts.name)
        blocks = [
            list(self.sample(config, policy, prompts, frozen, block))
            for block in range(-(-config.n // config.sampler.sample_block))
        ]
        sampled = [responses for block in blocks for responses in block]
        # Each with the same prompts' block of first samples, from which a pairwise reward takes its opponents.
        scored = [self.score(config, *both, frozen) for block in blocks for both in zip(block, blocks[0], strict=True)]
        if config.reward.engine == "embedded":
            find_model_folder()
        return policy, sampled, scored

    def with_common_rows(self, configs: Sequence[Config], own: Sequence[Node | None]) -> list[Node | None]:
        """The same cells; where `rows` is `common`, restricted to the prompts that each cell of the sweep kept."""
        distinct = tuple({node.key: node for node in own if node is not None}.values())
        return [
            self.node(stage="pairs", slug=f"{n.slug}-common", spec=n.spec, inputs={**n.inputs, "others": distinct})
            if n is not None and config.construction.rows == "common"
            else n
            for config, n in zip(configs, own, strict=True)
        ]

    def finish(self, config: Config, rows: Node | None) -> Point:
        """Training, or what was imported instead, and evaluation of a cell."""
        instructions = load_held_out(config)
        frozen = self.prompts(instructions, config.evaluate.name)
        own = self.own(config, rows)
        if config.evaluate.answers is not None:
            answers = self.imported_answers(own["imported"], frozen, instructions)
        else:
            answers = self.respond(config, own[list(own)[-1]], self.policy(config), frozen, instructions)
        if config.evaluate.references is None:
            policy = self.policy(config)
            references = self.respond(config, policy, policy, frozen, instructions)
        else:
            given = load_references(config)
            references = self.prompts(given, f"{config.evaluate.name}-references")
        judging = plan_judge(config.judge)
        if isinstance(config.judge, PrecomputedJudgeConfig):
            check_instructions(config.judge, judging.params, [p.prompt_id for p in instructions.prompts])
        models = {}
        if isinstance(config.judge, VllmJudgeConfig):
            models[vllm_local.INPUT] = (self.model(config.judge.model, config.judge.name, "judge.model.id"),)
        if isinstance(config.judge, ModelJudgeConfig):
            judge_model = self.reward_model(config.judge.scorer, config.judge.model, config.judge.name)
            models["reward_model"] = (judge_model,)
        verdicts = self.node(
            stage="judge",
            slug=_slug(config.judge.name, *answers.slug.split("-")),
            spec=judging.spec,
            inputs={"answers": (answers,), "references": (references,), **models},
            uses={"instructions": (frozen,)},
            params={**judging.params, "selected_the_data": trains(config) and judge_selected(config)},
            units=len(instructions.prompts),
        )
        beside = self.appraisals(config, answers, references, frozen) if rows is not None else {}
        if config.regressions.tasks:
            beside |= self.regressions(config, own[list(own)[-1]], self.policy(config))
        return Point(config=config, nodes={**own, "respond": answers, "judge": verdicts}, beside=beside)

    def appraisals(self, config: Config, answers: Node, references: Node, frozen: Node) -> dict[str, Node]:
        """The selecting reward on the answers and their references.

        Imported rewards say nothing of new answers, and a reward by comparison with a prompt's other samples has
        none to compare a single answer with.
        """
        reward = config.reward
        if reward.engine == "pairwise" if isinstance(reward, ModelRewardConfig) else reward.imported is not None:
            return {}
        scored = self.pool(config)[2][0]
        return {
            "appraise": self.appraise(config, scored, answers, frozen),
            "appraise_references": self.appraise(config, scored, references, frozen),
        }

    def regressions(self, config: Config, answering: Node, policy: Node) -> dict[str, Node]:
        """Every task on a cell's model and on the policy."""
        models = {"lm_eval": answering, "lm_eval_policy": policy}
        return {
            f"{name} {task}": self.lm_eval(config, task, model, policy)
            for task in config.regressions.tasks
            for name, model in models.items()
        }

    def lm_eval(self, config: Config, task: str, answering: Node, policy: Node) -> Node:
        asked = config.regressions
        return self.node(
            stage="lm_eval",
            slug=_slug(task, *answering.slug.split("-")),
            spec=lm_eval.Spec(
                task=task,
                shots=asked.tasks[task],
                limit=asked.limit,
                batch_size=asked.batch_size,
                chat_template=asked.chat_template,
                seed=asked.seed,
                include=tasks_hash(asked.include) if asked.include is not None else None,
                dtype=config.policy.dtype,
                trust_remote_code=config.policy.trust_remote_code,
            ),
            inputs={"model": (answering,), "reference": (policy,)},
            params={"include": asked.include},
        )

    def appraise(self, config: Config, scored: Node, answers: Node, frozen: Node) -> Node:
        """Answers scored by what scored the pool, whatever that consists of."""
        reward = {name: nodes for name, nodes in scored.inputs.items() if name != "responses"}
        # Reference answers that were given may be about more than the instructions that are asked here.
        given = answers.stage == "prompts"
        return self.node(
            stage="appraise",
            slug=_slug(config.reward.name, *answers.slug.split("-")),
            spec=scored.spec,
            inputs={**reward, "answers": (answers,)},
            uses={"prompts": (answers if given else frozen,)},
            units=len(load_references(config).prompts) if given else answers.units,
        )

    def own(self, config: Config, rows: Node | None) -> dict[str, Node]:
        """A cell's own nodes up to what answers: its rows and its training, or what was imported instead."""
        if rows is not None:
            return {"pairs": rows, "train": self.train(config, self.policy(config), rows)}
        if config.train.imported is not None:
            return {"imported": self.imported("model", config.train.imported, "train.imported")}
        assert config.evaluate.answers is not None
        answers, asked = config.evaluate.answers, load_held_out(config)
        return {"imported": self.imported("answers", answers, "evaluate.answers", asked)}

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
        return self.model(config.policy, config.policy.name, "policy.id")

    def model(self, given: PolicyConfig | JudgeModelConfig, name: str, key: str) -> Node:
        if given.source == "package":
            package_folder(given.id.partition(":")[0], given.revision)
        local = given.source == "local"
        return self.node(
            stage="model",
            slug=_slug(name),
            spec=model.Spec(
                source=given.source,
                id="" if local else given.id,
                revision=folder_hash(given.id, key) if local else str(given.revision),
                trust_remote_code=given.trust_remote_code,
            ),
            params={"id": given.id, "name": name},
        )

    def prompts(self, prompts: PromptSet, name: str) -> Node:
        return self.node(
            stage="prompts",
            slug=_slug(name),
            spec=prompts_stage.Spec(prompts=prompts.hash, answers=prompts.answers_hash),
            params={"prompts": prompts},
        )

    def sample(
        self, config: Config, policy: Node, prompts: PromptSet, frozen: Node, sample_block: int
    ) -> Iterator[Node]:
        sampler = config.sampler
        inputs = {"policy": (policy,)}
        if sampler.imported is not None:
            inputs["imported"] = (self.imported("responses", sampler.imported, "sampler.imported", prompts),)
        for block in range(sampler.prompt_blocks):
            ids = sorted(p.prompt_id for p in prompts.prompts if block_of(p.prompt_id, sampler.prompt_blocks) == block)
            if not ids:
                continue
            yield self.node(
                stage="sample",
                slug=_slug(config.policy.name, f"b{block}", f"s{sample_block}"),
                spec=_sample_spec(config, ids, block, sample_block),
                inputs=inputs,
                uses={"prompts": (frozen,)},
                units=len(ids) * sampler.sample_block,
            )

    def reward_model(self, engine: str, settings: RewardModelConfig, name: str) -> Node:
        """A reward model's weights."""
        content = folder_hash(settings.id, "reward.model.id") if settings.source == "local" else None
        return self.node(
            stage="model",
            slug=_slug(name),
            spec=model.reward_spec(engine, settings, content),
            params={"id": settings.id},
        )

    def score(self, config: Config, responses: Node, first: Node, frozen: Node) -> Node:
        """Rewards of a block; `first` is the block of the same prompts' first samples."""
        reward = config.reward
        inputs = {"responses": (responses,)}
        spec: score.Spec | imported.ScoreSpec | model_score.Spec | model_score.PairwiseSpec
        if isinstance(reward, ModelRewardConfig):
            inputs["reward_model"] = (self.reward_model(reward.engine, reward.model, reward.name),)
            spec = model_score.spec_of(reward)
            if isinstance(spec, model_score.PairwiseSpec):
                inputs["opponents"] = (first,)
        elif reward.imported is not None:
            inputs["imported"] = (self.imported("rewards", reward.imported, "reward.imported"),)
            spec = imported.ScoreSpec()
        else:
            spec = score.check_weights(score.Spec(engine=reward.engine, weights=reward.weights))
        return self.node(
            stage="score",
            slug=_slug(reward.name, *responses.slug.split("-")[1:]),
            spec=spec,
            inputs=inputs,
            uses={"prompts": (frozen,)},
            units=responses.units,
        )

    def select(self, config: Config, scored: list[Node]) -> Node:
        construction = config.construction
        draws = None
        positions: tuple[str, ...] = POSITIONS
        if construction.name == "sweet_spot":
            draws = select.Draws(draws=construction.draws, among=construction.among, seed=construction.seed)
            positions = ("max",)
        elif construction.name == "position":
            # Further positions are asked for by name; the seven are picked together, so that all pairs share a node.
            positions += tuple(sorted({config.pair.chosen, config.pair.rejected} - set(POSITIONS)))
        return self.node(
            stage="select",
            slug=_slug(config.policy.name, config.reward.name, f"n{config.n}"),
            spec=select.Spec(n=config.n, ddof=construction.ddof, positions=positions, draws=draws),
            inputs={"rewards": tuple(scored)},
        )

    def reference(self, config: Config, policy: Node, picks: Node, sampled: list[Node]) -> Node:
        return self.node(
            stage="reference",
            slug=_slug(config.policy.name, f"n{config.n}"),
            spec=reference.Spec(
                max_length=config.train.max_length,
                dtype=config.train.weights_dtype,
                autocast=config.train.autocast,
                batch_tokens=config.train.batch_tokens or _REFERENCE_BATCH_TOKENS,
                trust_remote_code=config.policy.trust_remote_code,
            ),
            inputs={"policy": (policy,), "picks": (picks,), "responses": tuple(sampled)},
        )

    def train(self, config: Config, policy: Node, rows: Node) -> Node:
        settings = config.train
        high, low = pair_of(config)
        return self.node(
            stage="train",
            slug=_slug(config.policy.name, f"n{config.n}", f"{high}_{low}", f"s{settings.seed}"),
            spec=train.Spec(
                loss=config.loss,
                method=settings.method,
                seed=settings.seed,
                learning_rate=settings.learning_rate,
                schedule=settings.schedule,
                warmup_ratio=settings.warmup_ratio,
                weight_decay=settings.weight_decay,
                max_grad_norm=settings.max_grad_norm,
                epochs=settings.epochs if settings.max_steps is None else None,
                max_steps=settings.max_steps,
                global_batch=settings.global_batch,
                micro_batch=settings.micro_batch if settings.batch_tokens is None else None,
                batch_tokens=settings.batch_tokens,
                max_length=settings.max_length,
                weights_dtype=settings.weights_dtype,
                autocast=settings.autocast,
                gradient_checkpointing=settings.gradient_checkpointing,
                save_dtype=settings.save_dtype,
                lora=settings.lora if settings.method == "lora" else None,
                trust_remote_code=config.policy.trust_remote_code,
            ),
            inputs={"policy": (policy,), "pairs": (rows,)},
            params={"save_steps": settings.save_steps},
            units=len(load_train_prompts(config).prompts) if settings.max_steps is None else 1,
        )

    def imported_answers(self, answers: Node, frozen: Node, instructions: PromptSet) -> Node:
        return self.node(
            stage="respond",
            slug=answers.slug,
            spec=imported.RespondSpec(instructions=instructions.hash),
            inputs={"imported": (answers,)},
            uses={"instructions": (frozen,)},
            units=len(instructions.prompts),
        )

    def respond(self, config: Config, answering: Node, policy: Node, frozen: Node, instructions: PromptSet) -> Node:
        return self.node(
            stage="respond",
            slug=_slug(*answering.slug.split("-")),
            spec=_respond_spec(config, instructions),
            inputs={"model": (answering,), "reference": (policy,)},
            uses={"instructions": (frozen,)},
            units=len(instructions.prompts),
        )

    def reachable(self, points: Sequence[Point], regressions_early: bool) -> dict[str, Node]:
        """The nodes that the points need, parents first."""
        ordered: dict[str, Node] = {}

        def visit(node: Node) -> None:
            if node.key not in ordered:
                for parent in node.parents:
                    visit(parent)
                ordered[node.key] = node

        for point in points:
            visit(point.nodes["judge"])
            for node in point.beside.values() if regressions_early else ():
                if node.stage == "lm_eval":
                    visit(node)
        # At the end, since work goes in this order: every win rate comes before what stands beside it.
        for point in points:
            for node in point.beside.values():
                visit(node)
        return ordered


def _sample_spec(
    config: Config, prompt_ids: Sequence[str], block: int, sample_block: int
) -> sample.Spec | sample.VllmSpec | imported.SampleSpec:
    """What decides one block of the pool; how imported responses were generated is not known."""
    sampler, policy = config.sampler, config.policy
    place: dict[str, Any] = {
        "blocks": sampler.prompt_blocks,
        "block": block,
        "prompts": digest(prompt_ids),
        "sample_block": sample_block,
        "samples": sampler.sample_block,
    }
    if sampler.imported is not None:
        return imported.SampleSpec(trust_remote_code=policy.trust_remote_code, **place)
    drawn: dict[str, Any] = {
        "seed": sampler.seed,
        "temperature": sampler.temperature,
        "top_p": sampler.top_p,
        "max_new_tokens": sampler.max_new_tokens,
        "max_prompt_tokens": sampler.max_prompt_tokens,
        "dtype": policy.dtype,
        "trust_remote_code": policy.trust_remote_code,
    }
    if sampler.engine == "vllm":
        return sample.VllmSpec(**drawn, **place)
    return sample.Spec(engine=sampler.engine, batch_size=sampler.batch_size, **drawn, **place)


def _respond_spec(config: Config, instructions: PromptSet) -> respond.Spec | respond.VllmSpec:
    """What decides the answers."""
    evaluate = config.evaluate
    greedy = evaluate.temperature == 0
    given: dict[str, Any] = {
        "instructions": instructions.hash,
        "max_new_tokens": evaluate.max_new_tokens,
        "max_prompt_tokens": evaluate.max_prompt_tokens,
        "temperature": evaluate.temperature,
        "top_p": 1.0 if greedy else evaluate.top_p,
        "seed": 0 if greedy else evaluate.seed,
        "dtype": config.policy.dtype,
        "trust_remote_code": config.policy.trust_remote_code,
    }
    if evaluate.engine == "vllm":
        return respond.VllmSpec(**given)
    return respond.Spec(batch_size=evaluate.batch_size, **given)


def judge_selected(config: Config) -> bool:
    """Whether the judge is the very model that selected the training data; of local folders, the same content."""
    one, other = config.reward, config.judge
    if not isinstance(one, ModelRewardConfig) or not isinstance(other, ModelJudgeConfig):
        return False
    local = one.model.source == other.model.source == "local"
    if local:
        return folder_hash(one.model.id) == folder_hash(other.model.id)
    return (one.model.source, one.model.id, one.model.revision) == (
        other.model.source,
        other.model.id,
        other.model.revision,
    )


def pair_of(config: Config) -> tuple[str, str]:
    """The two positions of a cell's rows."""
    if config.construction.name == "max_min":
        return "max", "min"
    if config.construction.name == "sweet_spot":
        return "max", select.LOW_DRAW
    return config.pair.chosen, config.pair.rejected


def load_train_prompts(config: Config) -> PromptSet:
    """The prompts of a point, without those that also stand in its evaluation set.

    Raises:
        ConfigError: none is left.
    """
    return _train_prompts(config.prompts, _held_out_of(config))


HeldOut = tuple[str | None, str | None, int | None]
"""Benchmark, path and limit of an evaluation set."""


@lru_cache(maxsize=64)
def _train_prompts(settings: PromptsConfig | DatasetPromptsConfig, held_out: HeldOut) -> PromptSet:
    if isinstance(settings, DatasetPromptsConfig):
        given = prompt_datasets.load(settings)
    else:
        given = _load(settings.path, prompt_files.TRAIN, settings.limit, settings.duplicates, "prompts.path")
    left = given.without(_held_out(*held_out), "in_evaluation_set")
    if not left.prompts:
        raise ConfigError(f"prompts.path: all {len(given.prompts)} prompts also stand in the evaluation set")
    return left


def load_held_out(config: Config) -> PromptSet:
    """The instructions of a point's evaluation."""
    return _held_out(*_held_out_of(config))


def _held_out_of(config: Config) -> HeldOut:
    return config.evaluate.benchmark, config.evaluate.path, config.evaluate.limit


@lru_cache(maxsize=64)
def _held_out(benchmark: str | None, path: str | None, limit: int | None) -> PromptSet:
    if benchmark is not None:
        return benchmarks.load_instructions(path, limit)
    return _load(path, prompt_files.HELD_OUT, limit, "error", "evaluate.path")


def load_references(config: Config) -> PromptSet:
    """The reference answers of a point's evaluation, where they are given.

    Raises:
        ConfigError: a line without an answer, or an instruction without a line.
    """
    evaluate = config.evaluate
    if evaluate.benchmark is not None:
        official = evaluate.references == benchmarks.GPT4_1106_PREVIEW
        path, key = (evaluate.path, "evaluate.path") if official else (evaluate.references, "evaluate.references")
        return benchmarks.load_references(path, key, evaluate.limit)
    given = _load(evaluate.references, "", None, "error", "evaluate.references")
    for prompt in given.prompts:
        if prompt.answer is None:
            raise ConfigError(f"evaluate.references: {prompt.source_id!r} has no 'answer'")
    missing = {p.prompt_id for p in load_held_out(config).prompts} - {p.prompt_id for p in given.prompts}
    if missing:
        raise ConfigError(f"evaluate.references: {len(missing)} instructions of the evaluation set have no answer")
    return given


@lru_cache(maxsize=64)
def _load(path: str | None, embedded: str, limit: int | None, duplicates: str, key: str) -> PromptSet:
    return prompt_files.load(path, embedded, limit=limit, duplicates=duplicates, key=key)


@lru_cache(maxsize=16)
def folder_hash(folder: str, key: str = "policy.id") -> str:
    """Hash of a local model folder's files (weights, configs, tokenizer), by name and content.

    Args:
        key: config path that errors name.

    Raises:
        ConfigError: no such folder, or no model in it.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{key}: {folder} is no model folder (it has no config.json)")
    return content_hash(path)


def _slug(*parts: str) -> str:
    """Parts as one folder name: letters, digits, and `_+.`; parts are joined by `-`."""
    return "-".join("".join(c if c.isalnum() or c in "_+." else "_" for c in part) for part in parts)
