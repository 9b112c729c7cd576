"""A finished sweep without models: `python -m tests.benchmarks.synthetic_store FOLDER`.

Real configurations, plan, records, selection and pairs, published through the real store; only what a model would do is
drawn from a known truth. The win rate that a cell's verdicts are drawn around is `Truth.win_rate`.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console

from harness import perform, record, tables
from harness.config import Config, PolicyConfig
from harness.keys import stream
from harness.perform import log_failure
from harness.plan import Node, Plan, make_plan
from harness.positions import PAIRS, POSITIONS
from harness.progress import Reporter
from harness.stages import Context, Outcome, pairs, prompts, select
from harness.stages.pairs import why_empty
from harness.store import Rows, Store
from tests.benchmarks.synthetic_texts import draw_texts
from tests.configs import point

SIZES = (8, 16, 32, 64, 128)
STEPS = 16
ASKED = ("river", "stone", "answer", "garden", "window", "paper", "signal", "morning", "bridge", "colour", "music")
ENDINGS = (
    "side",
    "work",
    "way",
    "light",
    "line",
    "land",
    "time",
    "board",
    "mark",
    "room",
    "ward",
    "stead",
    "fold",
    "ground",
)
WORDS = tuple(first + last for first in ASKED for last in ENDINGS)
"""Enough that answers are no near-copies of each other."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the verdicts are drawn from."""

    effect: float = 0.1
    """Win rate gained from the worst pair to the best at the largest n; 0 for a null sweep."""
    seed_deviation: float = 0.01
    """Standard deviation of what a training seed adds to the win rate of its model."""
    tie_share: float = 0.1
    """Share of the instructions that are ties."""

    def win_rate(self, policy: str, chosen: str, rejected: str, n: int) -> float:
        """A better chosen is better; mu-2s is the best rejected; max-min falls with n; policies differ by little."""
        high, low = POSITIONS.index(chosen) / 6, POSITIONS.index(rejected)
        against = {0: 0.6 - 0.1 * math.log2(n / 8), 1: 0.8 + 0.05 * math.log2(n / 8)}.get(low, 0.6 - 0.15 * low)
        return 0.5 + self.effect * (0.6 * high + 0.4 * against - 0.3 + 0.05 * (stream(policy) % 5))

    def model(self, config: Config) -> float:
        """Win rate of one trained model: the cell's, and what its seed adds."""
        mean = self.win_rate(config.policy.name, config.pair.chosen, config.pair.rejected, config.n)
        rng = generator(
            "seed", config.policy.name, config.pair.chosen, config.pair.rejected, config.n, config.train.seed
        )
        return mean + self.seed_deviation * float(rng.standard_normal())


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the sweep is, and how much of it is done."""

    pairs: Sequence[tuple[str, str]] = PAIRS
    sizes: Sequence[int] = SIZES
    policies: int = 4
    seeds: int = 3
    prompts: int = 16
    instructions: int = 200
    characters: int = 0
    """Mean length of the models' answers, as real ones are written; 0: 20 to 59 words of a small vocabulary."""
    failed: int = 0
    """Trainings that failed, the last ones of the plan."""
    missing: int = 0
    """Points of which nothing of their own was begun, the last before those that failed."""


def generator(*parts: Any) -> np.random.Generator:
    """A random stream that is a function of its name."""
    return np.random.default_rng(stream(*parts))


def configurations(shape: Shape, folder: Path) -> Iterator[Config]:
    """Every point of the sweep; policies are folders, prompts and instructions files below `folder`."""
    asked = _prompts_file(folder / "prompts.jsonl", "How would you describe", shape.prompts)
    held_out = _prompts_file(folder / "instructions.jsonl", "Please explain", shape.instructions)
    largest = max(shape.sizes)
    base = point("pair=max_min", f"sampler.pool={largest}", f"n={largest}", f"sampler.sample_block={min(shape.sizes)}")
    base = replace(
        base,
        prompts=replace(base.prompts, name="synthetic", path=str(asked), limit=None),
        sampler=replace(base.sampler, prompt_blocks=1, sample_block=min(shape.sizes)),
        evaluate=replace(base.evaluate, name="synthetic", path=str(held_out), limit=None),
    )
    for name in (f"synthetic-{number}" for number in range(shape.policies)):
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps({"name": name}))
        policy = PolicyConfig(
            name=name, source="local", id=str(path), revision=None, dtype="float32", trust_remote_code=False
        )
        for n in shape.sizes:
            for chosen, rejected in shape.pairs:
                for seed in range(shape.seeds):
                    yield replace(
                        base,
                        policy=policy,
                        n=n,
                        pair=replace(base.pair, chosen=chosen, rejected=rejected),
                        train=replace(base.train, seed=seed),
                    )


