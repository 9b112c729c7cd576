"""The two files that AlpacaEval's length-controlled win rate needs: from a folder, or from the model hub."""

from pathlib import Path
from typing import Final

import pandas as pd

from harness.errors import PrefsweepError

REPOSITORY: Final = "tatsu-lab/alpaca_eval"
DIFFICULTY: Final = "instruction_difficulty.csv"
GAMED: Final = "df_gamed.csv"


def load_difficulty(folder: Path | None = None, revision: str | None = None) -> "pd.Series[float]":
    """Instruction difficulties by official index, of `folder` or else of the hub at `revision` (None: newest).

    Raises PrefsweepError where the file cannot be had or is not what its name says.
    """
    path = find(DIFFICULTY, folder, revision)
    table = _read(path, index_col=0)
    if table.shape[1] != 1:
        raise PrefsweepError(f"{path}: expected the index and one column of difficulties, got {table.shape[1]} columns")
    return table.iloc[:, 0].astype(float)


def load_gamed(folder: Path | None = None, revision: str | None = None) -> pd.DataFrame:
    """The rows of the gamed baselines, from the same places."""
    return _read(find(GAMED, folder, revision))


def find(name: str, folder: Path | None, revision: str | None = None) -> Path:
    """Where one of the two files lies on this machine; the hub's is fetched first."""
    if folder is not None:
        if not (folder / name).is_file():
            raise PrefsweepError(
                f"{folder}: there is no {name}; copy it from the data set {REPOSITORY} of the model hub, or let it be "
                "fetched from there"
            )
        return folder / name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id=REPOSITORY, filename=name, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PrefsweepError(f"{name} of the data set {REPOSITORY} cannot be fetched from the hub: {reason}") from None


def _read(path: Path, index_col: int | None = None) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=index_col)
    except (ValueError, UnicodeDecodeError) as error:
        raise PrefsweepError(f"{path}: no table of comma-separated values: {error}") from None
