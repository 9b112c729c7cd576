"""The published claims, each as contrasts of win rates that a grid of pairs has or lacks.

A place is what a cell was trained on: its pair of positions and its n. Weights are of places; every claim says what it
expects of the weighted sum. The statistics are ours where the papers only show a heatmap or a curve.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log2
from typing import Any, Final, Literal

from harness.positions import PAIRS, POSITIONS

Place = tuple[str, str, float]
"""Chosen position, rejected position, and n."""

Places = Mapping[Place, Hashable]
"""Every judged place with its experiment; equal ones trained the same models."""

Weights = dict[Place, float]

LOWEST_OF_DRAWS: Final = "lowest of a few draws"
"""In place of a rejected position: the published final rule (`construction=sweet_spot`)."""

SWEET_SPOT: Final = "arXiv 2502.16825"
AUGMENTED: Final = "arXiv 2410.08067"
STAGES: Final = "arXiv 2508.10530"

POINTS: Final = "points"

SUPPORTED: Final = "supported"
CONTRADICTED: Final = "contradicted"
CANNOT_TELL: Final = "cannot tell"
NOT_TESTED: Final = "not tested"
"""The verdicts."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, and what of it is looked at."""

    name: str
    statement: str
    source: str
    expected: Literal[1, -1]
    """Sign of the effect if the claim holds."""
    unit: str
    needs: str
    """What a sweep must hold for it to be tested."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A claim as a sweep can test it: one sum of win rates, or the least of several."""

    claim: Claim
    weights: Sequence[Weights]
    sizes: Sequence[float]
    """The n that it is about, ascending."""


class NotTestedError(Exception):
    """A grid of pairs does not hold what a claim needs."""


REJECTED: Final = Claim(
    name="rejected_mu-2s_over_min",
    statement="mu-2s is a better rejected response than min, for the same chosen one",
    source=SWEET_SPOT,
    expected=1,
    unit=POINTS,
    needs="cells (chosen, mu-2s) and (chosen, min) at the same n that are different experiments",
)
MAX_MIN: Final = Claim(
    name="max_min_falls",
    statement="max-min becomes worse as n grows",
    source=SWEET_SPOT,
    expected=-1,
    unit=f"{POINTS} per doubling of n",
    needs="max-min at two n or more that are different experiments",
)
MAX_SIGMA: Final = Claim(
    name="max_mu-2s_rises",
    statement="(max, mu-2s) becomes better as n grows",
    source=SWEET_SPOT,
    expected=1,
    unit=MAX_MIN.unit,
    needs="(max, mu-2s) at two n or more that are different experiments",
)
FINAL_RULE: Final = Claim(
    name="sweet_spot_rises",
    statement="the published rule, max against the lowest of a few draws, becomes better as n grows",
    source=SWEET_SPOT,
    expected=1,
    unit=MAX_MIN.unit,
    needs="construction=sweet_spot at two n or more that are different experiments",
)
CHOSEN: Final = Claim(
    name="chosen_better",
    statement="a better chosen response is better on the whole, for the same rejected one",
    source=SWEET_SPOT,
    expected=1,
    unit=f"{POINTS} per position",
    needs="cells of the same rejected position and n with several chosen ones",
)
MONOTONE: Final = Claim(
    name="chosen_monotone",
    statement="a better chosen response is better at every step from one position to the next",
    source=SWEET_SPOT,
    expected=1,
    unit=f"{POINTS}, the least of the steps",
    needs="cells of the same rejected position and n for each two neighbours among the chosen positions mu-2s to max, "
    "different experiments",
)
DIAGONAL: Final = Claim(
    name="diagonal_worst",
    statement="pairs of neighbouring positions are worse than pairs further apart, for the same chosen one",
    source=SWEET_SPOT,
    expected=-1,
    unit=POINTS,
    needs="cells of the same chosen position and n, one rejecting its neighbour and one rejecting what is further away",
)
UNLEARNS: Final = Claim(
    name="augmented_unlearns_less",
    statement="reward-augmented data unlearn good responses less than the same pairs without goals",
    source=AUGMENTED,
    expected=1,
    unit="nats per unit of reward",
    needs="construction=reward_augmented and the same pairs without it, with unlearning.samples",
)
INJECTION: Final = Claim(
    name="static_in_injection",
    statement="in the preference injection stage on-policy data are worse than static data",
    source=STAGES,
    expected=-1,
    unit=POINTS,
    needs="a round on static and on on-policy data from the same policy, boundary=measured, in the injection stage",
)
FINE_TUNING: Final = Claim(
    name="on_policy_in_fine_tuning",
    statement="in the preference fine-tuning stage on-policy data are better than static data",
    source=STAGES,
    expected=1,
    unit=POINTS,
    needs="a round on static and on on-policy data from the same policy, boundary=measured, in the fine-tuning stage",
)

CLAIMS: Final = (
    REJECTED,
    MAX_MIN,
    MAX_SIGMA,
    FINAL_RULE,
    CHOSEN,
    MONOTONE,
    DIAGONAL,
    UNLEARNS,
    INJECTION,
    FINE_TUNING,
)
"""Every claim that is looked at, in the order of the findings."""