def _prompts_file(path: Path, begin: str, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"id": f"{path.stem}-{i}", "prompt": f"{begin} {_words(i, 6, ASKED)}?"}) for i in range(count)]
    path.write_text("\n".join(rows) + "\n")
    return path


def _words(seed: Any, count: int, words: Sequence[str] = WORDS) -> str:
    return " ".join(generator("words", seed).choice(words, count))


def build(root: Path, shape: Shape | None = None, truth: Truth | None = None, sweep: str = "synthetic") -> Plan:
    """Do the sweep into the store `root`; beside it stand the files that it names.

    Returns:
        The plan of all points, those that failed or are missing included.
    """
    shape, truth = shape or Shape(), truth or Truth()
    configs = list(configurations(shape, root.parent / f"{root.name}-files"))
    store = Store(root).prepare()
    plan = make_plan(configs, store)
    record.write(plan, sweep, "synthetic", store)
    stages = _Stages(truth, shape.characters)
    last = len(plan.points) - shape.failed
    unfinished = {
        n.key: number >= last for number, p in enumerate(plan.points) for n in _withheld(p.nodes, number, last, shape)
    }
    owners = {node.key: p.config for p in plan.points for node in [*p.nodes.values(), *p.beside.values()]}
    reporter = Reporter(Console(file=StringIO()))
    blocked: set[str] = set()
    with patch.object(perform, "_stage", stages.stage):
        for key, node in plan.nodes.items():
            if key in unfinished or any(parent.key in blocked for parent in node.parents):
                blocked.add(key)
                if unfinished.get(key) and node.stage == "train":
                    log_failure(store, node, "no memory left")
                continue
            told = replace(node, params={**node.params, "config": owners.get(key)})
            ending = perform.perform(told, store, reporter, node.slug, threads=1)
            assert ending.how in ("computed", "aliased", "done"), ending
            if node.stage == "pairs" and _is_empty(store, node):
                blocked.add(key)
    return plan


def _withheld(nodes: Mapping[str, Node], number: int, last: int, shape: Shape) -> list[Node]:
    """What of a point is not done: its training and all after it."""
    if number < last - shape.missing:
        return []
    return [nodes[name] for name in ("train", "respond", "judge")]


def _is_empty(store: Store, node: Node) -> bool:
    artifact = store.find(node.stage, node.key)
    return artifact is not None and bool(why_empty(artifact))


