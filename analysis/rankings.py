"""What there is to say of the rankings that made a sweep's rows: how many comparisons, and how far they can be trusted.

Shares are means over prompts of each prompt's own share, so that their intervals, over prompts, allow for the
comparisons of one prompt hanging together.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.columns import RANKING_MEASURES, RANKINGS
from analysis.exported import exported
from analysis.recorded import read_ancestors
from analysis.schema import plain
from analysis.statistics import Interval, win_rate_interval
from analysis.stores import Reading, reading, say_missing
from analysis.tables import markdown_safe, markdown_table
from harness.store import Artifact

COUNTS: Final = ("comparisons", "comparisons_at_most", "known_before", "identical")

EXPLANATION: Final = (
    "The rankings that made preference rows. Shares are means over prompts with 95 % intervals over prompts, for this "
    "pool and this judge. A comparison whose two orders disagree is a tie. Circles are known only where every pair "
    "was compared (construction.method=round_robin)."
)

NOT_ALL_PAIRS: Final = "not known: not every pair was compared"
NO_REWARD: Final = "no reward to agree with, or nothing that varies"


def load_rankings(store: Path | str | Reading, sweep: str | None = None) -> pd.DataFrame:
    """One row per ranking of a pool, whatever the number of its blocks.

    The columns are those of `analysis.columns.RANKINGS`.

    Raises:
        StoreError: no store there, or no such sweep.
    """
    if (folder := exported(store)) is not None:
        return folder.frame("rankings", RANKINGS, sweep)
    opened = reading(store)
    users: dict[tuple[str, ...], list[str]] = {}
    for result, keys in read_ancestors(opened, sweep, "rank").items():
        if keys:
            users.setdefault(tuple(sorted(keys)), []).append(result)
    rows = []
    absent = set()
    for blocks, results in users.items():
        absent |= {key for key in blocks if opened.find("rank", key) is None}
        artifacts = [artifact for key in blocks if (artifact := opened.find("rank", key)) is not None]
        if artifacts:
            rows.append({**_row(artifacts), "results": " ".join(results)})
    frame = pd.DataFrame(rows, columns=list(RANKINGS))
    return say_missing(frame, absent, len({key for blocks in users for key in blocks}), "blocks are not ranked yet")


def _row(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    manifests = [artifact.manifest for artifact in artifacts]
    ranks = pd.concat([artifact.table("ranks").to_pandas() for artifact in artifacts], ignore_index=True)
    row: dict[str, Any] = {
        "ranking": manifests[0].measures["label"],
        "n": manifests[0].spec["n"],
        "prompts": sum(manifest.rows["taken"] for manifest in manifests),
        "dropped": sum(sum(manifest.rows["dropped"].values()) for manifest in manifests),
        **{name: sum(manifest.measures[name] for manifest in manifests) for name in COUNTS},
        "warning": next((m.measures["warning"] for m in manifests if m.measures["warning"]), None),
    }
    for name in RANKING_MEASURES:
        interval = _interval(ranks, name)
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row |= {f"{name}_n": interval.n, f"{name}_note": interval.note}
    return row


def _interval(ranks: pd.DataFrame, name: str) -> Interval:
    """The mean over prompts of a measure; a prompt that has none is left out."""
    if name == "kendall":
        taus = ranks["kendall"].to_numpy(float)
        # As a share, of which an interval knows its ends: -1 and 1 are 0 and 1.
        interval = win_rate_interval((taus + 1) / 2)
        whole = replace(interval, **{end: 2 * getattr(interval, end) - 1 for end in ("estimate", "low", "high")})
        return replace(whole, note=NO_REWARD) if np.isnan(taus).all() else whole
    asked = ranks["comparisons"] - ranks["identical"] - ranks["failed"]
    part, whole_number = {
        "order_disagreement": (ranks["disagreements"], asked),
        "ties": (ranks["ties"], ranks["comparisons"]),
        "cyclic_triples": (ranks["cyclic_triples"], ranks["decided_triples"]),
    }[name]
    number = whole_number.to_numpy(float)
    known = number > 0
    shares = np.full(len(ranks), math.nan)
    shares[known] = part.to_numpy(float)[known] / number[known]
    interval = win_rate_interval(shares)
    unknown = name == "cyclic_triples" and bool(ranks["cyclic_triples"].isna().all())
    return replace(interval, note=NOT_ALL_PAIRS) if unknown else interval


def ranking_warnings(rankings: pd.DataFrame) -> list[str]:
    """One sentence for each thing said of a judge that says nothing, with the rankings of which it is said."""
    flagged = rankings[rankings["warning"].map(plain) != ""]
    alike = flagged.groupby("warning", sort=False)["ranking"].agg(lambda names: ", ".join(map(str, names)))
    return [f"WARNING: {names}: {text}." for text, names in alike.items()]


def ranking_section(rankings: pd.DataFrame) -> list[str]:
    """The section of the report, in Markdown; nothing without rankings."""
    if rankings.empty:
        return []
    rows = [
        {
            "ranking": plain(row["ranking"]),
            "n": plain(row["n"]),
            "prompts (dropped)": f"{row['prompts']} ({row['dropped']})",
            "comparisons (at most)": f"{row['comparisons']} ({row['comparisons_at_most']})",
            "known before": plain(row["known_before"]),
            "orders disagree %": _shown(row, "order_disagreement", 100),
            "ties %": _shown(row, "ties", 100),
            "circles %": _shown(row, "cyclic_triples", 100),
            "Kendall's tau with the reward": _shown(row, "kendall", 1),
        }
        for _, row in rankings.iterrows()
    ]
    warned = [f"**{markdown_safe(text)}**" for text in ranking_warnings(rankings)]
    return ["## Rankings", EXPLANATION, *warned, markdown_table(pd.DataFrame(rows))]


def _shown(row: "pd.Series[Any]", name: str, scale: int) -> str:
    value, low, high = (scale * float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    decimals = 1 if scale > 1 else 2
    if math.isnan(value):
        return plain(row[f"{name}_note"])
    if math.isnan(low):
        return f"{value:.{decimals}f} [no interval]"
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"
