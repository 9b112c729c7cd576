"""What a node's work takes of an accelerator's memory, by its spec and its model."""

from dataclasses import dataclass, field, replace
from typing import Any

from harness.engines.parallel import MEMORY_FRACTION, layout
from harness.errors import ConfigError
from harness.judges import vllm_local
from harness.plan import Node
from harness.resources import inference, training
from harness.resources.architecture import Architecture
from harness.resources.inference import Cache
from harness.resources.places import Place
from harness.resources.training import BYTES
from harness.stages import boundary, change, lm_eval, rank, reference, respond, sample, train
from harness.training_spec import TrainingSpec

_VLLM_WORKSPACE = 2e9
"""Bytes that a vLLM engine takes for activations and captured graphs (ours)."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Bytes on each GPU that a unit of work takes."""

    parts: dict[str, float]
    """As configured, with every sequence as long as the settings allow, by what they are for."""
    least: float
    """With the smallest batch, to which batches are halved while memory runs out."""
    notes: tuple[str, ...] = field(default=())
    checkpointing: bool | None = None
    """Of a training: whether activations are computed again in the backward pass."""
    limit: float | None = None
    """Bytes that it may take, where that is less than there are."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.parts.values())


def work_of(node: Node) -> Any:
    """The spec of what runs a model in a node: of a ranking and of a boundary, that of their judge."""
    return node.spec.judge if isinstance(node.spec, rank.Spec | boundary.Spec) else node.spec


def model_input(node: Node) -> Node | None:
    """The node whose model a node runs; None where it runs none."""
    if isinstance(node.spec, train.Spec) and node.spec.max_steps == 0:
        return None
    # An imported pool's stage has a policy, too, whose tokenizer alone it reads.
    generating = isinstance(node.spec, sample.Spec | sample.VllmSpec | respond.Spec | respond.VllmSpec)
    reading = isinstance(node.spec, TrainingSpec | reference.Spec | change.Spec | lm_eval.Spec)
    if not (generating or reading or node.runs_scorer):
        return None
    names = (vllm_local.INPUT, "reward_model", "policy", "reference")
    return next((node.inputs[name][0] for name in names if name in node.inputs), None)


def demand_of(node: Node, model: Architecture, place: Place) -> Demand | None:
    """What a node takes that runs a model of such a shape."""
    if vllm_local.INPUT in node.inputs:
        return _vllm(model, work_of(node).dtype, node.params["context"] or model.context, place)
    found = of_spec(work_of(node), model, place)
    if found is not None and isinstance(node.spec, change.Spec) and node.inputs["model"] != node.inputs["policy"]:
        if place.memory is not None and not training.fits(found.total + found.parts["weights"], place.memory):
            return replace(found, notes=("its two models do not fit together, and make way for each other",))
        return replace(found, parts={**found.parts, "weights of the other model": found.parts["weights"]})
    answering = isinstance(node.spec, respond.Spec | respond.VllmSpec)
    # The policy's own answers diverge from nothing.
    if found is not None and answering and node.inputs["model"] != node.inputs["reference"]:
        return _larger(found, _divergence(node.spec, model))
    return found


def of_spec(spec: Any, model: Architecture, place: Place) -> Demand | None:  # noqa: PLR0911 (one per kind of work)
    """What the work of a spec takes; of answers, what generating them takes. None for a kind that is not known here."""
    if isinstance(spec, TrainingSpec):
        return of_training(spec, model, place)
    if isinstance(spec, reference.Spec | change.Spec):
        return _reference(spec, model)
    if isinstance(spec, sample.VllmSpec | respond.VllmSpec):
        return _vllm(model, spec.dtype, spec.max_prompt_tokens + spec.max_new_tokens, place)
    if isinstance(spec, sample.Spec):
        return _sampling(spec, model, max(1, spec.batch_size // spec.samples), spec.samples)
    if isinstance(spec, respond.Spec):
        return _sampling(spec, model, spec.batch_size, 1)
    if isinstance(spec, lm_eval.Spec):
        weights = float(BYTES[spec.dtype] * model.parameters)
        return Demand(parts={"weights": weights}, least=weights, notes=("its batches are lm_eval's, and not counted",))
    return _scoring(spec, model) if all(hasattr(spec, name) for name in _SCORES) else None


def of_training(spec: TrainingSpec, model: Architecture, place: Place) -> Demand:
    """What a training takes; where checkpointing is left open, with it if nothing else fits what is known."""
    asked = spec.gradient_checkpointing
    given = training.asked(spec, place, checkpointing=bool(asked))
    if asked is None and place.memory is not None:
        on = not training.fits(sum(training.need(model, given).values()), place.memory)
        given = replace(given, checkpointing=on)
    smallest = replace(
        given,
        tokens=spec.least_tokens,
        checkpointing=given.checkpointing or asked is None,
    )
    return Demand(
        parts=training.need(model, given),
        least=sum(training.need(model, smallest).values()),
        checkpointing=given.checkpointing,
    )


def _reference(spec: reference.Spec | change.Spec, model: Architecture) -> Demand:
    weight = BYTES[spec.dtype]
    value = 2 if spec.autocast == "bfloat16" else weight
    tokens = max(spec.batch_tokens, spec.max_length)
    given: dict[str, Any] = {"weight": weight, "value": value, "length": spec.max_length}
    least = inference.reference(model, tokens=spec.max_length, **given)
    return Demand(parts=inference.reference(model, tokens=tokens, **given), least=sum(least.values()))


def _sampling(spec: sample.Spec | respond.Spec, model: Architecture, prompts: int, samples: int) -> Demand:
    given: dict[str, Any] = {
        "value": BYTES[spec.dtype],
        "prompt": spec.max_prompt_tokens,
        "new": spec.max_new_tokens,
        "top_p": spec.top_p,
    }
    parts = inference.sampling(model, rows=prompts * samples, prompts=prompts, **given)
    return Demand(parts=parts, least=sum(inference.sampling(model, rows=1, prompts=1, **given).values()))


def _divergence(spec: respond.Spec | respond.VllmSpec, model: Architecture) -> Demand:
    given: dict[str, Any] = {"value": BYTES[spec.dtype], "prompt": spec.max_prompt_tokens, "new": spec.max_new_tokens}
    parts = inference.divergence(model, rows=respond.KL_ROWS, **given)
    least = sum(inference.divergence(model, rows=1, **given).values())
    return Demand(parts=parts, least=least, notes=("most of it for the divergence of the answers",))


_SCORES = ("dtype", "max_tokens", "batch_tokens")
"""What the specs of all that runs a reward model have, be it to score or to judge."""


def _scoring(spec: Any, model: Architecture) -> Demand:
    value = BYTES[spec.dtype]
    tokens = max(spec.batch_tokens, spec.max_tokens)
    least = inference.scoring(model, value=value, tokens=spec.max_tokens, length=spec.max_tokens)
    parts = inference.scoring(model, value=value, tokens=tokens, length=spec.max_tokens)
    return Demand(parts=parts, least=sum(least.values()))


def _vllm(model: Architecture, dtype: str, length: int, place: Place) -> Demand:
    """An engine takes a fraction of the memory whatever it needs: of what weights leave it makes the cache."""
    value = BYTES[dtype]
    weights, token = value * model.parameters, Cache.of(model, value).token
    context = min(length, model.context or length)
    fraction = place.vllm.memory_fraction or MEMORY_FRACTION * place.share
    budget = fraction * place.gpu.memory if place.gpu is not None else None
    spread = _spread(place, weights, budget)
    parts = {
        "weights": weights / spread,
        "cache of one sequence at full length": context * token / spread,
        "activations and graphs": _VLLM_WORKSPACE,
    }
    notes = []
    if budget is not None:
        room = budget - parts["weights"] - parts["activations and graphs"]
        count = max(0, int(room * spread // (context * token)))
        over = f" on each of {spread} GPUs" if spread > 1 else ""
        notes.append(
            f"vLLM takes {budget / 1e9:.0f} GB{over}: its cache holds {count:,} sequences of {context:,} tokens"
        )
    return Demand(parts=parts, least=sum(parts.values()), notes=tuple(notes), limit=budget)


def _spread(place: Place, weights: int, budget: float | None) -> int:
    """GPUs over which an engine spreads the weights; where they fit on none, all that there are."""
    devices = [str(number) for number in range(place.devices)]
    try:
        return layout(devices, place.vllm.tensor_parallel, weights, int(budget) if budget is not None else None).tensor
    except ConfigError:
        return place.devices


def _larger(one: Demand, other: Demand) -> Demand:
    """What the more demanding of two parts of a node's work takes, which are done one after the other."""
    if other.total <= one.total:
        return replace(one, least=max(one.least, other.least))
    return replace(other, least=max(one.least, other.least), notes=(*one.notes, *other.notes))
