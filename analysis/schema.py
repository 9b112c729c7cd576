"""The contract between loading and analysis: the columns of the two tidy frames.

Results frame: one row per result, that is one cell under one evaluation. Besides the columns named here it
has one column per configuration key, dotted (`policy.name`, `pair.chosen`, `n`, `loss.beta`, `train.seed`,
...); a key that a cell does not have, such as `pair.chosen` of a construction without a pair, holds None.

Verdicts frame: one row per (result, instruction); see `VERDICTS`.
"""

import math
import re
from functools import lru_cache
from typing import Final

import pandas as pd

from harness.errors import PrefsweepError

IDENTITY: Final[dict[str, str]] = {
    "result": "id of the result: the hash of its configuration",
    "cell": "key of the cell",
    "status": "done, empty (no preference rows), failed, or missing (not run yet)",
    "reason": "why it is not done, or None",
    "rows_id": "content hash of the preference rows; None when there are none",
    "trained_id": "id of the trained model and of its goal, if any; equal for results that are the same experiment",
}

LABELS: Final[dict[str, str]] = {
    "judge_label": "the judge in words, shown beside every number it gave",
    "reward_label": "the reward in words, shown beside every number that rests on it",
    "decoding": 'how the answers were decoded, such as "greedy, 48 tokens"',
    "reference": "what the answers were judged against",
}

COMPARABLE: Final[dict[str, str]] = {
    "judge_model": "model or engine of the judge",
    "judge_revision": "its revision",
    "judge_prompt": "hash of the judge's prompt",
    "judge_order": "orders in which the answers were shown",
    "judge_settings": "the judge's other settings",
    "judge_served": "models that the judge's server named",
    "references_hash": "hash of the reference outputs",
    "instructions_hash": "hash of the instruction set",
    "decoding_settings": "how the answers were decoded",
    "versions": "package versions in training, answering and judging",
}
"""What results must share to be compared; None where a result states nothing (see `analysis.comparability`)."""

MEASURES: Final[dict[str, str]] = {
    "rows": "preference rows trained on",
    "prompts": "prompts those rows come from",
    "steps": "optimiser steps",
    "win_rate": "mean preference over the judged instructions, 0 to 1; a tie counts 0.5",
    "instructions": "instructions judged",
    "ties": "instructions judged a tie",
    "order_disagreement": "share of instructions whose verdict turned with the order of the answers",
    "share_changed": "share of answers that differ from the base policy's; NaN against given references",
    "answer_tokens": "mean tokens per answer",
    "base_tokens": "mean tokens per answer of the base policy",
    "share_finished": "share of answers that ended by themselves",
    "kl": "KL divergence of the trained model from its reference, nats per answer",
    "z_chosen": "mean realised z of the chosen response",
    "z_rejected": "mean realised z of the rejected response",
    "margin": "mean reward difference, chosen minus rejected",
    "chosen_tokens": "mean tokens per chosen response",
    "rejected_tokens": "mean tokens per rejected response",
    "train_loss": "last training loss",
    "preference_loss": "its preference loss, without regulariser",
    "regulariser": "its regulariser before the weight, nats; 0 where there is none",
    "chosen_logp_change": "mean change of the chosen response's log-probability in the last batch, nats",
    "rejected_logp_change": "mean change of the rejected response's log-probability in the last batch, nats",
    "chosen_logp_change_per_token": "the same of the chosen response, mean over its tokens",
    "rejected_logp_change_per_token": "the same of the rejected response, mean over its tokens",
    "seconds": "training time",
    "gpu_hours": "GPU hours of all that the result needed, those of shared work split evenly among the results",
}

RESULTS: Final[dict[str, str]] = IDENTITY | LABELS | COMPARABLE | MEASURES
"""Columns of the results frame beside the configuration keys."""

VERDICTS: Final[dict[str, str]] = {
    "result": "id of the result: the hash of its configuration",
    "prompt_id": "id of the instruction",
    "preference": "0 to 1, 1 when the cell's answer is the better one; NaN for a failed judgement",
}

