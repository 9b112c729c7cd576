"""TRL's DPO trainer on rows of ours: tokenised, with their reference log-probabilities.

The losses that it has, the optimiser and the loop are TRL's. What is changed, and tested against the stock trainer:

- It takes token ids and reference log-probabilities as they are. The stock one ignores both, tokenises rendered text
  again and runs the reference model itself.
- A step's pairs may be run through the model in micro-batches by length, each up to a number of tokens, in place of
  equal counts in random order: the same mean over the same pairs, with less padding.
- The preference losses and regularisers of `harness.losses` that TRL has none of come out of the same forward pass.
- Rows may carry the log-probabilities of the policy that training starts from, where that is not the reference; their
  means are figures of each step.
- Rows go through the model without their padding where it can take them so (`harness.engines.packing`). Elsewhere
  padding stands behind the last token, where a causal model does not look; of micro-batches by length there is no mask
  then, and the fastest kernel for attention can be used.
"""

from collections.abc import Sequence
from typing import Any

import torch
from trl import DPOTrainer

from harness import losses
from harness.config import LossConfig
from harness.engines.packing import pack

INITIAL = ("initial_chosen_logps", "initial_rejected_logps")
"""Columns of log-probabilities under the policy that training starts from, in nats per response."""


class PreferenceTrainer(DPOTrainer):  # type: ignore[misc]
    """The stock trainer on prepared rows.

    `batch_tokens` bounds the tokens of a forward pass, padding included; `packed`: the model takes rows without it.
    """

    data_collator: Any
    _signature_columns: list[str]

    def __init__(
        self, *args: Any, loss: LossConfig, batch_tokens: int | None = None, packed: bool = False, **settings: Any
    ) -> None:
        self._loss, self._packed = loss, packed
        self._batch_tokens = batch_tokens
        self._share = 1.0
        super().__init__(*args, **settings)
        stock = self.data_collator

        def collate(rows: Sequence[dict[str, Any]]) -> Any:
            given = {name: torch.tensor([row[name] for row in rows]) for name in INITIAL if name in rows[0]}
            return {**stock(rows), **given}

        self.data_collator = collate

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *INITIAL]))

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One optimiser step's gradients out of all its pairs; returns their mean loss."""
        if self._batch_tokens is None:
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            return loss
        inputs = self._prepare_inputs(inputs)
        lengths, tokens = _pair_lengths(inputs)
        sizes = tokens if self._packed else None
        parts, shares = self._same_number(split_by_length(lengths, self._batch_tokens, sizes))
        before = {name: len(values) for name, values in self._metrics["train"].items()}
        of_parts = []
        for part, self._share in zip(parts, shares, strict=True):
            # A model of experts balances their load over what is no padding.
            masked = self.aux_loss_enabled or self._packed
            chosen = _take(inputs, part, max(lengths[i] for i in part), mask=masked)
            of_parts.append(super().training_step(model, chosen, num_items_in_batch))
        self._share = 1.0
        self._merge_metrics(before, shares)
        return torch.stack(of_parts).sum()

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        assert not return_outputs  # asked for in evaluation, which this trainer does none of
        for name in set(INITIAL).intersection(inputs):
            self._metrics["train"][name].append(self.accelerator.gather(inputs[name]).mean().item())
        inputs = {name: value for name, value in inputs.items() if name not in INITIAL}
        forward = _Forward(model, packed=self._packed)
        loss: torch.Tensor = super()._compute_loss(forward, inputs, return_outputs)
        pairs = _pairs_of(forward.outputs, inputs)
        balance = self.router_aux_loss_coef * forward.outputs.aux_loss.detach() if self.aux_loss_enabled else 0.0
        if self._loss.type in losses.OURS:
            loss = loss + losses.preference(self._loss, pairs).mean()  # TRL's own has no weight then
        figures = {"preference_loss": (loss.detach() - balance).item(), "regulariser": 0.0, **losses.figures(pairs)}
        term = losses.regulariser(self._loss, pairs)
        if term is not None:
            loss = loss + self._loss.weight * term.mean()
            figures["regulariser"] = term.detach().mean().item()
        for name, value in figures.items():
            self._metrics["train"][name].append(value)
        return loss * self._share

    def _same_number(self, parts: list[list[int]]) -> tuple[list[list[int]], list[float]]:
        """As many parts on every process, since sharded models are gathered by all of them in each pass, and shares.

        A process with fewer pairs than another has parts goes through one of its pairs again, which counts nothing.
        """
        pairs, number = sum(map(len, parts)), len(parts)
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([number], device=self.accelerator.device)
            number = int(self.accelerator.gather(mine).max())
        parts = divide_further(parts, min(number, pairs))
        idle = number - len(parts)
        return [*parts, *[parts[0][:1]] * idle], [*(len(part) / pairs for part in parts), *[0.0] * idle]

    def _merge_metrics(self, before: dict[str, int], shares: Sequence[float]) -> None:
        """One figure of the step for those of its parts, each counted as the share of its pairs."""
        for name, values in self._metrics["train"].items():
            new = values[before.get(name, 0) :]
            if len(new) == len(shares) > 1:
                values[before.get(name, 0) :] = [sum(v * share for v, share in zip(new, shares, strict=True))]


