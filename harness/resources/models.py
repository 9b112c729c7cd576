"""Which model a node runs, and its shape: from its files where they can be read, else as published."""

from functools import lru_cache
from pathlib import Path

from harness.errors import ConfigError, PrefsweepError
from harness.packages import package_folder
from harness.plan import Node
from harness.resources.architecture import Architecture, of_file, of_folder, of_gguf
from harness.resources.published_models import PUBLISHED
from harness.stages.model import MergedSpec
from harness.store import Store


def architecture_of(node: Node, store: Store) -> Architecture | None:
    """The shape of the model that a node is, or that it is trained from; None where it is not known."""
    artifact = store.find(node.stage, node.key)
    if artifact is not None:
        try:
            folder = artifact.model_path
        except (OSError, ValueError, PrefsweepError):  # released, or not readable; its source may still say
            folder = Path()
        if (folder / "config.json").is_file():
            return of_folder(folder)
    if node.stage == "model" and not isinstance(node.spec, MergedSpec):
        return _of_source(node.spec.source, node.params["id"], node.spec.revision)
    return architecture_of(node.inputs["policy"][0], store) if "policy" in node.inputs else None


@lru_cache(maxsize=64)
def _of_source(source: str, model_id: str, revision: str) -> Architecture | None:
    if source == "local":
        return of_folder(Path(model_id))
    if source == "package":
        package, _, inside = model_id.partition(":")
        try:
            place = package_folder(package, revision) / inside
        except ConfigError:  # of another version than the one that is installed
            return None
        return of_folder(place) if place.is_dir() else PUBLISHED.get(model_id) or of_gguf(place)
    return _cached(model_id, revision) or PUBLISHED.get(model_id)


def _cached(model_id: str, revision: str) -> Architecture | None:
    """As the config in the hub's cache says; asks no hub."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model_id, "config.json", revision=revision)
    except HFValidationError:  # no such name can be; whoever fetches it says so
        return None
    return of_file(Path(found)) if isinstance(found, str) else None
