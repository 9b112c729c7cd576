"""The tables of the proxy evidence as Markdown lines: verdicts, spoiled answers, agreement, cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis import proxy_data
from analysis.proxy_data import AlpacaData, VerdictPair
from analysis.proxy_scores import MIN_CLASS, Floats, balanced_accuracy, credit, share, spearman
from harness.engines.embedding import SentenceEncoder
from harness.engines.proxy_judge import ProxyJudge
from harness.engines.proxy_reward import DEFAULT_WEIGHTS, ProxyReward

BANDS = (1.5, 1.25, 2.0)
CHANCE = 0.5
AT_CHANCE = "the judge's interval reaches 0.5"
GAMING_NOTE = (
    "A constant string that games the benchmark's judge (a warning light: wins are that judge's error), "
    'within a factor of 2; the column to read is "judge favours first":'
)
Preference = Callable[[Sequence[VerdictPair]], Floats]


class KeepingEncoder:
    """Embeds each text once: every table asks for the same answers."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        self.kept: dict[str, NDArray[np.float32]] = {}

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [n, d] in the order of `texts`."""
        new = [text for text in dict.fromkeys(texts) if text not in self.kept]
        self.kept.update(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.kept[text] for text in texts])


def judge_preference(judge: ProxyJudge) -> Preference:
    """The judge's probability that the first answer of each pair is better."""
    return lambda pairs: judge.compare(
        [pair.instruction for pair in pairs], [pair.first for pair in pairs], [pair.second for pair in pairs]
    )


def reward_preference(reward: ProxyReward) -> Preference:
    """1, 0.5 or 0 as the first answer of each pair has the higher reward; finish reasons are taken as
    "stop"."""

    def prefer(pairs: Sequence[VerdictPair]) -> Floats:
        prompts = [pair.instruction for pair in pairs] * 2
        texts = [pair.first for pair in pairs] + [pair.second for pair in pairs]
        scores, _ = reward.score(prompts, texts, ["stop"] * len(texts))
        return np.asarray(0.5 + 0.5 * np.sign(scores[: len(pairs)] - scores[len(pairs) :]), dtype=np.float64)

    return prefer


def longer_preference(pairs: Sequence[VerdictPair]) -> Floats:
    """Prefers the answer with more words."""
    return np.array([0.5 + 0.5 * np.sign(pair.log_ratio) for pair in pairs], dtype=np.float64)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty one after it."""
    return [_line(header), _line(["---"] * len(header)), *(_line(row) for row in rows), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def verdict_row(name: str, pairs: Sequence[VerdictPair], preferences: Mapping[str, Preference]) -> list[str]:
    """Name, wins, losses, balanced accuracy under each preference, and a remark."""
    wins = np.array([pair.wins for pair in pairs], dtype=bool)
    units = np.array([pair.row for pair in pairs], dtype=np.int64)
    few = min(int(wins.sum()), int((~wins).sum()))
    if few == 0:
        return [
            name,
            str(wins.sum()),
            str((~wins).sum()),
            *["-"] * (len(preferences) + 1),
            "one class is empty",
        ]
    found = {label: prefer(pairs) for label, prefer in preferences.items()}
    estimates = {label: balanced_accuracy(values, wins, units) for label, values in found.items()}
    remark = f"too few: {few} of one class" if few < MIN_CLASS else ""
    if not remark and estimates["judge"].low <= CHANCE:
        remark = AT_CHANCE
    favours = f"{share(credit(found['judge'], np.ones(len(wins), dtype=bool))).value:.2f}"
    return [name, str(wins.sum()), str((~wins).sum()), *map(str, estimates.values()), favours, remark]


def verdict_tables(data: AlpacaData, preferences: Mapping[str, Preference]) -> list[str]:
    """Balanced accuracy against the published verdicts: per model and pooled, by band of length ratio."""
    rows = data.rows(fit=False)
    by_model = {model: proxy_data.reference_pairs(data, model, rows) for model in data.models}
    header = ["model against reference", "wins", "losses", *preferences, "judge favours first", "remark"]
    lines = []
    for ratio in BANDS:
        kept = {model: proxy_data.similar_length(pairs, ratio) for model, pairs in by_model.items()}
        lines += [f"Whole answers, word counts within a factor of {ratio}:", ""]
        lines += _verdict_lines(header, kept, preferences)
    cut = {m: proxy_data.shortened(proxy_data.similar_length(pairs, BANDS[0])) for m, pairs in by_model.items()}
    lines += [f"The pairs of the first table, both answers cut after {proxy_data.SHORT_WORDS} words:", ""]
    lines += _verdict_lines(header, cut, preferences)
    lines += [
        "Two models against each other, verdicts of differing sign, word counts within a factor of 2:",
        "",
    ]
    duels = proxy_data.similar_length(proxy_data.model_pairs(data, rows), 2.0)
    groups = sorted({pair.group for pair in duels})
    split = {group: [pair for pair in duels if pair.group == group] for group in groups}
    lines += _verdict_lines(["first / second", *header[1:]], split, preferences)
    return lines + _gaming_lines(data, header, preferences)


def _gaming_lines(data: AlpacaData, header: Sequence[str], preferences: Mapping[str, Preference]) -> list[str]:
    """The table of models that game the benchmark's judge; no line where the data have none."""
    rows = []
    for model in sorted(set(proxy_data.GAMING_MODELS) & set(data.outputs)):
        pairs = proxy_data.reference_pairs(data, model, data.rows(fit=False))
        row = verdict_row(model, proxy_data.similar_length(pairs, 2.0), preferences)
        rows.append([*row[:-1], "wins here are not merit"])
    return [GAMING_NOTE, "", *table(header, rows)] if rows else []


