"""An exported folder: the frames of a sweep without its store, which every `load_*` function takes in its place.

`analysis.export` writes it; docs/analysis.md describes it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.stores import Reading, Stores
from analysis.typed_columns import decode
from harness.errors import PrefsweepError

MANIFEST: Final = "frames.json"
"""Written last: a folder without it is no export."""

FORMAT: Final = 1


class Exported:
    """The frames of an exported folder.

    Raises:
        PrefsweepError: its manifest cannot be read, or is of another format.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            said = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
            written, self.sweep, self.sweeps = said["format"], said["sweep"], list(said["sweeps"])
            self._frames: Mapping[str, Any] = dict(said["frames"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise PrefsweepError(
                f"export {root}: {MANIFEST} cannot be read ({type(error).__name__}: {error}); export the sweep again"
            ) from None
        if written != FORMAT:
            raise PrefsweepError(f"export {root} has format {written}; this version reads format {FORMAT}")

    def frame(self, name: str, columns: Iterable[str], sweep: str | None = None) -> pd.DataFrame:
        """A frame with the values, types and `attrs` that it had when it was exported.

        Raises:
            PrefsweepError: another sweep was asked for; the folder has no such frame, or one without some of these
                columns; or its file is missing, or not the one that was written.
        """
        self._check(sweep)
        if name not in self._frames:
            raise PrefsweepError(
                f"export {self.root} has no frame {name}, only {', '.join(self._frames)}: it is of another version; "
                "export the sweep again"
            )
        said, table = self._frames[name], self._table(name)
        try:
            found = {column: decode(table.column(column), kind) for column, kind in said["columns"].items()}
            frame = pd.DataFrame(found, columns=list(said["columns"]), index=pd.RangeIndex(table.num_rows))
            if (index := said["index"]) is not None:
                frame = frame.set_index(index).rename_axis(None)
            frame.attrs.update(said["attrs"])
        except (ValueError, TypeError, KeyError) as error:
            what = f"{MANIFEST} does not describe {name}.parquet ({error!r})"
            raise PrefsweepError(f"export {self.root}: {what}; export the sweep again") from None
        if absent := [column for column in columns if column not in frame.columns]:
            raise PrefsweepError(
                f"export {self.root}: frame {name} has no column {', '.join(absent)}: it is of another version; export "
                "the sweep again"
            )
        return frame

    def _check(self, sweep: str | None) -> None:
        if sweep is None or sweep == self.sweep or (self.sweep is None and self.sweeps == [sweep]):
            return
        if self.sweep is not None:
            raise PrefsweepError(f"export {self.root} holds sweep {self.sweep!r}, not {sweep!r}")
        raise PrefsweepError(
            f"export {self.root} holds the sweeps {', '.join(self.sweeps) or 'of an empty store'} together, not "
            f"{sweep!r} alone; load it without a sweep, or export with --sweep"
        )

    def _table(self, name: str) -> pa.Table:
        path = self.root / f"{name}.parquet"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PrefsweepError(f"export {self.root}: {path.name} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != dict(self._frames[name]).get("sha256"):
            raise PrefsweepError(
                f"export {self.root}: {path.name} is not the file that was exported (damaged, or edited): copy it "
                "anew, or export the sweep again"
            )
        return pq.read_table(pa.BufferReader(content))


def exported(stores: Stores) -> Exported | None:
    """The exported folder that was given in the place of a store; None where stores were given.

    Raises:
        PrefsweepError: it was given beside others, or is incomplete.
    """
    given = [stores] if isinstance(stores, str | Path | Reading) else list(stores)
    roots = [store.root if isinstance(store, Reading) else Path(store) for store in given]
    for root in roots:
        whole, has_frames = (root / MANIFEST).is_file(), (root / "results.parquet").is_file()
        if not whole and has_frames and not (root / "store.json").exists():
            raise PrefsweepError(f"export {root}: there is no {MANIFEST}: the folder is incomplete; copy it anew")
        if whole and len(roots) > 1:
            raise PrefsweepError(f"export {root}: an exported folder is loaded alone; join frames with pandas.concat")
    return Exported(roots[0]) if len(roots) == 1 and (roots[0] / MANIFEST).is_file() else None
