"""The command as a whole: options, errors, and what it does not load."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.sweepctl import main
from tests.sweepctl.conftest import Desk

COMMANDS = ["status", "why", "logs", "retry", "verify", "gc", "forget"]


def test_it_runs_as_a_module_and_loads_no_torch(desk: Desk) -> None:
    desk.run()
    script = (
        "import sys, harness.sweepctl; code = harness.sweepctl.main(['status', '--store', sys.argv[1]]); "
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'transformers', 'hydra')))"
    )
    subprocess.run([sys.executable, "-c", script, str(desk.store.root)], check=True)
    command = [sys.executable, "-m", "harness.sweepctl", "status", "--store", str(desk.store.root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "both" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "--store" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["status"], ["why", "a"], ["logs"], ["retry", "a"], ["verify"], ["gc"], ["forget", "a"]]
)
def test_a_folder_that_is_no_store_is_one_line_and_code_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--store", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == (
        f"error: store: {tmp_path / 'nowhere'} is no prefsweep store: there is no such folder; expected the folder of "
        "a sweep's store=... (default: ./store)\n"
    )


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "usage: sweepctl" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(desk: Desk) -> None:
    desk.run()
    command = f"{sys.executable} -m harness.sweepctl why {desk.key('model')} --store {desk.store.root} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unreadable_record_is_named(desk: Desk) -> None:
    (desk.store.root / "sweeps" / "bad.json").write_text("{")
    result = desk.ctl("status")
    assert result.code == 2
    assert "bad.json cannot be read" in result.err


@pytest.mark.parametrize("command", ["why", "retry", "logs"])
def test_keys_are_given_by_any_unique_beginning(desk: Desk, command: str) -> None:
    desk.run()
    ambiguous = sorted(desk.keys(*desk.nodes))
    first = next(k[0] for k in ambiguous if sum(o[0] == k[0] for o in ambiguous) > 1)
    result = desk.ctl(command, first)
    assert result.code == 2
    assert result.err.count("\n") == 1
    named = [key for key in ambiguous if key.startswith(first)]
    assert all(key in result.err for key in named)
    assert f"begins {len(named)} keys" in result.err
    unknown = desk.ctl(command, "xyz")
    assert unknown.code == 2
    assert "has a key that begins with 'xyz'" in unknown.err


def test_a_point_is_no_node_and_its_nodes_are_named(desk: Desk) -> None:
    desk.run()
    result = desk.ctl("why", "point_a")
    assert result.code == 2
    assert f"it is a point of both, whose nodes are judge {desk.key('judge_a')}, pairs" in result.err
