"""A policy's weights in a form that every engine reads: a folder of safetensors, checked once."""

import json
import shutil
from dataclasses import dataclass

from harness.errors import ConfigError
from harness.packages import content_hash
from harness.stages import Context, Outcome
from harness.store import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A model, by source and identity."""

    source: str
    id: str
    """Package file or hub id; empty for a local folder, whose content names it."""
    revision: str
    """Package version, hub revision, or hash of a local folder's files."""
    trust_remote_code: bool


def run(context: Context, spec: Spec) -> Outcome:
    """Convert or adopt the weights, and check that they can hold a conversation."""
    from harness.engines import models

    weights = context.work / "weights"
    shutil.rmtree(weights, ignore_errors=True)  # of an interrupted run
    if spec.source == "package":
        models.convert_packaged(spec.id, spec.revision, weights)
    else:
        source = models.locate(spec.source, context.params["id"], spec.revision, spec.trust_remote_code)
        models.adopt(source, weights, link=spec.source == "hub")
        if spec.source == "local" and content_hash(weights) != spec.revision:
            raise ConfigError(f"policy.id: {source} has changed since this was planned; the same command plans it anew")
    measures = models.inspect(weights, spec.trust_remote_code, context.params["name"])
    (context.work / "model.json").write_text(json.dumps({"path": "weights"}))
    return Outcome(rows=Rows(taken=1, kept=1), measures=measures)
