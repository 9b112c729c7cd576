"""The configuration: frozen dataclasses, one per Hydra group, that refuse what they do not know.

Hydra composes, `read` checks once, and nothing below ever sees an untyped value.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union

from harness import model_rewards, prompt_datasets
from harness.cluster import PythonConfig, SlurmConfig, VllmConfig
from harness.errors import ConfigError
from harness.judges.config import AnyJudgeConfig, check_judge, undecisive
from harness.model_rewards import ModelRewardConfig
from harness.positions import check_pair
from harness.prompt_datasets import DatasetPromptsConfig
from harness.regressions import RegressionsConfig, check_regressions
from harness.world import Sharding

T = TypeVar("T")

KeepWeights = Literal["none", "best", "all"]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The model being aligned."""

    name: str
    """Short name, used in folders and figures; not part of any key."""
    source: Literal["package", "local", "hub"]
    """`package`: weights carried by an installed Python package; `local`: a folder; `hub`: a model hub."""
    id: str
    """Package file as `package:file`, folder, or hub id."""
    revision: str | None
    """Version of the package or hub revision; None for a local folder, which is named by its content."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Weights' type for sampling, reference and answers."""
    trust_remote_code: bool
    """Run code that comes with the model. Only for a source that you trust."""


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """The instructions that responses are sampled for."""

    name: str
    """Short name; not part of any key."""
    path: str | None
    """JSON-lines file with `prompt` (text) or `messages`, optional `id` and `kind`; None means the embedded set."""
    limit: int | None
    """Use only the first so many lines."""
    duplicates: Literal["error", "drop"]
    """What to do with a prompt that stands in the file twice: refuse the file, or drop and count the later ones."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How the pool is drawn."""

    engine: Literal["transformers", "vllm", "imported"]
    """What generates the text; `imported`: nothing does, the responses were brought along."""
    imported: str | None
    """`engine=imported`: name under which `sweepctl import responses` keeps the pool."""
    seed: int
    """Seed of the pool; a sweep over training seeds shares one pool."""
    temperature: float
    """Softmax temperature; must be positive, since a pool of greedy answers has no spread."""
    top_p: float
    """Nucleus mass kept at each token; 1.0 keeps everything."""
    max_new_tokens: int
    """Responses longer than this are cut, with finish reason `length`."""
    max_prompt_tokens: int
    """Prompts with more tokens are dropped and counted as `prompt_too_long`."""
    pool: int
    """Largest n that may be asked for; samples are drawn only as far as an n needs them."""
    sample_block: int
    """Samples per prompt in one unit of work; growing n adds blocks and keeps the old ones."""
    prompt_blocks: int
    """Number of blocks that prompts fall into by their hash; one more prompt changes one block."""
    batch_size: int
    """Sequences generated together; vLLM composes its batches itself."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What scores a response."""

    name: str
    """Short name; not part of any key."""
    engine: Literal["embedded", "length", "imported"]
    """`embedded`: the proxy of `harness.engines.proxy_reward`; `length`: counts of tokens and words, for controls;
    `imported`: rewards that were brought along."""
    imported: str | None
    """`engine=imported`: name under which `sweepctl import rewards` keeps them."""
    weights: Mapping[str, float]
    """Weight of each attribute in the scalar reward."""


