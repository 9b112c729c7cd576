"""`sweepctl why`: what a node is, and where two nodes begin to differ."""

import json
from dataclasses import dataclass
from typing import Any

from harness import record
from harness.plan import Node, Plan
from tests.sweepctl.conftest import Desk, make_nodes
from tests.test_execute import Spec, fail


@dataclass(frozen=True, kw_only=True)
class Wide:
    """A block of a pool."""

    block: int
    tokens: str


def facts(desk: Desk, *keys: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(desk.ctl("why", *keys, "--json").out)
    return data


def record_other(desk: Desk, nodes: dict[str, Node]) -> None:
    plan = Plan(points=(), nodes={n.key: n for n in nodes.values()}, naive={})
    record.write(plan, "other", "other command", desk.store)


def test_a_done_node_is_explained_in_full(desk: Desk) -> None:
    desk.fake.dropped["sample"] = 1
    desk.run()
    desk.run("only_a", "a")
    sample = facts(desk, desk.key("sample")[:10])
    assert (sample["stage"], sample["slug"], sample["version"], sample["state"]) == ("sample", "sample", 1, "done")
    assert sample["spec"] == {"name": "sample"}
    assert sample["inputs"] == {"policy": [{"key": desk.key("model"), "stage": "model", "slug": "model"}]}
    assert sample["uses"] == {"prompts": [{"key": desk.key("prompts"), "stage": "prompts", "slug": "prompts"}]}
    assert sorted((n["sweep"], n["points"], n["of"]) for n in sample["needed_by"]) == [("both", 2, 2), ("only_a", 1, 1)]
    artifact = sample["artifact"]
    assert artifact["rows"] == {"taken": 2, "kept": 1, "dropped": {"equal_text": 1}}
    assert artifact["provenance"]["versions"] == {"trl": "1.16.0"}
    assert list(artifact["files"]) == ["table.parquet"]
    said = desk.ctl("why", desk.key("sample")).out
    for text in (
        "rows: 2 in, 1 out, dropped: equal_text 1",
        "commit: c0ffee",
        f"prompts prompts-{desk.key('prompts')}",
    ):
        assert text in said
    assert "needed by: both (1 of 2 points)" in desk.ctl("why", desk.key("train_b")).out


def test_a_folder_of_an_artifact_names_its_node(desk: Desk) -> None:
    desk.run()
    assert facts(desk, f"{desk.folder('train_a')}/")["key"] == desk.key("train_a")


def test_states_of_nodes_that_are_not_done(desk: Desk) -> None:
    desk.fake.actions["pairs_a"] = fail(RuntimeError("no rows"))
    desk.fake.dropped["pairs_b"] = 2
    desk.run()
    assert facts(desk, desk.key("pairs_a"))["state"] == "failed"
    assert facts(desk, desk.key("pairs_a"))["reason"] == "RuntimeError: no rows"
    assert facts(desk, desk.key("judge_a"))["state"] == "blocked"
    assert facts(desk, desk.key("judge_a"))["reason"] == f"it needs pairs pairs_a-{desk.key('pairs_a')}, which failed"
    assert facts(desk, desk.key("judge_b"))["reason"] == "no preference rows: 2 equal_text"
    assert "state: empty" in desk.ctl("why", desk.key("judge_b")).out
    with desk.held("train_a") as holder:
        assert facts(desk, desk.key("train_a"))["state"] == "running"
        assert f"process {holder.pid} on" in facts(desk, desk.key("train_a"))["reason"]


def test_an_alias_names_its_original_and_the_original_its_aliases(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    alias, original = facts(desk, desk.key("train_b"))["artifact"], facts(desk, desk.key("train_a"))["artifact"]
    assert alias["alias_of"] == f"train/train_a-{desk.key('train_a')}"
    assert alias["files"] == original["files"]
    assert original["aliases"] == desk.keys("train_b")
    assert "alias of: train/train_a" in desk.ctl("why", desk.key("train_b")).out


def test_a_node_of_no_sweep_is_known_from_its_manifest(desk: Desk) -> None:
    desk.run()
    (desk.store.root / "sweeps" / "both.json").unlink()
    sample = facts(desk, desk.key("sample"))
    assert sample["needed_by"] == []
    assert sample["inputs"]["policy"][0]["slug"] == "model"
    assert sample["uses"] == {"others": [{"key": desk.key("prompts"), "stage": "prompts", "slug": "prompts"}]}
    (desk.folder("sample") / "manifest.json").write_text("{")
    result = desk.ctl("why", desk.key("sample"))
    assert result.code == 2
    assert "it has no manifest that can be read" in result.err


def test_the_difference_is_followed_to_where_it_begins(desk: Desk) -> None:
    desk.run()
    others = make_nodes(pool="larger")
    record_other(desk, others)
    compared = facts(desk, desk.key("judge_a"), others["judge_a"].key)
    (difference,) = compared["differences"]
    assert (difference["stage"], difference["field"]) == ("sample", "spec.name")
    assert (difference["before"], difference["after"]) == ("sample", "larger")
    said = desk.ctl("why", desk.key("judge_a"), others["judge_a"].key).out
    assert "sample: spec.name: sample -> larger" in said
    assert f"in sample sample-{desk.key('sample')} -> sample sample-{others['sample'].key}" in said


def test_nodes_that_are_only_planned_are_compared_across_sweeps(desk: Desk) -> None:
    desk.record("both")
    others = make_nodes(pool="larger")
    record_other(desk, others)
    (difference,) = facts(desk, desk.key("train_a"), others["train_b"].key)["differences"][1:]
    assert (difference["stage"], difference["before"], difference["after"]) == ("sample", "sample", "larger")


def test_the_same_difference_in_many_blocks_is_said_once(desk: Desk) -> None:
    def pool(name: str, blocks: int = 5) -> dict[str, Node]:
        samples = [Node(stage="sample", slug=f"b{i}", spec=Wide(block=i, tokens=name)) for i in range(blocks)]
        rows = Node(stage="pairs", slug="rows", spec=Spec(name="rows"), inputs={"sample": tuple(samples)})
        return {n.key: n for n in (*samples, rows)}

    one, other, fewer = pool("64"), pool("48"), pool("64", 4)
    for number, nodes in enumerate((one, other, fewer)):
        record.write(Plan(points=(), nodes=nodes, naive={}), f"s{number}", "command", desk.store)
    rows = [list(nodes)[-1] for nodes in (one, other, fewer)]
    (difference,) = facts(desk, rows[0], rows[1])["differences"]
    assert (difference["field"], difference["before"], difference["after"]) == ("spec.tokens", "64", "48")
    assert len(difference["nodes"]) == 5
    assert "and in 2 more" in desk.ctl("why", rows[0], rows[1]).out
    (difference,) = facts(desk, rows[0], rows[2])["differences"]
    assert (difference["field"], difference["before"], difference["after"]) == ("inputs.sample", "5 nodes", "4 nodes")


def test_nodes_of_different_stages_are_said_to_be(desk: Desk) -> None:
    desk.run()
    compared = facts(desk, desk.key("model"), desk.key("prompts"))
    assert [(d["field"], d["before"], d["after"]) for d in compared["differences"]] == [("stage", "model", "prompts")]


def test_equal_content_of_different_nodes_is_said(desk: Desk) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    compared = facts(desk, desk.key("train_a"), desk.key("train_b"))
    assert [entry["content_id"] for entry in compared["equal_content"]][1] == "same"
    assert "equal in content (same)" in desk.ctl("why", desk.key("train_a"), desk.key("train_b")).out


def test_a_node_is_the_same_as_itself(desk: Desk) -> None:
    desk.run()
    assert "the same node" in desk.ctl("why", desk.key("model"), desk.key("model")[:9]).out
    assert facts(desk, desk.key("model"), desk.key("model"))["same"] is True


def test_an_input_of_which_nothing_is_known_is_said(desk: Desk) -> None:
    desk.run("only_a", "a")
    (desk.store.root / "sweeps" / "only_a.json").unlink()
    record_other(desk, make_nodes(pool="larger"))
    (desk.folder("sample") / "manifest.json").unlink()
    compared = facts(desk, desk.key("pairs_a"), make_nodes(pool="larger")["pairs_a"].key)
    assert compared["unknown"] == [desk.key("sample")]
    assert "says what it is" in desk.ctl("why", desk.key("pairs_a"), make_nodes(pool="larger")["pairs_a"].key).out
