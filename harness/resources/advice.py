"""What would make work fit that does not: settings, tried out one after the other."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from harness.config import LoraConfig
from harness.plan import Node
from harness.resources import demand
from harness.resources.architecture import Architecture
from harness.resources.places import Place
from harness.stages import change, model_score, reference, respond, sample, sft, train
from harness.training_spec import TrainingSpec
from harness.world import World

_MOST_GPUS = 64

_ADAPTERS = LoraConfig(r=16, alpha=32, target_modules="all-linear")


def advice(node: Node, model: Architecture, place: Place) -> list[str]:
    """Settings with which a node's work would fit into what a GPU has; empty where none of ours would do."""
    spec, memory = demand.work_of(node), place.memory
    assert memory is not None
    if isinstance(spec, TrainingSpec):
        return list(_training(spec, model, place, memory))
    found = list(_smaller(spec, model, place, memory))
    if isinstance(spec, sample.VllmSpec | respond.VllmSpec):
        found += list(_more_gpus(node, model, place))
    return found


def _training(spec: TrainingSpec, model: Architecture, place: Place, memory: float) -> Iterator[str]:
    """Each line alone would do: what costs least comes first."""
    tried, group = spec, "sft" if isinstance(spec, sft.Spec) else "train"
    said: list[str] = []
    steps: list[tuple[str, dict[str, Any]]] = []
    if spec.gradient_checkpointing is False:
        steps.append((f"{group}.gradient_checkpointing=true", {"gradient_checkpointing": True}))
    if spec.micro_batch is None and spec.most_tokens > spec.least_tokens:
        steps.append((f"{group}.batch_tokens={spec.least_tokens}", {"batch_tokens": spec.least_tokens}))
    elif spec.micro_batch not in (None, 1):
        steps.append((f"{group}.micro_batch=1", {"micro_batch": 1}))
    for text, changed in steps:
        tried, said = replace(tried, **changed), [*said, text]
        if _total(tried, model, place) <= memory:
            yield " ".join(said)
            break
    if (processes := _fewest(tried, model, place, memory)) is not None:
        yield " ".join([*said, f"{place.more_gpus}={processes}"])
    if isinstance(tried, train.Spec) and tried.lora is None:
        light = replace(tried, lora=_ADAPTERS, method="lora", weights_dtype="bfloat16")
        if _total(light, model, place) <= memory:
            yield " ".join([*said, "train.method=lora train.weights_dtype=bfloat16"])


def _total(spec: TrainingSpec, model: Architecture, place: Place) -> float:
    return demand.of_training(spec, model, place).total


def _fewest(spec: TrainingSpec, model: Architecture, place: Place, memory: float) -> int | None:
    """GPUs, doubled, over which a training spreads until it fits."""
    processes = 2 * place.world.processes
    while processes <= _MOST_GPUS:
        more = replace(place, world=World(machines=place.world.machines, processes=processes))
        if _total(spec, model, more) <= memory:
            return processes
        processes *= 2
    return None


def _smaller(spec: Any, model: Architecture, place: Place, memory: float) -> Iterator[str]:
    """The largest batch, halved, that fits."""
    key, name = _batch(spec)
    size = getattr(spec, name) if name else 1
    while size > 1:
        size //= 2
        found = demand.of_spec(replace(spec, **{name: size}), model, place)
        if found is not None and found.total <= memory:
            yield f"{key}={size}"
            return


def _batch(spec: Any) -> tuple[str, str]:
    """The key that decides the size of a stage's batches, and the field of its spec; both empty without one."""
    if isinstance(spec, sample.Spec):
        return "sampler.batch_size", "batch_size"
    if isinstance(spec, respond.Spec):
        return "evaluate.batch_size", "batch_size"
    if isinstance(spec, reference.Spec | change.Spec):
        return "train.batch_tokens", "batch_tokens"
    if isinstance(spec, model_score.Spec | model_score.PairwiseSpec):
        return "reward.batch_tokens", "batch_tokens"
    return "", ""


def _more_gpus(node: Node, model: Architecture, place: Place) -> Iterator[str]:
    devices = 2 * place.devices
    while devices <= _MOST_GPUS:
        more = replace(place, devices=devices)
        found = demand.of_spec(node.spec, model, more)
        if found is not None and found.limit is not None and found.least <= found.limit:
            yield f"{place.more_gpus}={devices}"
            return
        devices *= 2