def comparisons(places: Places) -> Iterator[Comparison | tuple[Claim, NotTestedError]]:
    """What one grid of pairs says about each claim about pairs, or why it says nothing."""
    sizes = sorted({n for _, _, n in places})
    tested: list[tuple[Claim, Callable[[], Sequence[Weights]]]] = [
        *((REJECTED, partial(_one, _rejected, places, n)) for n in sizes),
        (MAX_MIN, partial(_one, _over_sizes, places, "max", "min")),
        (MAX_SIGMA, partial(_one, _over_sizes, places, "max", "mu-2s")),
        (FINAL_RULE, partial(_one, _over_sizes, places, "max", LOWEST_OF_DRAWS)),
        (CHOSEN, partial(_one, _chosen, places)),
        (MONOTONE, partial(_steps, places)),
        (DIAGONAL, partial(_one, _diagonal, places)),
    ]
    for claim, weigh in tested:
        try:
            weights = [_apart(own, places, claim) for own in weigh()]
        except NotTestedError as reason:
            yield claim, reason
        else:
            yield Comparison(claim=claim, weights=weights, sizes=sorted({n for own in weights for _, _, n in own}))


def _one(weigh: Callable[..., Weights], *given: Any) -> list[Weights]:
    return [weigh(*given)]


def _rejected(places: Places, n: float) -> Weights:
    """(c, mu-2s) less (c, min), the mean over the chosen positions c where these are two experiments."""
    both = [c for c in POSITIONS if (c, "mu-2s", n) in places and (c, "min", n) in places]
    if not both:
        raise NotTestedError(REJECTED.needs)
    apart = [c for c in both if places[c, "mu-2s", n] != places[c, "min", n]]
    if not apart:
        raise NotTestedError(
            f"at n = {n:g} rejecting mu-2s and rejecting min are one experiment: they trained the same models"
        )
    return _mean([{(c, "mu-2s", n): 1.0, (c, "min", n): -1.0} for c in apart])


def _over_sizes(places: Places, chosen: str, rejected: str) -> Weights:
    """Slope of a pair's win rates on log2 of n, by least squares."""
    own = [place for place in places if place[:2] == (chosen, rejected)]
    return _slope([[(place, log2(place[2])) for place in own]])


def _chosen(places: Places) -> Weights:
    """Slope of win rates on the chosen position's rank, with a level for each rejected position and n."""
    groups: dict[tuple[str, float], list[tuple[Place, float]]] = {}
    for place in _grid(places):
        groups.setdefault(place[1:], []).append((place, float(POSITIONS.index(place[0]))))
    return _slope(list(groups.values()))


def _steps(places: Places) -> list[Weights]:
    """Win rate of each chosen position less that of the one below it, the mean over rejected positions and n."""
    steps = []
    for low, high in pairwise(POSITIONS[1:]):
        own = [place for place in _grid(places) if place[0] == high and (low, *place[1:]) in places]
        apart = [place for place in own if places[place] != places[low, place[1], place[2]]]
        if not apart:
            raise NotTestedError(MONOTONE.needs)
        steps.append(_mean([{place: 1.0, (low, place[1], place[2]): -1.0} for place in apart]))
    return steps


def _diagonal(places: Places) -> Weights:
    """Win rate with the neighbour rejected less the mean with those further away, the mean over chosen ones and n."""
    own = []
    for chosen, near in pairwise(reversed(POSITIONS)):
        for n in sorted({n for _, _, n in places}):
            far = [(chosen, r, n) for r in POSITIONS[: POSITIONS.index(near)] if (chosen, r, n) in places]
            far = [place for place in far if places[place] != places.get((chosen, near, n))]
            if far and (chosen, near, n) in places:
                own.append({(chosen, near, n): 1.0, **{place: -1.0 / len(far) for place in far}})
    if not own:
        raise NotTestedError(DIAGONAL.needs)
    return _mean(own)


def _grid(places: Places) -> list[Place]:
    """Places of the 21 pairs, in their order."""
    order = {pair: number for number, pair in enumerate(PAIRS)}
    return sorted((place for place in places if place[:2] in order), key=lambda place: (place[2], order[place[:2]]))


def _slope(groups: Sequence[Sequence[tuple[Place, float]]]) -> Weights:
    """Weights of the least-squares slope on x with a level for each group of (place, x); none without different x."""
    weights: Weights = {}
    for group in groups:
        middle = sum(x for _, x in group) / max(len(group), 1)
        weights |= {place: x - middle for place, x in group}
    total = sum(weight**2 for weight in weights.values())
    return {place: weight / total for place, weight in weights.items()} if total else {}


def _mean(several: Sequence[Weights]) -> Weights:
    weights: Weights = {}
    for own in several:
        for place, weight in own.items():
            weights[place] = weights.get(place, 0.0) + weight / len(several)
    return weights


def _apart(weights: Weights, places: Places, claim: Claim) -> Weights:
    """The weights, where what they compare is not one experiment."""
    by_experiment: dict[Hashable, float] = {}
    for place, weight in weights.items():
        by_experiment[places[place]] = by_experiment.get(places[place], 0.0) + weight
    if not any(abs(weight) > 1e-9 for weight in by_experiment.values()):
        raise NotTestedError(claim.needs)
    return weights
