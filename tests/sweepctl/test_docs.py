"""docs/store.md says what the store is: its code runs, its example is real, its fields are all there are."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from harness import tables
from harness.claims import DEAD_AFTER, HEARTBEAT, Owner
from harness.engines import proxy_reward
from harness.keys import node_key
from harness.manifest import Manifest
from harness.record import Sweep
from harness.store import FORMAT
from tests.sweepctl.conftest import Desk

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text()

TYPES = {"messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), "bool": pa.bool_()}
TYPES |= {"logprobs": pa.list_(pa.struct([("token", pa.string()), ("logprob", pa.float64())]))}
TYPES |= {"string": pa.string(), "int32": pa.int32(), "double": pa.float64(), "int32[]": pa.list_(pa.int32())}
TYPES |= {"double[]": pa.list_(pa.float64())}

SCHEMAS = {
    ("imported", "responses.parquet"): tables.IMPORTED_RESPONSES,
    ("imported", "rewards.parquet"): tables.imported_rewards_schema(["<name>"]),
    ("imported", "answers.parquet"): tables.IMPORTED_ANSWERS,
    ("imported", "prompts.parquet"): tables.IMPORTED_PROMPTS,
    ("prompts", "prompts.parquet"): tables.PROMPTS,
    ("conversations", "conversations/"): tables.CONVERSATIONS,
    ("sft", "training.parquet"): tables.SFT_TRAINING,
    ("candidates", "candidates/"): tables.candidates_schema(["<name>"]),
    ("sample", "responses/"): tables.RESPONSES,
    ("sample", "prompt_tokens.parquet"): tables.PROMPT_TOKENS,
    ("score", "rewards/"): tables.rewards_schema(["<name>"]),
    ("rank", "rewards.parquet"): tables.rewards_schema(()),
    ("rank", "ranks.parquet"): tables.RANKS,
    ("rank", "comparisons.parquet"): tables.COMPARISONS,
    ("select", "picks.parquet"): tables.PICKS,
    ("select", "spreads.parquet"): tables.SPREADS,
    ("relabel", "relabelled.parquet"): tables.RELABELLED,
    ("reference", "reference/"): tables.REFERENCE,
    ("pairs", "pairs.parquet"): tables.PAIRS,
    ("pairs", "sources.parquet"): tables.SOURCES,
    ("train", "training.parquet"): tables.TRAINING,
    ("respond", "answers/"): tables.ANSWERS,
    ("judge", "verdicts.parquet"): tables.VERDICTS,
    ("judge", "judgements.parquet"): tables.JUDGEMENTS,
    ("judge", "compared/"): tables.COMPARED,
    ("lm_eval", "scores.parquet"): tables.LM_EVAL_SCORES,
    ("lm_eval", "questions.parquet"): tables.LM_EVAL_QUESTIONS,
    ("appraise", "rewards/"): tables.rewards_schema(["<name>"]),
    ("boundary", "votes.parquet"): tables.VOTES,
    ("diversity", "candidate_sets.parquet"): tables.CANDIDATE_SETS,
    ("change", "changes/"): tables.CHANGES,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def recompute(manifest: Path) -> None:
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code, str(manifest)], check=True)


def test_the_page_recomputes_keys_and_digests_of_a_real_store(desk: Desk, tmp_path: Path) -> None:
    desk.fake.content |= {"pairs_a": "same", "pairs_b": "same"}
    desk.run()
    for name in ("sample", "train_b"):
        recompute(desk.folder(name) / "manifest.json")


def test_the_example_is_a_manifest_with_its_true_key(tmp_path: Path) -> None:
    (text,) = blocks("json")
    example = Manifest(**json.loads(text))
    assert node_key(example.stage, example.stage_version, example.spec, example.inputs) == example.key
    assert set(json.loads(text)) == {f.name for f in dataclasses.fields(Manifest)}
    (tmp_path / "manifest.json").write_text(text)
    recompute(tmp_path / "manifest.json")


def test_every_field_is_described() -> None:
    fields = {f.name for kind in (Manifest, Owner, Sweep) for f in dataclasses.fields(kind)} - {"name"}
    assert {name for name in fields if f"`{name}`" not in PAGE} == set()
    assert f"This page describes format {FORMAT}" in PAGE
    assert f"renewed every {HEARTBEAT:.0f} s" in PAGE.replace("\n", " ")
    assert f"{DEAD_AFTER:.0f} s old" in PAGE.replace("\n", " ")


def test_every_table_is_described_with_its_columns_and_types() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w./]+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert {(stage, table) for stage, table, _ in rows} == set(SCHEMAS)
    for stage, table, columns in rows:
        described = [(name, TYPES[kind]) for name, kind in re.findall(r"`([\w<>]+)` ([\w\[\]]+)", columns)]
        assert described == [(f.name, f.type) for f in SCHEMAS[stage, table]]
    assert all(f"`{name}`" in PAGE for name in proxy_reward.ATTRIBUTES)