class _Stages:
    """Every stage, with models replaced by draws."""

    def __init__(self, truth: Truth, characters: int) -> None:
        self.truth, self.characters = truth, characters
        self.real: Mapping[str, Any] = {"prompts": prompts, "select": select, "pairs": pairs}

    def stage(self, name: str) -> Any:
        return self.real.get(name) or _Stage(getattr(self, name))

    def model(self, context: Context, spec: Any) -> Outcome:
        (context.work / "model.json").write_text(json.dumps({"path": "weights"}))
        measures = {"architecture": "none", "context": 2048, "stop_tokens": [2], "weight_bytes": 0}
        return Outcome(rows=Rows(taken=1, kept=1), measures=measures)

    def sample(self, context: Context, spec: Any) -> Outcome:
        ids = context.input("prompts").table("prompts", ["prompt_id"]).column(0).to_pylist()
        rows = []
        for prompt_id in ids:
            for index in range(spec.sample_block * spec.samples, (spec.sample_block + 1) * spec.samples):
                text = _words([prompt_id, index], int(generator(prompt_id, index).integers(8, 40)))
                tokens = [WORDS.index(word) for word in text.split()]
                rows.append(_response(prompt_id, text, tokens) | {"sample_index": index, "logp": None})
        tables.write(tables.build(tables.RESPONSES, rows), _folder(context, "responses") / "00000.parquet")
        given = [{"prompt_id": prompt_id, "prompt_ids": [1, 2, 3]} for prompt_id in ids]
        tables.write(tables.build(tables.PROMPT_TOKENS, given), context.work / "prompt_tokens.parquet")
        measures = {
            "decoding": "synthetic",
            "empty": 0,
            "finished": len(rows),
            "tokens": sum(r["tokens"] for r in rows),
        }
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)

    def score(self, context: Context, spec: Any) -> Outcome:
        responses = context.input("responses").table("responses", ["prompt_id", "sample_index"]).to_pylist()
        schema = tables.rewards_schema(())
        rows = [{**r, "reward": float(generator("reward", *r.values()).standard_normal())} for r in responses]
        tables.write(tables.build(schema, rows), _folder(context, "rewards") / "00000.parquet")
        measures = {"invalid": 0, "label": "synthetic reward"}
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)

    def reference(self, context: Context, spec: Any) -> Outcome:
        picks = context.input("picks").table("picks", ["prompt_id", "sample_index"]).to_pandas().drop_duplicates()
        wanted = set(picks.itertuples(index=False, name=None))
        rows = [
            {
                **{name: r[name] for name in ("prompt_id", "sample_index", "text", "finish_reason")},
                "prompt_ids": [1, 2, 3],
                "response_ids": r["token_ids"],
                "truncated": False,
                "logp": -2.0 * r["tokens"],
            }
            for artifact in context.inputs["responses"]
            for r in artifact.table("responses").to_pylist()
            if (r["prompt_id"], r["sample_index"]) in wanted
        ]
        tables.write(tables.build(tables.REFERENCE, rows), _folder(context, "reference") / "00000.parquet")
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures={"truncated": 0})

    def train(self, context: Context, spec: Any) -> Outcome:
        config: Config = context.params["config"]
        rng = generator("train", config.pair.chosen, config.pair.rejected, config.n, spec.seed)
        steps = np.arange(1, STEPS + 1)
        margin = 0.4 * (1 - np.exp(-steps / 6)) + 0.01 * rng.standard_normal(STEPS)
        zeros = np.zeros(STEPS)
        columns: dict[str, Any] = {
            "step": steps,
            "epoch": steps / STEPS,
            "loss": np.log1p(np.exp(-margin)),
            "margin": margin,
            "accuracy": np.clip(0.5 + margin, 0, 1),
            "chosen_reward": -0.3 * margin,
            "rejected_reward": -1.3 * margin,
            "chosen_logp": -40 - 3 * margin,
            "rejected_logp": -45 - 13 * margin,
            "chosen_logp_change": -3 * margin,
            "rejected_logp_change": -13 * margin,
            "learning_rate": 1e-5 * (1 + np.cos(np.pi * steps / STEPS)) / 2,
            "grad_norm": 1 + 0.1 * rng.random(STEPS),
        }
        names = tables.TRAINING.names
        rows = [{name: columns.get(name, zeros)[i].item() for name in names} for i in range(STEPS)]
        tables.write(tables.build(tables.TRAINING, rows), context.work / "training.parquet")
        (context.work / "model.json").write_text(json.dumps({"path": "weights"}))
        kept = context.input("pairs").manifest.rows["kept"]
        measures = {
            "steps": STEPS,
            "epochs": 1.0,
            "train_loss": rows[-1]["loss"],
            "first_margin": 0.0,
            "last_margin": rows[-1]["margin"],
            "chosen_logp_change": -3.0,
            "rejected_logp_change": -13.0,
        }
        return Outcome(rows=Rows(taken=kept, kept=kept), measures=measures)

    def respond(self, context: Context, spec: Any) -> Outcome:
        model = context.input("model").manifest
        given = context.input("instructions").table("prompts").to_pylist()
        rng = generator("answers", model.key)
        rows = []
        for r, (text, tokens) in zip(given, _answers(rng, len(given), self.characters), strict=True):
            own = _response(r["prompt_id"], text, tokens)
            kl = 0.5 if model.stage == "train" else 0.0
            rows.append(own | {"instruction": r["messages"][-1]["content"], "kl": kl})
        tables.write(tables.build(tables.ANSWERS, rows), _folder(context, "answers") / "00000.parquet")
        measures = {
            "decoding": "greedy, 48 tokens",
            "empty": 0,
            "kl": float(np.mean([r["kl"] for r in rows])),
            "share_finished": 1.0,
            "tokens": float(np.mean([r["tokens"] for r in rows])),
        }
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)

    def appraise(self, context: Context, spec: Any) -> Outcome:
        answers = context.input("answers").table("answers", ["prompt_id"]).to_pylist()
        rewards = generator("appraise", context.input("answers").manifest.key).standard_normal(len(answers)).tolist()
        rows = [
            {"prompt_id": r["prompt_id"], "sample_index": 0, "reward": reward}
            for r, reward in zip(answers, rewards, strict=True)
        ]
        schema = tables.rewards_schema(())
        tables.write(tables.build(schema, rows), _folder(context, "rewards") / "00000.parquet")
        measures = {"invalid": 0, "label": "synthetic reward", "reward": float(np.mean([r["reward"] for r in rows]))}
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)

    def judge(self, context: Context, spec: Any) -> Outcome:
        """One preference of 0, 0.5 or 1 for each instruction, whose difficulty all models share."""
        config: Config = context.params["config"]
        answers = context.input("answers").table("answers", ["prompt_id", "tokens"]).to_pylist()
        references = context.input("references").table("answers", ["prompt_id", "tokens"]).to_pylist()
        lengths = {r["prompt_id"]: r["tokens"] for r in references}
        mean = self.truth.model(config)
        rng = generator("judge", context.input("answers").manifest.key)
        rows = []
        for index, answer in enumerate(answers):
            easy = 0.25 * (1 if stream("easy", answer["prompt_id"]) % 2 else -1)  # evens out over the instructions
            tie = rng.random() < self.truth.tie_share
            centre = (mean - 0.5) / (1 - self.truth.tie_share) + 0.5
            preference = 0.5 if tie else float(rng.random() < np.clip(centre + easy, 0.0, 1.0))
            rows.append(
                {
                    "prompt_id": answer["prompt_id"],
                    "index": index,
                    "preference_first": preference,
                    "preference_second": preference,
                    "preference": preference,
                    "same_text": False,
                    "failure": None,
                    "len_model": answer["tokens"],
                    "len_reference": lengths[answer["prompt_id"]],
                }
            )
        tables.write(tables.build(tables.VERDICTS, rows), context.work / "verdicts.parquet")
        rates = [r["preference"] for r in rows]
        compared = {
            "decoding": "greedy, 48 tokens",
            "instructions": context.input("instructions").manifest.key,
            "order": "both",
            "reference_decoding": "greedy, 48 tokens",
            "references": context.input("references").manifest.content_id,
        }
        measures = {
            "compared": compared,
            "failures": {},
            "label": "synthetic judge",
            "order_disagreement": 0,
            "position_bias": 0.0,
            "position_bias_standard_error": 0.0,
            "share_changed": 1.0,
            "ties": sum(rate == 0.5 for rate in rates),
            "win_rate": float(np.mean(rates)),
        }
        return Outcome(rows=Rows(taken=len(rows), kept=len(rows)), measures=measures)


