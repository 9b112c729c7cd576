"""What rounds bring: the gain of each, how much more on-policy data give than static ones, and the stage boundary.

The effectiveness ratio is that of arXiv 2508.10530: the gain of on-policy data over the gain of static data, of models
that begin from the same policy. The paper takes gains in length-controlled win rate, and gives no intervals; here they
are gains in win rate against the untrained policy, paired over instructions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.comparability import check_comparable
from analysis.estimates import preference_table
from analysis.exported import exported
from analysis.load import load_results, load_verdicts
from analysis.schema import ON_SHARE, PATH, ROUND, SEED, configuration_columns, plain, was_imported
from analysis.statistics import Floats, Interval, ratio_of_gains, seeds_interval
from analysis.stores import Stores, points_of, say_missing
from analysis.tables import points_text
from harness import record
from harness.errors import PrefsweepError

SHARE: Final = "construction.static_share"
"""Setting that says which data a plain pipeline has; a path says it of rounds."""

PARTS: Final = "rounds.parts"

GIVEN: Final = "evaluate.references"

NO_START: Final = "the untrained policy, from which the first round gains, was not judged against these references"

_INTERVAL = ("low", "high", "method", "scope", "instructions", "seeds", "note")
GAINS: Final = ("settings", "round", "after", "data", "gain", *_INTERVAL)
RATIOS: Final = ("settings", "round", "after", "ratio", *_INTERVAL)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """Models of one path that differ in their training seed alone."""

    path: tuple[str, ...]
    settings: Mapping[str, str]
    results: pd.DataFrame
    """Indexed by training seed."""

    @property
    def after(self) -> tuple[str, ...]:
        """The path before its last round."""
        return self.path[:-1]

    def fits(self, other: "Family") -> bool:
        """Whether two differ in their path alone; settings of which either makes no use are no difference."""
        both = (name for name, value in self.settings.items() if value and other.settings.get(name))
        return all(self.settings[name] == other.settings[name] for name in both)


def families(results: pd.DataFrame) -> list[Family]:
    """Results that are done, by path and settings; those of mixed data have no path, and are left out.

    Neither have imported models, whose data are not known.
    """
    done = results[(results["status"] == "done") & ~was_imported(results)]
    settings = [name for name in configuration_columns(results) if name not in (SEED, PATH, ROUND, SHARE)]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for row, (_, values) in enumerate(done.iterrows()):
        if (path := _path(values)) is not None:
            # A plain pipeline has all prompts in its one round.
            texts = {name: plain(values[name]) for name in settings} | {PARTS: plain(values.get(PARTS)) or "1"}
            groups.setdefault((path, *texts.items()), []).append(row)
    found = []
    for (path, *texts_), rows in groups.items():
        own = done.iloc[rows]
        own = own[~own[SEED].duplicated()].set_index(SEED)
        found.append(Family(path=path, settings=dict(texts_), results=own))
    return found


def _path(row: "pd.Series[Any]") -> tuple[str, ...] | None:
    if text := plain(row.get(PATH)):
        return tuple(text.split(" > "))
    return {"0": ("on_policy",), "": ("on_policy",), "1": ("static",)}.get(plain(row.get(SHARE)))


def gains(results: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row per model of a round: what that round has added to the win rate, with the columns `GAINS`.

    Models are paired with those of their own lineage, that is of the same training seed, by instruction.
    """
    table, known = preference_table(results, verdicts), families(results)
    rows = []
    for family in known:
        for gain in _gains(family, known, table):
            interval = gain.interval()
            rows.append({**_facts(family, known, interval), "data": family.path[-1], "gain": interval.estimate})
    return _sorted(pd.DataFrame(rows, columns=list(GAINS)))


