"""The command line: what it plans, what it refuses before any work, and how sweeps are found and expanded."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from harness import app, hydra_app, imports, preflight
from harness import execute as execution
from harness import record as records
from harness.config import ClusterConfig
from harness.errors import ConfigError
from harness.files import write_json
from harness.keys import digest
from harness.plan import STAGES, make_plan
from harness.positions import PAIRS
from harness.progress import Reporter
from harness.schedule import Summary
from harness.store import Store, StoreError
from tests.artifacts import manifest
from tests.configs import composed, point
from tests.tiny import save_tiny_policy

SWEEPS = hydra_app.root() / "sweeps"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def plan(self) -> dict[str, tuple[int, ...]]:
        """Counts of the plan's table by stage: unshared, shared, done, alive, to do."""
        rows = re.findall(r"^  ([a-z]+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", self.err, re.MULTILINE)
        return {stage: tuple(map(int, counts)) for stage, *counts in rows}

    def points(self) -> int:
        """Number of points of the plan."""
        found = re.search(r"^(\d+) points\.", self.err, re.MULTILINE)
        assert found, self.err
        return int(found[1])


def harness(folder: Path, *arguments: str) -> Ended:
    """Run `python -m harness` in a folder."""
    command = [sys.executable, "-m", "harness", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    return Ended(result.returncode, result.stdout, result.stderr)


def test_a_dry_run_shows_the_plan_and_does_nothing(tmp_path: Path) -> None:
    ended = harness(tmp_path, "dry_run=true", "n=8", "sampler.prompt_blocks=2")
    assert ended.code == 0, ended.err
    assert ended.points() == 1
    apart = {
        "imported",
        "conversations",
        "sft",
        "candidates",
        "rank",
        "relabel",
        "lm_eval",
        "boundary",
        "diversity",
        "change",
    }
    asked_for = [stage for stage in STAGES if stage not in apart]
    counts = dict.fromkeys(asked_for, 1) | {"prompts": 2, "sample": 2, "score": 2, "respond": 2, "appraise": 2}
    assert ended.plan() == {stage: (count, count, 0, 0, count) for stage, count in counts.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_glob_over_the_pairs_is_all_21_of_them(tmp_path: Path) -> None:
    ended = harness(tmp_path, "-m", "pair=glob(*)", "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == ended.plan()["train"][1] == len(PAIRS)
    assert ended.plan()["select"][1] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


BROKEN = '{"prompt": "good"}\n{"prompt": \n'


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["learning_rate=1"], ["learning_rate"]),
        (["+train.rate=1"], ["error: train.rate: unknown key; valid keys are", "learning_rate"]),
        (["pair=min_max"], ["pair: there is no 'min_max'", *(f"{chosen}_{rejected}" for chosen, rejected in PAIRS)]),
        (["pair.chosen=min"], ["error: pair: chosen 'min' must stand above rejected 'mu-2s'"]),
        (["n=65"], ["error: n: 65 is out of range; expected 2 <= n <= sampler.pool = 64"]),
        (["policy=local"], ["error: policy.id: must be given (policy.id=...)"]),
        (["policy=local", "policy.id=nowhere"], ["error: policy.id: nowhere is no model folder"]),
        (["prompts=file", "prompts.path=broken.jsonl"], ["error: prompts.path: broken.jsonl, line 2: no valid JSON"]),
        (["train.weights_dtype=bfloat16"], ["error: train.weights_dtype: full fine-tuning needs float32"]),
        (["train.learning_rate=nan"], ["error: train.learning_rate: expected a finite number"]),
        (
            ["max_nodes=17"],
            ["error: max_nodes: 20 units of work are to do, more than 17; ", "dry_run=true", "yes=true"],
        ),
        (["max_nodes=0"], ["error: max_nodes: expected 1 or more, got 0"]),
        (["-m", "n=8,high"], ["error: n: expected int, got 'high'"]),
        (["-m", "pair=glob(x*)"], ["error: pair: ", "matches nothing"]),
    ],
    ids=lambda value: " ".join(value) if value and "error" not in str(value) else "",
)
def test_a_mistake_ends_the_command_before_any_work(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    (tmp_path / "broken.jsonl").write_text(BROKEN)
    ended = harness(tmp_path, *arguments)
    assert ended.code != 0
    assert all(text in ended.err for text in expected), ended.err
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.jsonl"]


def stated() -> dict[str, tuple[int, ...]]:
    """Counts that the sweeps' README states by file: points, then sample, train, respond and judge."""
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (\d+)[^|]*\| ([\d, ]+) \|$", (SWEEPS / "README.md").read_text(), re.MULTILINE
    )
    return {name: (int(points), *map(int, units.split(", "))) for name, points, units in rows}


