"""Where the positions stand among a prompt's rewards: realised z beside what normal rewards would give."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from analysis.captions import position_text, provenance_text
from analysis.figures.canvas import (
    INK,
    LINES,
    MARKERS,
    MUTED,
    POINTS,
    Style,
    name_sizes,
    new_axes,
    style_for,
    text_width,
)
from analysis.figures.panels import (
    Handle,
    apart,
    check_some,
    divide,
    draw_legend,
    label,
    legend_room,
    line,
    point,
    size_axis,
    title,
)
from analysis.schema import plain
from harness.errors import PrefsweepError
from harness.positions import POSITIONS

LOW_DRAW: Final = "low_draw"
"""The lowest of a few random draws, which a selection picks beside the positions."""

REWARDS: Final = "#9db8cc"

COARSE: Final = 4
"""Bins of the frame that are drawn as one, 0.2 wide: narrower ones would show the noise of small pools."""


def reward_positions(
    picks: pd.DataFrame,
    rewards: pd.DataFrame | None = None,
    *,
    width: float = 7.0,
    heading: str = "",
    provenance: Mapping[str, object] | None = None,
) -> Axes:
    """Mean realised z of each position against n, over the expectation for normal rewards, beside all rewards.

    Args:
        picks: `schema.PICKS` of one policy and reward, each position once at an n (else PrefsweepError). Those of
            static candidates, which have no n, are drawn where there are no others.
        rewards: `schema.REWARD_Z` of the pool with the largest n; the panel of all rewards is left out without.
        width: in inches.
        heading: over the figure.
        provenance: its small print.

    Returns:
        The axes of the positions; those of the rewards stand beside them on the same figure.
    """
    check_some(picks, "reward positions")
    sized = picks["n"].notna()
    picks, left_out = (picks[sized], picks[~sized]) if sized.any() else (picks, picks[:0])
    if picks.duplicated(["n", "position"]).any():
        raise PrefsweepError("reward positions: a position stands more than once at one n; draw one figure per pool")
    style = style_for(width)
    positions, sizes = _order(picks), sorted(picks["n"].unique())
    if len(sizes) < 2:  # names side by side, which may stand aslant
        widest = max(text_width(_name(position), style.small) for position in positions)
        style = replace(style, bottom=max(style.bottom, 0.75 * (widest + 1.5 * style.small / POINTS) + 0.06))
    handles = _handles(picks, rewards)
    columns, room = legend_room([str(handle.get_label()) for handle in handles], style)
    axes = new_axes(
        style,
        body=(0.72 if style.narrow else 0.5) * (style.width - style.left),
        heading=heading,
        caption=_caption(picks, rewards, len(left_out)),
        provenance=provenance_text(provenance),
        above=room + 1.6 * style.text / POINTS,
    )
    axes, *others = divide(axes, style, widths=(2.6, 1) if rewards is not None else (1,), aside=0.12)
    title(axes, "Picked responses", style)
    axes.set_ylim(*_limits(picks, rewards))
    if len(sizes) > 1:
        _draw_lines(axes, picks, positions, style)
    else:
        _draw_points(axes, picks, positions, style)
    label(axes, style, x="samples per prompt, n" if len(sizes) > 1 else "", y="realised z, (reward − μ) / σ")
    for beside in others:
        assert rewards is not None
        _draw_rewards(beside, rewards)
        title(beside, f"All{_at(rewards['n'].iloc[0])}", style)
        beside.set_ylim(axes.get_ylim())
        beside.tick_params(labelleft=False)
        label(beside, style, x="share, %")
    draw_legend(axes, handles, columns, style, over=1.8 * style.text / POINTS)
    return axes


def _order(picks: pd.DataFrame) -> list[str]:
    """Positions from the lowest z at the largest n; where they coincide, in the order of the seven."""
    rank = picks["position"].map(lambda p: POSITIONS.index(p) if p in POSITIONS else len(POSITIONS))
    ordered = picks.assign(size=picks["n"].fillna(0), rank=rank).sort_values(["rank", "position"])
    last = ordered.sort_values("size", kind="stable").drop_duplicates("position", keep="last")
    return last.sort_values("z_mean", kind="stable")["position"].to_list()


def _name(position: str) -> str:
    """A position as the axis has room for it: a quantile to two digits, and what stands at none in words."""
    if position == LOW_DRAW:
        return "lowest draw"
    if position.startswith("q") and (number := position[1:].replace(".", "", 1)).isdigit() and number:
        return f"q{float(position[1:]):.2g}"
    return position_text(position)


def _look(position: str, positions: Sequence[str]) -> dict[str, Any]:
    place = POSITIONS.index(position) if position in POSITIONS else -1
    marker = MARKERS[(place if place >= 0 else positions.index(position)) % len(MARKERS)]
    return {"color": LINES[place] if place >= 0 else MUTED, "marker": marker}


def _limits(picks: pd.DataFrame, rewards: pd.DataFrame | None) -> tuple[float, float]:
    """Of z: all picks, and all but a thousandth of the rewards at either end."""
    ends = picks[["z_mean", "z_low", "z_high", "z_expected"]].to_numpy(float).ravel().tolist()
    if rewards is not None and rewards["responses"].sum() > 0:
        below = rewards["responses"].cumsum() / rewards["responses"].sum()
        ends += rewards.loc[below.between(0.001, 0.999), "z"].tolist()
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _draw_lines(axes: Axes, picks: pd.DataFrame, positions: Sequence[str], style: Style) -> None:
    sizes = sorted(picks["n"].dropna().unique())
    size_axis(axes, sizes, style)
    ends = []
    for position in positions:
        own, look = (
            picks[picks["position"] == position].dropna(subset=["n"]).sort_values("n"),
            _look(position, positions),
        )
        axes.plot(own["n"], own["z_expected"], color=look["color"], linewidth=0.9, linestyle=(0, (3, 2)), zorder=2)
        axes.plot(own["n"], own["z_mean"], markersize=3 if style.narrow else 4.5, linewidth=1.1, zorder=4, **look)
        axes.vlines(own["n"], own["z_low"], own["z_high"], color=look["color"], linewidth=1.0, zorder=3)
        ends.append(float(own["z_mean"].iloc[-1]))
    # Room for the names, right of the last points.
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (high / low) ** (0.2 if style.narrow else 0.14))
    name_sizes(axes, sizes, style.small)
    inches = axes.get_window_extent().height / axes.get_figure().dpi  # type: ignore[union-attr]
    bottom, top = axes.get_ylim()
    places = apart(ends, 1.15 * style.small / POINTS / inches * (top - bottom))
    for position, y in zip(positions, places, strict=True):
        _write(axes, high, y, position, style)


def _draw_points(axes: Axes, picks: pd.DataFrame, positions: Sequence[str], style: Style) -> None:
    """At a single n: the positions side by side."""
    for x, position in enumerate(positions):
        row, look = picks[picks["position"] == position].iloc[0], _look(position, positions)
        axes.hlines([row["z_expected"]], x - 0.35, x + 0.35, color=look["color"], linestyle=(0, (3, 2)), linewidth=0.9)
        point(axes, x, row["z_mean"], row["z_low"], row["z_high"], style=style, **look)
    names = [_name(name) for name in positions]
    axes.set_xticks(range(len(positions)), names, parse_math=False)
    axes.tick_params(axis="x", length=0)
    inches = axes.get_position().width * style.width / len(positions)
    if max(text_width(name, style.small) for name in names) > 0.8 * inches:
        for tick in axes.get_xticklabels():
            tick.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(positions) - 0.4)


def _write(axes: Axes, x: float, y: float, position: str, style: Style) -> None:
    axes.text(x, y, _name(position), size=style.small, color=INK, va="center", parse_math=False)


def _draw_rewards(axes: Axes, rewards: pd.DataFrame) -> None:
    """Share of all responses by z, along the axis of z of the panel beside."""
    half = float(rewards["z"].diff().median()) / 2
    edges = np.append(rewards["z"].to_numpy()[::COARSE] - half, rewards["z"].iloc[-1] + half)
    looks: dict[str, dict[str, Any]] = {
        "responses": {"fill": True, "color": REWARDS, "linewidth": 0},
        "expected": {"fill": False, "color": INK, "linewidth": 0.9, "linestyle": (0, (3, 2))},
    }
    for column, look in looks.items():
        counts = np.add.reduceat(rewards[column].to_numpy(), np.arange(0, len(rewards), COARSE))
        total = counts.sum()
        if total > 0:
            axes.stairs(100 * counts / total, edges, orientation="horizontal", **look)
    axes.set_xlim(left=0)


def _handles(picks: pd.DataFrame, rewards: pd.DataFrame | None) -> list[Handle]:
    entries: list[Handle] = [line("mean of the picks", color=MUTED, marker="o", markersize=4, linewidth=1.1)]
    if picks["z_expected"].notna().any() or rewards is not None:
        entries.append(line("expected of normal rewards", color=MUTED, linewidth=0.9, linestyle=(0, (3, 2))))
    if rewards is not None:
        entries.append(Patch(color=REWARDS, label="all rewards"))
    return entries


def _caption(picks: pd.DataFrame, rewards: pd.DataFrame | None, left_out: int) -> str:
    low, high = int(picks["prompts"].min()), int(picks["prompts"].max())
    prompts = f"{low:,}" if low == high else f"{low:,}\N{EN DASH}{high:,}"
    parts = [
        f"Reward: {_values(picks, 'reward_label')}. Policy: {_values(picks, 'policy.name')}. Responses: "
        f"{_values(picks, 'decoding')}. {prompts} prompts.",
        "Bars: 95\N{NO-BREAK SPACE}% intervals of the mean over prompts (Student's t).",
    ]
    if picks["z_expected"].notna().any():
        parts.append("Expected: the same selection rule on as many normal rewards, by simulation.")
    if rewards is not None:
        parts.append(f"All rewards: {int(rewards['responses'].sum()):,}, in bins of 0.2.")
    if left_out:
        parts.append("Picks of static candidates, which have no n, are left out.")
    return " ".join(parts)


def _values(frame: pd.DataFrame, column: str) -> str:
    return " / ".join(dict.fromkeys(plain(value) or "not stated" for value in frame[column]))


def _at(n: object) -> str:
    return f", n = {plain(n)}" if plain(n) else ""
