"""What users bring along, frozen in the store under a name: responses, rewards, answers, or a trained model.

store/imported/<kind>-<name>-<key>/     the checked rows, or the weights

The key is that of the content: the same rows in another order, format or file have the same key. A second name for the
same content is an alias.
"""

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import import_rows, tables
from harness.errors import ConfigError, PrefsweepError
from harness.files import file_record
from harness.import_rows import Row
from harness.keys import canonical, digest, node_key
from harness.manifest import Manifest, usable_manifest
from harness.packages import model_files
from harness.progress import Reporter
from harness.provenance import software
from harness.stages import imported
from harness.store import Artifact, Store

STAGE = "imported"


@dataclass(frozen=True, kw_only=True)
class Brought:
    """How an import ended."""

    artifact: Artifact
    new: bool
    """False where the same content stood there under this name already."""


def bring(store: Store, kind: str, path: Path, name: str, reporter: Reporter) -> Brought:
    """Check what a user brings along, and freeze it in the store under a name.

    Raises:
        ConfigError: a name that is none, a file or folder that is not as it must be; names the row and the field.
        PrefsweepError: the name stands for other content already.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(f"--as: {name!r} names a folder; expected letters, digits, and any of _ . + -")
    started = time.time()
    if kind == "model":
        files = check_model(path)
        content, measures, rows = _content_of(files), {"format": _format(path)}, []
    else:
        rows = import_rows.load(kind, path, reporter)
        content, measures = import_rows.content(rows), _measures(kind, rows)
    spec = imported.Spec(kind=kind, content=content)
    made = {
        **software(),
        "imported": True,
        "file": path.name,
        "sha256": content if kind == "model" else file_record(path)["sha256"],
        "started": started,
        "seconds": time.time() - started,
    }
    manifest = _manifest(spec, name, measures, made, max(1, len(rows)))
    with store.lock(f"import-{kind}-{name}"):
        if (there := _named(store, kind).get(name)) is not None:
            if there.key != manifest.key:
                raise PrefsweepError(
                    f"import of {kind}: the name {name!r} stands for other content ({there.key}); choose another"
                )
            return Brought(artifact=_found(store, there.key), new=False)
        return Brought(artifact=_freeze(store, manifest, kind, path, rows), new=True)


def _manifest(
    spec: imported.Spec, name: str, measures: Mapping[str, Any], made: Mapping[str, Any], rows: int
) -> Manifest:
    key = node_key(STAGE, imported.VERSION, spec, {})
    return Manifest(
        stage=STAGE,
        stage_version=imported.VERSION,
        key=key,
        content_id=key,
        spec=canonical(spec),
        inputs={},
        rows={"taken": rows, "kept": rows, "dropped": {}},
        measures={"kind": spec.kind, "name": name, **measures},
        files={},
        provenance=dict(made),
    )


def _measures(kind: str, rows: Sequence[Row]) -> dict[str, Any]:
    measures: dict[str, Any] = {"prompts": len({row["prompt_id"] for row in rows})}
    if kind == "rewards":
        measures["invalid"] = sum(row["reward"] is None or abs(row["reward"]) == float("inf") for row in rows)
        measures["attributes"] = import_rows.attribute_names(rows)
    return measures


def _freeze(store: Store, manifest: Manifest, kind: str, path: Path, rows: Sequence[Row]) -> Artifact:
    """Publish the content, or, where it stands under another name, a second name for it."""
    slug = f"{kind}-{manifest.measures['name']}"
    with store.claim(manifest.key) as work:
        shutil.rmtree(work)  # of an interrupted import
        work.mkdir()
        if (there := store.find(STAGE, manifest.key)) is not None:
            folder = str(there.folder.relative_to(store.root))
            store.publish(work, replace(manifest, alias_of=folder, digest=there.manifest.digest), slug)
            return there
        if kind == "model":
            _copy_model(path, work)
        else:
            _write_rows(kind, rows, work)
        return store.publish(work, manifest, slug)


def _write_rows(kind: str, rows: Sequence[Row], work: Path) -> None:
    tables.write(import_rows.table(kind, rows), work / f"{kind}.parquet")
    counts = sorted(Counter(row["prompt_id"] for row in rows).items())
    per_prompt = [{"prompt_id": prompt_id, "rows": count} for prompt_id, count in counts]
    tables.write(tables.build(tables.IMPORTED_PROMPTS, per_prompt), work / "prompts.parquet")


def _copy_model(source: Path, work: Path) -> None:
    """Copies, not hard links: a trainer that writes into the folder again would change the link's content, too."""
    (work / "weights").mkdir()
    for file in _kept(source):
        shutil.copyfile(file, work / "weights" / file.name)
    (work / "model.json").write_text(json.dumps({"path": "weights"}))


