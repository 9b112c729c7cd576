"""One frozen dataclass per Hydra group; the keys of a configuration, with their meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.candidates import CandidatesConfig
from harness.cluster import PythonConfig, SlurmConfig, VllmConfig
from harness.config.constructions import AnyConstructionConfig
from harness.judges.config import AnyJudgeConfig
from harness.keys import ADDED
from harness.model_rewards import ModelRewardConfig
from harness.prompt_datasets import DatasetPromptsConfig
from harness.regressions import RegressionsConfig
from harness.sft import AnySftConfig
from harness.world import Sharding

KeepWeights = Literal["none", "best", "all"]

RoundData = Literal["static", "on_policy", "auto"]


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
    base: bool = field(default=False, metadata=ADDED)
    """A base model, without a chat template, which is refused unless it is fine-tuned first."""


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
class BoundaryConfig:
    """Whether the policy's own responses beat the static candidates: the stage boundary of arXiv 2508.10530."""

    name: str
    """Short name; not part of any key."""
    measure: bool
    """Measure it, beside the point's other work."""
    prompts: int
    """Prompts that are compared, drawn by (seed, prompt); all where there are fewer."""
    responses: int
    """On-policy side: the first so many samples of each prompt."""
    candidates: int
    """Static side: the first so many candidates of each prompt."""
    seed: int
    """Seed of the draw."""
    judge: AnyJudgeConfig
    """Who compares."""


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Iterated sampling and training: each round's policy is the model that the round before has trained."""

    path: tuple[RoundData, ...]
    """Data of each round: `static` candidates, `on_policy` samples, or `auto`, which of the two the boundary between
    the alignment stages says, measured with that round's policy. Empty: the plain pipeline, a single round whose data
    are as `construction.static_share` says."""
    reference: Literal["previous", "start"]
    """Reference model of a round's training: the policy that it starts from, or that of the first round."""
    parts: int
    """1: every round has the same prompts; k: prompts fall into k parts by their hash, and the rounds take one part
    after the other."""


@dataclass(frozen=True, kw_only=True)
class UnlearningConfig:
    """How the log-probability of held-out responses changes with their reward; no part of a point's identity."""

    samples: int
    """Responses of the untrained policy to each held-out instruction; 0: not measured."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """The two positions of `construction=position` and `construction=ranking`."""

    chosen: str
    """Position of the chosen response."""
    rejected: str
    """Position of the rejected response, below the chosen one."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The preference loss and what is added to it."""

    type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "robust",
        "nca_pair",
        "apo_zero",
        "apo_down",
        "sppo_hard",
        "cdpo",
        "dpo_positive",
        "simpo",
        "slic_hf",
    ]
    """In TRL's names up to `sppo_hard`, where `sigmoid` is DPO; the others are those of `harness.losses`."""
    beta: float
    """Strength of the pull to the reference; of `simpo` the scale of the log-probability per token. Without effect in
    `slic_hf`."""
    label_smoothing: float
    """Assumed share of swapped labels, below one half; only `robust` and `cdpo` have one."""
    margin: float | None = field(default=None, metadata=ADDED)
    """`slic_hf`: nats by which a chosen response shall be likelier than a rejected one; `simpo`: its gamma."""
    regulariser: Literal["nll", "bcr"] | None = field(default=None, metadata=ADDED)
    """Term added to the loss: `nll`, the chosen response's negative log-likelihood; `bcr`, by how much its
    log-likelihood has fallen below the reference's by more than `delta`."""
    weight: float | None = field(default=None, metadata=ADDED)
    """Of the regulariser; of `dpo_positive`, of the penalty inside its sigmoid."""
    per: Literal["sequence", "token"] | None = field(default=None, metadata=ADDED)
    """Whether the regulariser counts a response's nats or their mean over its tokens."""
    delta: float | None = field(default=None, metadata=ADDED)
    """Budget of `bcr`: what a chosen response may lose for nothing, in nats as `per` counts them. None: any amount."""


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
    """Tokens per forward pass, padding included, at least one pair: a step's pairs are divided by length. None: by
    micro_batch."""
    max_length: int
    """Prompt and response together are cut to this many tokens, keeping the start."""
    weights_dtype: Literal["float32", "bfloat16"]
    """Type of the weights while training. bfloat16 is refused for full fine-tuning: small steps round to nothing."""
    autocast: Literal["none", "bfloat16"]
    """Type of the computation; bfloat16 needs a GPU or a CPU that has it."""
    gradient_checkpointing: Literal["auto", True, False]
    """Recompute activations in the backward pass: less memory, more time. `auto`: where memory demands it, which is
    seen on the GPU that trains; then no part of any key."""
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
    gpu: str | None = None
    """What estimates are made for: `h100_80gb` or another of the table, or memory as `80gb`; None: this machine's."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One point of a sweep: everything that decides a result."""

    policy: PolicyConfig
    sft: AnySftConfig
    prompts: PromptsConfig | DatasetPromptsConfig
    sampler: SamplerConfig
    reward: RewardConfig | ModelRewardConfig
    candidates: CandidatesConfig
    boundary: BoundaryConfig
    construction: AnyConstructionConfig
    pair: PairConfig
    loss: LossConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    judge: AnyJudgeConfig
    """Who compares the answers."""
    ranker: AnyJudgeConfig
    """Who compares responses in `construction=ranking`."""
    regressions: RegressionsConfig
    rounds: RoundsConfig
    unlearning: UnlearningConfig
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