class _Forward:
    """A model that keeps what its forward pass has given, and is spared padding where it can be."""

    outputs: Any

    def __init__(self, model: Any, *, packed: bool) -> None:
        self._model, self._packed = model, packed

    def __call__(self, **inputs: Any) -> Any:
        if not self._packed:
            self.outputs = self._model(**inputs)
            return self.outputs
        packed = pack(*(inputs.pop(name) for name in ("input_ids", "attention_mask", "labels")))
        self.outputs = self._model(**packed.inputs, **inputs)
        for name in ("log_probs", "entropy", "mean_logits", "is_top1", "label_mask"):
            self.outputs[name] = packed.unpack(self.outputs[name])
        return self.outputs


def _pairs_of(outputs: Any, inputs: dict[str, torch.Tensor]) -> losses.Pairs:
    """Log-probabilities of a batch, whose rows are all chosen ones, then all rejected ones."""
    mask = inputs["completion_mask"][:, 1:]
    chosen, rejected = outputs.log_probs[:, -mask.shape[1] :].sum(dim=1).chunk(2)
    chosen_tokens, rejected_tokens = mask.sum(dim=1).chunk(2)
    return losses.Pairs(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=inputs["ref_chosen_logps"],
        ref_rejected=inputs["ref_rejected_logps"],
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )


def split_by_length(lengths: Sequence[int], batch_tokens: int, sizes: Sequence[int] | None = None) -> list[list[int]]:
    """Pairs in groups of similar length, each of at most `batch_tokens` tokens, or of one pair.

    Args:
        lengths: tokens of the longer side of each pair, prompt included.
        sizes: tokens of both sides, where a group is not padded; else both count as the group's longest side does.

    Returns:
        Places of the pairs, longest first, so that a shortage of memory shows at the first group.
    """

    def tokens(place: int, longest: int) -> int:
        return sizes[place] if sizes is not None else 2 * lengths[longest]

    parts: list[list[int]] = []
    filled = 0
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not parts or filled + tokens(place, parts[-1][0]) > batch_tokens:
            parts.append([])
            filled = 0
        parts[-1].append(place)
        filled += tokens(place, parts[-1][0])
    return parts


def divide_further(parts: Sequence[list[int]], number: int) -> list[list[int]]:
    """The same pairs in exactly `number` groups: the largest are halved until there are so many.

    Raises:
        ValueError: there are fewer pairs than groups.
    """
    out = list(parts)
    while len(out) < number:
        largest = max(range(len(out)), key=lambda i: (len(out[i]), -i))
        part = out.pop(largest)
        if len(part) < 2:
            raise ValueError(f"{sum(map(len, parts))} pairs cannot be divided into {number} groups")
        out[largest:largest] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return out


def _pair_lengths(inputs: dict[str, torch.Tensor]) -> tuple[list[int], list[int]]:
    """Tokens of the longer side of each pair, and of both; the rows are all chosen ones, then all rejected ones."""
    sides = inputs["attention_mask"].sum(dim=1).chunk(2)
    longer, both = torch.stack([torch.maximum(*sides), sides[0] + sides[1]]).tolist()
    return longer, both


def _take(inputs: dict[str, torch.Tensor], pairs: list[int], width: int, *, mask: bool) -> dict[str, torch.Tensor]:
    """Some pairs of a batch, without the columns that only longer ones need."""
    places = torch.tensor(pairs, device=inputs["input_ids"].device)
    rows = torch.cat([places, places + len(inputs["input_ids"]) // 2])
    names = ("input_ids", "attention_mask", "completion_mask")
    taken = {name: inputs[name][rows, :width] for name in names}
    if not mask:
        taken["attention_mask"] = torch.ones_like(taken["attention_mask"])
    return taken | {name: inputs[name][places] for name in inputs if name not in names}
