"""Sweeps of which every claim's truth is planted, as the frames that findings are made from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.estimates import estimate_cells, preference_table
from analysis.findings.claims import CHOSEN, MONOTONE, UNLEARNS
from analysis.findings.evidence import AUGMENTED, blocks
from analysis.schema import plain
from analysis.settings import heading
from analysis.statistics import Floats, slope_shares, smallest_detectable_difference
from analysis.tables import cell_name
from analysis.unlearning import less_plain
from harness.positions import PAIRS
from tests.analysis.synthetic import join, make_frames
from tests.benchmarks.coverage import preferences

TIMES: Final = 1.5
"""Planted effects, in smallest detectable differences: what one comparison chosen beforehand finds at 80 % power."""

SHARES: Final = (0.5, 0.375, 0.125)
"""Of effects in a sweep that is not null: none, as the claim expects, and the other way."""

SLOPE_DEVIATION: Final = 0.1
"""Standard deviation between training seeds of a slope of changes; that between prompts, and of changes, is 1."""

LARGE: Final = 5_000
"""Instructions or prompts of the sample from which the spread of a contrast is taken."""

Frames = tuple[pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Design:
    """The sweep that is simulated."""

    name: str
    policies: int = 2
    pairs: Sequence[tuple[str, str]] = PAIRS
    sizes: Sequence[int] = (16, 64, 256)
    others: bool = True
    """Whether the published rule, a round on static data and reward-augmented data are in it, too."""
    seeds: int = 3
    deviation: float = 0.015
    """Standard deviation of a win rate between training seeds."""
    instructions: int = 805
    prompts: int = 100
    """With held-out responses whose changes are measured."""
    responses: int = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What is planted in one sweep."""

    contrasts: Floats
    """Effect of each contrast of win rates, as a fraction."""
    slopes: Floats
    """Of each reward-augmented cell, less that of the same pairs without goals."""


class Simulation:
    """Sweeps of one design: cells are made once, verdicts and changes for each sweep."""

    def __init__(self, design: Design) -> None:
        self.design = design
        results, verdicts = join(*_frames(design))
        self.cells = estimate_cells(results, preference_table(results, verdicts))
        self.results = [name for names in self.cells["results"] for name in names]
        self.on_share = _on_share(self.cells)
        found = blocks(self.cells, pd.DataFrame(columns=self.results), self.on_share)
        self.blocks = [block.asked for block in found]
        self.asked = [one for block in self.blocks for one in block]
        self.owner = np.array([number for number, one in enumerate(self.asked) for _ in one.weights])
        self.weights: Floats = np.zeros((len(self.cells), len(self.owner)))
        for place, own in enumerate(own for one in self.asked for own in one.weights):
            for label, weight in own.items():
                self.weights[int(label), place] += weight
        self.goals = list(less_plain(self.cells, _one_change(self.results)))
        self.sizes = TIMES * self._detectable()
        self.slope = TIMES * self._detectable_slope()

    def null(self) -> Truth:
        """No effect at all."""
        return Truth(contrasts=np.zeros(len(self.owner)), slopes=np.zeros(len(self.goals)))

    def plant(self, rng: np.random.Generator) -> Truth:
        """An effect for each claim: none, or one of the planted size in the expected or in the other direction."""
        signs = rng.choice([0, 1, -1], size=len(self.asked), p=SHARES)
        expected = np.array([one.claim.expected for one in self.asked], dtype=np.int64)
        planted = (signs * expected)[self.owner] * self.sizes
        for block in self.blocks:
            named = {one.claim: self.asked.index(one) for one in block if one.claim in (CHOSEN, MONOTONE)}
            if len(named) == 2:
                # Better by as much at every step: of a size that the trend shows, or one that every step shows.
                trend, steps = (np.flatnonzero(self.owner == named[claim]) for claim in (CHOSEN, MONOTONE))
                size = self.sizes[trend if rng.random() < 0.5 else steps].max()
                planted[np.concatenate([trend, steps])] = signs[named[CHOSEN]] * size
        slopes = self.slope * rng.choice([0.0, 1.0, -1.0], size=len(self.goals), p=SHARES)
        # Of few cells the claims are about the same differences; then the effects are the nearest that can be.
        nearest = self.weights.T @ self._moved(planted)
        possible = np.allclose(nearest, planted, atol=1e-9)
        return Truth(contrasts=planted if possible else np.asarray(nearest, dtype=np.float64), slopes=slopes)

    def _moved(self, planted: Floats) -> Floats:
        """By how much each cell is off one half."""
        moved, *_ = np.linalg.lstsq(self.weights.T, planted, rcond=None)
        return np.asarray(moved, dtype=np.float64)

    def draw(self, rng: np.random.Generator, truth: Truth) -> Frames:
        """Preferences [instructions x results] and changes of one sweep."""
        design = self.design
        rates = 0.5 + self._moved(truth.contrasts)
        drawn = preferences(rng, rates, design.seeds, design.deviation, design.instructions)
        table = pd.DataFrame(drawn.reshape(len(self.results), -1).T, columns=self.results)
        return table, self._changes(rng, design.prompts, truth.slopes, SLOPE_DEVIATION)

    def truths(self, truth: Truth) -> dict[tuple[str, str, str], float]:
        """The effect behind every row of the findings, by claim, setting and n; of several contrasts the least."""
        found = {}
        for number, one in enumerate(self.asked):
            key = (one.claim.name, heading(one.setting), ", ".join(plain(size) for size in one.sizes))
            found[key] = float(truth.contrasts[self.owner == number].min())
        for both, slope in zip(self.goals, truth.slopes.tolist(), strict=True):
            cell = self.cells.iloc[both[0]]
            found[UNLEARNS.name, heading({"cell": cell_name(cell, self.cells)}), plain(cell["n"])] = slope
        return found

    def _detectable(self) -> Floats:
        """Smallest detectable size of each contrast; its spread is that of one large sample."""
        design = self.design
        drawn = preferences(np.random.default_rng(0), np.full(len(self.cells), 0.5), design.seeds, 0.0, LARGE)
        spread = (drawn.mean(axis=1).T @ self.weights).std(axis=0)
        norms = np.sqrt(np.square(self.weights).sum(axis=0) / 2)
        degrees = (design.seeds - 1) * len(self.cells) / design.policies
        sizes = [
            smallest_detectable_difference(
                design.instructions,
                deviation,
                seed_deviation=design.deviation * norm,
                seeds=design.seeds,
                seed_degrees=degrees,
            )
            for deviation, norm in zip(spread.tolist(), norms.tolist(), strict=True)
        ]
        return np.array(sizes)

    def _detectable_slope(self) -> float:
        """The same of the difference of two slopes."""
        if not self.goals:
            return 0.0
        design = self.design
        changes = self._changes(np.random.default_rng(1), LARGE, np.zeros(len(self.goals)), 0.0)
        table = less_plain(self.cells, changes)[self.goals[0]]
        prompts = table.index.get_level_values("prompt_id").to_numpy()
        values = table[list(range(design.seeds))].to_numpy(float).T
        shares = slope_shares(table["reward"].to_numpy(float), values, prompts)
        return smallest_detectable_difference(
            design.prompts,
            float(shares.mean(axis=0).std()),
            seed_deviation=SLOPE_DEVIATION,
            seeds=design.seeds,
            seed_degrees=design.seeds - 1,
        )

    def _changes(self, rng: np.random.Generator, prompts: int, slopes: Floats, deviation: float) -> pd.DataFrame:
        """Changes of the same held-out responses under every cell that is compared."""
        responses = self.design.responses
        reward = rng.standard_normal((prompts, responses))
        given = {
            "prompt_id": np.repeat(np.arange(prompts), responses),
            "sample_index": np.tile(np.arange(responses), prompts),
            "reward": reward.ravel(),
            "tokens": np.ones(reward.size),
        }
        frames = [_one_change([])]
        for both, slope in zip(self.goals, slopes.tolist(), strict=True):
            for label, mean in zip(both, (slope, 0.0), strict=True):
                own = mean + rng.standard_normal((prompts, 1))
                for name in self.cells["results"][label]:
                    change = (own + deviation * rng.standard_normal()) * reward + rng.standard_normal(reward.shape)
                    frames.append(pd.DataFrame({"result": name, **given, "change": change.ravel()}))
        return pd.concat(frames[1:] or frames, ignore_index=True)