TRAINING: Final[dict[str, str]] = {
    "cell": "key of the training",
    "step": "optimiser step, from 1",
    "epoch": "passes over the rows so far",
    "loss": "training loss of the step's batch",
    "margin": "beta times the difference of log-ratios, chosen minus rejected",
    "accuracy": "share of the batch with a positive margin",
    "chosen_reward": "beta times the chosen response's log-ratio to the reference",
    "rejected_reward": "beta times the rejected response's log-ratio to the reference",
    "chosen_logp": "mean log-probability of the chosen responses, nats per response",
    "rejected_logp": "mean log-probability of the rejected responses, nats per response",
    "learning_rate": "learning rate of the step",
    "grad_norm": "norm of the gradient before clipping",
    "chosen_logp_change": "mean change of the chosen responses' log-probability from the reference, nats per response",
    "rejected_logp_change": "likewise of the rejected responses",
}
"""One row per training and step."""

_POOL: Final[dict[str, str]] = {
    "pool": "key of the selection: one policy's pool under one reward and n",
    "policy.name": "short name of the policy",
    "reward.name": "short name of the reward, or of the judge that ranked",
    "n": "samples per prompt that were selected from; NaN for static candidates, of which all are",
    "scored_by": "`reward`, or `ranker`, whose ranks stand in place of rewards",
}

SPREADS: Final[dict[str, str]] = {
    **_POOL,
    "prompt_id": "id of the prompt",
    "valid": "finite rewards among the first n",
    "mu": "their mean; NaN where the prompt was dropped",
    "sigma": "their standard deviation, with the selection's ddof; NaN where the prompt was dropped",
    "skewness": "their skewness; NaN without spread",
    "excess_kurtosis": "their kurtosis less that of a normal; NaN without spread",
    "normal_p": "p-value of Shapiro and Wilk's test that they are normal; NaN with fewer than 8, or without spread",
    "dropped": "why nothing was selected of the prompt, or None",
}
"""One row per pool and prompt."""

PICKS: Final[dict[str, str]] = {
    **_POOL,
    "position": "position that was picked",
    "prompts": "prompts with a pick there",
    "z_mean": "mean realised z, (reward - mu) / sigma",
    "z_low": "lower end of its 95 % interval over prompts (Student's t); NaN with one prompt",
    "z_high": "upper end",
    "z_expected": "what as many usable rewards, if normal, would give, by simulation (standard error below 0.01)",
    "reward_label": "the reward or ranker in words",
    "decoding": "how the pool was sampled, in words; None where it was not sampled here",
}
"""One row per pool and position."""

REWARD_Z: Final[dict[str, str]] = {
    **_POOL,
    "z": "middle of a bin of realised z, (reward - mu) / sigma; the first and the last hold all that lies beyond, too",
    "responses": "responses in the bin, of the prompts that were not dropped",
    "expected": "how many of as many normal rewards there would be",
}
"""One row per pool and bin of width 0.05."""

COSTS: Final[dict[str, str]] = {
    "stage": "kind of work",
    "nodes": "units of it that are done",
    "seconds": "time that they took, each counted once",
    "gpu_hours": "GPUs held, times hours",
    "tokens": "tokens generated, or read and written by a judge that counts them; NaN where the stage has none",
    "money": "what a paid judge cost in US dollars; NaN where no price is known",
    "unshared_seconds": "what it would have taken if every point had a pipeline of its own",
    "unshared_gpu_hours": "likewise in GPU hours",
}
"""One row per stage."""

ON_SHARE: Final[dict[str, str]] = {
    "result": "id of the result: the hash of its configuration",
    "policy.name": "short name of the policy that the first round begins with",
    "round": "number of the round, from 1",
    "path": "data of the rounds up to that one, such as `static > auto`; empty for the plain pipeline",
    "measurement": "content hash of the measurement, which results may share",
    "on_share": "share of votes that the policy's own responses won against the static ones, 0 to 1",
    "low": "lower end of its 95 % interval, clustered by prompt",
    "high": "upper end",
    "stage": "`injection` or `fine_tuning`",
    "label": "the judge in words",
    "prompts": "prompts that were compared",
    "data": "data that the boundary has chosen, or None where the path names them",
}
"""One row per result whose policy was compared with static candidates, before its round was trained."""

