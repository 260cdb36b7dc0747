"""The layers of a decoder; each rank holds its slice and sums partial results over the group.

Column-, row- and vocabulary-parallel layers as in Megatron-LM (Shoeybi et al., arXiv 1909.08053,
section 3).
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.group import Group
from parallel.weights.stored_matrix import Matrix, as_float, num_outputs

Kernel = Callable[[Tensor, Tensor | None], Tensor]
KernelMaker = Callable[[Matrix, Tensor | None], Kernel]
"""Makes the kernel of a weight and its bias."""
_MIN_PACKED_ROWS = 6
"""oneDNN's kernel takes 36 ms for one row and 47 ms for two, but 30 ms for six (all the matrices of
a 135M model, one thread, on a CPU without AMX, 2026-11-23)."""
_MKL_ROWS = 32
"""The number of rows for which MKL packs a weight; other numbers work as well."""


class Packing(StrEnum):
    """The memory layout of the weights of matrix products."""

    NONE = "none"
    """Unpacked."""
    ONEDNN = "onednn"
    """In oneDNN's blocks."""
    MKL = "mkl"
    """As MKL's sgemm packs them."""


def fill_rows(x: Tensor) -> Tensor:
    """Return x, [rows, features], padded with zero rows where the kernels are faster with more."""
    missing = _MIN_PACKED_ROWS - x.shape[0]
    if missing <= 0 or packing_of(x) is not Packing.ONEDNN:
        return x
    return F.pad(x, (0, 0, 0, missing))


def linear_kernel(weight: Tensor, bias: Tensor | None, packing: Packing | None = None) -> Kernel:
    """Return (x, addend or None) -> x W^T + b + addend with the fastest kernel for the weight.

    On a CPU in float32 the weight is packed once, and replaces the original. All the matrices of a
    135M model take, for one, four and eight rows (two threads, milliseconds):

    - F.linear 57, -, 68; oneDNN 28, -, 27 on a CPU with AVX-512 and without AMX (2026-11-23);
    - F.linear 29, 55, 72; oneDNN 40, 44, 46; MKL 29, 37, 42 on one with AMX (2026-11-26).

    Args:
        weight: [out_features, in_features].
        bias: [out_features] or None.
        packing: how the weight is packed; None is the fastest on this CPU.
    """
    match packing or packing_of(weight):
        case Packing.NONE:
            return lambda x, addend: _added(F.linear(x, weight, bias), addend)
        case Packing.ONEDNN:
            return _onednn_kernel(weight, bias)
        case Packing.MKL:
            return _MklProduct(weight, bias)


def float_kernel(matrix: Matrix, bias: Tensor | None) -> Kernel:
    """Return the kernel of a weight as numbers; see `linear_kernel`."""
    return linear_kernel(as_float(matrix), bias)


def _onednn_kernel(weight: Tensor, bias: Tensor | None) -> Kernel:
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


class _MklProduct:
    """Multiplies with a weight that is packed at the first product.

    MKL packs for its current number of threads: a weight packed with one thread limits all later
    products to one, and models are loaded in another thread than they run in.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = bias
        self._packed: Tensor | None = None
        self._weight = weight

    def __call__(self, x: Tensor, addend: Tensor | None) -> Tensor:
        if self._packed is None:
            weight = self._weight
            self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _MKL_ROWS)
            # The product uses only the shape of the original.
            self._weight = weight.new_zeros(()).expand(weight.shape)
        product = torch.ops.mkl._mkl_linear
        return _added(product(x, self._packed, self._weight, self._bias, x.shape[0]), addend)


def _added(out: Tensor, addend: Tensor | None) -> Tensor:
    return out if addend is None else out.add_(addend)


def packing_of(tensor: Tensor) -> Packing:
    """Return the packing of a weight like this one on this CPU; the same in all processes."""
    on_cpu = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return _best_packing() if on_cpu else Packing.NONE


def packings() -> list[Packing]:
    """Return the packings that this build of torch supports."""
    found = [Packing.NONE]
    onednn_is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    if onednn_is_there and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        found.append(Packing.ONEDNN)
    mkl_is_there: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]  # torch's
    if mkl_is_there and hasattr(torch.ops.mkl, "_mkl_linear"):
        found.append(Packing.MKL)
    return found


@cache
def _best_packing() -> Packing:
    there = packings()
    if torch.cpu._is_amx_tile_supported() and Packing.MKL in there:
        return Packing.MKL
    return Packing.ONEDNN if Packing.ONEDNN in there else Packing.NONE


class ColumnParallelLinear:
    """A linear layer whose outputs are split over the ranks; no exchange."""

    def __init__(
        self,
        matrices: Sequence[Matrix],
        bias: Tensor | None = None,
        make_kernel: KernelMaker = float_kernel,
    ) -> None:
        """Take the weight as matrices one below the other, and the bias of all outputs."""
        biases: Sequence[Tensor | None] = [None] * len(matrices)
        if bias is not None:
            biases = torch.split(bias, [num_outputs(matrix) for matrix in matrices])
        self._kernels = [
            make_kernel(matrix, part) for matrix, part in zip(matrices, biases, strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Return this rank's outputs, [tokens, out_shard], of x, [tokens, in_features]."""
        parts = [kernel(x, None) for kernel in self._kernels]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class RowParallelLinear:
    """A linear layer whose inputs are split over the ranks; partial sums are added up."""

    def __init__(
        self,
        matrix: Matrix,
        group: Group,
        bias: Tensor | None = None,
        make_kernel: KernelMaker = float_kernel,
    ) -> None:
        """Take this rank's columns, and the bias of all ranks, which rank 0 adds."""
        self._kernel = make_kernel(matrix, bias if group.rank == 0 else None)
        self._group = group

    def __call__(
        self,
        x: Tensor,
        addend: Tensor | None,
        num_tokens: int,
        adjust: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Return the whole output, [rows, out_features], of x, [rows, in_shard].

        Args:
            x: this rank's inputs.
            addend: [rows, out_features], equal on all ranks; added to the output.
            num_tokens: the rows to sum over the ranks; the rest is padding.
            adjust: called with x and this rank's part of the output, which it may change.
        """
        out = self._kernel(x, addend if self._group.rank == 0 else None)
        if adjust is not None:
            adjust(x, out)
        self._group.all_reduce(out[:num_tokens])
        return out


class VocabParallelEmbedding:
    """An embedding table whose rows are split over the ranks."""

    def __init__(
        self, lookup: Callable[[Tensor], Tensor], rows: tuple[int, int], group: Group
    ) -> None:
        """Take the lookup of this rank's rows, the first of them and one past the last."""
        self._lookup = lookup
        self._first, self._stop = rows
        self._group = group

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Return [tokens, hidden]: the rank that holds a row adds it, the others add zero."""
        if self._group.size == 1:
            return self._lookup(token_ids)
        outside = (token_ids < self._first) | (token_ids >= self._stop)
        rows = self._lookup((token_ids - self._first).masked_fill(outside, 0))
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
