"""A language model that vLLM serves on this machine, for as long as there is something to ask."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness import machine
from harness.errors import ConfigError
from harness.judges import Judge, Planned
from harness.judges.config import VllmJudgeConfig
from harness.judges.openai_server import Server, ServerJudge, Spec, asked
from harness.packages import content_hash
from harness.stages import Context

_NAME = "judge"
"""Name under which the model is served."""

INPUT = "judge_model"
"""The judge's weights, among a node's inputs."""


@dataclass(frozen=True, kw_only=True)
class VllmSpec(Spec):
    """What decides a verdict of a model that is served here."""

    dtype: str
    trust_remote_code: bool


def plan(config: VllmJudgeConfig) -> Planned:
    """A judge whose weights are a node of their own.

    Raises:
        ConfigError: no such folder, or the prompt cannot be used.
    """
    decisive, params = asked(config)
    model = config.model
    local = model.source == "local"
    spec = VllmSpec(
        engine=config.engine,
        model="local" if local else model.id,
        revision=_folder_hash(model.id) if local else model.revision,
        served_as=None,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        **decisive,
    )
    free = dict.fromkeys(("price_input", "price_output", "max_cost_usd", "max_tokens"))
    return Planned(spec=spec, params={**params, **free, "context": config.context})


@lru_cache(maxsize=16)
def _folder_hash(folder: str) -> str:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise ConfigError(f"judge.model.id: {folder} is no model folder (it has no config.json)")
    return content_hash(path)


@contextmanager
def open_judge(spec: VllmSpec, context: Context) -> Iterator[Judge]:
    """The judge; its server starts with the first question that the store cannot answer, and stays for further ones."""
    held, started = ExitStack(), list[Server]()

    @contextmanager
    def serving() -> Iterator[Server]:
        if not started:
            started.append(held.enter_context(serve_once()))
        yield started[0]

    @contextmanager
    def serve_once() -> Iterator[Server]:
        from harness.engines import loaded
        from harness.engines.vllm_server import serve

        mine, weights = machine.mine(), context.input(INPUT).model_path
        arguments, variables = _placed(weights, spec.dtype)
        loaded.release()  # the server measures the GPU as it finds it
        with serve(
            weights,
            python=mine.python.vllm,
            name=_NAME,
            dtype=spec.dtype,
            context=context.params["context"],
            threads=mine.threads,
            trust_remote_code=spec.trust_remote_code,
            arguments=arguments,
            variables=variables,
        ) as endpoint:
            yield Server(
                base_url=endpoint.base_url,
                key=endpoint.token,
                model=endpoint.model,
                served_as=endpoint.model.__eq__,
            )

    with held:
        yield ServerJudge(spec, context, serving, {})


def _placed(weights: Path, dtype: str) -> tuple[list[str], dict[str, str]]:
    """What says which GPUs the server has, and how much of them: arguments and variables; none without a GPU."""
    from harness.engines import vllm_engine

    parallel, fraction = vllm_engine.place(weights, dtype)
    given, devices = machine.mine().vllm, parallel.groups[0]
    arguments = ["--max-num-seqs", str(given.sequences)] if given.sequences is not None else []
    if devices:
        arguments += ["--gpu-memory-utilization", str(fraction), "--tensor-parallel-size", str(parallel.tensor)]
        arguments += ["--enforce-eager"] if given.eager else []
    return arguments, {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
