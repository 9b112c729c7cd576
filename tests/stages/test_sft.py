"""A sweep on a base model that is fine-tuned first: the whole way by the command line, killed and gone on with."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.manifest import Manifest, read_manifest
from harness.perform import Ending, perform
from harness.plan import make_plan
from harness.progress import Reporter
from harness.store import Store
from tests.configs import point
from tests.processes import MARK, any_file, mark_checkpoints, running, wait_until
from tests.test_sft import said, user
from tests.tiny import save_tiny_policy

SMALL = (
    "policy=local",
    "sft=file",
    "sft.max_length=64",
    "sft.global_batch=2",
    "sft.learning_rate=1e-3",
    "sft.save_steps=1",
    "sft.max_steps=40",
    "reward=shorter",
    "judge=shorter",
    "prompts.limit=3",
    "evaluate.limit=4",
    "sampler.max_new_tokens=8",
    "sampler.prompt_blocks=1",
    "sampler.max_prompt_tokens=600",
    "evaluate.max_prompt_tokens=600",
    "evaluate.max_new_tokens=4",
    "train=lora",
    "train.max_steps=1",
    "n=8",
    "pair=max_min",
    "cluster.threads=1",
)
QUESTION = "How long should I boil eggs?"


def settings(folder: Path) -> list[str]:
    return [*SMALL, f"store={folder / 'store'}", f"policy.id={folder / 'base'}", f"sft.id={folder / 'talk.jsonl'}"]


def command(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "harness", *settings(folder), *overrides]


def ended(arguments: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=folder, timeout=300)


def manifests(folder: Path, stage: str) -> list[Manifest]:
    found = [read_manifest(path) for path in sorted((folder / "store" / stage).glob("*"))]
    return [manifest for manifest in found if manifest is not None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_policy(tmp_path / "base", template=None)
    held_out = {"prompt": QUESTION, "id": "asked"}
    (tmp_path / "asked.jsonl").write_text(json.dumps(held_out) + "\n")
    rows: list[Any] = [[user(f"Number {i}?"), said("one " * (1 + i % 5))] for i in range(20)]
    rows += [rows[0], [user("Nobody?")], [user("a" * 90), said("b")], [user(QUESTION), said("Ten minutes.")]]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return tmp_path


def test_killed_in_the_middle_the_same_command_ends_with_results(folder: Path) -> None:
    work = folder / "store" / "work"
    with running(command(folder)[1:], folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: any_file(work, "*/*/checkpoints/checkpoint-*/whole"), 120, "a checkpoint")
    assert not manifests(folder, "sft")
    assert mark_checkpoints(work)
    done = ended(command(folder), folder)
    assert done.returncode == 0, done.stderr

    (conversations,), (trained,) = manifests(folder, "conversations"), manifests(folder, "sft")
    assert conversations.rows == {"taken": 24, "kept": 22, "dropped": {"duplicate": 1, "no_assistant_turn": 1}}
    assert trained.rows == {"taken": 22, "kept": 21, "dropped": {"no_token_to_learn": 1}}
    measures = trained.measures
    assert (measures["steps"], measures["truncated"]) == (40, 1)
    assert measures["train_loss"] < measures["first_loss"]
    assert measures["stop_tokens"] == [2]
    assert {name for name in trained.files if "/" not in name} == {"model.json", "training.parquet"}
    store = Store(folder / "store")
    (judged,) = manifests(folder, "judge")
    assert judged.rows["kept"] == 4
    policy = store.find("sft", trained.key)
    assert policy is not None
    assert store.verify(policy) == []
    history = policy.table("training").to_pylist()
    assert [row["step"] for row in history] == list(range(1, 41))
    assert history[0]["grad_norm"] == MARK  # no step was done again that a checkpoint holds
    assert all(m.inputs["policy"] == [trained.key] for m in manifests(folder, "sample") + manifests(folder, "train"))

    # Another evaluation set that the conversations do not hold: they are read anew, and nothing is trained.
    endings = dict(made(folder, "evaluate.limit=3", stages=("prompts", "conversations", "sft")))
    assert (endings["conversations"].how, endings["sft"].how) == ("computed", "aliased")


def made(
    folder: Path, *overrides: str, without: str = "store", stages: Sequence[str] = ("prompts", "conversations")
) -> Iterator[tuple[str, Ending]]:
    """What becomes of the first stages of a point, without the settings that begin with a word."""
    given = [override for override in settings(folder) if not override.startswith((without, "store"))]
    store = Store(folder / "store")
    store.prepare()
    for node in make_plan([point(*given, *overrides)], store).nodes.values():
        if node.stage in stages:
            yield node.stage, perform(node, store, Reporter(), "label", 1)


def test_a_base_model_that_is_given_as_a_policy_is_told_what_to_do(folder: Path) -> None:
    (ending,) = dict(made(folder, without="sft", stages=("model",))).values()
    assert ending.text.startswith("policy local: the tokenizer has no chat template")
    assert "sft=ultrachat or sft=file" in ending.text


def test_conversations_that_ask_what_is_evaluated_are_left_out(folder: Path) -> None:
    assert dict(made(folder, f"evaluate.path={folder / 'asked.jsonl'}"))["conversations"].how == "computed"
    (manifest,) = manifests(folder, "conversations")
    assert manifest.rows["dropped"] == {"duplicate": 1, "no_assistant_turn": 1, "in_evaluation_set": 1}


def test_conversations_of_which_none_is_left_or_that_have_changed_fail(folder: Path) -> None:
    data = folder / "talk.jsonl"
    data.write_text(json.dumps({"messages": [user("Nobody?")]}) + "\n")
    told = dict(made(folder))["conversations"].text
    assert told == f"sft.id: {data} holds no conversation to train on (no_assistant_turn 1)"
    data.write_text(json.dumps({"messages": [user("Somebody?"), said("Yes.")]}) + "\n")
    assert "has changed since this was planned" in dict(made(folder))["conversations"].text


def test_a_sequence_longer_than_the_context_is_refused(folder: Path) -> None:
    stages = ("prompts", "model", "conversations", "sft")
    told = dict(made(folder, "sft.max_length=1025", stages=stages))["sft"].text
    assert told == "sft.max_length: 1025 is more than the context of local, which is 1024"
