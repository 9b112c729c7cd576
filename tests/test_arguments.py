"""Mistakes at the command line: what a newcomer types wrongly is one clear error, and nothing begins."""

from pathlib import Path

import pytest

from harness import app, arguments, hydra_app, sweep_files
from harness.errors import ConfigError, alike
from tests.configs import composed
from tests.test_app import harness

FILES = "there are alignment_stages, control, control_constructions, demo, grid, "


@pytest.fixture(autouse=True)
def registered() -> None:
    hydra_app.register()


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        (["pair=max_min"], ["pair=max_min"]),
        (["~train.lora", "+train.extra=3", "++n=8", "judge@ranker=openai", "n="], None),
        (["+sweeps=grid", "n=8,16"], ["-m", "+sweeps=grid", "n=8,16"]),
        (["n=8,16", "-m", "pair=glob(*)"], ["-m", "n=8,16", "pair=glob(*)"]),
        (["--multirun", "n=8,16"], ["-m", "n=8,16"]),
        (["hydra.mode=MULTIRUN", "n=8,16"], ["-m", "hydra.mode=MULTIRUN", "n=8,16"]),
        (["rounds.path=[static,on_policy]"], None),
        (["--cfg", "job"], None),
        (["n=8", "--cfg", "job", "pair=max_min", "n=8"], ["--cfg", "job", "n=8", "pair=max_min", "n=8"]),
        (["--info", "defaults"], None),
        (["--info", "defaults", "n=8"], ["n=8", "--info", "defaults"]),
        (["n=8", "--info"], None),
        (["-cd", ".", "-cn", "mine"], None),
        (["--help"], None),
        (["-sc", "query=bash"], None),
        (["sweep=grid", "pair=max_min"], None),
        (["sweep=mine"], None),
    ],
    ids=str,
)
def test_what_hydra_is_given(typed: list[str], prepared: list[str] | None) -> None:
    assert arguments.prepare(typed) == (prepared or typed)