@dataclass(frozen=True, kw_only=True)
class ConstructionConfig:
    """How scored responses become preference rows."""

    name: Literal["position", "max_min", "sweet_spot"]
    """`position`: the pair of `pair`; `max_min`: highest against lowest; `sweet_spot`: highest of all n against the
    lowest of a few random draws (arXiv 2502.16825, final rule)."""
    ddof: int
    """0 for population sigma (our default; the paper does not say), 1 for sample sigma."""
    draws: int
    """`sweet_spot`: number of random draws whose lowest is rejected (5 in the paper)."""
    among: int
    """`sweet_spot`: the draws are taken among the first so many samples, so that they are the same at every n."""
    seed: int
    """`sweet_spot`: seed of the draws."""
    rows: Literal["own", "common"]
    """`own`: train on all of the cell's rows; `common`: only on prompts that every
    cell of the sweep with any rows kept."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """The two positions of `construction=position`."""

    chosen: str
    """Position of the chosen response."""
    rejected: str
    """Position of the rejected response, below the chosen one."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The preference loss, in TRL's names."""

    type: Literal["sigmoid", "hinge", "ipo", "robust", "nca_pair", "apo_zero", "apo_down", "sppo_hard"]
    """`sigmoid` is DPO."""
    beta: float
    """Strength of the pull to the reference."""
    label_smoothing: float
    """Assumed share of swapped labels; only `robust` has one, below one half."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters, used when `train.method=lora`."""

    r: int
    """Rank."""
    alpha: int
    """Scale: the update is multiplied by alpha / r."""
    target_modules: str
    """Module names separated by commas, or `all-linear`."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    name: str
    """Short name; not part of any key."""
    imported: str | None
    """Name under which `sweepctl import model` keeps a model that takes the place of a trained one; None: train."""
    method: Literal["full", "lora"]
    """All weights, or low-rank adapters."""
    seed: int
    """Order of the rows, initialisation of adapters; the seed axis of a sweep."""
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
    """Passes over the rows."""
    max_steps: int | None
    """Optimiser steps; overrides epochs. 0 leaves the policy as it is."""
    global_batch: int
    """Pairs per optimiser step; gradient accumulation is derived from it."""
    micro_batch: int
    """Pairs per forward pass; must divide global_batch. Without effect where batch_tokens is given."""
    batch_tokens: int | None
    """Padded tokens per forward pass, at least one pair: a step's pairs are divided by length. None: by micro_batch."""
    max_length: int
    """Prompt and response together are cut to this many tokens, keeping the start."""
    weights_dtype: Literal["float32", "bfloat16"]
    """Type of the weights while training. bfloat16 is refused for full fine-tuning: small steps round to nothing."""
    autocast: Literal["none", "bfloat16"]
    """Type of the computation; bfloat16 needs a GPU or a CPU that has it."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, more time."""
    save_steps: int
    """Checkpoint every so many optimiser steps, to resume from; 0 for none. Not part of any key."""
    save_dtype: Literal["float32", "bfloat16"]
    """Type of the weights that are kept."""
    lora: LoraConfig
    """Adapter settings."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out instructions and how they are answered."""

    name: str
    """Short name; not part of any key."""
    benchmark: Literal["alpaca_eval2"] | None
    """Whose instructions these are, in its own order and numbering; None: a set of prompts."""
    path: str | None
    """JSON-lines file like `prompts.path`; None means the embedded held-out set. Of a benchmark: its own file; None
    means from the hub."""
    limit: int | None
    """Use only the first so many lines."""
    references: str | None
    """JSON-lines file with `prompt` or `messages` and `answer`; None means the untrained policy's own answers. Of
    AlpacaEval 2: `gpt4_1106_preview`, or a file of outputs in its form."""
    answers: str | None
    """Name under which `sweepctl import answers` keeps answers that are judged instead of a trained model's."""
    engine: Literal["transformers", "vllm"]
    """What generates the answers."""
    max_new_tokens: int
    """Answers longer than this are cut."""
    max_prompt_tokens: int
    """Instructions with more tokens are dropped and counted."""
    temperature: float
    """0 for greedy decoding."""
    top_p: float
    """Nucleus mass kept at each token."""
    seed: int
    """Seed of sampled answers; unused when greedy."""
    batch_size: int
    """Sequences generated together; vLLM composes its batches itself."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the work runs; never part of a key."""

    name: Literal["debug", "local"]
    """`debug`: every node in this process, one after the other; `local`: worker processes on this machine."""
    workers: int | None
    """`local`: worker processes; None means one per accelerator, or without any one per `threads` CPU cores."""
    threads: int | None
    """CPU threads of each process; None means an equal share of the cores."""
    python: PythonConfig = field(default_factory=PythonConfig)
    """Interpreters of engines."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """What vLLM takes of the GPUs."""
    gpus_per_worker: int = 1
    """`local`: accelerators of each worker. A training uses all of them, one process for each; other work the first."""
    sharding: Sharding = "full"
    """`local`: how a training on several accelerators holds the model: `full`, spread over all; `none`, whole on each.
    """


@dataclass(frozen=True, kw_only=True)
class Config:
    """One point of a sweep: everything that decides a result."""

    policy: PolicyConfig
    prompts: PromptsConfig | DatasetPromptsConfig
    sampler: SamplerConfig
    reward: RewardConfig | ModelRewardConfig
    construction: ConstructionConfig
    pair: PairConfig
    loss: LossConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    judge: AnyJudgeConfig
    regressions: RegressionsConfig
    n: int
    """Sample size: pairs are made from the first n samples of the pool."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command runs; no part of a point."""

    store: str
    """Folder of all artifacts."""
    sweep: str
    """Name under which the points are recorded."""
    dry_run: bool
    """Plan, print and write `plan.json`, but do no work."""
    prefetch: bool
    """Fetch what comes from a hub into its cache, but do no work."""
    max_nodes: int
    """Units of work that a command may begin unless `yes` is set; what is done or in other hands does not count."""
    yes: bool
    """Begin however much work there is to do."""
    wait: bool | None
    """Follow nodes that other commands or jobs are at until they are done; otherwise leave them to those. None: as the
    cluster has it, which is to follow everywhere but on SLURM."""
    keep_weights: KeepWeights
    """Trained weights of this sweep that stay: of no cell, of the best of each policy and evaluation, or of all."""
    cluster: ClusterConfig | SlurmConfig

    @property
    def follow(self) -> bool:
        """Whether the command goes on for as long as others are at its nodes."""
        return self.wait if self.wait is not None else self.cluster.name != "slurm"


