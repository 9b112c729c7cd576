"""How long prompts and responses are before anything was tokenised: bounds, and what the store has seen."""

from dataclasses import dataclass
from statistics import fmean

from harness.judges.models import RewardSpec
from harness.plan import Node
from harness.prompts import PromptSet
from harness.ranking import most_comparisons
from harness.resources.demand import work_of
from harness.resources.rates import response_tokens
from harness.stages import boundary, model_score, rank, reference, relabel, respond, sample, train
from harness.store import Store

Range = tuple[float, float]

CHARACTERS = 4.0
"""Of a prompt's text to a token (ours; English)."""

_SHORTEST = 0.1
"""Mean response where the store holds none: from this part of the longest that is allowed to all of it (ours)."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What a node's work is about."""

    sequences: float
    """Responses, picks, answers or rows."""
    prompt: float
    """Mean tokens of a prompt."""
    response: Range
    """Mean tokens of a response, at least and at most."""

    @property
    def tokens(self) -> Range:
        """Tokens of all sequences, prompts included."""
        low, high = self.response
        return self.sequences * (self.prompt + low), self.sequences * (self.prompt + high)

    @property
    def generated(self) -> Range:
        """Tokens of all responses."""
        low, high = self.response
        return self.sequences * low, self.sequences * high


def lengths_of(node: Node, store: Store) -> Lengths | None:  # noqa: PLR0911 (one return per kind of work)
    """Lengths of what a node reads or writes; None where it is about no responses, or they are not known of."""
    spec = node.spec
    if isinstance(spec, sample.Spec | sample.VllmSpec):
        return _of_pool(node, store, float(node.units))
    if isinstance(spec, respond.Spec | respond.VllmSpec):
        prompt = _prompt_tokens(node.uses["instructions"][0], spec.max_prompt_tokens)
        return Lengths(sequences=node.units, prompt=prompt, response=_bounds(spec.max_new_tokens))
    if isinstance(spec, reference.Spec):
        return _of_responses(node, store, _responses(node), spec.max_length)
    if isinstance(spec, train.Spec):
        return _of_training(node, store, spec)
    if isinstance(spec, rank.Spec | boundary.Spec):
        found = lengths_of(node.inputs["responses"][0], store)
        times = most_comparisons(spec.method, spec.n) if isinstance(spec, rank.Spec) else 1
        return _times(found, 2.0 * node.units * times) if found is not None else None
    if "responses" in node.inputs:
        times = 2 * spec.opponents if isinstance(spec, model_score.PairwiseSpec) else 1
        found = lengths_of(node.inputs["responses"][0], store)
        return _times(found, node.units * times) if found is not None else None
    if "answers" in node.inputs:
        found = lengths_of(node.inputs["answers"][0], store)
        return _times(found, float(node.units)) if found is not None else None
    return None


def judged(node: Node, found: Lengths) -> Lengths:
    """What a model reads that judges, in a ranking, a boundary or for a win rate; `found` is what it is about.

    A ranking counts with the most comparisons that it can want; what a response is compared with counts as one of its
    length. A reward model reads every text once, any other judge both texts of a comparison in each order.
    """
    spec, judge = node.spec, work_of(node)
    if isinstance(judge, RewardSpec):
        if isinstance(spec, boundary.Spec):
            return _times(found, node.units / spec.candidates + node.units / spec.responses)
        return _times(found, float(node.units * (spec.n if isinstance(spec, rank.Spec) else 2)))
    comparisons = node.units * (most_comparisons(spec.method, spec.n) if isinstance(spec, rank.Spec) else 1)
    orders = 1 if getattr(judge, "order", "both") == "seeded" else 2
    template = node.params.get("template")
    around = sum(len(content) for _, content in template.messages) / CHARACTERS if template is not None else 0.0
    low, high = found.response
    return Lengths(sequences=orders * comparisons, prompt=found.prompt + around, response=(2 * low, 2 * high))


def _responses(node: Node) -> float:
    """Responses to each prompt whose log-probability is asked for, at most."""
    if "relabelled" in node.inputs:
        asked: relabel.Spec = node.inputs["relabelled"][0].spec
        # Both sides of a pair, under each of its two goals or under one; of all pairs or of half of them.
        return (4 if asked.constant is None else 2) * (0.5 if asked.half is not None else 1)
    picks = node.inputs["picks"][0].spec
    return (len(picks.positions) + (picks.draws is not None) + (picks.balance is not None)) * (picks.depth or 1)


def _of_training(node: Node, store: Store, spec: train.Spec) -> Lengths | None:
    """Both sides of the rows of all epochs."""
    parents = node.inputs["pairs"][0].inputs.get("reference", ())
    found = lengths_of(parents[0], store) if parents else None
    if found is None:
        return None
    rows = spec.max_steps * spec.global_batch if spec.max_steps is not None else node.units * (spec.epochs or 1.0)
    return _times(_cut(found, spec.max_length), 2 * rows)


def _of_responses(node: Node, store: Store, of_prompt: float, max_length: int) -> Lengths | None:
    sampled = node.inputs["responses"]
    found = lengths_of(sampled[0], store)
    if found is None:
        return None
    first = min(n.spec.sample_block for n in sampled)
    prompts = sum(n.units / n.spec.samples for n in sampled if n.spec.sample_block == first)
    return _times(_cut(found, max_length), prompts * of_prompt)


def _of_pool(node: Node, store: Store, sequences: float) -> Lengths:
    spec = node.spec
    prompt = _prompt_tokens(node.uses["prompts"][0], spec.max_prompt_tokens)
    seen = response_tokens(node.inputs["policy"][0], spec.max_new_tokens, store)
    response = (seen, seen) if seen is not None else _bounds(spec.max_new_tokens)
    return Lengths(sequences=sequences, prompt=prompt, response=response)


def _bounds(most: int) -> Range:
    return max(1.0, _SHORTEST * most), float(most)


def _prompt_tokens(frozen: Node, most: int) -> float:
    prompts: PromptSet = frozen.params["prompts"]
    return fmean(min(most, sum(len(m["content"]) for m in p.messages) / CHARACTERS) for p in prompts.prompts)


def _times(found: Lengths, sequences: float) -> Lengths:
    return Lengths(sequences=sequences, prompt=found.prompt, response=found.response)


def _cut(found: Lengths, max_length: int) -> Lengths:
    prompt = min(found.prompt, float(max_length))
    low, high = (min(tokens, max_length - prompt) for tokens in found.response)
    return Lengths(sequences=found.sequences, prompt=prompt, response=(low, high))
