"""Batches of sequences of similar length within a budget of padded tokens, smaller for as long as memory runs out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Forward = Callable[[npt.NDArray[np.intp]], npt.NDArray[np.float64]]
"""From the numbers of the sequences of a batch to their outputs, [batch, outputs]."""

_GROW_AFTER = 8
"""Batches without trouble after which a reduced budget is doubled again."""


class BudgetedBatches:
    """Runs a model over sequences, longest first, so that a batch that does not fit shows at once.

    After running out of memory the budget is halved, and grown again after a while: another process on the same
    device may have been the reason. A single sequence that does not fit is an error.
    """

    def __init__(self, batch_tokens: int) -> None:
        """`batch_tokens`: largest padded size of a batch in tokens; a longer sequence is a batch by itself."""
        self.retries = 0
        """Batches that ran out of memory and were tried again in parts."""
        self._most = self._budget = batch_tokens
        self._calm = 0

    def run(self, lengths: Sequence[int], forward: Forward, outputs: int) -> npt.NDArray[np.float64]:
        """Outputs of every sequence, in the order given, [sequences, outputs].

        Raises:
            torch.OutOfMemoryError, RuntimeError: a single sequence does not fit.
        """
        sizes = np.asarray(lengths, dtype=np.intp)
        order = np.argsort(-sizes, kind="stable")
        out = np.full((len(sizes), outputs), np.nan)
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, self._budget // max(1, int(sizes[order[start]])))]
            try:
                out[rows] = forward(rows)
            except Exception as error:
                if len(rows) == 1 or not out_of_memory(error):
                    raise
                self._shrink(len(rows) * int(sizes[rows[0]]))
                continue
            start += len(rows)
            self._settle()
        return out

    def _shrink(self, size: int) -> None:
        self.retries += 1
        self._calm = 0
        self._budget = max(1, min(self._budget, size) // 2)
        _release()

    def _settle(self) -> None:
        self._calm += 1
        if self._calm >= _GROW_AFTER and self._budget < self._most:
            self._budget, self._calm = min(self._most, 2 * self._budget), 0


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says that memory ran out: by type on a GPU, only in words on a CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _release() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def pad(sequences: Sequence[Sequence[int]], token: int, device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask of a batch, padded on the right, [batch, width] each."""
    import torch

    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), token, dtype=torch.long)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)