def effectiveness(results: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """One row per policy that both data were tried on: the ratio of the gains, with the columns `RATIOS`."""
    table, known = preference_table(results, verdicts), families(results)
    rows = []
    for on in (family for family in known if family.path[-1] == "on_policy"):
        for off in known:
            if off.path == (*on.after, "static") and on.fits(off):
                rows += [{**_facts(on, known, one), "ratio": one.estimate} for one in _ratios(on, off, known, table)]
    return _sorted(pd.DataFrame(rows, columns=list(RATIOS)))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["settings", "round", "after"], ignore_index=True, kind="stable")


def _facts(family: Family, known: list[Family], interval: Interval) -> dict[str, Any]:
    varying = {
        name: value
        for name, value in family.settings.items()
        if value and len({other.settings[name] for other in known} - {""}) > 1
    }
    return {
        "settings": ", ".join(f"{name}={value}" for name, value in varying.items()),
        "round": len(family.path),
        "after": " > ".join(family.after),
        "low": interval.low,
        "high": interval.high,
        "method": interval.method,
        "scope": interval.scope,
        "instructions": interval.n,
        "seeds": len(family.results),
        "note": interval.note,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Gain:
    """What a round has added, [seeds x instructions]."""

    seeds: tuple[Any, ...]
    values: pd.DataFrame
    base: Family | None

    def interval(self) -> Interval:
        half = seeds_interval((self.values.to_numpy(float) + 1) / 2)
        ends = {name: 2 * getattr(half, name) - 1 for name in ("estimate", "low", "high")}
        return Interval(
            **ends,
            method=f"{half.method}, paired",
            n=half.n,
            scope=half.scope,
            level=half.level,
            excluded=half.excluded,
            note=half.note,
        )


def _gains(family: Family, known: list[Family], table: pd.DataFrame) -> Iterator[_Gain]:
    """The gain of a round over every model of the same lineage that stands before it; none where there is none."""
    if family.after:
        bases = [base for base in known if base.path == family.after and base.fits(family)]
        for base in bases:
            seeds = [seed for seed in family.results.index if seed in base.results.index]
            both = pd.concat([family.results.loc[seeds], base.results.loc[seeds]])
            if seeds:
                check_comparable(both, f"the gain of round {len(family.path)} after {' > '.join(family.after)}")
                own, before = (_preferences(one, seeds, table) for one in (family, base))
                yield _Gain(seeds=tuple(seeds), values=own - before, base=base)
    elif not family.settings.get(GIVEN):
        seeds = list(family.results.index)
        # Against its own answers the untrained policy has one half of every instruction.
        yield _Gain(seeds=tuple(seeds), values=_preferences(family, seeds, table) - 0.5, base=None)


def _preferences(family: Family, seeds: list[Any], table: pd.DataFrame) -> pd.DataFrame:
    columns = [str(name) for name in family.results.loc[seeds, "result"]]
    return pd.DataFrame(table[columns].to_numpy(float).T, columns=table.index)


def _ratios(on: Family, off: Family, known: list[Family], table: pd.DataFrame) -> Iterator[Interval]:
    if not on.after and on.settings.get(GIVEN):
        nan = float("nan")
        yield Interval(estimate=nan, low=nan, high=nan, method="none", n=0, scope="", note=NO_START)
        return
    for one in _gains(on, known, table):
        for other in _gains(off, known, table):
            seeds = [seed for seed in one.seeds if seed in other.seeds]
            if one.base is other.base and seeds:
                both = pd.concat([on.results.loc[seeds], off.results.loc[seeds]])
                check_comparable(both, f"the effectiveness ratio of round {len(on.path)}")
                yield ratio_of_gains(_of(one, seeds), _of(other, seeds))


def _of(gain: _Gain, seeds: list[Any]) -> Floats:
    return np.asarray(gain.values.iloc[[gain.seeds.index(seed) for seed in seeds]], dtype=np.float64)


def load_on_share(store: Stores, sweep: str | None = None) -> pd.DataFrame:
    """One row per result whose round's data a boundary has chosen, or that one was measured for: `schema.ON_SHARE`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("on_share", ON_SHARE, sweep)
    rows: dict[str, dict[str, Any]] = {}
    asked: set[str] = set()
    for opened, points in points_of(store, sweep):
        for result, point in points.items():
            recorded = point["sweep"]
            key = _boundary(recorded, point)
            found = opened.find(recorded.nodes[key]["stage"], key) if key is not None else None
            asked |= {result} if key is not None else set()
            if found is not None:
                config, measures = point["config"], found.manifest.measures
                pairs = opened.find("pairs", point["nodes"].get("pairs", ""))
                rows[result] = {
                    "result": result,
                    "policy.name": config["policy.name"],
                    "round": max(1, len(config.get(PATH) or ())),
                    "path": " > ".join(config.get(PATH) or ()),
                    "measurement": found.manifest.content_id,
                    **{column: measures.get(column) for column in ("on_share", "low", "high", "stage", "label")},
                    "prompts": found.manifest.rows["kept"],
                    "data": pairs.manifest.measures.get("data") if pairs is not None else None,
                }
    frame = pd.DataFrame(list(rows.values()), columns=list(ON_SHARE))
    frame = frame.astype({"round": "int64", "prompts": "int64", "on_share": float, "low": float, "high": float})
    frame = frame.sort_values(["path", "round", "result"], ignore_index=True)
    return say_missing(frame, asked - rows.keys(), len(asked), "results have no measured boundary yet")


def _boundary(recorded: record.Sweep, point: Mapping[str, Any]) -> str | None:
    pairs = recorded.nodes.get(point["nodes"].get("pairs", ""))
    if pairs is not None and "boundary" in pairs["inputs"]:
        return str(pairs["inputs"]["boundary"][0])
    beside: Mapping[str, str] = point.get("beside", {})
    return beside.get("boundary")


def rounds(store: Path, sweep: str | None = None) -> str:
    """Gains, ratios and boundaries in words.

    Raises PrefsweepError where nothing is done yet, or what has to be compared is not comparable.
    """
    results, verdicts = load_results(store, sweep), load_verdicts(store, sweep)
    if not len(results[results["status"] == "done"]):
        raise PrefsweepError(f"--store {store}: no round has a judged model yet")
    lines = ["Gain in win rate of each round, points [95 %], over the model before it (round 1: the untrained policy):"]
    for row in gains(results, verdicts).to_dict("records"):
        lines.append(f"  round {row['round']}{_after(row)}, {row['data']} data: {_points(row)}{_foot(row)}")
    for row in effectiveness(results, verdicts).to_dict("records"):
        ends = f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] == row["low"] else ""
        value = f"{row['ratio']:.2f}{ends}" if row["ratio"] == row["ratio"] else "unknown"
        what = f"Effectiveness of on-policy over static data, round {row['round']}{_after(row)}"
        lines.append(f"{what}: {value}{_foot(row)}")
    for row in load_on_share(store, sweep).to_dict("records"):
        known = row["on_share"] == row["on_share"]
        share = f"{row['on_share']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if known else "unknown"
        what = f"Boundary of round {row['round']} ({row['path'] or 'plain'})"
        lines.append(f"{what}: on-policy share {share}, {row['stage']}")
    return "\n".join(lines)


def _after(row: Mapping[Any, Any]) -> str:
    settings = f" ({row['settings']})" if row["settings"] else ""
    return f" after {row['after']}{settings}" if row["after"] else settings


def _points(row: Mapping[Any, Any]) -> str:
    facts = {name: row[name] for name in ("low", "high", "method", "scope", "note")}
    return points_text(Interval(estimate=row["gain"], n=row["instructions"], **facts))


def _foot(row: Mapping[Any, Any]) -> str:
    note = f"; {row['note']}" if row["note"] else ""
    return f" ({row['instructions']} instructions, {row['seeds']} seeds: {row['scope']}; {row['method']}{note})"
