"""What is looked at before a command begins its work, so that nobody waits hours for a refusal."""

from collections.abc import Iterable, Sequence

from harness import machine
from harness.cluster import SlurmConfig
from harness.config import ClusterConfig
from harness.errors import ConfigError
from harness.judges import vllm_local
from harness.plan import Node
from harness.resources.models import architecture_of
from harness.stages import respond, sample
from harness.store import Store

_KEYS = {"sample": "sampler.max_new_tokens", "respond": "evaluate.max_new_tokens"}
"""What says how long a response may be."""

_GENERATING = sample.Spec | sample.VllmSpec | respond.Spec | respond.VllmSpec


def check(nodes: Iterable[Node], store: Store, cluster: ClusterConfig | SlurmConfig) -> None:
    """Refuse what could not be done at its end.

    Raises:
        ConfigError: vLLM is wanted and not there, or is to have more GPUs than there are; or a response alone fills the
            context of a model whose config can be read already.
    """
    concerned = [node for node in nodes if isinstance(node.spec, _GENERATING) or _runs_vllm(node)]
    todo = [node for node in concerned if store.find(node.stage, node.key) is None]
    _check_vllm([node for node in todo if _runs_vllm(node)], cluster)
    _check_contexts(todo, store)


def _runs_vllm(node: Node) -> bool:
    """Whether vLLM generates in a node, or serves its judge."""
    return isinstance(node.spec, sample.VllmSpec | respond.VllmSpec) or vllm_local.INPUT in node.inputs


def _check_vllm(nodes: Sequence[Node], cluster: ClusterConfig | SlurmConfig) -> None:
    if not nodes:
        return
    _check_gpus(sorted({node.stage for node in nodes}), cluster)
    if isinstance(cluster, SlurmConfig) and cluster.python.vllm is not None:
        return  # the jobs' probe looks at an interpreter that is named for them
    from harness.engines import process, vllm_server

    process.interpreter(cluster.python.vllm, "vllm", vllm_server.KEY, vllm_server.INSTALL)


def _check_gpus(stages: Sequence[str], cluster: ClusterConfig | SlurmConfig) -> None:
    """A process that would have too few GPUs for one engine."""
    asked = cluster.vllm.tensor_parallel or 1
    if asked == 1:
        return
    key = "cluster.vllm.tensor_parallel"
    if isinstance(cluster, SlurmConfig):
        for stage in stages:
            gpus = cluster.resources(stage, scorer=True).gpus or 0
            if asked > gpus:
                place = cluster.place(stage, "gpus")
                raise ConfigError(f"{key}: {asked} GPUs are asked for, and a job of {stage} has {gpus} ({place})")
        return
    there = len(machine.accelerators())
    each = min(there, cluster.gpus_per_worker) if cluster.name == "local" else there
    if asked > each:
        of = f" of the {there} of this machine (cluster.gpus_per_worker)" if each < there else ""
        raise ConfigError(f"{key}: {asked} GPUs are asked for, and a process has {each or 'none'}{of}")


def _check_contexts(nodes: Sequence[Node], store: Store) -> None:
    """A response that leaves no room for its prompt."""
    for node in nodes:
        spec = node.spec
        if isinstance(spec, _GENERATING):
            # What answers may have another context than the policy that it is compared with.
            model = architecture_of(node.inputs["model" if node.stage == "respond" else "policy"][0], store)
            if model is not None and 0 < model.context <= spec.max_new_tokens:
                raise ConfigError(
                    f"{_KEYS[node.stage]}: {spec.max_new_tokens} leaves no room for a prompt in the policy's context "
                    f"of {model.context}"
                )