def _frames(design: Design) -> Iterator[Frames]:
    """Results with few instructions, for their cells."""
    own = ("construction.pairs.name", "construction.pairs.static_share")
    plain_pairs = {"construction.static_share": 0.0, **dict.fromkeys(own)}
    under_goals = {"construction.static_share": None, **dict(zip(own, ("position", 0.0), strict=True))}
    for number in range(design.policies):
        policy = {**plain_pairs, "policy.name": f"policy-{number}"}
        yield _made(design, design.pairs, design.sizes, policy)
        if design.others:
            first, second = design.sizes[:2]
            pair = [("max", "min")]
            yield _made(design, [(None, None)], design.sizes, policy, "sweet_spot")
            yield _made(design, pair, [second], {**policy, "construction.static_share": 1.0})
            yield _made(design, pair, [first], {**policy, **under_goals}, AUGMENTED)


def _made(
    design: Design,
    pairs: Sequence[tuple[str | None, str | None]],
    sizes: Sequence[int],
    settings: Mapping[str, Any],
    construction: str = "position",
) -> Frames:
    """Frames whose names no other settings share."""
    seeds = range(design.seeds)
    results, verdicts = make_frames(
        pairs, construction=construction, sizes=sizes, seeds=seeds, instructions=30, settings=settings
    )
    mark = "-".join(map(str, settings.values()))
    for name in ("result", "cell", "trained_id", "rows_id"):
        results[name] = f"{mark}-" + results[name]
    return results, verdicts.assign(result=f"{mark}-" + verdicts["result"])


def _on_share(cells: pd.DataFrame) -> pd.DataFrame:
    """Boundaries: every second policy is in the injection stage."""
    static = cells[cells["construction.static_share"] == 1.0]
    stages = ["injection" if number % 2 == 0 else "fine_tuning" for number in range(len(static))]
    low = [0.2 if stage == "injection" else 0.6 for stage in stages]
    return pd.DataFrame(
        {
            "result": [names[0] for names in static["results"]],
            "stage": stages,
            "low": low,
            "high": [end + 0.2 for end in low],
        }
    )


def _one_change(results: Sequence[str]) -> pd.DataFrame:
    facts: dict[str, Any] = {"prompt_id": "p", "sample_index": 0, "reward": 0.0, "tokens": 1.0, "change": 0.0}
    return pd.DataFrame({"result": list(results), **facts})
