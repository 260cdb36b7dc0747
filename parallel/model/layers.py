"""The layers of a decoder; each rank holds its slice and sums partial results over the group.

Column-, row- and vocabulary-parallel layers as in Megatron-LM (Shoeybi et al., arXiv 1909.08053,
section 3).
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.group import Group

Kernel = Callable[[Tensor, Tensor | None], Tensor]
_MIN_PACKED_ROWS = 6
"""oneDNN's kernel takes 36 ms for one row and 47 ms for two, but 30 ms for six (all the matrices of
a 135M model, one thread, 2026-11-23)."""


def fill_rows(x: Tensor) -> Tensor:
    """Return x, [rows, features], with rows of zeros below it where the kernels like more rows."""
    missing = _MIN_PACKED_ROWS - x.shape[0]
    if missing <= 0 or not _takes_packing(x):
        return x
    return F.pad(x, (0, 0, 0, missing))


def linear_kernel(weight: Tensor, bias: Tensor | None) -> Kernel:
    """Return (x, addend or None) -> x W^T + b + addend with the fastest kernel for the weight.

    On a CPU in float32 the weight is repacked once into oneDNN's blocked layout: all the matrices
    of a 135M model, two threads, take 28 ms against F.linear's 57 ms for one row and 27 against 68
    for eight (2026-11-23). The repacked weight replaces the original.

    Args:
        weight: [out_features, in_features].
        bias: [out_features] or None.
    """
    if not _takes_packing(weight):
        return lambda x, addend: _added(F.linear(x, weight, bias), addend)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    product = torch.ops.mkldnn._linear_pointwise

    def packed_kernel(x: Tensor, addend: Tensor | None) -> Tensor:
        out: Tensor
        if addend is None:
            out = product(x, packed, bias, "none", [], "")
        else:
            out = product.binary(x, addend, packed, bias, "add")
        return out

    return packed_kernel


def _added(out: Tensor, addend: Tensor | None) -> Tensor:
    return out if addend is None else out.add_(addend)


def _takes_packing(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and _has_packing()


@cache
def _has_packing() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    return bool(available) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


class ColumnParallelLinear:
    """A linear layer whose outputs are split over the ranks; no exchange."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._kernel = linear_kernel(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Return this rank's outputs, [tokens, out_shard], of x, [tokens, in_features]."""
        return self._kernel(x, None)


class RowParallelLinear:
    """A linear layer whose inputs are split over the ranks; partial sums are added up."""

    def __init__(self, weight: Tensor, group: Group, bias: Tensor | None = None) -> None:
        # Bias and addend are everybody's, so one rank alone adds them.
        self._kernel = linear_kernel(weight, bias if group.rank == 0 else None)
        self._group = group

    def __call__(self, x: Tensor, addend: Tensor | None, num_tokens: int) -> Tensor:
        """Return the whole output, [rows, out_features], of x, [rows, in_shard].

        Args:
            x: this rank's inputs.
            addend: [rows, out_features], the same on all ranks; added to the output.
            num_tokens: how many of the rows count; the rest need not cross the group.
        """
        out = self._kernel(x, addend if self._group.rank == 0 else None)
        self._group.all_reduce(out[:num_tokens])
        return out


class VocabParallelEmbedding:
    """An embedding table whose rows are split over the ranks."""

    def __init__(self, weight: Tensor, first: int, group: Group) -> None:
        self._weight = weight
        self._first = first
        self._group = group

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Return [tokens, hidden]: one rank knows the row, the others add zero."""
        if self._group.size == 1:
            return F.embedding(token_ids, self._weight)
        local = token_ids - self._first
        outside = (local < 0) | (local >= self._weight.shape[0])
        rows = F.embedding(local.masked_fill(outside, 0), self._weight)
        return self._group.all_reduce(rows.masked_fill(outside.unsqueeze(-1), 0))


class RmsNorm:
    """Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps
        size = weight.shape[-1]
        self._floor = torch.tensor((eps * size) ** 0.5)
        self._scaled_weight = weight * size**0.5

    def __call__(self, x: Tensor) -> Tensor:
        """Return x normalised over its last dimension."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return F.rms_norm(x, self._weight.shape, self._weight, self._eps)
        # A third of the time of F.rms_norm, which is many small steps here (2026-11-23).
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self._floor)).mul_(self._scaled_weight)