def _with_pooled(groups: Mapping[str, Sequence[VerdictPair]], preferences: Mapping[str, Preference]) -> list[list[str]]:
    rows = [verdict_row(name, pairs, preferences) for name, pairs in groups.items()]
    return [*rows, verdict_row("pooled", [pair for pairs in groups.values() for pair in pairs], preferences)]


def _verdict_lines(
    header: Sequence[str], groups: Mapping[str, Sequence[VerdictPair]], preferences: Mapping[str, Preference]
) -> list[str]:
    """A table of groups and their pool, and a sentence that says where the judge was better than chance."""
    rows = _with_pooled(groups, preferences)
    judged = [row for row in rows if row[-1] in ("", AT_CHANCE)]
    better = [row[0] for row in judged if not row[-1]]
    counted = f"{len(better)} of the {len(judged)} rows with enough pairs"
    named = f" ({', '.join(better)})" if better else ""
    return [*table(header, rows), f"The judge's interval lies above {CHANCE} in {counted}{named}.", ""]


def ordering_tables(data: AlpacaData, judge: ProxyJudge, reward: ProxyReward) -> list[str]:
    """Share of good reference answers that beat a spoiled version of themselves."""
    good = proxy_data.good_answers(data, data.reference, data.rows(fit=False))
    rng = np.random.default_rng(1)
    order = list(good)
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for place, row in enumerate(order):
        instruction, text = data.instructions[row], good[row]
        elsewhere = good[order[(place + 37) % len(order)]]
        for kind, bad in (proxy_data.spoil(instruction, text, elsewhere, rng) | {"empty": ""}).items():
            kinds.setdefault(kind, []).append((instruction, text, bad))
    rows = [[kind, str(len(triples)), *_ordering(kind, triples, judge, reward)] for kind, triples in kinds.items()]
    return table(["the good answer against", "n", "judge", "reward"], rows)


def _ordering(
    kind: str, triples: Sequence[tuple[str, str, str]], judge: ProxyJudge, reward: ProxyReward
) -> tuple[str, str]:
    instructions, good, bad = (list(column) for column in zip(*triples, strict=True))
    wins = np.ones(len(triples), dtype=bool)
    judged = credit(judge.compare(instructions, good, bad), wins)
    # Only the truncated answer has a finish reason that tells; the others would win or lose by their text.
    reason = "length" if kind.startswith("truncated") else "stop"
    better, _ = reward.score(instructions, good, ["stop"] * len(good))
    worse, _ = reward.score(instructions, bad, [reason] * len(bad))
    rewarded = 0.5 + 0.5 * np.sign(better - worse)
    return str(share(judged)), str(share(rewarded))


def agreement_table(data: AlpacaData, judge: ProxyJudge, reward: ProxyReward) -> list[str]:
    """How often reward and judge agree on pairs of real answers, and how their differences correlate."""
    rows = data.rows(fit=False)
    every = [pair for model in data.models for pair in proxy_data.reference_pairs(data, model, rows)]
    near = proxy_data.similar_length(every, BANDS[0])
    lines = []
    for name, pairs in (("whole answers", near), ("cut short", proxy_data.shortened(near))):
        judged = judge_preference(judge)(pairs)
        prompts, texts = (
            [p.instruction for p in pairs] * 2,
            [p.first for p in pairs] + [p.second for p in pairs],
        )
        scores, _ = reward.score(prompts, texts, ["stop"] * len(texts))
        margin = scores[: len(pairs)] - scores[len(pairs) :]
        same = credit(judged, margin > 0)
        lines.append([name, str(len(pairs)), str(share(same)), str(spearman(judged, margin))])
    return table(["pairs", "n", "same preference", "Spearman of the two margins"], lines)


def speed_line(data: AlpacaData) -> list[str]:
    """Milliseconds per answer of `SHORT_WORDS` words, instructions included, at the caller's threads."""
    rows = data.rows(fit=False)[:200]
    prompts = [data.instructions[row] for row in rows]
    texts = [proxy_data.cut_words(data.reference[row], proxy_data.SHORT_WORDS) for row in rows]
    encoder = SentenceEncoder()
    judge, reward = ProxyJudge(encoder), ProxyReward(DEFAULT_WEIGHTS, encoder)
    encoder.encode(prompts[:1])
    start = time.perf_counter()
    judge.score(prompts, texts)
    middle = time.perf_counter()
    reward.score(prompts, texts, ["stop"] * len(texts))
    judged, rewarded = (middle - start) / len(rows), (time.perf_counter() - middle) / len(rows)
    text = f"Answers of at most {proxy_data.SHORT_WORDS} words on the CPU, each with an instruction of its own:"
    return [f"{text} judge {judged * 1e3:.0f} ms, reward {rewarded * 1e3:.0f} ms per answer.", ""]
