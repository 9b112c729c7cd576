"""`python -m tests.judges.node ROOT URL SETTINGS` judges what a store holds by a server, and prints the outcome."""

import dataclasses
import json
import sys
from pathlib import Path

from harness.judges import client
from harness.judges.engines import plan_judge
from harness.stages import Context
from harness.stages.judge import run
from harness.store import Artifact, Store
from tests.artifacts import quiet
from tests.judges.conftest import configured

PAUSE = 0.05
"""Seconds before a second attempt."""


def main(root: Path, url: str, settings: str) -> None:
    """Go on in the same work folder, as the store has it for an interrupted node."""
    client._FIRST_WAIT = PAUSE
    planned = plan_judge(configured(url, **json.loads(settings)))
    store = Store(root / "store").check()
    inputs: dict[str, list[Artifact]] = {}
    for path in sorted(store.root.glob("*/made_by_hand-*")):
        artifact = store.find(path.parent.name, path.name.rpartition("-")[2])
        assert artifact is not None
        inputs.setdefault({"prompts": "instructions"}.get(path.parent.name, path.parent.name), []).append(artifact)
    answers, references = sorted(inputs["respond"], key=lambda a: a.table("answers").column("text")[0].as_py())
    (root / "work").mkdir(exist_ok=True)
    context = Context(
        inputs={"answers": (answers,), "references": (references,), "instructions": tuple(inputs["instructions"])},
        params=planned.params,
        store=store.root,
        work=root / "work",
        reporter=quiet(),
        label="test",
    )
    outcome = run(context, planned.spec)
    print(json.dumps({"rows": dataclasses.asdict(outcome.rows), "measures": dict(outcome.measures)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
