"""Estimates of plans: every policy under every published training on an 80 GB GPU, and what would make it fit."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from harness import hydra_app
from harness.cluster import SlurmConfig
from harness.config import ClusterConfig, Config, RunOptions, read
from harness.plan import make_plan
from harness.resources.estimate import StageEstimate, estimate, problems
from harness.resources.lengths import judged, lengths_of
from harness.resources.published_models import PUBLISHED
from harness.store import Store
from tests.configs import OPTIONS, composed, point

POLICIES = sorted(
    p.stem for p in (hydra_app.root() / "conf" / "policy").glob("*.yaml") if p.stem not in ("hub", "local")
)

LLAMA = ("policy=llama3_8b_instruct",)

SMALL = ("prompts.limit=6", "evaluate.limit=4", "n=8")

FORTY = "a100_40gb"
EIGHTY = "h100_80gb"


@lru_cache(maxsize=32)
def policy(name: str) -> Config:
    given = () if name == "smollm2_135m_instruct" else ("policy.revision=" + "0" * 40,)
    return point(f"policy={name}", *given, *first(name), *SMALL)


def first(name: str) -> tuple[str, ...]:
    """What a base model needs before it can be a policy."""
    file = hydra_app.root() / "conf" / "policy" / f"{name}.yaml"
    return ("sft=ultrachat",) if "base: true" in file.read_text() else ()


def debug(gpu: str | None = EIGHTY) -> ClusterConfig:
    return ClusterConfig(name="debug", workers=None, threads=None, gpu=gpu)


def estimates(
    config: Config, cluster: ClusterConfig | SlurmConfig, store: Path, **given: Any
) -> dict[str, StageEstimate]:
    plan = make_plan([config])
    return {one.stage: one for one in estimate(list(plan.nodes.values()), Store(store), cluster, **given)}


@pytest.fixture(autouse=True)
def no_gpu_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.machine.accelerators", list)
    monkeypatch.setattr("harness.machine.smallest_accelerator", lambda _: None)


@pytest.mark.parametrize("train", ["sweet_spot", "reward_augmented"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_memory_of_published_trainings_on_80_gb(name: str, train: str, tmp_path: Path) -> None:
    config = replace(policy(name), train=point(f"train={train}").train)
    found = estimates(config, debug(), tmp_path, costs=False)["train"]
    model = PUBLISHED[config.policy.id]
    assert found.needed_bytes is not None
    assert found.memory_bytes == 79e9
    assert found.parts["optimizer"] == 8 * model.parameters
    # Weights, gradients and moments are 16 bytes for each parameter: of 7 billion they do not fit, of 3 they do.
    assert found.verdict == ("cannot fit" if model.parameters > 6e9 else "fits")
    assert bool(found.advice) == (found.verdict == "cannot fit")


@pytest.mark.parametrize("name", ["llama3_8b_instruct", "gemma2_9b_it", "pythia_6_9b"])
def test_what_is_advised_does_fit(name: str, tmp_path: Path) -> None:
    base = (f"policy={name}", *first(name), "train=sweet_spot", *SMALL)
    advised = estimates(point(*base), debug(), tmp_path, costs=False)["train"].advice
    assert len(advised) == 2
    for line in advised:
        data = composed(*base, *line.split(), f"cluster.gpu={EIGHTY}")
        options = read(RunOptions, {name: value for name, value in data.items() if name in OPTIONS})
        found = estimates(point(*base, *line.split()), options.cluster, tmp_path, costs=False)["train"]
        assert found.verdict in ("fits", "tight"), line


def test_a_model_that_is_fine_tuned_first_is_weighed(tmp_path: Path) -> None:
    talks = tmp_path / "talks.jsonl"
    talks.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    base = ("policy=llama3_8b_base", "policy.revision=" + "0" * 40, "sft=file", f"sft.id={talks}", *SMALL)
    found = estimates(point(*base), debug(), tmp_path / "store")["sft"]
    size = PUBLISHED[point(*base).policy.id].parameters
    assert (found.verdict, found.parts["optimizer"], found.disk_bytes) == ("cannot fit", 8 * size, (4 * size, 4 * size))
    (line,) = found.advice
    assert line.startswith("sft.gradient_checkpointing=true cluster=local cluster.gpus_per_worker=")
    wide = estimates(point(*base, "sft.micro_batch=2"), debug(), tmp_path / "store", costs=False)["sft"]
    assert wide.parts["activations"] == pytest.approx(2 * found.parts["activations"])
    assert wide.least_bytes == found.least_bytes


@pytest.mark.parametrize(
    ("given", "stage", "verdict"),
    [
        (("construction=ranking", "judge@ranker=vllm_local"), "rank", "fits"),
        (("construction=ranking", "judge@ranker=skywork_v2_llama3_1_8b"), "rank", "fits"),
        (("boundary=measured", "judge@boundary.judge=vllm_local"), "boundary", "fits"),
        (("construction=reward_augmented",), "reference", "tight"),
        (("unlearning.samples=2",), "change", "tight"),
    ],
)
def test_all_that_runs_a_model_is_weighed(
    given: tuple[str, ...], stage: str, verdict: str, tmp_path: Path, tiny_policy: Path
) -> None:
    group = {"rank": "ranker", "boundary": "boundary.judge"}.get(stage)
    own = [f"{group}.model.{name}" for name in ("id", "source", "revision")] if "vllm_local" in given[-1] else []
    served = [f"{key}={value}" for key, value in zip(own, (tiny_policy, "local", "null"), strict=False)]
    config = point(*LLAMA, *SMALL, "train=sweet_spot", "pair=max_min", *given, *served)
    found = estimates(config, debug(FORTY), tmp_path)[stage]
    assert found.verdict == verdict
    assert found.disk_bytes is not None
    if stage == "change":
        assert found.notes == ("its two models do not fit together, and make way for each other",)


def test_an_id_that_no_hub_could_have_is_of_unknown_shape(tmp_path: Path) -> None:
    config = point("policy=hub", "policy.id=/no/such/model", "policy.revision=" + "0" * 40, *SMALL)
    assert estimates(config, debug(), tmp_path, costs=False)["train"].verdict == "unknown"


def test_a_batch_that_memory_runs_out_of_is_halved(tmp_path: Path) -> None:
    config = point(*LLAMA, *SMALL, "sampler=sweet_spot")
    found = estimates(config, debug(), tmp_path, costs=False)["sample"]
    assert found.verdict == "halved"
    (key,) = found.advice
    assert key.startswith("sampler.batch_size=")
    again = estimates(point(*LLAMA, *SMALL, "sampler=sweet_spot", key), debug(), tmp_path, costs=False)["sample"]
    assert again.verdict in ("fits", "tight")
    (said, would) = problems([found])
    assert said.startswith("sample: may not fit: needs ")
    assert would == f"  it would fit with {key}"


def test_an_engine_of_vllm_needs_room_for_one_sequence(tmp_path: Path) -> None:
    config = point(*LLAMA, *SMALL, "sampler=vllm")
    there = estimates(config, debug(), tmp_path, costs=False)["sample"]
    assert there.verdict == "fits"
    assert there.memory_bytes == pytest.approx(0.9 * 80e9)
    assert "its cache holds" in there.notes[0]
    small = estimates(config, debug("16gb"), tmp_path, costs=False)["sample"]
    assert small.verdict == "cannot fit"


def test_more_gpus_hold_what_one_does_not(tmp_path: Path) -> None:
    data = composed("cluster=slurm", f"cluster.gpu={EIGHTY}", "cluster.stages.train.gpus=8")["cluster"]
    config = point(*LLAMA, *SMALL, "train=sweet_spot")
    found = estimates(config, read(SlurmConfig, data), tmp_path, costs=False)["train"]
    assert found.verdict == "fits"
    assert found.parts["optimizer"] == PUBLISHED[config.policy.id].parameters


def test_checkpointing_is_taken_where_memory_demands_it(tmp_path: Path) -> None:
    config = policy("pythia_1_4b")
    for gpu, on in ((EIGHTY, False), (FORTY, True)):
        train = replace(point("train=sweet_spot", "train.gradient_checkpointing=auto").train, max_length=1536)
        found = estimates(replace(config, train=train), debug(gpu), tmp_path, costs=False)["train"]
        assert found.verdict == "fits"
        assert f"gradient checkpointing: {'on' if on else 'off'}, as memory demands" in found.notes


def test_without_a_gpu_nothing_is_judged(tmp_path: Path) -> None:
    found = estimates(policy("smollm2_135m_instruct"), debug(None), tmp_path)
    assert {one.verdict for one in found.values()} == {"unknown", "no model"}
    assert found["train"].needed_bytes is not None
    assert found["train"].hours is None
    assert problems(list(found.values())) == []


def test_a_gpu_type_that_may_mean_several_is_said_to(tmp_path: Path) -> None:
    data = composed("cluster=slurm", "cluster.default.gpu_type=a100")["cluster"]
    found = estimates(policy("smollm2_135m_instruct"), read(SlurmConfig, data), tmp_path, costs=False)
    assert found["train"].notes[-1] == "gpu_type=a100 does not say which GPU is meant; name it by cluster.gpu"
    assert found["pairs"].notes == ()


def test_a_model_of_unknown_shape_is_said_to_be(tmp_path: Path) -> None:
    config = point("policy=hub", "policy.id=nobody/nothing", "policy.revision=" + "0" * 40, *SMALL)
    found = estimates(config, debug(), tmp_path)["train"]
    assert (found.verdict, found.needed_bytes, found.disk_bytes) == ("unknown", None, None)
    assert "the shape of its model is not known until its config can be read" in found.notes


def test_hours_and_disk_are_ranges_out_of_lengths_and_weights(tmp_path: Path) -> None:
    config = point(*LLAMA, *SMALL, "train=sweet_spot", "reward=armorm", "sampler=vllm")
    found = estimates(config, debug(), tmp_path)
    for stage in ("sample", "score", "reference", "train", "respond"):
        hours = found[stage].hours
        assert hours is not None
        assert 0 < hours[0] < hours[1], stage
    size = 2 * PUBLISHED[config.policy.id].parameters
    assert found["train"].disk_bytes == pytest.approx((size, size))
    assert found["sample"].disk_bytes is not None
    more = estimates(point(*LLAMA, *SMALL, "train=sweet_spot", "sampler=vllm", "prompts.limit=12"), debug(), tmp_path)
    assert more["sample"].hours is not None
    assert found["sample"].hours is not None
    assert more["sample"].hours[1] > found["sample"].hours[1]


@pytest.mark.parametrize(
    ("stage", "given", "texts", "questions"),
    [
        # Six prompts, eight responses: a reward model reads each once, another judge 28 comparisons in both orders.
        ("rank", ("construction=ranking", "construction.method=round_robin", "judge@ranker="), 6 * 8, 6 * 28 * 2),
        (
            "boundary",
            ("boundary=measured", "boundary.responses=2", "boundary.candidates=1", "judge@boundary.judge="),
            6 * 3,
            6 * 2 * 2,
        ),
        ("judge", ("judge=",), 4 * 2, 4 * 2),
    ],
)
def test_hours_of_a_judge_are_those_of_what_it_reads(
    stage: str, given: tuple[str, ...], texts: int, questions: int, tmp_path: Path, tiny_policy: Path
) -> None:
    group = {"rank": "ranker", "boundary": "boundary.judge"}.get(stage, "judge")
    served = [f"{group}.model.{name}={value}" for name, value in (("source", "local"), ("id", tiny_policy))]
    low = []
    for judge, expected, more in (("skywork_v2_llama3_1_8b", texts, []), ("vllm_local", questions, served)):
        config = point(*SMALL, *given[:-1], f"{given[-1]}{judge}", *more)
        nodes = [node for node in make_plan([config]).nodes.values() if node.stage == stage]
        about = [judged(node, found) for node in nodes if (found := lengths_of(node, Store(tmp_path))) is not None]
        assert sum(one.sequences for one in about) == expected
        hours = estimates(config, debug(), tmp_path)[stage].hours
        assert hours is not None
        assert 0 < hours[0] < hours[1]
        low.append(hours[0])
    assert low[0] < 25 / 3600 * len(nodes) <= low[1]  # a server has to start


@pytest.mark.parametrize(("keep", "least", "most"), [("all", 4, 4), ("best", 1, 1), ("none", 0, 1)])
def test_weights_that_are_given_up_take_no_disk(keep: Any, least: int, most: int, tmp_path: Path) -> None:
    config = policy("smollm2_135m_instruct")
    plan = make_plan([replace(config, train=replace(config.train, seed=seed)) for seed in range(4)])
    (found,) = (
        one for one in estimate(list(plan.nodes.values()), Store(tmp_path), debug(), keep) if one.stage == "train"
    )
    size = 4 * 134_515_008
    assert found.disk_bytes == pytest.approx((least * size, most * size))