def check_model(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The files of a model folder with their hashes.

    Raises:
        ConfigError: no folder, no model or adapters in it, weights that are pickled, damaged or not all there, or code
            of its own.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; expected one with config.json or adapter_config.json")
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"{folder}: no model; expected config.json (a full model) or adapter_config.json (adapters)")
    weights = [folder / name for name in _weights(folder)]
    if not weights:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl"))
        why = f"; {pickled[0]} is pickled, and pickled weights can run code" if pickled else ""
        raise ConfigError(f"{folder}: no .safetensors weights{why} (save_pretrained writes safetensors)")
    if _format(folder) == "full" and not list(folder.glob("tokenizer*")):
        raise ConfigError(f"{folder}: no tokenizer; save it into the same folder with tokenizer.save_pretrained")
    for file in weights:
        _check_safetensors(file)
    for file in sorted(folder.glob("*config.json")):
        _check_no_code(file)
    return {p.name: file_record(p) for p in _kept(folder)}


def _kept(folder: Path) -> list[Path]:
    """The files of a model folder that are taken along: no code."""
    return [file for file in model_files(folder) if file.suffix != ".py"]


def _check_no_code(config: Path) -> None:
    """Refuse a model that names code to load it with, whether that lies beside it or on a hub."""
    try:
        named = _names_code(json.loads(config.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        raise ConfigError(f"{config}: no readable JSON") from None
    if named:
        raise ConfigError(
            f"{config}: auto_map names code that comes with the model; an imported model runs none (import adapters "
            "over a policy with policy.trust_remote_code=true instead)"
        )


def _names_code(config: Any) -> bool:
    """Whether a configuration, or one within it, has an `auto_map`."""
    if isinstance(config, dict):
        return bool(config.get("auto_map")) or any(map(_names_code, config.values()))
    return isinstance(config, list) and any(map(_names_code, config))


def _format(folder: Path) -> str:
    return "adapters" if (folder / "adapter_config.json").is_file() else "full"


def _weights(folder: Path) -> list[str]:
    """File names of the weights: those that the index lists, or all there are."""
    if _format(folder) == "adapters":
        return [p.name for p in folder.glob("adapter_model*.safetensors")]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(p.name for p in folder.glob("*.safetensors"))
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{index}: no index of weights") from None


def _check_safetensors(file: Path) -> None:
    """Refuse a file that is missing or cut short."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ConfigError(f"{file}: missing, though model.safetensors.index.json names it")
    try:
        with safe_open(file, framework="numpy") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file}: no readable safetensors: {error}") from None


def _content_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    return digest({name: record["sha256"] for name, record in files.items()})


def find(store: Store | None, kind: str, name: str, key: str) -> Artifact:
    """What was imported under a name.

    Args:
        key: config path that errors name.

    Raises:
        ConfigError: no such import, which lists those of that kind, or a damaged one.
    """
    named = _named(store, kind) if store is not None else {}
    again = f"sweepctl import {kind} FILE --as {name}"
    if store is None or name not in named:
        if store is not None and (damaged := _folders_of(store, kind, name)):
            raise ConfigError(
                f"{key}: the import {name!r} of {kind} is damaged ({damaged[0]}) and must be imported again ({again})"
            )
        where = store.root if store is not None else "no store"
        raise ConfigError(
            f"{key}: no imported {kind} {name!r} in {where}; it has {', '.join(sorted(named)) or 'none'} ({again})"
        )
    return _found(store, named[name].key)


def _folders_of(store: Store, kind: str, name: str) -> list[Path]:
    """Where something stands that was imported under a name, whole or not."""
    return [folder for folder in store.folders(STAGE) if folder.name.rpartition("-")[0] == f"{kind}-{name}"]


def _named(store: Store, kind: str) -> dict[str, Manifest]:
    """The imports of a kind, by name."""
    return {m.measures["name"]: m for m in _manifests(store) if m.measures["kind"] == kind}


def _manifests(store: Store) -> Iterator[Manifest]:
    for folder in store.folders(STAGE):
        manifest = usable_manifest(folder)
        if manifest is not None and store.find(STAGE, manifest.key) is not None:
            yield manifest


def _found(store: Store, key: str) -> Artifact:
    artifact = store.find(STAGE, key)
    assert artifact is not None
    return artifact
