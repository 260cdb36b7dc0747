"""Products and look-ups whose weights are split over a group, differentiable on every rank.

The two exchanges of a block are those of Shoeybi et al. (arXiv 1909.08053, section 3): what enters
it is the same on all ranks, so the gradients that the ranks return for it are summed; what leaves
it is the sum of the ranks' parts. Every rank calls the same operations in the same order, forward
and backward.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.group import Group
from parallel.training.tensor_split import Range

# Shapes: B = rows, T = positions, H = hidden size, N = tokens, V = vocabulary.


def entered(x: Tensor, group: Group) -> Tensor:
    """Return `x`, which all ranks have; its gradient is the sum of all ranks' gradients."""
    found: Tensor = _Enter.apply(x, group)  # type: ignore[no-untyped-call]  # torch's
    return found


def left(part: Tensor, group: Group) -> Tensor:
    """Return the sum of the ranks' parts; each part has the gradient of the sum."""
    found: Tensor = _Leave.apply(part, group)  # type: ignore[no-untyped-call]  # torch's
    return found


def joined(part: Tensor, group: Group, ranges: tuple[Range, ...]) -> Tensor:
    """Return the ranks' parts of the last dimension side by side; all ranks have the result."""
    found: Tensor = _Join.apply(part, group, ranges)  # type: ignore[no-untyped-call]  # torch's
    return found


class SplitEmbedding(nn.Module):
    """A rank's rows of an embedding; what the ranks look up is summed."""

    def __init__(
        self,
        weight: nn.Parameter,
        rows: Range,
        group: Group,
        *,
        scale: float | None,
        padding_id: int | None,
    ) -> None:
        """Hold some rows.

        Args:
            weight: [rows, H].
            rows: which rows of the whole these are.
            group: the ranks that hold all rows together.
            scale: factor of what is looked up; None is 1.
            padding_id: the token whose row never learns.
        """
        super().__init__()
        self.weight = weight
        self._rows = rows
        self._group = group
        self._scale = scale
        first, stop = rows
        is_here = padding_id is not None and first <= padding_id < stop
        self._padding = padding_id - first if padding_id is not None and is_here else None

    def forward(self, ids: Tensor) -> Tensor:
        """Return [B, T, H] float32 of token ids, [B, T]."""
        first, stop = self._rows
        is_here = (ids >= first) & (ids < stop)
        found = F.embedding(torch.where(is_here, ids - first, 0), self.weight, self._padding)
        found = torch.where(is_here.unsqueeze(-1), found.float(), 0.0)
        whole = left(found, self._group)
        return whole if self._scale is None else whole * self._scale


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _sum(grads[0], ctx.group), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group) -> Tensor:  # noqa: ARG004  (torch's interface)
        return _sum(part, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grads[0], None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, group: Group, ranges: tuple[Range, ...]) -> Tensor:
        ctx.range = ranges[group.rank]
        sizes = [stop - first for first, stop in ranges]
        padded = F.pad(part, (0, max(sizes) - part.shape[-1])).contiguous()
        parts = group.all_gather(padded)
        return torch.cat([one[..., :size] for one, size in zip(parts, sizes, strict=True)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        first, stop = ctx.range
        return grads[0][..., first:stop], None, None


def _sum(part: Tensor, group: Group) -> Tensor:
    """Return the sum over the ranks; `part` stays as it is."""
    return group.all_reduce(part.clone(memory_format=torch.contiguous_format))