LENGTHS: Final[dict[str, str]] = {
    "index": "number of the instruction in its set",
    "len_reference": "length of the reference answer, characters",
    "len_model": "length of the cell's answer, characters",
}
"""Further columns of the verdicts frame, where the judge's table has them."""

STATUSES: Final = ("done", "empty", "failed", "missing")

PAIR: Final = ("pair.chosen", "pair.rejected")

IMPORTED: Final = ("train.imported", "evaluate.answers")
"""Names of a model or of answers that were imported: a cell that has one was not trained here."""

ROUND: Final = "round"
"""Number of the round that trained a cell's model, from 1."""

PATH: Final = "rounds.path"
"""Data of the rounds up to that one, such as `static > on_policy`; empty for the plain pipeline."""

SEED: Final = "train.seed"
"""The repeat axis: results that differ in nothing else are repeats of one construction."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def configuration_columns(results: pd.DataFrame) -> list[str]:
    """Columns that hold configuration keys, in the frame's order."""
    known = IDENTITY.keys() | LABELS.keys() | COMPARABLE.keys() | MEASURES.keys()
    return [column for column in results.columns if column not in known]


def was_imported(cells: pd.DataFrame) -> "pd.Series[bool]":
    """Which cells were imported rather than trained; no setting of pool, pairs or training is theirs."""
    names = [name for name in IMPORTED if name in cells.columns]
    return (cells[names].map(plain) != "").any(axis=1)


def varying_columns(cells: pd.DataFrame, columns: list[str]) -> list[str]:
    """Those of the columns in which cells differ; what an imported cell makes no use of is no difference."""
    imported = was_imported(cells).tolist()

    def varies(name: str) -> bool:
        texts = zip(map(plain, cells[name].tolist()), imported, strict=True)
        return len({text for text, other in texts if text or not other}) > 1

    return [name for name in columns if varies(name)]


def check_results(results: pd.DataFrame) -> None:
    """Raise PrefsweepError where the results frame breaks the contract, naming what does."""
    required = [*IDENTITY, *LABELS, *COMPARABLE, *MEASURES, *PAIR, "construction.name", "n", SEED]
    _check_columns(results, required, "results")
    if unknown := sorted(set(results["status"].map(str)) - set(STATUSES)):
        raise PrefsweepError(f"results: status {unknown[0]!r} is not one of {', '.join(STATUSES)}")
    _check_unique(results, ["result"], "results")


def check_verdicts(verdicts: pd.DataFrame) -> None:
    """Raise PrefsweepError where the verdicts frame breaks the contract, naming what does."""
    _check_columns(verdicts, list(VERDICTS), "verdicts")
    _check_unique(verdicts, ["result", "prompt_id"], "verdicts")


@lru_cache(maxsize=4096)
def strip_control(text: str) -> str:
    """`text` on one line, without the characters that steer a terminal or reverse the reading direction."""
    return _CONTROL.sub("", text.replace("\n", " ").replace("\t", " "))


def plain(value: object) -> str:
    """A configuration value as a reader writes it: nothing for None and NaN, 8 rather than 8.0."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return strip_control(str(value))


def _check_columns(frame: pd.DataFrame, required: list[str], name: str) -> None:
    if absent := [column for column in required if column not in frame.columns]:
        raise PrefsweepError(f"{name}: no column {', '.join(absent)}")


def _check_unique(frame: pd.DataFrame, columns: list[str], name: str) -> None:
    repeated = frame.duplicated(columns)
    if bool(repeated.any()):
        row = frame.loc[repeated, columns].iloc[0].tolist()
        raise PrefsweepError(f"{name}: {dict(zip(columns, row, strict=True))} stands there more than once")
