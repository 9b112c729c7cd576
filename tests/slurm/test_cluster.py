"""What jobs ask for: composed by stage, checked before any work, and in no key."""

import dataclasses

import pytest

from harness.app import split
from harness.cluster import StagesConfig
from harness.config import RunOptions, read
from harness.errors import ConfigError
from harness.plan import STAGES
from tests.configs import OPTIONS, composed
from tests.slurm.conftest import cluster


def options(*overrides: str) -> RunOptions:
    return read(RunOptions, {name: value for name, value in composed(*overrides).items() if name in OPTIONS})


def test_every_stage_has_a_block() -> None:
    assert {field.name for field in dataclasses.fields(StagesConfig)} == set(STAGES)


@pytest.mark.parametrize("name", ["debug", "local", "slurm"])
def test_every_cluster_of_conf_is_valid_and_in_no_point(name: str) -> None:
    point, read_options = split(composed(f"cluster={name}"))
    assert read_options.cluster.name == name
    assert point == split(composed())[0]


def test_only_on_slurm_the_command_does_not_follow_unless_told_to() -> None:
    follows = {name: options(f"cluster={name}").follow for name in ("debug", "local", "slurm")}
    assert follows == {"debug": True, "local": True, "slurm": False}
    assert options("cluster=slurm", "wait=true").follow
    assert not options("cluster=local", "wait=false").follow


def test_a_stage_overrides_the_default_and_adds_to_its_flags() -> None:
    given = cluster(
        "cluster.default.partition=main",
        "cluster.stages.train.partition=gpu",
        "cluster.stages.train.gpus=2",
        "+cluster.default.extra.nice=5",
        "+cluster.stages.train.extra.exclusive=true",
    )
    train, judge = given.resources("train"), given.resources("judge")
    assert (train.partition, train.gpus, train.extra) == ("gpu", 2, {"nice": 5, "exclusive": True})
    assert (judge.partition, judge.gpus, judge.extra) == ("main", 0, {"nice": 5})


def test_a_stage_without_a_language_model_asks_for_a_gpu_only_by_itself() -> None:
    given = cluster("cluster.default.gpus=4", "cluster.stages.judge.gpus=1")
    assert {stage for stage in STAGES if given.resources(stage).gpus} == {
        "sample",
        "reference",
        "train",
        "respond",
        "judge",
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "+cluster.stages.trian.gpus=1",
            r"^cluster\.stages\.trian: unknown key; valid keys are imported, judge, model,",
        ),
        (
            "+cluster.stages.train.gpu=1",
            r"^cluster\.stages\.train\.gpu: unknown key; valid keys are account, constraint,",
        ),
        ("+cluster.workers=1", r"^cluster\.workers: unknown key; valid keys are default, max_array"),
        ("cluster.stages.train.gpus=-1", r"^cluster\.stages\.train\.gpus: expected 0 or more, got -1"),
        ("cluster.default.cpus=0", r"^cluster\.default\.cpus: expected 1 or more, got 0"),
        ("cluster.default.time_minutes=null", r"^cluster\.default\.time_minutes: expected a number, got null"),
        ("cluster.default.setup=module", r"^cluster\.default\.setup: expected a list, got 'module'"),
        ("cluster.default.setup=[1]", r"^cluster\.default\.setup\[0\]: expected str, got 1"),
        ("cluster.max_array=0", r"^cluster\.max_array: expected 1 or more, got 0"),
        ("+cluster.default.extra.array=0-3", r"^cluster\.default\.extra\.array: expected a flag .* job-name"),
        (
            "+cluster.default.extra.mail=[1]",
            r"^cluster\.default\.extra\.mail: expected text, a number or true, got \[1\]",
        ),
        ("+cluster.default.extra.clusters=far", r"^cluster\.default\.extra\.clusters: .* SLURM_CLUSTERS"),
        ("cluster.name=slrum", r"^cluster\.name: 'slrum' is not valid; choose one of debug, local, slurm"),
    ],
)
def test_a_mistake_names_its_key_and_what_would_do(override: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        split(composed("cluster=slurm", override))
