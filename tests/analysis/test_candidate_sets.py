"""Sets of candidates of a store made by hand: which of them are compared with which."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.candidate_sets import candidate_sets_section, load_boundary_measurements, load_set_differences
from analysis.columns import BOUNDARY_MEASUREMENTS
from harness import tables
from harness.files import write_json
from harness.stages.diversity import MEASURES, means
from tests.artifacts import Row, Shelf


class Desk:
    """Puts sets into a store, and records what they are of."""

    def __init__(self, root: Path) -> None:
        self._shelf = Shelf(root)
        self.root = self._shelf.store.root
        self._nodes: dict[str, Any] = {}
        self._points: dict[str, Any] = {}

    def put(self, words: Sequence[float], *, policy: str, prompts: str = "p", label: str = "words") -> str:
        """A set whose responses have so many words, by prompt; returns its key."""
        rows: list[Row] = [
            {
                "prompt_id": f"{prompts}{i}",
                "responses": 2,
                **dict.fromkeys(("distinct_1", "distinct_2", "distinct_3"), 0.5),
                "spread": None,
                "words": count,
                "reward": -count,
            }
            for i, count in enumerate(words)
        ]
        measures = {**means(rows), "responses": 2 * len(rows), "spread_note": "", "reward_label": label}
        given = {"candidate_sets": (tables.CANDIDATE_SETS, rows)}
        artifact = self._shelf.put("diversity", given, measures=measures)
        key = artifact.manifest.key
        self._nodes[f"sample {key}"] = self._node("sample", {"policy": [policy]}, {"prompts": [prompts]})
        self._nodes[key] = self._node("diversity", {"responses": [f"sample {key}"]}, {})
        return key

    def _node(self, stage: str, inputs: dict[str, Any], uses: dict[str, Any]) -> dict[str, Any]:
        return {"stage": stage, "slug": "", "version": 1, "spec": {}, "inputs": inputs, "uses": uses}

    def boundary(self, judge: str) -> str:
        """What a boundary says; returns its key."""
        said = {**dict.fromkeys(list(BOUNDARY_MEASUREMENTS)[3:]), "on_share": 0.4, "stage": "injection", "label": judge}
        return self._shelf.put("boundary", {}, measures=said).manifest.key

    def beside(self, result: str, policy: str, earlier: Mapping[str, Any] | None = None, **sets: str) -> None:
        config = {"policy.name": policy, "rounds.path": None}
        given = {} if earlier is None else {"earlier": earlier}
        self._points[result] = {"config": config, "nodes": {}, "beside": sets, "command": "", **given}

    def record(self) -> Path:
        said = {"written": 0.0, "command": "", "keep_weights": "all"}
        write_json(self.root / "sweeps" / "sets.json", {**said, "points": self._points, "nodes": self._nodes})
        return self.root


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_set_is_compared_with_the_static_one_of_its_own_policy_alone(desk: Desk) -> None:
    """Wherever the two stand: at shares 0 and 1 they are beside different results."""
    small, large = desk.put([10, 12, 14], policy="a"), desk.put([30, 32, 34], policy="b")
    desk.beside("small", "small", on_policy_set=small)
    desk.beside("large", "large", on_policy_set=large, static_set=desk.put([20, 20, 20], policy="b"))
    desk.beside("small static", "small", static_set=desk.put([5, 5, 5], policy="a"))
    frame = load_set_differences(desk.record())
    words = frame[frame["measure"] == "words"].set_index("policy")
    assert words["difference"].to_dict() == {"small": pytest.approx(7), "large": pytest.approx(12)}
    assert words["on_policy"].to_dict() == {"small": small, "large": large}
    assert words["prompts"].tolist() == [3, 3]


def test_sets_of_other_prompts_have_no_difference(desk: Desk) -> None:
    desk.beside("one", "p", on_policy_set=desk.put([1, 2], policy="a"))
    desk.beside("other", "p", static_set=desk.put([3, 4], policy="a", prompts="q"))
    frame = load_set_differences(desk.record())
    assert frame.empty
    assert "difference" in frame.columns


def test_rewards_of_two_kinds_have_no_difference(desk: Desk) -> None:
    own, static = desk.put([1, 2], policy="a"), desk.put([3, 4], policy="a", label="ratings")
    desk.beside("one", "p", on_policy_set=own, static_set=static)
    rows = {row["measure"]: row for row in load_set_differences(desk.record()).to_dict("records")}
    assert math.isnan(rows["reward"]["difference"])
    assert rows["reward"]["note"] == "scored by two rewards"
    assert rows["words"]["difference"] == pytest.approx(-2)


def test_every_measurement_of_a_boundary_is_shown_the_last_first(desk: Desk) -> None:
    """Another judge of a later command makes no other result, and takes nothing away."""
    first, last = desk.boundary("one judge"), desk.boundary("another")
    desk.beside("one", "p", {first: {"name": "boundary", "command": "earlier"}}, boundary=last)
    frame = load_boundary_measurements(desk.record())
    assert frame["label"].tolist() == ["another", "one judge"]
    assert frame["artifact"].tolist() == [last, first]
    assert frame["result"].tolist() == ["one", "one"]


@pytest.mark.parametrize(
    ("estimate", "low", "high", "shown"),
    [
        (0.5, 0.49, 0.51, "0.500 [0.490, 0.510]"),
        (2.7e-17, -0.1, 0.1, "0.000 [-0.100, 0.100]"),
        (-2.7e-17, -0.1, 0.1, "0.000 [-0.100, 0.100]"),
        (0.0, -12.3, 4.5, "0.0 [-12.3, 4.5]"),
        (1234.5, 1200.0, 1269.0, "1234 [1200, 1269]"),
        (3e-9, 1e-9, 5e-9, "0.000000 [0.000000, 0.000000]"),
        (0.0, 0.0, 0.0, "0.00 [0.00, 0.00]"),
        (0.5, math.nan, math.nan, "0.500"),
        (0.5, -math.inf, math.inf, "0.500"),
        (math.nan, math.nan, math.nan, ""),
        (math.inf, math.nan, math.nan, ""),
    ],
)
def test_digits_are_those_of_the_largest(estimate: float, low: float, high: float, shown: str) -> None:
    measured = {"reward": estimate, "reward_low": low, "reward_high": high}
    others = {f"{measure}{end}": math.nan for measure in MEASURES for end in ("", "_low", "_high")}
    facts = {"artifact": "a", "policy": "p", "set": "static", "prompts": 2, "responses": 4, "reward_label": "r"}
    text = "\n".join(candidate_sets_section(pd.DataFrame([facts | others | measured]), pd.DataFrame()))
    row = [cell.strip().replace("\\", "") for cell in text.splitlines()[-1].split("|")]
    assert [cell for cell in row if cell] == ["p", "static", "2", "4", *([shown] if shown else []), "r"]