@pytest.mark.parametrize(
    "typed", [[], ["-m"], ["--multirun"], ["-cd", "."], ["--resolve"], ["--package", "x"], ["--run"]], ids=str
)
def test_arguments_that_ask_for_nothing(typed: list[str]) -> None:
    assert arguments.prepare(typed) is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("+sweep=grid", f"+sweep: a sweep file is chosen by +sweeps=grid; {FILES}"),
        ("++sweep=grid", f"++sweep: a sweep file is chosen by +sweeps=grid; {FILES}"),
        ("-m +sweep=girt", f"+sweep: a sweep file is chosen by +sweeps=NAME; {FILES}"),
        ("sweeps=grid", f"sweeps: a sweep file is chosen by +sweeps=grid; {FILES}"),
        ("++sweeps=grid", f"++sweeps: a sweep file is chosen by +sweeps=grid; {FILES}"),
        ("+sweps=grid", f"+sweps: a sweep file is chosen by +sweeps=grid; {FILES}"),
        ("+sweeps=[grid,demo]", "sweeps: one sweep file per command"),
        ("+sweeps=demo +sweeps=grid", "sweeps: one sweep file per command"),
        ("sweeps=[grid]", "sweeps: a sweep file is chosen by +sweeps=NAME; "),
        ("sweep=grid dry_run=true", "sweep: 'grid' only names what is recorded, and nothing says what to run"),
        ("-m sweep=grid cluster.threads=1", "sweep: 'grid' only names what is recorded"),
        ("grid", "grid: expected key=value; the sweep file grid is run by: python -m harness -m +sweeps=grid"),
        ("+sweeps/grid", "+sweeps/grid: expected key=value; the sweep file grid is run by"),
        ("+sweeps", "+sweeps: expected key=value (a setting"),
        ("status grid", "status: expected key=value (a setting, such as status=...) or +sweeps=NAME (one of align"),
        ("report --sweep grid", "report: expected key=value"),
        ("n = 16", "n: expected key=value without spaces around '=' and ','"),
        ("n =16", "n: expected key=value without spaces around '=' and ','"),
        ("n= 16", "16: expected key=value without spaces around '=' and ','"),
        ("-m n=8, 16", "n: '8,' ends with a comma; values stand without spaces between them"),
        ("=16", "=16: expected key=value without spaces"),
        ("n=[8", "n: cannot read '[8'; brackets and quotes must be closed"),
        ("n=8;pair=max_min", "n: cannot read '8;pair=max_min'"),
        (
            "n=8,16",
            "n: '8,16' is several values, which need -m: python -m harness -m n=8,16 ...; a value that is itself",
        ),
        ("n=range(2,9)", "n: 'range(2,9)' is several values, which need -m: python -m harness -m 'n=range(2,9)' ..."),
        ("pair=glob(*)", "pair: 'glob(*)' is several values, which need -m"),
        ("construction=position,max_min", "construction: 'position,max_min' is several values, which need -m"),
        ("pair=[max_min,mu_min]", "pair: expected one choice, got a list; -m pair=max_min,mu_min sweeps them"),
        ("judge@ranker=[openai,embedded]", "judge@ranker: expected one choice, got a list"),
        ("-m n=8 --cfg job", "--cfg and --info show one point; leave out -m"),
        ("+sweeps=demo --info", "--cfg and --info show one point; leave out -m, +sweeps=... and several values"),
        (
            "policy.id=/a=b",
            "policy.id: cannot read '/a=b'; brackets and quotes must be closed, and text with any of =~,",
        ),
        ("--n=16", "--n=16: unknown flag; settings are typed without dashes, as n=16, "),
        ("-n 16", "-n: unknown flag; settings are typed without dashes, as n=VALUE, "),
        ("--dry-run", "--dry-run: unknown flag; settings are typed without dashes, as dry_run=VALUE, "),
        ("--sweeps grid", "--sweeps: unknown flag; settings are typed without dashes, as +sweeps=NAME, "),
    ],
)
def test_an_argument_that_cannot_be_meant(typed: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        arguments.prepare(typed.split())
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train.seed=[0,1]", "train.seed: expected int, got [0, 1]; several values are swept by -m train.seed=0,1"),
        (
            "policy.id=x",
            "policy.id: 'x' is no PACKAGE:FILE of an installed package; a folder is policy.source=loc",
        ),
        ("policy.id=a.b:c", "policy.id: 'a.b:c' is no PACKAGE:FILE of an installed package"),
        ("store=", "store: expected a folder, got an empty name"),
        ("store=a_file", "store: a_file is a file; expected a folder"),
        ("store=a_file/inside", "store: a_file is a file; expected a folder"),
    ],
)
def test_a_value_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a_file").touch()
    with pytest.raises(ConfigError) as raised:
        app.run([composed(typed, "dry_run=true")])
    assert str(raised.value).replace(f"{tmp_path}/", "").startswith(said)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vlm", "; did you mean vllm?"),
        ("lr", "; did you mean learning_rate?"),
        ("ID", "; did you mean id?"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_what_may_be_meant(name: str, meant: str) -> None:
    assert alike(name, ["id", "laptop", "learning_rate", "vllm"]) == meant


@pytest.mark.parametrize(("typed", "is_noted"), [("sweep=grid n=8", True), ("+sweeps=grid", False), ("n=8", False)])
def test_points_under_the_name_of_a_sweep_file_are_noted(typed: str, is_noted: bool) -> None:
    assert (arguments.name_of_a_file(typed.split()) is not None) == is_noted


def test_without_arguments_nothing_is_run_and_examples_are_shown(tmp_path: Path) -> None:
    ended = harness(tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert all(text in ended.err for text in ("usage: python -m harness", "+sweeps=demo", "dry_run=true", "sweepctl"))
    assert "Sweep files: alignment_stages, control, " in ended.err
    assert not list(tmp_path.iterdir())


def test_every_command_of_the_usage_can_be_typed() -> None:
    commands = [line.split("  ")[1] for line in arguments.USAGE.splitlines() if line.startswith("  python -m harness")]
    assert len(commands) > 3
    for command in commands:
        assert arguments.prepare(command.split()[3:]) == command.split()[3:]


def test_a_mistake_ends_the_command_with_one_line(tmp_path: Path) -> None:
    ended = harness(tmp_path, "+sweep=grid")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert ended.err.startswith("error: +sweep: a sweep file is chosen by +sweeps=grid; ")
    assert not list(tmp_path.iterdir())


GOOD = "# @package _global_\nsweep: mine\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    blocks:\n      - n: 8,16\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD, None),
        (f"\n  # @package _global_\n{GOOD}", None),
        (f"# Mine.\n{GOOD}", "its first line must be `# @package _global_`"),
        (GOOD.replace("blocks", "_target_: mine.Sweeper\n    params"), None),
        (GOOD.replace("sweep: mine", "defaults: [override /train: lora]"), None),
        (GOOD.partition("\n")[2], "its first line must be `# @package _global_`"),
        ("", "its first line must be `# @package _global_`"),
        ("- n: 8", "expected keys with values, as in "),
        ("# @package _global_\nhydra: 3", "expected keys with values, as in "),
        (f"{GOOD}  - [", "no valid YAML: "),
        (
            GOOD.replace("blocks", "block"),
            "hydra.sweeper.block: unknown key; valid keys are blocks, exclude, only; did you",
        ),
        (GOOD.replace("blocks", "params"), "hydra.sweeper.params: unknown key; valid keys are blocks, exclude, only"),
        (f"{GOOD}train: lora\n", "train: a group is chosen under defaults, as `- override /train: lora`"),
        (f"{GOOD}defaults: [train: lora]\n", "defaults: `train: lora` must be `override /train: lora`"),
        (f"{GOOD}defaults: [/train: lora]\n", "defaults: `/train: lora` must be `override /train: lora`"),
    ],
)
def test_a_sweep_file_that_cannot_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    path = tmp_path / "sweeps" / "mine.yaml"
    path.write_text(text)
    if said is None:
        assert arguments.prepare(["+sweeps=mine"]) == ["-m", "+sweeps=mine"]
        return
    with pytest.raises(ConfigError) as raised:
        arguments.prepare(["+sweeps=mine"])
    assert str(raised.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("place", ["a", "z"])
def test_of_two_sweep_files_of_one_name_ours_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Wherever the user's folder stands in the order of paths."""
    for folder in ("m", place):
        (tmp_path / folder / "sweeps").mkdir(parents=True)
        (tmp_path / folder / "sweeps" / "demo.yaml").touch()
    monkeypatch.chdir(tmp_path / place)
    monkeypatch.setattr(hydra_app, "root", lambda: tmp_path / "m")
    assert sweep_files.files() == {"demo": tmp_path / "m" / "sweeps" / "demo.yaml"}


@pytest.mark.parametrize("name", sorted(sweep_files.files()))
def test_our_sweep_files_are_as_they_must_be(name: str) -> None:
    sweep_files.check(name)
