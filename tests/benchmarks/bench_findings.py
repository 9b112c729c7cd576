"""How often findings are wrong, and how often they find: `python -m tests.benchmarks.bench_findings`.

Half of the simulated sweeps are null. In the others each claim is true, turned round, or without effect
(`simulated_sweeps`). A verdict is false where the truth is not on the side that it names. Counted are sweeps with any
false verdict. Prints Markdown, which docs/findings.md shows.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan

import numpy as np

from analysis.findings import CANNOT_TELL, CLAIMS, CONTRADICTED, NOT_TESTED, SUPPORTED, find
from analysis.statistics import Interval, win_rate_interval
from tests.benchmarks import figures
from tests.benchmarks.simulated_sweeps import Design, Simulation, Truth

MOST = 0.05
"""Share of sweeps with a false verdict that is allowed, up to the error of the simulation."""

SMALLEST = 1e-12
"""Effects below this are none: what rounding leaves of zero."""

FULL = Design(name="two policies, 21 pairs at three n, the published rule, both data, reward-augmented data; 3 seeds")

DESIGNS = (
    FULL,
    Design(name="the same, seeds that deviate by 3 points", deviation=0.03),
    Design(
        name="max-min and (max, mu-2s) at three n, one policy; 3 seeds",
        policies=1,
        pairs=(("max", "min"), ("max", "mu-2s")),
        others=False,
    ),
    Design(
        name="max-min and (max, mu-2s) at one n, one policy; 3 seeds",
        policies=1,
        pairs=(("max", "min"), ("max", "mu-2s")),
        sizes=(64,),
        others=False,
    ),
    Design(
        name="one policy, 21 pairs at one n; 3 seeds, 100 instructions",
        policies=1,
        sizes=(64,),
        others=False,
        instructions=100,
    ),
)


@dataclass(kw_only=True)
class Found:
    """What came of the sweeps of one design."""

    wrong: dict[str, list[bool]] = field(default_factory=lambda: {"null": [], "signal": []})
    """Whether a sweep has a false verdict."""
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By claim, by what is true (`null`, `true`, `turned round`), and verdict."""

    def rate(self, *kinds: str) -> Interval:
        """Share of sweeps with a false verdict."""
        return win_rate_interval([float(one) for kind in kinds for one in self.wrong[kind]])

    def share(self, claim: str, truth: str, verdict: str) -> tuple[float, int]:
        """Share of the claim's tests that have this truth which got the verdict, and their number."""
        tests = sum(count for (name, own, _), count in self.verdicts.items() if (name, own) == (claim, truth))
        return (self.verdicts[claim, truth, verdict] / tests if tests else nan), tests


def is_false(verdict: str, truth: float, expected: int) -> bool:
    """Whether a verdict names a side of zero on which the truth does not lie."""
    side = {SUPPORTED: expected, CONTRADICTED: -expected}.get(verdict)
    return side is not None and not truth * side > SMALLEST


def run(simulation: Simulation, sweeps: int, seed: int = 0, draws: int = 4_000) -> Found:
    """So many sweeps, every second one null, each with its own random state."""
    found = Found()
    for number in range(sweeps):
        rng = np.random.default_rng([seed, number])
        kind = "null" if number % 2 == 0 else "signal"
        truth = simulation.null() if kind == "null" else simulation.plant(rng)
        found.wrong[kind].append(judge(simulation, rng, truth, found.verdicts, draws=draws, seed=number % 4))
    return found


def judge(
    simulation: Simulation,
    rng: np.random.Generator,
    truth: Truth,
    verdicts: Counter[tuple[str, str, str]],
    *,
    draws: int,
    seed: int,
) -> bool:
    """Draw one sweep and count its verdicts; whether any is false."""
    table, changes = simulation.draw(rng, truth)
    frame = find(simulation.cells, table, changes=changes, on_share=simulation.on_share, draws=draws, seed=seed)
    tested = frame[frame["verdict"] != NOT_TESTED]
    truths, expected = simulation.truths(truth), {claim.name: claim.expected for claim in CLAIMS}
    assert len(tested) == len(truths), "a claim was not tested, or two rows have one name"
    wrong = False
    for claim, setting, n, verdict in tested[["claim", "setting", "n", "verdict"]].astype(str).to_numpy().tolist():
        effect = truths[claim, setting, n]
        side = effect * expected[claim]
        kind = "true" if side > SMALLEST else "turned round" if side < -SMALLEST else "null"
        verdicts[claim, kind, verdict] += 1
        wrong |= is_false(verdict, effect, expected[claim])
    return wrong


def percent(interval: Interval) -> str:
    """A share with its interval."""
    return f"{100 * interval.estimate:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def power_table(found: Found) -> list[str]:
    """What the verdicts on each claim were, as Markdown."""
    lines = [
        "| claim | true: supported, % | turned round: contradicted, % | no effect: any verdict, % |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        true, tests = found.share(claim.name, "true", SUPPORTED)
        turned, others = found.share(claim.name, "turned round", CONTRADICTED)
        still, nulls = found.share(claim.name, "null", CANNOT_TELL)
        if tests or nulls:
            cells = [f"{100 * value:.0f} of {n}" if n else "" for value, n in ((true, tests), (turned, others))]
            lines.append(f"| `{claim.name}` | {' | '.join(cells)} | {100 * (1 - still):.1f} of {nulls} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where false verdicts are too many."""
    parser = figures.parser(__doc__)
    parser.add_argument("--sweeps", type=int, default=400, help="of each design (default: 400)")
    parser.add_argument("--designs", type=int, default=len(DESIGNS), help="only the first so many")
    given = parser.parse_args(arguments)
    figured, met, power = {}, True, list[str]()
    print(
        "| sweeps of | sweeps | null: any verdict, % | with effects: any false verdict, % | all, % [95 %] | seconds |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for design in DESIGNS[: given.designs]:
        started = time.perf_counter()
        found = run(Simulation(design), given.sweeps)
        seconds = time.perf_counter() - started
        null, signal, both = found.rate("null"), found.rate("signal"), found.rate("null", "signal")
        shown = [design.name, str(given.sweeps), percent(null), percent(signal), percent(both), f"{seconds:.0f}"]
        print(f"| {' | '.join(shown)} |", flush=True)
        met &= both.low <= MOST
        rates = {
            "null": null.estimate,
            "signal": signal.estimate,
            "all": both.estimate,
            "low": both.low,
            "high": both.high,
        }
        figured[design.name] = {**rates, "sweeps": given.sweeps, "seconds": seconds}
        power = power or power_table(found)
    print("\nOf the first:\n\n" + "\n".join(power))
    figures.write(given.json, {"designs": figured, "power": power})
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
