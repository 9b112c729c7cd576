"""The sweeper: blocks and conditions make the points they say, and mistakes are named."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.types import HydraContext
from omegaconf import DictConfig

from harness import hydra_app
from harness.compose import Composer
from harness.errors import ConfigError
from harness.positions import PAIRS
from harness.sweeper import PlanningSweeper, chosen
from tests.sweeper.conftest import Loader, Points, Sweep
from tests.test_app import harness


def test_values_are_set_without_composing_again(sweep: Sweep, loader: Loader) -> None:
    values = ["n=8,16,32,64", "train.seed=range(0,10)", "train.lora.r=4,8", "reward.weights.relevance=0.5"]
    points = sweep("pair=glob(*)", *values)
    assert len({repr(point) for point in points}) == len(PAIRS) * 4 * 10 * 2
    assert loader.composed == len(PAIRS)


def test_points_share_nothing_that_can_be_changed(sweep: Sweep) -> None:
    first, second = sweep("train.seed=0,1", "train.lora.target_modules=[q_proj,v_proj]")
    first["reward"]["weights"]["relevance"] = first["train"]["lora"]["target_modules"][0] = "changed"
    assert second["reward"]["weights"]["relevance"] == 0.3
    assert second["train"]["lora"]["target_modules"] == ["q_proj", "v_proj"]


def cells(points: Points) -> list[tuple[str, str, int, int]]:
    """Construction, pair, sample size and training seed of each point."""
    return [
        (p["construction"]["name"], f"{p['pair']['chosen']}_{p['pair']['rejected']}", p["n"], p["train"]["seed"])
        for p in points
    ]


BLOCKS = [
    {"pair": ["max_min", "mu_min"], "n": "8,16", "train.seed": [0]},
    {"construction": "max_min", "n": [16]},
]


def test_blocks_are_products_and_their_union_is_run(sweep: Sweep) -> None:
    assert cells(sweep(blocks=BLOCKS)) == [
        ("position", "max_min", 8, 0),
        ("position", "max_min", 16, 0),
        ("position", "mu_min", 8, 0),
        ("position", "mu_min", 16, 0),
        ("max_min", "max_mu-2s", 16, 0),
    ]


def test_a_point_of_two_blocks_is_run_once(sweep: Sweep) -> None:
    assert len(sweep(blocks=[{"n": "8,16"}, {"n": "16,32"}])) == 3


def test_values_of_a_block_may_be_lists_and_mappings(sweep: Sweep) -> None:
    block = {"train.lora.target_modules": [["q", "v"], "all-linear"], "reward.weights": {"relevance": 1.0}}
    first, second = sweep(blocks=[{**block, "prompts.limit": None, "train.gradient_checkpointing": True}])
    assert first["train"]["lora"]["target_modules"] == ["q", "v"]
    assert second["train"]["lora"]["target_modules"] == "all-linear"
    assert first["reward"]["weights"] == {"relevance": 1.0, "finished": 0.1, "non_repetitive": 0.2, "non_echo": 0.4}
    assert first["prompts"]["limit"] is None
    assert first["train"]["gradient_checkpointing"] is True


@pytest.mark.parametrize("own", ["", "+", "++"])
@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_key_of_the_command_line_displaces_that_of_a_block(sweep: Sweep, own: str, prefix: str) -> None:
    points = sweep(f"{prefix}n=4,32", blocks=[{f"{own}n": "8,16", "pair": "max_min"}])
    assert [n for _, _, n, _ in cells(points)] == [4, 32]


def test_a_new_key_of_the_command_line_displaces_that_of_a_block(sweep: Sweep) -> None:
    assert [p["extra"] for p in sweep("+extra=1,2", blocks=[{"+extra": 3, "n": 8}])] == [1, 2]


@pytest.fixture(scope="module")
def points(composer: Composer) -> Points:
    """3 pairs, 3 sample sizes, 2 seeds."""
    axes = [("max_min", "max_mu-2s", "mu_min"), (8, 16, 64), (0, 1)]
    return [composer.compose([f"pair={p}", f"n={n}", f"train.seed={s}"]) for p, n, s in itertools.product(*axes)]


def kept(points: Points, only: Any = None, exclude: Any = None) -> Points:
    return list(itertools.compress(points, chosen(points, only, exclude)))


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ({"n": 64}, lambda pair, n, seed: n == 64),
        ({"n": 64.0}, lambda pair, n, seed: n == 64),
        ({"n": [8, 64]}, lambda pair, n, seed: n != 16),
        ({"n": ">=16"}, lambda pair, n, seed: n >= 16),
        ({"n": "> 16"}, lambda pair, n, seed: n > 16),
        ({"n": "<1.6e1"}, lambda pair, n, seed: n < 16),
        ({"n": "<=16"}, lambda pair, n, seed: n <= 16),
        ({"n": "!=16"}, lambda pair, n, seed: n != 16),
        ({"n": ["<16", 64]}, lambda pair, n, seed: n != 16),
        ({"pair": "max_*"}, lambda pair, n, seed: pair.startswith("max_")),
        ({"pair": "!=max_*"}, lambda pair, n, seed: not pair.startswith("max_")),
        ({"pair": ["mu_min", "*-2s"]}, lambda pair, n, seed: pair != "max_min"),
        ({"pair.rejected": "min", "n": 8}, lambda pair, n, seed: pair.endswith("_min") and n == 8),
        ({"pair.rejected": "mi?"}, lambda pair, n, seed: pair.endswith("_min")),
        ({"train.seed": "!=0", "construction.name": "position"}, lambda pair, n, seed: seed == 1),
        ({"prompts.path": None, "train.seed": 1}, lambda pair, n, seed: seed == 1),
        ({"train.max_steps": "!=12", "n": 8}, lambda pair, n, seed: n == 8),
        ({"train.max_steps": "!=null"}, None),
        ({"train.gradient_checkpointing": False, "n": 8}, lambda pair, n, seed: n == 8),
        ({"train.gradient_checkpointing": "!=true", "n": 8}, lambda pair, n, seed: n == 8),
        ({"train.gradient_checkpointing": 0}, None),
        ({"n": True}, None),
        ({"n": "64"}, None),
        ({"n": []}, None),
        ({"n": ">=65"}, None),
        ({"pair": "MAX_*"}, None),
        ({"pair": "min"}, None),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_conditions_keep_and_leave_out_points(
    points: Points, condition: dict[str, Any], matches: Callable[[str, int, int], bool] | None
) -> None:
    if matches is None:
        with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.only\[0\]: \{.*\} matches no point; in this sweep "):
            chosen(points, [condition], None)
        return
    expected = {cell: matches(*cell[1:]) for cell in cells(points)}
    assert cells(kept(points, only=[condition])) == [cell for cell, match in expected.items() if match]
    assert cells(kept(points, exclude=[condition])) == [cell for cell, match in expected.items() if not match]


def test_a_list_is_asked_for_by_its_items() -> None:
    paths: list[list[str]] = [["static", "on_policy"], ["static", "static"], ["on_policy", "static"], []]
    given = [{"construction": {"name": "max_min"}, "rounds": {"path": path}} for path in paths]
    assert chosen(given, [{"rounds.path": "static,*"}], None) == [True, True, False, False]
    assert chosen(given, None, [{"rounds.path": "*,static"}]) == [True, False, False, True]


def test_one_of_only_and_none_of_exclude(points: Points) -> None:
    assert cells(kept(points, only=[{"n": 8}, {"pair": "mu_min"}], exclude=[{"train.seed": 1}, {"n": 64}])) == [
        ("position", "max_min", 8, 0),
        ("position", "max_mu-2s", 8, 0),
        ("position", "mu_min", 8, 0),
        ("position", "mu_min", 16, 0),
    ]


def test_a_construction_without_a_pair_is_not_matched_by_one(sweep: Sweep) -> None:
    blocks = [{"pair": "max_mu-2s,max_min"}, {"construction": "max_min"}]
    assert cells(sweep(blocks=blocks, exclude=[{"pair": "max_mu-2s"}])) == [
        ("position", "max_min", 16, 0),
        ("max_min", "max_mu-2s", 16, 0),
    ]


def test_a_key_that_some_points_lack_does_not_match_there(sweep: Sweep) -> None:
    points = sweep("reward=longer,embedded", only=[{"reward.weights.words": ">0"}])
    assert [point["reward"]["name"] for point in points] == ["longer"]


@pytest.mark.parametrize(
    ("only", "exclude", "message"),
    [
        (None, [{"pair": "max_min"}, {"m": 8}], r"exclude\[1\]\.m: unknown key; valid keys are .*, n, pair, pair\.cho"),
        ([{"store": "x"}], None, r"only\[0\]\.store: unknown key; valid keys are .*construction\.among, "),
        ([{8: 8}], None, r"only\[0\]\.8: unknown key"),
        (None, [{"n": ">=x"}], r"exclude\[0\]\.n: '>=x' compares numbers, and 'x' is none"),
        (None, [{"pair": "<3"}], r"exclude\[0\]\.pair: '<3' compares numbers, and 'max_min' is none"),
        (None, [{"prompts.path": ">3"}], r"exclude\[0\]\.prompts\.path: '>3' compares numbers, and None is none"),
        (
            None,
            [{"n": {"a": 8}}],
            r"exclude\[0\]\.n: expected a value, a list of values or a comparison, got \{'a': 8\}",
        ),
        (None, {"n": 8}, r"exclude: expected a list of conditions, got \{'n': 8\}"),
        (["n=8"], None, r"only\[0\]: expected keys with values, such as \{n: 64\}, got 'n=8'"),
        ([{}], None, r"only\[0\]: expected keys with values, such as \{n: 64\}, got \{\}"),
        (
            None,
            [{"n": 9, "train.seed": 0}],
            r"exclude\[0\]: \{.*\} matches no point; in this sweep n is 8, 16, 64; train\.seed is 0, 1$",
        ),
    ],
    ids=str,
)
def test_a_wrong_condition_is_named(points: Points, only: Any, exclude: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hydra\.sweeper\.{message}"):
        chosen(points, only, exclude)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"n": 8}, r": expected a list of blocks, got \{'n': 8\}"),
        (["n=8"], r"\[0\]: expected keys with their choices, got 'n=8'"),
        ([{"train.seed": 0}, {"reward": "glob(x*)"}], r"\[1\]\.reward: glob\(x\*\) matches nothing"),
        ([{"train.epochs": "range(0,0)"}], r"\[0\]\.train\.epochs: range\(0,0\) matches nothing"),
        ([{"train.epochs": []}], r"\[0\]\.train\.epochs: expected one choice or more, got an empty list"),
        ([{"train.epochs": "1,,"}], r"\[0\]: train\.epochs=1,,: .*mismatched input"),
        ([{"train.epochs": "range(0,1,0)"}], r"\[0\]\.train\.epochs: range\(\) arg 3 must not be zero"),
        ([{"train": 3}], r"\[0\]: Config group override must be a string or a list"),
        ([{"train.epochs": "interval(0,1)"}], r"\[0\]\.train\.epochs: only lists, ranges, choices and globs"),
        ([{"loss": ["dpo", "glob(i*)"]}], r"\[0\]\.loss: only lists, ranges, choices and globs"),
        (
            [{"construction": "x"}],
            r"\[0\]\.construction: there is no 'x'; choose one of max_min, position, .*sweet_spot",
        ),
        (
            [{"n": 8}, {"construktion": "position"}],
            r"\[1\]\.construktion: unknown key; valid keys are .*cluster, construction, .*, train, .*wait, yes; "
            r"did you mean construction\?$",
        ),
        ([{"train.lerning": 3}], r"\[0\]\.train\.lerning: unknown key; valid keys are autocast, .*learning_rate"),
        ([{"construktion/x": "y"}], r"\[0\]\.construktion/x: unknown key; valid keys are .*cluster, .*$"),
        ([{"+store": "x"}], r"\[0\]\.store: the key is there already; it is set without '\+'$"),
    ],
    ids=str,
)
def test_a_wrong_block_is_named(sweep: Sweep, blocks: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^hydra\.sweeper\.blocks{message}"):
        sweep("n=8", blocks=blocks)


def test_a_block_that_the_conditions_empty_is_named(sweep: Sweep) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.blocks\[1\]: only and exclude leave no point"):
        sweep(blocks=BLOCKS, exclude=[{"construction.name": "max_min"}])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pair=min_max,max_min"],
            r"pair: there is no 'min_max'; choose one of max_min, .*, mu_mu-2s; .*pair\.chosen=mu\+1\.5s ",
        ),
        (["sampler=vlm,laptop"], r"sampler: there is no 'vlm'; choose one of .*, vllm; did you mean vllm\?$"),
        (
            ["+sweeps=sweeps/gird.yaml"],
            r"sweeps: there is no 'sweeps/gird\.yaml'; choose one of .*; did you mean grid\?$",
        ),
        (
            ["policy=org/name,local"],
            r"policy: there is no 'org/name'; .*; .*policy=hub policy\.id=ORG/NAME policy\.rev",
        ),
        (["judge.model=gpt,other"], r"judge\.model: unknown key; valid keys are .*; model is a key of judge=.*openai"),
        (["cluster.default.partition=gpu"], r"cluster\.default: unknown key; .*; default is a key of cluster=slurm$"),
        (["beta=0.1,1"], r"beta: unknown key; valid keys are .*; did you mean loss\.beta\?$"),
        (["train.lr=1,2"], r"train\.lr: unknown key; valid keys are .*; did you mean learning_rate\?$"),
        (["pair=glob(x*)"], r"pair: glob\(x\*\) matches nothing"),
        (["n=interval(1,2),3"], r"n: only lists, ranges, choices and globs can be swept"),
        (["+sweeps=demo,grid"], r"sweeps: one sweep file per command"),
        (["policy=local"], r"policy\.id: must be given"),
        (
            ["construktion=position,max_min"],
            r"construktion: unknown key; valid keys are .*cluster, construction, .*, yes; did you mean construction\?$",
        ),
    ],
    ids=str,
)
def test_mistakes_of_the_command_line_are_named(sweep: Sweep, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        sweep(*arguments)


def test_a_sweep_without_points_is_an_error(sweep: Sweep) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper: only and exclude leave no point"):
        sweep("n=8,16", only=[{"n": 8}], exclude=[{"n": 8}])


def test_points_are_run_with_the_folder_of_the_plan(
    command: tuple[Any, DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(hydra_app, "run", lambda points, *, plan_dir: given.update(points=points(), folder=plan_dir))
    monkeypatch.chdir(tmp_path)
    sweeper = PlanningSweeper()
    context = HydraContext(config_loader=command[0], callbacks=None)
    sweeper.setup(hydra_context=context, task_function=None, config=command[1])
    sweeper.sweep(["n=8,16"])
    assert [point["n"] for point in given["points"]] == [8, 16]
    assert given["folder"] == tmp_path


FILTERED = """# @package _global_
sweep: mine
hydra:
  mode: MULTIRUN
  sweeper:
    blocks:
      - pair: glob(*)
        n: [8, 16, 32]
      - construction: sweet_spot
    exclude:
      - pair: [mu*_min, "mu?1s_*"]
        n: ">=16"
      - pair.chosen: mu
