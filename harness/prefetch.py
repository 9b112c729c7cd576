"""Fetching what a plan needs from a hub into the hub's own cache, before jobs that have no network."""

from collections.abc import Mapping

from harness.plan import Node, Plan
from harness.progress import Reporter
from harness.store import Artifact


def fetch(plan: Plan, found: Mapping[str, Artifact], reporter: Reporter) -> int:
    """Fetch every model of a hub that something not done needs; returns how many there are.

    Raises:
        ConfigError: one cannot be fetched; what was fetched before stays.
    """
    wanted = {_source(node): node for node in plan.nodes.values() if _of_a_hub(node) and node.key not in found}
    for number, ((model, revision, trusted), node) in enumerate(wanted.items(), 1):
        from harness.engines import models

        reporter.line(f"[{number}/{len(wanted)}] {node.slug}: {model} at {revision}")
        reporter.line(f"    {models.locate('hub', model, revision, trusted, node.params['key'])}")
    return len(wanted)


def _of_a_hub(node: Node) -> bool:
    return getattr(node.spec, "source", None) == "hub"


def _source(node: Node) -> tuple[str, str, bool]:
    return node.params["id"], node.spec.revision, node.spec.trust_remote_code
