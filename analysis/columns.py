"""What the columns of the frames mean that stand beside results, verdicts and `analysis.schema`'s other frames."""

from collections.abc import Mapping
from typing import Final

_RESULT: Final = {"result": "id of the result: the hash of its configuration"}


def _with_ends(measures: Mapping[str, str], of: str) -> dict[str, str]:
    """Each measure with the ends of its interval."""
    return {
        column: meaning
        for name, said in measures.items()
        for column, meaning in (
            (name, said),
            (f"{name}_low", f"lower end of its 95 % interval over {of}"),
            (f"{name}_high", "upper end"),
        )
    }


CHANGES: Final[dict[str, str]] = {
    **_RESULT,
    "prompt_id": "id of the held-out instruction",
    "sample_index": "number of the untrained policy's response to it",
    "reward": "its reward",
    "tokens": "its tokens",
    "change": "change of its log-probability from the policy to the cell's model, nats per response",
}
"""One row per result and held-out response (docs/reward-augmented.md)."""

_SET_MEASURES: Final = {
    "distinct_1": "distinct words of two responses to a prompt, as a share of all of theirs",
    "distinct_2": "the same of pairs of words",
    "distinct_3": "the same of three words in a row",
    "spread": "1 - cosine of two responses' sentence embeddings",
    "words": "words of a response",
    "reward": "mean reward of a response",
}

CANDIDATE_SETS: Final[dict[str, str]] = {
    **_RESULT,
    "policy": "whose candidates they are, in rounds after which data",
    "set": "`on-policy` or `static`",
    "artifact": "content hash of the measured set, which results may share",
    "prompts": "prompts that were measured",
    "responses": "responses that were measured",
    "reward_label": "the reward in words",
    "spread_note": "why `spread` is unknown; empty where it is known",
    **_with_ends(_SET_MEASURES, "prompts"),
}
"""One row per result and set of candidates (docs/static-data.md)."""

SET_DIFFERENCES: Final[dict[str, str]] = {
    "policy": "whose responses were compared with the static ones, in rounds after which data",
    "on_policy": "content hash of the on-policy set",
    "static": "content hash of the static set",
    "measure": "a measure of the candidate sets",
    "difference": "on-policy less static, paired by prompt",
    "low": "lower end of its 95 % interval over prompts (Student's t)",
    "high": "upper end",
    "prompts": "prompts that have both",
    "method": "how the interval was made",
    "note": "why a number is missing",
}
"""One row per pair of sets and measure."""

BOUNDARY_MEASUREMENTS: Final[dict[str, str]] = {
    **_RESULT,
    "policy": "whose responses were compared with the static ones, in rounds after which data",
    "artifact": "content hash of the measurement, which results may share",
    "on_share": "share of votes that the policy's own responses won, 0 to 1",
    "low": "lower end of its interval, clustered by prompt",
    "high": "upper end",
    "level": "level of the interval",
    "method": "how the interval was made",
    "stage": "`injection` or `fine_tuning`, by the estimate",
    "cannot_tell": "whether the interval holds one half",
    "prompts": "prompts that were compared",
    "comparisons": "pairs of responses that were compared, each in both orders",
    "order_disagreement_share": "share of comparisons whose verdict turned with the order; equal texts left out",
    "warning": "why the judge says nothing, or None",
    "label": "the judge in words",
}
"""One row per result whose policy was compared with the static candidates (docs/static-data.md)."""

RANKING_MEASURES: Final[dict[str, str]] = {
    "order_disagreement": "share of a prompt's comparisons whose verdict turned with the order; equal texts left out",
    "ties": "share of a prompt's comparisons that decided nothing",
    "cyclic_triples": "share of a prompt's decided triples of responses that beat each other in a circle",
    "kendall": "Kendall's tau-b of a prompt's ranking and the reward's",
}

RANKINGS: Final[dict[str, str]] = {
    "ranking": "method and judge in words",
    "n": "samples per prompt that were ranked",
    "prompts": "prompts of the pool",
    "dropped": "those without a ranking",
    "comparisons": "pairs of responses that were compared, each in both orders",
    "comparisons_at_most": "as many as the method could have asked",
    "known_before": "those that the store knew already",
    "identical": "those of equal texts, which no judge was asked",
    **{
        column: meaning
        for name, said in RANKING_MEASURES.items()
        for column, meaning in (
            (name, f"mean over prompts: {said}"),
            (f"{name}_low", "lower end of its 95 % interval over prompts"),
            (f"{name}_high", "upper end"),
            (f"{name}_n", "prompts that have one"),
            (f"{name}_note", "why there is no number or interval"),
        )
    },
    "warning": "why the judge says nothing, or None",
    "results": "ids of the results that rest on it, separated by blanks",
}
"""One row per ranking of a pool (docs/ranking.md)."""

SCORE_NAME: Final[dict[str, str]] = {
    "task": "task of lm-evaluation-harness",
    "metric": "its metric",
    "filter": "what answers went through before they were scored",
    "shots": "examples before the question",
    "version": "the task's version",
    "lm_eval": "version of lm-evaluation-harness",
    "limit": "questions that it was cut to, or None",
}
"""What names a score: two scores are comparable only where all of these are equal."""

SCORES: Final[dict[str, str]] = {
    **_RESULT,
    **SCORE_NAME,
    "value": "score in the task's own scale",
    "standard_error": "lm_eval's own",
    "policy_value": "the untrained policy's score",
    "policy_standard_error": "its standard error",
    "higher_is_better": "whether it is",
}
"""One row per result and score (docs/regressions.md)."""

SCORE_DIFFERENCES: Final[dict[str, str]] = {
    **_RESULT,
    **SCORE_NAME,
    "question": "number of the question",
    "difference": "the model's score of it less its policy's",
}
"""One row per result, score and question that both were asked."""

DETAILS: Final[dict[str, str]] = {
    **_RESULT,
    "keys": "keys of its nodes in the store, by stage",
    "rows": "rows taken, kept and dropped by reason, by stage in the order of the data",
    "pairs": "examples of preference rows: prompt, chosen, rejected (texts), chosen_reward, rejected_reward",
    "answers": "examples of judged answers: instruction, answer, reference (texts), preference, failure",
}
"""One row per result: what stands behind it. Long texts are cut."""