def read(kind: type[T], data: Any, path: str = "") -> T:
    """Build a dataclass out of plain nested data.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; names the dotted path and the choices.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or 'config'}: expected a group of keys, got {data!r}")
    hints = _hints(typing.cast("type", kind))  # mypy does not know that type[T] can be hashed
    unknown = sorted(set(map(str, data)) - set(hints))
    if unknown:
        raise ConfigError(f"{_join(path, unknown[0])}: unknown key; valid keys are {', '.join(sorted(hints))}")
    missing = sorted(set(hints) - set(data))
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: missing")
    return kind(**{name: _value(hint, data[name], _join(path, name)) for name, hint in hints.items()})


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    """Types of a dataclass's fields; finding them out takes longer than reading what thousands of points hold."""
    return typing.get_type_hints(kind)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(hint: Any, value: Any, path: str) -> Any:  # noqa: PLR0911 (one return per kind of type)
    """Check one value against its type; an int is taken for a float, nothing else is converted."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read(hint, value, path)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{path}: {value!r} is not valid; choose one of {', '.join(map(str, choices))}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _value(_meant(kinds, value, path), value, path)
    if origin is not None:
        return _values(hint, value, path)
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is float and not math.isfinite(value):
        raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    if type(value) is not hint:
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def _values(hint: Any, value: Any, path: str) -> Any:
    """Check the values of a list or a mapping."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        return tuple(_value(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: expected names with values, got {value!r}")
    inner = typing.get_args(hint)[1]
    return {str(name): _value(inner, item, _join(path, str(name))) for name, item in value.items()}