@dataclass(frozen=True)
class _Stage:
    run: Callable[[Context, Any], Outcome]
    VERSION: int = 1


def _answers(rng: np.random.Generator, count: int, characters: int) -> list[tuple[str, list[int]]]:
    if characters:
        return draw_texts(rng, count, characters)
    lengths, drawn = rng.integers(20, 60, count), rng.integers(0, len(WORDS), (count, 60)).tolist()
    own = [words[:length] for length, words in zip(lengths, drawn, strict=True)]
    return [(" ".join(WORDS[token] for token in tokens), tokens) for tokens in own]


def _folder(context: Context, name: str) -> Path:
    path = context.work / name
    path.mkdir(exist_ok=True)
    return path


def _response(prompt_id: str, text: str, tokens: list[int]) -> dict[str, Any]:
    return {"prompt_id": prompt_id, "text": text, "token_ids": tokens, "tokens": len(tokens), "finish_reason": "stop"}


def main() -> int:
    """Build the sweep and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the store is made")
    for field in dataclasses.fields(Shape):
        if field.type == "int" or field.type is int:
            parser.add_argument(f"--{field.name}", type=int, default=field.default)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--effect", type=float, default=Truth.effect)
    given = vars(parser.parse_args())
    folder, effect = given.pop("folder").absolute(), given.pop("effect")
    started = time.monotonic()
    plan = build(folder, Shape(**given), Truth(effect=effect))
    print(f"{len(plan.points)} points, {len(plan.nodes)} nodes in {time.monotonic() - started:.1f} s: {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
