"""The files of the length-controlled win rate: read from a folder, and refused in one line."""

from pathlib import Path

import pytest

from analysis.hub_files import DIFFICULTY, GAMED, load_difficulty, load_gamed
from analysis.length_control import length_controlled_win_rate
from harness.errors import PrefsweepError
from tests.analysis.alpaca_eval import make_inputs, make_verdicts


def test_files_of_a_folder_give_the_frames_that_the_rate_takes(tmp_path: Path) -> None:
    difficulty, gamed = make_inputs()
    difficulty.to_csv(tmp_path / DIFFICULTY)
    gamed.to_csv(tmp_path / GAMED, index=False)
    verdicts = make_verdicts(difficulty)
    expected = length_controlled_win_rate(verdicts, difficulty=difficulty, gamed=gamed, C=1.0, draws=10)
    found = length_controlled_win_rate(
        verdicts, difficulty=load_difficulty(tmp_path), gamed=load_gamed(tmp_path), C=1.0, draws=10
    )
    assert found.value == pytest.approx(expected.value, abs=1e-6)


def test_a_folder_without_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefsweepError, match=r"there is no instruction_difficulty\.csv"):
        load_difficulty(tmp_path)
    (tmp_path / DIFFICULTY).write_text("a,b,c\n1,2,3\n")
    with pytest.raises(PrefsweepError, match="got 2 columns"):
        load_difficulty(tmp_path)
    (tmp_path / GAMED).write_text("")
    with pytest.raises(PrefsweepError, match="no table"):
        load_gamed(tmp_path)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise OSError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(PrefsweepError, match=r"cannot be fetched from the hub: no route$"):
        load_gamed()
