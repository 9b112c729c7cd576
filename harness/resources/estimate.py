"""The estimate of a plan: for every stage that has something to do, memory of its GPU, hours and disk."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.cluster import SlurmConfig
from harness.config import ClusterConfig, KeepWeights
from harness.plan import STAGES, Node
from harness.resources.advice import advice
from harness.resources.architecture import Architecture
from harness.resources.demand import Demand, demand_of, model_input, work_of
from harness.resources.disk import checkpoints, disk_of
from harness.resources.lengths import Range, lengths_of
from harness.resources.models import architecture_of
from harness.resources.places import Place, place
from harness.resources.rates import rates
from harness.resources.speed import seconds
from harness.resources.training import fits
from harness.store import Store
from harness.training_spec import TrainingSpec

Verdict = Literal["fits", "tight", "halved", "cannot fit", "unknown", "no model"]
"""Whether a stage's largest unit fits: with room to spare; just so; only in smaller batches, to which it comes after
running out of memory; not at all; it is not known how large a model or a GPU is; it runs none."""

_VERDICTS: Sequence[Verdict] = ("no model", "unknown", "fits", "tight", "halved", "cannot fit")


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What the units of a stage that are to do will take."""

    stage: str
    units: int
    gpu: str | None
    """None: none is known of."""
    memory_bytes: float | None
    """What there is on each GPU, without what CUDA takes itself."""
    needed_bytes: float | None
    """What the largest unit takes on each GPU, every sequence being as long as it may."""
    least_bytes: float | None
    """The same with the smallest batch."""
    parts: Mapping[str, float]
    """The largest unit's bytes by what they are for."""
    verdict: Verdict
    advice: tuple[str, ...]
    """Settings with each of which it would fit."""
    notes: tuple[str, ...]
    hours: Range | None
    """In one process with its GPUs, at least and at most; None: not known."""
    measured: bool
    """Hours and disk are those of the same work in this store."""
    disk_bytes: Range | None


def estimate(
    todo: Sequence[Node],
    store: Store,
    cluster: ClusterConfig | SlurmConfig,
    keep: KeepWeights = "all",
    *,
    costs: bool = True,
) -> list[StageEstimate]:
    """What the nodes that are to do will take, by stage; stages that cost next to nothing are left out.

    Args:
        keep: the trained weights that stay.
        costs: hours and disk, too, for which lengths are looked up and the store's records read.
    """
    by_stage: defaultdict[str, list[Node]] = defaultdict(list)
    for node in todo:
        by_stage[node.stage].append(node)
    shapes: dict[str, Architecture | None] = {}
    return [
        _stage(stage, by_stage[stage], store, cluster, keep, shapes, costs=costs)
        for stage in STAGES
        if stage in by_stage and stage not in ("imported", "prompts", "select")
    ]


def problems(estimates: Sequence[StageEstimate]) -> list[str]:
    """One line for each stage that does not fit as it is configured."""
    return [line for one in estimates if one.verdict in ("cannot fit", "halved") for line in _problem(one)]


def _problem(one: StageEstimate) -> list[str]:
    assert one.needed_bytes is not None
    assert one.memory_bytes is not None
    assert one.least_bytes is not None
    largest = sorted(one.parts.items(), key=lambda part: -part[1])
    said = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in largest)
    there = f"needs {one.needed_bytes / 1e9:.1f} GB of the {one.memory_bytes / 1e9:.1f} GB of {one.gpu} ({said})"
    if one.verdict == "halved":
        there += f"; it will run out of memory and go on in smaller batches, the smallest of which take {_gb(one)} GB"
        first = f"{one.stage}: may not fit: {there}"
    else:
        first = f"{one.stage}: cannot fit: {there}, and {_gb(one)} GB with the smallest batch"
    would = "; or ".join(one.advice)
    return [first, f"  it would fit with {would}" if would else "  it would fit on a GPU with more memory"]


def _gb(one: StageEstimate) -> str:
    return f"{(one.least_bytes or 0) / 1e9:.1f}"


def _stage(
    stage: str,
    nodes: Sequence[Node],
    store: Store,
    cluster: ClusterConfig | SlurmConfig,
    keep: KeepWeights,
    shapes: dict[str, Architecture | None],
    *,
    costs: bool,
) -> StageEstimate:
    where = place(cluster, stage, scorer=any(node.runs_scorer for node in nodes))
    distinct = {_memory_key(node): node for node in nodes}
    judged = [_judged(node, _shape(node, store, shapes), where) for node in distinct.values()]
    worst, found, node = max(judged, key=lambda one: (_VERDICTS.index(one[0]), one[1].total if one[1] else 0.0))
    model = _shape(node, store, shapes)
    measured = rates(stage, nodes, store) if costs else []
    hours, disk = _costs(nodes, store, where, shapes, measured) if costs else (None, None)
    notes = [*(found.notes if found else ()), *_notes(stage, nodes, model, found, where, cluster)]
    return StageEstimate(
        stage=stage,
        units=len(nodes),
        gpu=where.gpu.name if where.gpu is not None else None,
        memory_bytes=(found.limit if found and found.limit is not None else where.memory),
        needed_bytes=found.total if found else None,
        least_bytes=found.least if found else None,
        parts=found.parts if found else {},
        verdict=worst,
        advice=tuple(advice(node, model, where)) if worst in ("cannot fit", "halved") and model is not None else (),
        notes=tuple(dict.fromkeys(notes)),
        hours=hours,
        measured=bool(measured),
        disk_bytes=_kept(stage, nodes, disk, keep),
    )


