"""The rows of one forward as tensors, for backends that take each number by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel.batch import SequenceRows
from parallel.model.backend import ForwardInputs, ForwardStep
from parallel.model.cache import PagedCache


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """The numbers of the rows of one forward; all int64, on one device."""

    token_ids: Tensor
    """[rows]."""
    positions: Tensor
    """[rows]."""
    scored: Tensor
    """Indices of the rows whose logits are computed."""

    @classmethod
    def of(cls, rows: Sequence[SequenceRows], device: torch.device) -> "RowNumbers":
        """Return the numbers of these rows."""
        scored: list[int] = []
        stop = 0
        for row in rows:
            stop += len(row.token_ids)
            scored += range(stop - row.num_logits, stop)
        token_ids = [token for row in rows for token in row.token_ids]
        positions = [position for row in rows for position in row.positions]
        return cls(
            token_ids=torch.tensor(token_ids, device=device),
            positions=torch.tensor(positions, device=device),
            scored=torch.tensor(scored, dtype=torch.int64, device=device),
        )

    def inputs(self, cache: PagedCache, attention: Sequence[Any]) -> ForwardInputs:
        """Return what a forward over the rows reads; see `ForwardStep`."""
        step = ForwardStep(len(self.token_ids), cache, attention)
        return ForwardInputs(self.token_ids, self.scored, len(self.scored), step)