def test_the_readme_lists_every_sweep() -> None:
    assert sorted(stated()) == sorted(path.stem for path in SWEEPS.glob("*.yaml"))


@pytest.mark.parametrize("name", sorted(path.stem for path in SWEEPS.glob("*.yaml")))
def test_a_sweep_has_the_counts_that_its_readme_states(tmp_path: Path, name: str) -> None:
    ended = harness(tmp_path, "-m", f"+sweeps={name}", "dry_run=true")
    assert ended.code == 0, ended.err
    shared = {stage: counts[1] for stage, counts in ended.plan().items()}
    found = (ended.points(), *(shared[stage] for stage in ("sample", "train", "respond", "judge")))
    assert found == stated()[name]


def test_a_sweep_runs_without_the_flag(tmp_path: Path) -> None:
    ended = harness(tmp_path, "+sweeps=demo", "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == stated()["demo"][0]


OWN = """# @package _global_
sweep: mine
hydra:
  mode: MULTIRUN
  sweeper:
    blocks:
      - pair: max_min,max_mu
        prompts.limit: null
        n: [8, 16]
      - pair: max_min
        n: 8
        prompts.limit: null
        train.gradient_checkpointing: false
      - construction: sweet_spot
        n: 8
"""


def test_a_sweep_file_of_the_working_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(OWN)
    ended = harness(tmp_path, "+sweeps=mine", "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == ended.plan()["train"][1] == 5  # the second block asks for a point of the first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "sweeps"]


def test_the_command_line_wins_over_the_blocks(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(OWN)
    ended = harness(tmp_path, "+sweeps=mine", "n=16", "pair=mu_min", "train.seed=0,1", "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == 2 * 2  # one value of n and one pair are left of each block; two blocks are one
    assert ended.plan()["select"][1] == 2  # of one n: every prompt, and the first 32


def test_a_wrong_block_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(OWN.replace("max_min,max_mu", "max_min,,"))
    ended = harness(tmp_path, "+sweeps=mine", "dry_run=true")
    assert ended.code != 0
    assert "error: hydra.sweeper.blocks[0]: " in ended.err
    assert "Traceback" not in ended.err


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Summary:
    """No work is done; every node ends as this summary says."""
    summary = Summary()
    monkeypatch.setattr(execution, "execute", lambda *_, **__: summary)
    return summary


def run(store: Path, *overrides: str) -> tuple[int, str]:
    output = io.StringIO()
    code = app.run([composed(f"store={store}", *overrides)], Reporter(Console(file=output, width=500)))
    return code, output.getvalue()


def recorded(store: Path, sweep: str) -> dict[str, dict[str, dict[str, object]]]:
    points: dict[str, dict[str, dict[str, object]]] = json.loads((store / "sweeps" / f"{sweep}.json").read_text())[
        "points"
    ]
    return points


def test_points_are_recorded_under_the_sweeps_name(tmp_path: Path, idle: Summary) -> None:
    assert run(tmp_path, "sweep=mine", "n=8")[0] == 0
    ((point_id, record),) = recorded(tmp_path, "mine").items()
    assert record["config"]["n"] == 8
    assert point_id == digest(record["config"])
    assert set(record["nodes"]) == {"pairs", "train", "respond", "judge"}
    sweep = records.read(Store(tmp_path), "mine")
    above = {sweep.nodes[key]["stage"] for key in sweep.ancestors(str(record["nodes"]["pairs"]))}
    assert above == {"model", "prompts", "sample", "score", "select", "reference"}


def test_points_that_share_all_their_work_stay_apart(tmp_path: Path, idle: Summary) -> None:
    run(tmp_path, "pair=max_min")
    run(tmp_path, "construction=max_min")
    points = recorded(tmp_path, "single").values()
    assert [point["config"]["construction.name"] for point in points] in (
        ["position", "max_min"],
        ["max_min", "position"],
    )
    assert len({point["nodes"]["judge"] for point in points}) == 1


@pytest.mark.parametrize("name", ["single", "mine"])
def test_a_sweep_is_extended_by_further_commands_and_narrowed_by_none(tmp_path: Path, idle: Summary, name: str) -> None:
    for seed in (0, 1, 1):
        _, output = run(tmp_path, f"train.seed={seed}", f"sweep={name}")
    assert sorted(str(r["config"]["train.seed"]) for r in recorded(tmp_path, name).values()) == ["0", "1"]
    assert ("mine: 2 points by now, with those of earlier commands" in output) == (name == "mine")


def test_a_point_asked_for_again_under_a_further_setting_is_one(tmp_path: Path, idle: Summary) -> None:
    run(tmp_path, "sweep=mine")
    path = tmp_path / "sweeps" / "mine.json"
    written = json.loads(path.read_text())
    ((_, point),) = written["points"].items()
    del point["config"]["train.name"]  # as if written before there was such a setting
    written["points"] = {digest(point["config"]): point}
    path.write_text(json.dumps(written))
    run(tmp_path, "sweep=mine")
    (again,) = recorded(tmp_path, "mine").values()
    assert "train.name" in again["config"]


def test_each_point_knows_the_command_that_makes_it(
    tmp_path: Path, idle: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pair in ("max_min", "mu_min"):
        monkeypatch.setattr(sys, "argv", ["harness", f"pair={pair}"])
        run(tmp_path, f"pair={pair}")
    sweep = records.read(Store(tmp_path), "single")
    for made in sweep.points.values():
        pair = f"{made['config']['pair.chosen']}_{made['config']['pair.rejected']}"
        assert sweep.commands([made["nodes"]["train"]]) == [f"python -m harness pair={pair}"]
    shared = next(key for key, node in sweep.nodes.items() if node["stage"] == "model")
    assert len(sweep.commands([shared])) == 2


def test_a_group_that_is_set_to_nothing_is_named(tmp_path: Path) -> None:
    ended = harness(tmp_path, "-m", "n=8,16", "reward=embedded,shorter", "judge@ranker=null")
    assert ended.code == 2
    assert re.fullmatch(r"error: judge@ranker: 'null' is not valid; choose one of .*embedded, .*\n", ended.err)


@pytest.mark.parametrize("dry", ["dry_run=true", "dry_run=false"])
def test_what_is_refused_is_refused_by_a_dry_run_too_and_recorded_by_none(tmp_path: Path, dry: str) -> None:
    store = Store(tmp_path).prepare()
    made = make_plan([point("n=8")])
    trained = made.points[0].nodes["train"]
    with store.claim(trained.key) as work:
        released = {"weights/model": {"bytes": 1, "sha256": ""}}
        store.publish(work, manifest("train", trained.key, released=released), trained.slug)
    with pytest.raises(StoreError, match=r"^keep_weights: the answers to do need the weights of 1 trained cells"):
        run(tmp_path, "n=8", dry)
    assert not list((tmp_path / "sweeps").iterdir())
    write_json(tmp_path / "store.json", {"format": 99})
    with pytest.raises(StoreError, match="has format 99"):
        run(tmp_path, "n=8", dry)


def test_the_exit_code_says_whether_all_is_done(tmp_path: Path, idle: Summary) -> None:
    idle.empty["a cell"] = "no preference rows"
    assert run(tmp_path)[0] == 0
    idle.blocked.append("a node")
    idle.alive.append("another")
    code, output = run(tmp_path)
    assert code == 1
    assert "not done, since something they need is not there: 1 nodes" in output
    assert "in the hands of other commands: 1 nodes" in output
    assert "single: 1 points; 0 nodes computed, 0 found done, 0 equal to others, 0 failed, 2 not done" in output


@pytest.mark.parametrize("override", ["sweep=other", "store=elsewhere", "dry_run=true", "cluster.threads=3"])
def test_options_of_a_run_cannot_be_swept(tmp_path: Path, idle: Summary, override: str) -> None:
    points = [composed(f"store={tmp_path}"), composed(f"store={tmp_path}", "n=8", override)]
    with pytest.raises(ConfigError, match=r"^cluster, dry_run, .*, sweep, wait, yes: .* cannot be swept"):
        app.run(points, Reporter(Console(file=io.StringIO())))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_too_large_is_begun_where_that_is_said(tmp_path: Path, idle: Summary) -> None:
    assert run(tmp_path, "max_nodes=1", "yes=true")[0] == 0
    assert run(tmp_path / "planned", "max_nodes=1", "dry_run=true")[0] == 0


def test_what_is_done_makes_no_sweep_too_large(tmp_path: Path, idle: Summary) -> None:
    plan = make_plan([point()], Store(tmp_path))
    with pytest.raises(ConfigError, match=rf"^max_nodes: {len(plan.nodes)} units"):
        run(tmp_path, f"max_nodes={len(plan.nodes) - 1}")
    node = next(iter(plan.nodes.values()))
    with Store(tmp_path).prepare().claim(node.key) as work:
        Store(tmp_path).publish(work, manifest(stage=node.stage, key=node.key), node.slug)
    assert run(tmp_path, f"max_nodes={len(plan.nodes) - 1}")[0] == 0


def test_a_store_of_another_format_ends_the_command(tmp_path: Path, idle: Summary) -> None:
    Store(tmp_path).prepare()
    write_json(tmp_path / "store.json", {"format": 99})
    with pytest.raises(StoreError, match="has format 99"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["a/b", "../x", "", ".hidden", "a b"])
def test_a_sweeps_name_must_be_a_file_name(tmp_path: Path, idle: Summary, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^sweep: .* names a file"):
        run(tmp_path, f"sweep='{name}'")
    assert list(tmp_path.iterdir()) == []


def test_folders_of_the_working_folder_are_no_config_groups(tmp_path: Path) -> None:
    for name in ("store", "train", "sweep"):
        (tmp_path / name).mkdir()
    ended = harness(tmp_path, "-m", "store=./store", "train=lora", "n=4,8", "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == 2


@pytest.mark.parametrize("wanted", ["sampler=vllm", "evaluate.engine=vllm", "judge=vllm_local"])
def test_without_vllm_nothing_begins_that_it_is_to_do(tmp_path: Path, wanted: str, tiny_policy: Path) -> None:
    model = ["judge.model.source=local", f"judge.model.id={tiny_policy}"] if wanted.startswith("judge") else []
    given = composed(wanted, *model, f"store={tmp_path}/store", "cluster.python.vllm=/bin/false")
    with pytest.raises(ConfigError, match=r"^cluster\.python\.vllm: /bin/false is no Python interpreter"):
        app.run([given], Reporter(Console(file=io.StringIO())))
    shown = io.StringIO()
    app.run([given | {"dry_run": True}], Reporter(Console(file=shown, width=400)), tmp_path)
    assert "Without dry_run this would be refused here: cluster.python.vllm: /bin/false is no" in shown.getvalue()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("sampler=vllm", "cluster.vllm.tensor_parallel=2"), "and a process has 1$"),
        (
            ("evaluate.engine=vllm", "cluster=local", "cluster.vllm.tensor_parallel=2"),
            r"and a process has 1 of the 2 of this machine \(cluster\.gpus_per_worker\)$",
        ),
        (
            ("sampler=vllm", "cluster=slurm", "cluster.stages.sample.gpus=2", "cluster.vllm.tensor_parallel=4"),
            r"and a job of sample has 2 \(cluster\.stages\.sample\.gpus\)$",
        ),
    ],
)
def test_more_gpus_than_a_process_has_are_refused_at_once(
    given: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1" if "cluster=local" in given else "0")
    with pytest.raises(ConfigError, match=rf"^cluster\.vllm\.tensor_parallel: [24] GPUs are asked for, .*{said}"):
        run(tmp_path / "store", *given)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("key", ["sampler.max_new_tokens", "evaluate.max_new_tokens"])
def test_a_response_that_fills_the_context_is_refused_at_once(tmp_path: Path, tiny_policy: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: 1024 leaves no room for a prompt in the policy's context of 1024"):
        run(tmp_path / "store", "policy=local", f"policy.id={tiny_policy}", f"{key}=1024")
    assert not (tmp_path / "store").exists()


def test_an_imported_model_answers_within_its_own_context(tmp_path: Path) -> None:
    """The policy that it is compared with may have a smaller one."""
    small, large = (save_tiny_policy(tmp_path / str(c), context=c) for c in (64, 4096))
    store = Store(tmp_path / "store").prepare()
    imports.bring(store, "model", large, "large", Reporter(Console(file=io.StringIO())))
    given = ("policy=local", f"policy.id={small}", "train=imported", "train.imported=large")
    told = [*given, "evaluate.max_new_tokens=100", "judge=shorter", f"store={store.root}"]
    plan = make_plan([point(*told)], store)
    answering = [node for node in plan.nodes.values() if node.stage == "respond"]
    (of_model,) = (node for node in answering if node.inputs["model"][0].stage == "imported")
    preflight.check([of_model], store, ClusterConfig(name="debug", workers=None, threads=None))
    with pytest.raises(ConfigError, match=r"^evaluate\.max_new_tokens: 100 leaves no room .* context of 64$"):
        preflight.check(answering, store, ClusterConfig(name="debug", workers=None, threads=None))