def _meant(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """The dataclass, of several, that a group means: by its keys, or by the field whose choices tell them apart."""
    if len(kinds) == 1:
        return kinds[0]
    hints = {kind: _hints(kind) for kind in kinds}
    given = set(value) if isinstance(value, Mapping) else set()
    listed = (n for n in hints[kinds[0]] if all(typing.get_origin(h.get(n)) is Literal for h in hints.values()))
    field = next((n for n in listed if len({h[n] for h in hints.values()}) == len(kinds)), None)
    if field is None:
        return max(kinds, key=lambda kind: len(given & set(hints[kind])))
    names = {name: kind for kind in kinds for name in typing.get_args(hints[kind][field])}
    name = value.get(field) if isinstance(value, Mapping) else value
    if name not in names:
        raise ConfigError(f"{path}.{field}: {name!r} is not valid; choose one of {', '.join(names)}")
    fitting = [kind for kind in kinds if set(hints[kind]) == given]
    return fitting[0] if len(fitting) == 1 else names[name]


def check(config: Config) -> Config:
    """Refuse contradictions between keys, before any work.

    Raises:
        ConfigError: names the key, the value and what was expected.
    """
    _check_numbers(config)
    sampler, construction, train = config.sampler, config.construction, config.train
    if not 2 <= config.n <= sampler.pool:
        raise ConfigError(f"n: {config.n} is out of range; expected 2 <= n <= sampler.pool = {sampler.pool}")
    if construction.name == "position":
        check_pair(config.pair.chosen, config.pair.rejected)
    if construction.name == "sweet_spot" and not 2 <= construction.draws <= construction.among <= config.n:
        raise ConfigError(
            f"construction: expected 2 <= draws <= among <= n, got draws = {construction.draws}, "
            f"among = {construction.among}, n = {config.n}"
        )
    if train.batch_tokens is None and train.global_batch % train.micro_batch:
        raise ConfigError(
            f"train.micro_batch: {train.micro_batch} does not divide train.global_batch = {train.global_batch}"
        )
    if train.method == "full" and train.weights_dtype != "float32":
        raise ConfigError(
            "train.weights_dtype: full fine-tuning needs float32 master weights (bfloat16 rounds small steps to "
            "nothing); set train.weights_dtype=float32, and train.autocast=bfloat16 for speed"
        )
    if config.loss.label_smoothing and config.loss.type != "robust":
        raise ConfigError(
            f"loss.label_smoothing: {config.loss.label_smoothing} would do nothing with loss.type={config.loss.type}; "
            "only robust uses it"
        )
    _check_imports(config)
    if isinstance(config.prompts, DatasetPromptsConfig):
        prompt_datasets.check(config.prompts)
    check_judge(config.judge)
    _check_vllm(config)
    check_regressions(config.regressions)
    if config.regressions.tasks and config.evaluate.answers is not None:
        raise ConfigError(
            f"regressions.tasks: imported answers (evaluate.answers={config.evaluate.answers!r}) come without a model "
            "that tasks could be run on; set regressions=none"
        )
    if config.policy.source == "hub" and not re.fullmatch(r"[0-9a-f]{40}", config.policy.revision or ""):
        raise ConfigError(
            f"policy.revision: {config.policy.revision!r} is no commit; expected its 40 hex digits, since a branch or "
            "tag would let one key mean different weights"
        )
    return config


_VLLM_TEMPERATURE = 0.01
"""The lowest that vLLM samples at; it takes anything between this and 0 for this."""


def _check_vllm(config: Config) -> None:
    for group in ("sampler", "evaluate"):
        engine, temperature = _at(config, f"{group}.engine"), _at(config, f"{group}.temperature")
        if engine == "vllm" and 0 < temperature < _VLLM_TEMPERATURE:
            raise ConfigError(
                f"{group}.temperature: {temperature} is below {_VLLM_TEMPERATURE}, the lowest at which vLLM samples"
            )


def _check_imports(config: Config) -> None:
    """What is imported is named where it is used, and nowhere else."""
    groups = ["sampler"] if isinstance(config.reward, ModelRewardConfig) else ["sampler", "reward"]
    for path in groups:
        engine, name = _at(config, f"{path}.engine"), _at(config, f"{path}.imported")
        if engine == "imported" and name is None:
            raise ConfigError(f"{path}.imported: must be given with {path}.engine=imported: the name of an import")
        if engine != "imported" and name is not None:
            raise ConfigError(
                f"{path}.imported: {name!r} would do nothing with {path}.engine={engine}; set {path}=imported"
            )
    if isinstance(config.reward, ModelRewardConfig):
        model_rewards.check(config.reward, config.sampler.sample_block)
    elif config.reward.imported is not None and config.reward.weights:
        raise ConfigError("reward.weights: would do nothing with reward.engine=imported; the rewards are as imported")
    if config.train.imported is not None and config.evaluate.answers is not None:
        raise ConfigError(
            f"evaluate.answers: imported answers ({config.evaluate.answers!r}) cannot be those of an imported model "
            f"(train.imported={config.train.imported!r}); give one of the two"
        )


_POSITIVE = [
    "sampler.temperature",
    "sampler.max_new_tokens",
    "sampler.max_prompt_tokens",
    "sampler.pool",
    "sampler.sample_block",
    "sampler.prompt_blocks",
    "sampler.batch_size",
    "loss.beta",
    "train.learning_rate",
    "train.max_grad_norm",
    "train.epochs",
    "train.global_batch",
    "train.micro_batch",
    "train.batch_tokens",
    "train.max_length",
    "train.lora.r",
    "train.lora.alpha",
    "evaluate.max_new_tokens",
    "evaluate.max_prompt_tokens",
    "evaluate.batch_size",
    "prompts.limit",
    "evaluate.limit",
]
_NOT_NEGATIVE = [
    "evaluate.temperature",
    "train.weight_decay",
    "train.save_steps",
    "train.max_steps",
    "train.seed",
]
_RANGES: Mapping[str, tuple[float, float, float | None]] = {
    "sampler.top_p": (0.0, 1.0, 0.0),
    "evaluate.top_p": (0.0, 1.0, 0.0),
    "train.warmup_ratio": (0.0, 1.0, 1.0),
    "loss.label_smoothing": (0.0, 0.5, 0.5),
    "construction.ddof": (0, 1, None),
}
"""Lowest and highest value, and the end that is left out."""


def _check_numbers(config: Config) -> None:
    for path in _POSITIVE:
        value = _at(config, path)
        if value is not None and value <= 0:
            raise ConfigError(f"{path}: expected a number above 0, got {value}")
    for path in _NOT_NEGATIVE:
        value = _at(config, path)
        if value is not None and value < 0:
            raise ConfigError(f"{path}: expected 0 or more, got {value}")
    for path, (low, high, without) in _RANGES.items():
        value = _at(config, path)
        if not low <= value <= high or value == without:
            exception = "" if without is None else f" without {without:g}"
            raise ConfigError(f"{path}: expected a value from {low:g} to {high:g}{exception}, got {value}")


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def used(config: Config) -> dict[str, Any]:
    """Every setting under its dotted name; None where this point makes no use of it.

    Points that differ only in what they do not use are one point.
    """
    unused = _unused(config)
    # What is only shown beside a win rate makes no other point of it.
    flat = {name: value for name, value in flatten(config).items() if not _within(name, "regressions")}
    return {name: None if any(_within(name, path) for path in unused) else value for name, value in flat.items()}


def trains(config: Config) -> bool:
    """Whether the point trains a model, rather than judging a model or answers that were imported."""
    return config.train.imported is None and config.evaluate.answers is None


_OF_GENERATION = ("temperature", "top_p", "max_new_tokens", "max_prompt_tokens", "batch_size", "seed")


def _unused(config: Config) -> list[str]:
    """Dotted paths of settings, or of groups of them, without effect in this point."""
    paths = ["sampler.pool"]
    if not trains(config):
        paths += ["prompts", "sampler", "reward", "construction", "pair", "loss", "n"]
        paths += [f"train.{f.name}" for f in dataclasses.fields(TrainConfig) if f.name != "imported"]
    if config.sampler.engine == "imported":
        paths += [f"sampler.{name}" for name in _OF_GENERATION]
    if config.evaluate.answers is not None and config.evaluate.references is not None:
        # Neither side is answered here. The policy stays: it says which results stand beside each other.
        paths += [f"evaluate.{name}" for name in ("engine", *_OF_GENERATION)]
    paths += [f"{group}.batch_size" for group in ("sampler", "evaluate") if _at(config, f"{group}.engine") == "vllm"]
    if config.construction.name != "position":
        paths.append("pair")
    if config.construction.name != "sweet_spot":
        paths += ["construction.draws", "construction.among", "construction.seed"]
    if config.train.method != "lora":
        paths.append("train.lora")
    if config.train.batch_tokens is not None:
        paths.append("train.micro_batch")
    if config.train.max_steps is not None:
        paths.append("train.epochs")
    if config.evaluate.temperature == 0:
        paths += ["evaluate.top_p", "evaluate.seed"]
    paths += [f"judge.{name}" for name in undecisive(config.judge)]
    return paths


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a config under its dotted name, in order of definition."""
    flat: dict[str, Any] = {}
    items = (
        config.items()
        if isinstance(config, Mapping)
        else ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    )
    for name, value in items:
        path = _join(prefix, name)
        nested = isinstance(value, Mapping) or dataclasses.is_dataclass(value)
        flat.update(flatten(value, path) if nested else {path: value})
    return flat
