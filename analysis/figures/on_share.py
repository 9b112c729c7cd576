"""The boundary over rounds: how often the policy's own responses beat the static ones, before each round."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from analysis.captions import provenance_text
from analysis.figures.canvas import INK, LINES, MARKERS, MUTED, Style, new_axes, style_for
from analysis.figures.panels import Handle, check_some, draw_legend, finish, fitting, label, legend_room, line, point
from analysis.schema import plain

DASHED: Final = {"static": (0, (4, 2)), "auto": (0, (1, 1.5))}
"""Of the line to a round by the data of the round before; solid for on-policy data."""


def on_share_over_rounds(
    shares: pd.DataFrame,
    *,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """On-policy share of the votes before each round, with its interval, over the two stages of alignment.

    A line goes from a measurement to those of the policies that were trained from it, its dashes by their data. Each
    measurement is drawn once, however many results share it.

    Args:
        shares: `schema.ON_SHARE`; rows without a share are counted in the caption.
        width: in inches.
        heading: over the figure.
        provenance: its small print.
    """
    style = style_for(width)
    known = shares[shares["on_share"].notna()]
    check_some(known, "on-policy share")
    points = _placed(known.drop_duplicates(["policy.name", "measurement"]))
    handles = _handles(points, _edges(points), style)
    columns, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=0.6 * (style.width - style.left - style.right),
        heading=heading,
        caption=_caption(known, len(shares) - len(known)),
        provenance=provenance_text(provenance),
        above=room,
    )
    finish(axes, style)
    looks = {name: LINES[i % len(LINES)] for i, name in enumerate(dict.fromkeys(points["policy.name"]))}
    for before, after, data in _edges(points):
        pair = points.loc[[before, after]]
        look: dict[str, Any] = {"color": looks[points.at[after, "policy.name"]], "linestyle": DASHED.get(data, "-")}
        axes.plot(pair["x"], 100 * pair["on_share"], linewidth=1.1, zorder=2, **look)
    for _, row in points.iterrows():
        marker = MARKERS[list(looks).index(row["policy.name"]) % len(MARKERS)]
        low, high = (100 * float(row[end]) for end in ("low", "high"))
        drawn: dict[str, Any] = {"color": looks[row["policy.name"]], "marker": marker}
        point(axes, row["x"], 100 * row["on_share"], low, high, style=style, **drawn)
    _finish(axes, points, style)
    draw_legend(axes, handles, columns, style, over=0.06)
    return axes


def _placed(points: pd.DataFrame) -> pd.DataFrame:
    """The points with `before`, the data of the rounds before theirs, and `x`, apart where a round has several."""
    before: list[Any] = [tuple(path.split(" > "))[:-1] if path else () for path in points["path"]]
    placed = points.assign(before=pd.Series(before, index=points.index, dtype=object)).reset_index(drop=True)
    several = placed.groupby("round")["round"].transform("size")
    number = placed.groupby("round").cumcount()
    return placed.assign(x=placed["round"] + 0.06 * (number - (several - 1) / 2))


def _edges(points: pd.DataFrame) -> list[tuple[int, int, str]]:
    """Rows of a measurement and of one a round later on the same way, with the data of the round between them.

    Seeds are not told apart by a path: where several measurements have the same one, each goes on from the first.
    """
    first = points.drop_duplicates(["policy.name", "before"])
    rows = {(row["policy.name"], row["before"]): int(str(i)) for i, row in first.iterrows()}
    edges = []
    for index, row in points.iterrows():
        before = row["before"]
        if before and (start := rows.get((row["policy.name"], before[:-1]))) is not None:
            edges.append((start, int(str(index)), str(before[-1])))
    return edges


def _finish(axes: Axes, points: pd.DataFrame, style: Style) -> None:
    rounds = sorted({int(number) for number in points["round"]})
    axes.set_xticks(rounds)
    axes.set_xlim(min(rounds, default=1) - 0.5, max(rounds, default=1) + 0.5)
    axes.set_ylim(0, 100)
    axes.axhline(50, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    for y, text, side in ((98, "preference fine-tuning stage", "top"), (2, "preference injection stage", "bottom")):
        axes.text(0.01, y / 100, text, size=style.small, color=INK, va=side, transform=axes.transAxes, zorder=5)
    label(axes, style, x="before round", y="votes for the policy's own, %")


def _handles(points: pd.DataFrame, edges: list[tuple[int, int, str]], style: Style) -> list[Handle]:
    names = list(dict.fromkeys(points["policy.name"]))
    entries: list[Handle] = [
        line(
            fitting(plain(name), style),
            color=LINES[i % len(LINES)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            linestyle="",
        )
        for i, name in enumerate(names)
    ]
    known = {data for _, _, data in edges}
    words = {"on_policy": "after on-policy data", "static": "after static data", "auto": "after the boundary's choice"}
    return entries + [
        line(text, color=MUTED, linestyle=DASHED.get(data, "-"), linewidth=1.1)
        for data, text in words.items()
        if data in known
    ]


def _caption(known: pd.DataFrame, unknown: int) -> str:
    low, high = int(known["prompts"].min()), int(known["prompts"].max())
    count = f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
    judges = " / ".join(dict.fromkeys(plain(name) or "not stated" for name in known["label"]))
    text = (
        f"Share of the comparisons with static candidates that the policy's own responses win. Judge: {judges}. "
        f"{count} prompts. Bars: 95\N{NO-BREAK SPACE}% intervals, clustered by prompt; of these policies, not of a "
        "construction."
    )
    return f"{text} Without a share, so not drawn: {unknown}." if unknown else text
