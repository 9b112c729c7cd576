"""What makes two nodes different, down to the inputs where the difference begins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config import flatten
from harness.sweepctl.catalogue import Catalogue, Node

_ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One field that differs, wherever among the ancestors of two nodes it does."""

    stage: str
    name: str
    """Dotted name, such as `spec.max_new_tokens`."""
    before: Any
    after: Any
    """None where a side does not have the field."""
    nodes: list[tuple[str, str]] = field(default_factory=list)
    """Names of the pairs of nodes in which it differs like this."""


@dataclass(kw_only=True)
class Comparison:
    """What differs between two nodes and everything they are made of."""

    differences: list[Difference] = field(default_factory=list)
    equal: list[tuple[str, str, str]] = field(default_factory=list)
    """Names of different nodes of equal content, with the content's id."""
    unknown: list[str] = field(default_factory=list)
    """Keys that differ, and of which neither a sweep nor an artifact says what they are."""


def compare(catalogue: Catalogue, one: str, other: str) -> Comparison:
    """Compare two nodes field by field, and differing inputs in their turn, each pair once."""
    comparison = Comparison()
    queue, seen = [(one, other)], {(one, other)}
    for first, second in queue:
        before, after = catalogue.node(first), catalogue.node(second)
        if before is None or after is None:
            comparison.unknown += [k for k, node in ((first, before), (second, after)) if node is None]
            continue
        _note_equal(catalogue, comparison, before, after)
        for name, values in _fields(before, after):
            _note(comparison, before, after, name, *values)
        for name in {**before.inputs, **after.inputs}:
            pairs, left, right = _match(catalogue, before.inputs.get(name, []), after.inputs.get(name, []))
            queue += [pair for pair in pairs if pair not in seen]
            seen.update(pairs)
            if left or right:
                counts = [len(node.inputs.get(name, [])) for node in (before, after)]
                _note(comparison, before, after, f"inputs.{name}", *(f"{n} nodes" for n in counts))
    return comparison


def _fields(before: Node, after: Node) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Fields of two nodes that differ, besides their inputs; of different stages the specs have nothing in common."""
    if before.stage != after.stage:
        yield "stage", (before.stage, after.stage)
        return
    if before.version != after.version:
        yield "version", (before.version, after.version)
    flat = flatten(before.spec, "spec"), flatten(after.spec, "spec")
    for name in {**flat[0], **flat[1]}:
        values = flat[0].get(name, _ABSENT), flat[1].get(name, _ABSENT)
        if values[0] != values[1] or type(values[0]) is not type(values[1]):
            yield name, (None if values[0] is _ABSENT else values[0], None if values[1] is _ABSENT else values[1])


def _match(
    catalogue: Catalogue, before: Sequence[str], after: Sequence[str]
) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Differing inputs in pairs, those of the same slug first, then in order; and what is left of either side."""
    left, right = [k for k in before if k not in after], [k for k in after if k not in before]
    pairs = []
    for same_slug in (True, False):
        for key in list(left):
            fits = [k for k in right if not same_slug or _slug(catalogue, k) == _slug(catalogue, key)]
            if fits and (same_slug or len(before) == len(after)):
                pairs.append((key, fits[0]))
                left.remove(key)
                right.remove(fits[0])
    return pairs, left, right


def _slug(catalogue: Catalogue, key: str) -> str:
    node = catalogue.node(key)
    return node.slug if node is not None else key


def _note(comparison: Comparison, one: Node, other: Node, name: str, before: Any, after: Any) -> None:
    """Enter a difference; the same one in many nodes, as in every block of a pool, is one."""
    for known in comparison.differences:
        if (known.stage, known.name, known.before, known.after) == (one.stage, name, before, after):
            break
    else:
        known = Difference(stage=one.stage, name=name, before=before, after=after)
        comparison.differences.append(known)
    known.nodes.append((one.name, other.name))


def _note_equal(catalogue: Catalogue, comparison: Comparison, one: Node, other: Node) -> None:
    held = [catalogue.find(node.key) for node in (one, other)]
    contents = [h.manifest.content_id for h in held if h is not None]
    if len(contents) == 2 and contents[0] == contents[1] and one.key != other.key:
        comparison.equal.append((one.name, other.name, contents[0]))


def as_data(comparison: Comparison) -> Mapping[str, Any]:
    """The comparison as plain data."""
    return {
        "differences": [
            {
                "stage": d.stage,
                "field": d.name,
                "before": d.before,
                "after": d.after,
                "nodes": [list(pair) for pair in d.nodes],
            }
            for d in comparison.differences
        ],
        "equal_content": [{"nodes": [a, b], "content_id": content} for a, b, content in comparison.equal],
        "unknown": comparison.unknown,
    }
