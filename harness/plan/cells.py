"""From preference rows, or what was imported instead, to verdicts and what stands beside them."""

from collections.abc import Sequence
from typing import Any

from harness.config import Config, RewardAugmentedConfig, decisive_loss, picking, trains, used
from harness.config.constructions import scores_pool
from harness.goals import Asked
from harness.judges.config import PrecomputedJudgeConfig
from harness.judges.engines import plan_judge
from harness.judges.precomputed import check_instructions
from harness.keys import digest
from harness.model_rewards import ModelRewardConfig
from harness.plan.boundary import judge_selected
from harness.plan.data import load_held_out, load_references, load_train_prompts, slug_of
from harness.plan.nodes import Node, Point
from harness.plan.rounds import Rounds, data_of
from harness.plan.rows import pair_slug, policy_name, source_of
from harness.prompts import PromptSet
from harness.regressions import tasks_hash
from harness.stages import (
    imported,
    lm_eval,
    respond,
    train,
)
from harness.training_spec import shared_settings


class Cells(Rounds):
    """Makes all nodes of a point."""

    def finish(self, config: Config, rows: Node | None) -> Point:
        """Training, or what was imported instead, and evaluation of a cell."""
        instructions = load_held_out(config)
        frozen = self.prompts(instructions, config.evaluate.name)
        own = self.own(config, rows)
        # Adapters of a later round stand on what is no longer the policy.
        answering = self.whole(config, own["train"]) if len(config.rounds.path) > 1 else own[list(own)[-1]]
        if config.evaluate.answers is not None:
            answers = self.imported_answers(own["imported"], frozen, instructions)
        else:
            answers = self.respond(config, answering, self.policy(config), frozen, instructions, asked_of(config))
        if config.evaluate.references is None:
            policy = self.policy(config)
            references = self.respond(config, policy, policy, frozen, instructions)
        else:
            given = load_references(config)
            references = self.prompts(given, f"{config.evaluate.name}-references")
        judging = plan_judge(config.judge)
        if isinstance(config.judge, PrecomputedJudgeConfig):
            check_instructions(config.judge, judging.params, [p.prompt_id for p in instructions.prompts])
        models = self.judge_model(config.judge, "judge")
        verdicts = self.node(
            stage="judge",
            slug=slug_of(config.judge.name, *answers.slug.split("-")),
            spec=judging.spec,
            inputs={"answers": (answers,), "references": (references,), **models},
            uses={"instructions": (frozen,)},
            params={**judging.params, "selected_the_data": trains(config) and judge_selected(config, config.judge)},
            units=len(instructions.prompts),
        )
        beside = self.appraisals(config, answers, references, frozen) if rows is not None else {}
        if config.regressions.tasks:
            beside |= self.regressions(config, answering, self.policy(config))
        return Point(config=config, nodes={**own, "respond": answers, "judge": verdicts}, beside=beside)

    def appraisals(self, config: Config, answers: Node, references: Node, frozen: Node) -> dict[str, Node]:
        """The selecting reward on the answers and their references.

        Imported rewards and the scores of static data say nothing of new answers, and a reward by comparison with a
        prompt's other samples has none to compare a single answer with.
        """
        reward, config = config.reward, data_of(config)
        picks = picking(config.construction)
        own_scores = picks.static_share == 1 and config.candidates.rewards == "data"
        if own_scores or not scores_pool(picks):  # nor is there a reward where the pool is only ranked
            return {}
        if reward.engine == "pairwise" if isinstance(reward, ModelRewardConfig) else reward.imported is not None:
            return {}
        scored = next(self.sets(config, self.policy_of(config)))[1][0]
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
            slug=slug_of(task, *answering.slug.split("-")),
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
            slug=slug_of(config.reward.name, *answers.slug.split("-")),
            spec=scored.spec,
            inputs={**reward, "answers": (answers,)},
            uses={"prompts": (answers if given else frozen,)},
            units=len(load_references(config).prompts) if given else answers.units,
        )

    def own(self, config: Config, rows: Node | None) -> dict[str, Node]:
        """A cell's own nodes up to what answers: its rows and its training, or what was imported instead."""
        if rows is not None:
            trained = self.train(config, self.policy_of(config), rows)
            self.trained[digest(used(config))] = trained
            return {"pairs": rows, "train": trained}
        if config.train.imported is not None:
            return {"imported": self.imported("model", config.train.imported, "train.imported")}
        assert config.evaluate.answers is not None
        answers, asked = config.evaluate.answers, load_held_out(config)
        return {"imported": self.imported("answers", answers, "evaluate.answers", asked)}

    def train(self, config: Config, policy: Node, rows: Node) -> Node:
        settings = config.train
        return self.node(
            stage="train",
            slug=slug_of(policy_name(config), source_of(data_of(config)), pair_slug(config), f"s{settings.seed}"),
            spec=train.Spec(
                loss=decisive_loss(config.loss),
                method=settings.method,
                micro_batch=settings.micro_batch if settings.batch_tokens is None else None,
                batch_tokens=settings.batch_tokens,
                weights_dtype=settings.weights_dtype,
                gradient_checkpointing=None
                if settings.gradient_checkpointing == "auto"
                else settings.gradient_checkpointing,
                lora=settings.lora if settings.method == "lora" else None,
                trust_remote_code=config.policy.trust_remote_code,
                **shared_settings(settings),
            ),
            inputs={"policy": (policy,), "pairs": (rows,)},
            uses={"start": (start,)} if (start := self.policy(config)) is not policy else {},
            params={"save_steps": settings.save_steps},
            units=picking(config.construction).pairs_per_prompt * len(load_train_prompts(config).prompts)
            if settings.max_steps is None
            else 1,
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

    def respond(
        self,
        config: Config,
        answering: Node,
        policy: Node,
        frozen: Node,
        instructions: PromptSet,
        asked: Asked | None = None,
    ) -> Node:
        return self.node(
            stage="respond",
            slug=slug_of(*answering.slug.split("-")),
            spec=_respond_spec(config, instructions, asked),
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
                if node.stage in ("lm_eval", "change"):
                    visit(node)
        # At the end, since work goes in this order: every win rate comes before what stands beside it.
        for point in points:
            for node in point.beside.values():
                visit(node)
        return ordered


def asked_of(config: Config) -> Asked | None:
    """The goal that a cell's answers are asked for; a model or answers that were imported know of none."""
    construction = config.construction
    return construction.asked if isinstance(construction, RewardAugmentedConfig) and trains(config) else None


def _respond_spec(config: Config, instructions: PromptSet, asked: Asked | None) -> respond.Spec | respond.VllmSpec:
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
        "asked": asked,
    }
    if evaluate.engine == "vllm":
        return respond.VllmSpec(**given)
    return respond.Spec(batch_size=evaluate.batch_size, **given)
