"""The order in which alpaca_eval 0.6.6 shows two answers: drawn by a generator that the instruction seeds."""

import random


def reference_first(instruction: str) -> bool:
    """Whether the reference is shown first; its annotator shows the policy's answer first where it switches.

    As alpaca_eval's annotators do with their default seed 0: 406 of the 805 instructions are switched.
    """
    switched = random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]  # noqa: S311 (no secret)
    return not switched
