"""Judged answers in alpaca_eval's own files, so that its package can be run on them.

DIR/model_outputs.json                       the policy's answers: instruction, output, generator, dataset, index
DIR/reference_outputs.json                   what they were compared with, in the same form
DIR/annotations.json                         the verdicts: `preference` 1 (reference) to 2 (model), null if it failed
DIR/judge/configs.yaml                       the judge as the package's annotator would ask it, and
DIR/judge/prompt.txt                         its prompt
DIR/judge/annotations_seed0_configs.json     its cache: the verdicts that did not fail, so that they are not asked for
DIR/export.json                              where they come from
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import record
from harness.errors import PrefsweepError
from harness.exports import new_folder
from harness.judges import prompt
from harness.keys import KEY_DIGITS
from harness.store import Artifact, Store

MODEL_OUTPUTS, REFERENCE_OUTPUTS, ANNOTATIONS = "model_outputs.json", "reference_outputs.json", "annotations.json"

_ANNOTATOR, _PROMPT = "judge", "prompt.txt"

Row = dict[str, Any]


def export_answers(store: Store, text: str, target: Path) -> int:
    """Write what was judged into a folder that is not there yet; returns the number of answers.

    Args:
        text: key of a judge node or of a cell that was judged once, its beginning, or its folder.

    Raises:
        PrefsweepError: no such cell, or several; not judged yet; or the folder is there already.
    """
    judged = _find(store, text)
    outputs, references, annotations = _rows(store, judged)
    with new_folder(target) as folder:
        _write(folder / MODEL_OUTPUTS, outputs)
        _write(folder / REFERENCE_OUTPUTS, references)
        _write(folder / ANNOTATIONS, annotations)
        (folder / _ANNOTATOR).mkdir()
        valid = [row for row in annotations if row["preference"] is not None]
        _write(folder / _ANNOTATOR / "annotations_seed0_configs.json", valid)
        (folder / _ANNOTATOR / _PROMPT).write_text(_prompt_of(judged), encoding="utf-8")
        config = json.dumps({_ANNOTATOR: _annotator(judged)}, indent=1, ensure_ascii=False)
        (folder / _ANNOTATOR / "configs.yaml").write_text(config + "\n", encoding="utf-8")
        _write(folder / "export.json", _described(judged, len(outputs)))
    return len(outputs)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _find(store: Store, text: str) -> Artifact:
    """The one judge node that a key means: its own, or that of the cell."""
    prefix = text.rstrip("/").rpartition("-")[2].lower()
    keys = {folder.name.rpartition("-")[2] for folder in store.folders("judge")}
    found = {key for key in keys if prefix and key.startswith(prefix)}
    for name in record.names(store):
        for point in record.read(store, name).points.values():
            own = (key for stage, key in point["nodes"].items() if stage != "judge")
            if prefix and any(key.startswith(prefix) for key in own):
                found.add(point["nodes"]["judge"])
    if len(found) != 1:
        several = f"was judged {len(found)} times: {', '.join(sorted(found)[:5])}"
        raise PrefsweepError(
            f"{text!r} {several if found else f'is no judged cell of {store.root}'}; expected the key of a judge node, "
            f"or of a cell that was judged once ({KEY_DIGITS} hex digits, the end of the folder's name)"
        )
    artifact = store.find("judge", key := found.pop())
    if artifact is None:
        raise PrefsweepError(f"judge {key}: not done yet")
    return artifact


def _rows(store: Store, judged: Artifact) -> tuple[list[Row], list[Row], list[Row]]:
    """Outputs, references and annotations, in the order of the instructions."""
    answers = _texts(store, judged, "answers")
    references = _texts(store, judged, "references")
    instructions = _instructions(store, judged)
    generators = _generators(judged)
    outputs, baseline, annotations = [], [], []
    for verdict in judged.table("verdicts").to_pylist():
        name = verdict["prompt_id"]
        shared = {"index": verdict["index"], **instructions[name]}
        outputs.append({**shared, "output": answers[name], "generator": generators[0]})
        baseline.append({**shared, "output": references[name], "generator": generators[1]})
        failed = math.isnan(verdict["preference"])
        annotations.append(
            {
                **shared,
                "output_1": references[name],
                "generator_1": generators[1],
                "output_2": answers[name],
                "generator_2": generators[0],
                "annotator": _ANNOTATOR,
                "preference": None if failed else 1.0 + verdict["preference"],
            }
        )
    return outputs, baseline, annotations


def _generators(judged: Artifact) -> tuple[str, str]:
    """Names of the two sides: the answers' own, and their reference's."""
    return f"prefsweep-{judged.manifest.inputs['answers'][0]}", f"prefsweep-{judged.manifest.inputs['references'][0]}"


def _texts(store: Store, judged: Artifact, name: str) -> Mapping[str, str]:
    key = judged.manifest.inputs[name][0]
    if (answered := store.find("respond", key)) is not None:
        return {row["prompt_id"]: row["text"] for row in answered.table("answers", ["prompt_id", "text"]).to_pylist()}
    if (given := store.find("prompts", key)) is not None:
        return {row["prompt_id"]: row["answer"] for row in given.table("prompts", ["prompt_id", "answer"]).to_pylist()}
    raise PrefsweepError(f"{name} {key}, which was judged, is no longer in the store")


def _instructions(store: Store, judged: Artifact) -> Mapping[str, Mapping[str, str]]:
    """Instruction and kind by prompt id, out of the sets that the judge read."""
    found: dict[str, Mapping[str, str]] = {}
    for key in judged.manifest.made_from:
        if (prompts := store.find("prompts", key)) is not None:
            for row in prompts.table("prompts", ["prompt_id", "kind", "messages"]).to_pylist():
                found[row["prompt_id"]] = {"dataset": row["kind"], "instruction": row["messages"][-1]["content"]}
    return found


def _prompt_of(judged: Artifact) -> str:
    """The published prompt, or for a judge that was asked otherwise one that nobody should be asked."""
    published = prompt.load(prompt.PUBLISHED)
    asked = judged.manifest.spec.get("prompt") == published.hash
    return prompt.text(published) if asked else "{instruction}{output_1}{output_2}"


def _annotator(judged: Artifact) -> Mapping[str, Any]:
    """A configuration of the package; of a judge without the published prompt, good for reading its cache only."""
    spec = judged.manifest.spec
    return {
        "prompt_template": f"{_ANNOTATOR}/{_PROMPT}",
        "fn_completions": "openai_completions",
        "completions_kwargs": {
            "model_name": spec.get("model", spec["engine"]),
            "max_tokens": spec.get("max_new_tokens", 1),
            "temperature": spec.get("temperature", 1.0),
            "logprobs": True,
            "top_logprobs": spec.get("top_logprobs") or 5,
            "requires_chatml": True,
        },
        "fn_completion_parser": "logprob_parser",
        "completion_parser_kwargs": {
            "numerator_token": prompt.FIRST,
            "denominator_tokens": [prompt.FIRST, prompt.SECOND],
            "is_binarize": False,
        },
        "completion_key": "completions_all",
        "batch_size": 1,
    }


def _described(judged: Artifact, answers: int) -> Mapping[str, Any]:
    manifest = judged.manifest
    return {
        "judge": manifest.key,
        "spec": dict(manifest.spec),
        "answers": answers,
        "rows": dict(manifest.rows),
        "measures": dict(manifest.measures),
        "inputs": dict(manifest.inputs),
        "versions": manifest.provenance.get("versions"),
        "commit": manifest.provenance.get("commit"),
    }