"""


def folder_with(folder: Path, text: str) -> Path:
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "mine.yaml").write_text(text)
    return folder


def test_conditions_of_a_sweep_file(tmp_path: Path) -> None:
    ended = harness(folder_with(tmp_path, FILTERED), "-m", "+sweeps=mine", "dry_run=true")
    assert ended.code == 0, ended.err
    low = [pair for pair in PAIRS if pair[0] != "mu"]
    high = [
        (chosen, rejected)
        for chosen, rejected in low
        if not (chosen.startswith("mu") and rejected == "min") and chosen not in ("mu-1s", "mu+1s")
    ]
    assert ended.points() == len(low) + 2 * len(high) + 1


def test_conditions_of_the_command_line(tmp_path: Path) -> None:
    conditions = [
        "hydra.sweeper.only=[{pair: max_*}, {pair.chosen: mu+2s, n: 8}]",
        'hydra.sweeper.exclude=[{pair.rejected: [min, mu-1s], n: ">=16"}, {n: "!=8", pair: *_mu-2s}]',
    ]
    ended = harness(tmp_path, "-m", "pair=glob(*)", "n=8,16,64", *conditions, "dry_run=true")
    assert ended.code == 0, ended.err
    assert ended.points() == (6 + 5) + 2 * (6 - 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILTERED.replace("glob(*)", "min_max"), "error: hydra.sweeper.blocks[0].pair: there is no 'min_max'; choose"),
        (FILTERED.replace("sweet_spot", "nonsense"), "choose one of max_min, position, "),
        (FILTERED.replace("pair.chosen: mu", "_target_: os.getcwd"), "exclude[1]._target_: unknown key; valid keys"),
    ],
    ids=["pair", "construction", "condition"],
)
def test_a_mistake_in_a_sweep_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    ended = harness(folder_with(tmp_path, text), "-m", "+sweeps=mine", "dry_run=true")
    assert ended.code != 0
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.strip().splitlines()[-1].startswith("error: hydra.sweeper.")


WRONG_DEFAULTS = "# @package _global_\ndefaults: [{}]\nhydra: {{mode: MULTIRUN, sweeper: {{blocks: [{{n: 8}}]}}}}\n"


@pytest.mark.parametrize(
    ("arguments", "default", "message"),
    [
        (["+sweeps=mine"], "override /trian: demo", "In 'sweeps/mine': "),
        (["+sweeps=mine"], "override /train: dmeo", "train: there is no 'dmeo'; choose one of control, demo, "),
        (["construktion=position"], "", "construktion: unknown key; valid keys are "),
        (
            ["cluster=slurm", "cluster.stages.train.gpu=1"],
            "",
            "cluster.stages.train.gpu: unknown key; valid keys are account, constraint, cpus, extra, gpu_type, gpus, ",
        ),
        (
            ["-m", "cluster=slurm", "cluster.stages.trian.gpus=1", "n=8,16"],
            "",
            "cluster.stages.trian: unknown key; valid keys are appraise, ",
        ),
        (["-m", "construktion=position,max_min"], "", "construktion: unknown key; valid keys are "),
        (["n=[1"], "", ""),
    ],
)
def test_what_hydra_refuses_is_one_line(tmp_path: Path, arguments: list[str], default: str, message: str) -> None:
    ended = harness(folder_with(tmp_path, WRONG_DEFAULTS.format(default)), *arguments, "dry_run=true")
    assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
    assert ended.err.startswith(f"error: {message}")


def test_a_sweep_file_that_is_not_there(tmp_path: Path) -> None:
    ended = harness(tmp_path, "-m", "+sweeps=nonexistent", "dry_run=true")
    assert ended.code != 0
    assert all(
        name in ended.err for name in ("error: sweeps: there is no 'nonexistent'", "control", "demo", "grid", "scaling")
    )
    assert "Traceback" not in ended.err
