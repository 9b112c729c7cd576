"""Rows under goals: reward-augmented cells, and what stands beside win rates to show what training unlearns."""

from dataclasses import replace

from harness import candidates as static_data
from harness import goals
from harness.config import Config, RewardAugmentedConfig
from harness.errors import ConfigError
from harness.model_rewards import ModelRewardConfig
from harness.plan.cells import Cells, asked_of
from harness.plan.data import load_held_out, load_train_prompts, slug_of
from harness.plan.nodes import Node, Point
from harness.plan.rows import is_static_set, pair_of, pair_slug, policy_name, reference_spec, source_of
from harness.positions import POSITIONS
from harness.stages import change, pairs, relabel, score


class AugmentedCells(Cells):
    """Makes all nodes of a point, whose rows may be relabelled."""

    def rows(self, config: Config, policy: Node, reference: Node) -> Node:
        construction = config.construction
        if not isinstance(construction, RewardAugmentedConfig):
            return super().rows(config, policy, reference)
        self.check_attributes(config, construction)
        ((sampled, scored),) = self.sets(config, policy)
        picks = self.select(config, scored, sampled)
        relabelled = self.relabel(config, construction, policy, picks, sampled, scored)
        high, low = pair_of(config)
        logps = self.node(
            stage="reference",
            slug=slug_of(policy_name(config), source_of(config), "goals"),
            spec=reference_spec(config),
            inputs={"policy": (reference,), "relabelled": (relabelled,), "responses": tuple(sampled)},
        )
        return self.node(
            stage="pairs",
            slug=slug_of(policy_name(config), source_of(config), pair_slug(config)),
            spec=pairs.Spec(chosen=high, rejected=low),
            inputs={"picks": (picks,), "relabelled": (relabelled,), "reference": (logps,)},
        )

    def check_attributes(self, config: Config, construction: RewardAugmentedConfig) -> None:
        """Refuse attributes that no score of the responses will have.

        Raises:
            ConfigError: names the attribute, those that there are, and the stage that would give others.
        """
        reward = config.reward
        if construction.pairs.static_share and config.candidates.rewards == "data":
            what, valid = "the static data have no {}", static_data.attributes_of(config.candidates.layout)
            there, other = "they have", "candidates.rewards=score has the stage score give them those of the reward"
        elif not isinstance(reward, ModelRewardConfig) and reward.imported is not None:
            self.imported("rewards", reward.imported, "reward.imported")
            what, there = f"the imported rewards {reward.imported!r} have no {{}}", "they have"
            valid = tuple(self.brought["rewards", reward.imported].manifest.measures["attributes"])
            other = "the stage score gives some with reward=embedded or armorm"
        else:
            what, there = f"the stage score gives no {{}} with reward.engine={reward.engine}", "this reward has"
            valid = reward.objectives if isinstance(reward, ModelRewardConfig) else score.ATTRIBUTES[reward.engine]
            other = "reward=embedded or armorm has some"
        for name in construction.attributes:
            if name not in valid:
                choices = f"{there} {', '.join(valid)}" if valid else other
                raise ConfigError(f"construction.attributes: {what.format(repr(name))}; {choices}")

    def relabel(
        self,
        config: Config,
        construction: RewardAugmentedConfig,
        policy: Node,
        picks: Node,
        sampled: list[Node],
        scored: list[Node],
    ) -> Node:
        """The rows' goals and prompts."""
        frozen = self.prompts(load_train_prompts(config), config.prompts.name)
        high, low = pair_of(config)
        constant, implicit = construction.constant is not None, construction.score == "implicit"
        inputs: dict[str, tuple[Node, ...]] = {"policy": (policy,), "picks": (picks,)}
        if implicit and not constant:
            inputs["changes"] = (self.implicit(config, construction, policy, picks, sampled),)
        elif not constant:
            inputs["rewards"] = tuple(scored)
        return self.node(
            stage="relabel",
            slug=slug_of(policy_name(config), source_of(config), f"{high}_{low}"),
            spec=relabel.Spec(
                chosen=high,
                rejected=low,
                n=None if is_static_set(sampled) else config.n,
                score=None if constant else construction.score,
                beta=config.loss.beta if implicit and not constant else None,
                attributes=construction.attributes,
                scale=None if constant else construction.scale,
                decimals=construction.decimals,
                half=construction.seed if construction.share == "half" else None,
                constant=construction.constant,
                wording=construction.wording,
                trust_remote_code=config.policy.trust_remote_code,
            ),
            inputs=inputs,
            uses={"prompts": (frozen,)},
        )

    def finish(self, config: Config, rows: Node | None) -> Point:
        point = super().finish(config, rows)
        if not config.unlearning.samples or rows is None:
            return point
        trained = point.nodes["train"]
        # Adapters of a later round stand on what is no longer the policy, which the change is from.
        model = self.whole(config, trained) if len(config.rounds.path) > 1 else trained
        beside = {"change": self.unlearning(config, model), **point.beside}
        return replace(point, beside=beside)

    def unlearning(self, config: Config, model: Node) -> Node:
        """The change of log-probability of the untrained policy's own responses to the held-out instructions."""
        policy, held_out, samples = self.policy(config), load_held_out(config), config.unlearning.samples
        frozen = self.prompts(held_out, config.evaluate.name)
        blocks = [
            list(self.sample(config, policy, held_out, frozen, block))
            for block in range(-(-samples // config.sampler.sample_block))
        ]
        scored = [self.score(config, *both, frozen) for block in blocks for both in zip(block, blocks[0], strict=True)]
        return self.node(
            stage="change",
            slug=slug_of(*model.slug.split("-")),
            spec=change_spec(config, samples, asked_of(config)),
            inputs={
                "model": (model,),
                "policy": (policy,),
                "responses": tuple(responses for block in blocks for responses in block),
                "rewards": tuple(scored),
            },
            uses={"prompts": (frozen,)},
            units=len(held_out.prompts) * samples,
        )

    def implicit(
        self,
        config: Config,
        construction: RewardAugmentedConfig,
        policy: Node,
        picks: Node,
        sampled: list[Node],
    ) -> Node:
        """Log-probabilities of the picks under the model that the same training makes of the pairs as they are."""
        plain = replace(config, construction=construction.pairs)
        trained = self.train(plain, policy, super().rows(plain, policy, policy))
        return self.node(
            stage="change",
            slug=slug_of(*trained.slug.split("-")),
            spec=change_spec(config, None, None),
            inputs={"model": (trained,), "policy": (policy,), "picks": (picks,), "responses": tuple(sampled)},
            units=len(load_train_prompts(config).prompts) * len(POSITIONS),
        )


def change_spec(config: Config, samples: int | None, asked: goals.Asked | None) -> change.Spec:
    """Log-probabilities as training sees them."""
    given = reference_spec(config)
    return change.Spec(
        samples=samples,
        asked=asked,
        max_length=given.max_length,
        dtype=given.dtype,
        autocast=given.autocast,
        batch_tokens=given.batch_tokens,
        trust_remote_code=given.trust_remote_code,
    )
