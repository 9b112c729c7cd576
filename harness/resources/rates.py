"""What units of work have cost in this store so far, of work that costs the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.manifest import Manifest, usable_manifest
from harness.plan import Node
from harness.store import Store

_MEASURED = 50
"""Artifacts of a stage that its rates are taken from, the latest."""


def rates(stage: str, nodes: Sequence[Node], store: Store) -> list[tuple[float, float]]:
    """Seconds and bytes per unit of artifacts of a stage that cost what these nodes will, the latest."""
    wanted = {_cost(stage, asdict(node.spec), node.input_keys) for node in nodes}
    latest = sorted(store.folders(stage), key=lambda folder: folder.stat().st_mtime, reverse=True)
    found = []
    for manifest in filter(None, map(usable_manifest, latest[:_MEASURED])):
        if manifest.alias_of is None and _cost(stage, manifest.spec, manifest.inputs) in wanted:
            units = max(1, _taken(stage, manifest)) if _is_per_row(stage, manifest.spec) else 1
            size = sum(record["bytes"] for record in (*manifest.files.values(), *manifest.released.values()))
            found.append((manifest.provenance.get("seconds", 0.0) / units, size / units))
    return found


def response_tokens(policy: Node, max_new_tokens: int, store: Store) -> float | None:
    """Mean length of the responses that the store holds of a policy, cut at so many tokens; None without any."""
    tokens = rows = 0
    for manifest in filter(None, map(usable_manifest, store.folders("sample"))):
        same = manifest.inputs.get("policy") == [policy.key] and manifest.spec.get("max_new_tokens") == max_new_tokens
        if manifest.alias_of is None and same:
            tokens += manifest.measures.get("tokens") or 0
            rows += manifest.rows["kept"]
    return tokens / rows if rows and tokens else None


def _is_per_row(stage: str, spec: Mapping[str, Any]) -> bool:
    return stage in ("candidates", "sample", "score", "respond", "judge", "appraise", "rank", "boundary", "change") or (
        stage == "train" and spec["max_steps"] is None
    )


def _taken(stage: str, manifest: Manifest) -> int:
    """What a node's units turned out to be: its rows, or in a boundary the comparisons of its prompts."""
    return int(manifest.measures["comparisons"] if stage == "boundary" else manifest.rows["taken"])


_COSTS: Mapping[str, tuple[str, ...]] = {
    "model": ("source", "id"),
    "sft": (
        "loss_on",
        "packing",
        "epochs",
        "max_steps",
        "global_batch",
        "micro_batch",
        "max_length",
        "autocast",
        "gradient_checkpointing",
    ),
    "sample": ("engine", "max_new_tokens", "batch_size", "dtype", "samples"),
    "score": ("engine", "dtype", "max_tokens", "batch_tokens", "opponents"),
    "rank": ("method", "n", "judge"),
    "reference": ("max_length", "dtype", "autocast", "batch_tokens"),
    "train": (
        "method",
        "epochs",
        "max_steps",
        "global_batch",
        "micro_batch",
        "batch_tokens",
        "max_length",
        "weights_dtype",
        "autocast",
        "gradient_checkpointing",
        "lora",
    ),
    "respond": ("engine", "max_new_tokens", "batch_size", "dtype"),
    "judge": ("engine", "model"),
    "lm_eval": ("task", "limit", "shots", "batch_size", "dtype"),
    "appraise": ("engine",),
    "boundary": ("judge",),
    "candidates": ("layout", "content"),
    "diversity": ("prompts", "responses", "embedding"),
    "change": ("max_length", "dtype", "autocast", "batch_tokens"),
}
"""Settings that decide what a unit costs, beside the policy; the other stages cost next to nothing."""


def _cost(stage: str, spec: Mapping[str, Any], inputs: Mapping[str, Sequence[str]]) -> str:
    """Equal for nodes whose units cost the same: by settings, and by the model that is sampled, trained or asked.

    How many conversations there are is known only once they are read, so that a fine-tuning costs what another has cost
    on the same ones.
    """
    models = {"respond": "reference", "lm_eval": "reference", "score": "reward_model", "appraise": "reward_model"}
    models |= {"judge": "reward_model", "rank": "reward_model", "boundary": "reward_model"}
    policy = inputs.get(models.get(stage, "policy")) if stage in _COSTS else None
    return json.dumps(
        [policy, inputs.get("conversations"), {name: spec.get(name) for name in _COSTS.get(stage, ())}],
        sort_keys=True,
        default=str,
    )