def _judged(node: Node, model: Architecture | None, where: Place) -> tuple[Verdict, Demand | None, Node]:
    if model_input(node) is None:
        return "no model", None, node
    found = demand_of(node, model, where) if model is not None else None
    if found is None or where.memory is None:
        return "unknown", found, node
    limit = found.limit if found.limit is not None else where.memory
    if found.least > limit:
        return "cannot fit", found, node
    if found.total > limit:
        return "halved", found, node
    return "fits" if fits(found.total, limit) or found.limit is not None else "tight", found, node


def _shape(node: Node, store: Store, shapes: dict[str, Architecture | None]) -> Architecture | None:
    parent = node if node.stage == "model" else model_input(node)
    if parent is None:
        return None
    if parent.key not in shapes:
        shapes[parent.key] = architecture_of(parent, store)
    return shapes[parent.key]


_OF_MEMORY = (
    "autocast",
    "batch_size",
    "batch_tokens",
    "dtype",
    "gradient_checkpointing",
    "lora",
    "max_length",
    "max_new_tokens",
    "max_prompt_tokens",
    "max_steps",
    "max_tokens",
    "micro_batch",
    "samples",
    "top_p",
    "weights_dtype",
)
"""Fields of specs that decide what a unit takes."""


def _memory_key(node: Node) -> tuple[Any, ...]:
    """Equal for nodes that take the same."""
    parent = model_input(node)
    own = node.inputs.get("model") == node.inputs.get("reference")
    spec = work_of(node)
    values = [getattr(spec, name, None) for name in _OF_MEMORY]
    return type(node.spec), type(spec), repr(values), parent.key if parent is not None else "", own


def _costs(
    nodes: Sequence[Node],
    store: Store,
    where: Place,
    shapes: dict[str, Architecture | None],
    measured: Sequence[tuple[float, float]],
) -> tuple[Range | None, Range | None]:
    """Hours and bytes of all nodes: by what was measured, or out of what they read and write."""
    if measured:
        units = sum(node.units for node in nodes)
        took, size = [one[0] for one in measured], [one[1] for one in measured]
        return (min(took) * units / 3600, max(took) * units / 3600), (min(size) * units, max(size) * units)
    time: list[Range | None] = []
    size_of: list[Range | None] = []
    known: dict[Any, tuple[Range | None, Range | None]] = {}
    for node in nodes:
        alike = (_memory_key(node), node.units, _volume(node))
        if alike not in known:
            known[alike] = _cost(node, _shape(node, store, shapes), store, where)
        time.append(known[alike][0])
        size_of.append(known[alike][1])
    hours = _sum(time)
    return ((hours[0] / 3600, hours[1] / 3600) if hours is not None else None), _sum(size_of)


def _volume(node: Node) -> str:
    """What decides how much a node reads, beside its own units."""
    of_training, of_judging = ("epochs", "max_steps", "global_batch"), ("method", "n", "responses", "candidates")
    names = (*of_training, *of_judging, "opponents", "blocks", "block")
    return repr([getattr(node.spec, name, None) for name in names]) + repr(
        [[(parent.stage, parent.units) for parent in parents] for parents in node.inputs.values()]
    )


def _cost(node: Node, model: Architecture | None, store: Store, where: Place) -> tuple[Range | None, Range | None]:
    lengths = lengths_of(node, store)
    divided = where.world.size if isinstance(node.spec, TrainingSpec) else 1
    known = model is not None and lengths is not None and where.gpu is not None and node.stage != "model"
    time = None
    if known:
        assert model is not None
        assert lengths is not None
        assert where.gpu is not None
        time = seconds(node, model, where.gpu, divided, lengths)
    return time, disk_of(node, model, lengths)


def _sum(ranges: Sequence[Range | None]) -> Range | None:
    known = [one for one in ranges if one is not None]
    if len(known) < len(ranges) or not known:
        return None
    return sum(one[0] for one in known), sum(one[1] for one in known)


def _kept(stage: str, nodes: Sequence[Node], disk: Range | None, keep: KeepWeights) -> Range | None:
    """Bytes in the end: trained weights are given up as the sweep says, at best all but one for each policy."""
    if stage != "train" or disk is None or keep == "all":
        return disk
    policies = {key for node in nodes for key in node.input_keys.get("policy", ())}
    share = len(policies) / len(nodes) if keep == "best" else 0.0
    return disk[0] * share, disk[1] * max(share, 1 / len(nodes))


def _notes(
    stage: str,
    nodes: Sequence[Node],
    model: Architecture | None,
    found: Demand | None,
    where: Place,
    cluster: ClusterConfig | SlurmConfig,
) -> list[str]:
    if all(model_input(node) is None for node in nodes):
        return []
    notes = []
    if model is None:
        notes.append("the shape of its model is not known until its config can be read")
    training = [node for node in nodes if isinstance(node.spec, TrainingSpec) and model_input(node) is not None]
    if training and model is not None:
        size = max(checkpoints(node.spec, model, node.params.get("save_steps", 0)) for node in training)
        if size:
            notes.append(f"checkpoints of a training under way: up to {size / 1e9:.1f} GB of disk")
        if any(node.spec.gradient_checkpointing is None for node in training) and found is not None:
            notes.append(f"gradient checkpointing: {'on' if found.checkpointing else 'off'}, as memory demands")
    if where.gpu is None and isinstance(cluster, SlurmConfig):
        asked = cluster.resources(stage, scorer=True)
        if asked.gpus and asked.gpu_type is not None:
            notes.append(f"gpu_type={asked.gpu_type} does not say which GPU is meant; name it by cluster.gpu")
    return notes
