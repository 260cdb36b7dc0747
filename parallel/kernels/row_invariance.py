"""Products in which the bits of a row do not depend on the rows beside it.

A kernel may compute one row in another order than several: verifying k tokens then differs in the
last bits from k single steps. A product is therefore measured at numbers of rows, the sizes, and
used only at those that agree with one another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""x, [rows, inputs] float32 -> x W^T, [rows, outputs] float32, in a new tensor."""

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
"""The numbers of rows of a block. With 32 rows the operators of torch are bound by arithmetic, so
larger blocks gain nothing."""
_WANTED_SIZE = 8
"""A smallest size is good enough if a size from here on agrees with it."""
_MAGNITUDES = (1.0, 30.0, 0.03, 1.0, 1.0)
"""Scales of a probe's rows. Five rows, a number that divides no kernel's tile, so that each of them
comes to each place of a tile."""
_LARGEST_EXPONENT = 10
_DIFFERENT_OUTPUTS = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights and rows whose sums cancel: their products are the rounding errors alone.

    Each input has a partner with the same weight in all outputs and the opposite number in all
    rows. Another order of adding changes every product by about its own size, so the bits differ
    even where a kernel rounds its outputs to bfloat16. With ordinary numbers, 255 of 256 such
    differences would disappear.
    """

    weight: Tensor
    """[outputs, inputs] float32; whole numbers from -8 to 7."""
    rows: Tensor
    """[5, inputs] float32."""


def make_probe(num_outputs: int, num_inputs: int) -> Probe:
    """Return weights of this shape, and rows for them; the same in all processes."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.randint(-8, 8, (_DIFFERENT_OUTPUTS, num_inputs), generator=rng).float()
    rows = torch.randn(len(_MAGNITUDES), num_inputs, generator=rng)
    rows *= torch.tensor(_MAGNITUDES).unsqueeze(1)
    # With numbers of one size, sums of few-bit weights by bfloat16 inputs would be exact.
    rows *= 2 ** torch.empty(num_inputs).uniform_(
        -_LARGEST_EXPONENT, _LARGEST_EXPONENT, generator=rng
    )
    order = torch.randperm(num_inputs, generator=rng)
    half = num_inputs // 2
    left, right = order[:half], order[half : 2 * half]
    weight[:, right] = weight[:, left]
    rows[:, right] = -rows[:, left]
    rows[:, order[2 * half :]] = 0
    return Probe(weight=_repeated(weight, num_outputs), rows=rows)


def invariant_sizes(product: Product, rows: Tensor) -> tuple[int, ...]:
    """Return the numbers of rows at which all rows have the same bits, in each place of a block.

    They are found by measurement on one probe, as a kernel's order depends on the shapes alone. The
    smallest is 1 unless a single row has bits of its own; it must then be padded to the smallest
    size. The last resort is (1,), one row at a time.

    Args:
        product: called with each of SIZES; for real kernels, with the weights of the probe.
        rows: those of the probe, [5, inputs].

    Returns:
        Some of SIZES, ascending, at least one.
    """
    found = {size: _bits(product(_repeated(rows, size))) for size in SIZES}
    best: tuple[int, ...] = (1,)
    for smallest in SIZES:
        single = [product(_padded(row.unsqueeze(0), smallest))[:1] for row in rows]
        bits = _bits(torch.cat(single))
        same = tuple(size for size in SIZES if torch.equal(found[size], _repeated(bits, size)))
        if same and same[-1] >= _WANTED_SIZE:
            return same
        best = max(best, same, key=max) if same else best
    return best


def in_blocks(product: Product, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return product(x), computed in blocks of these sizes; zero rows fill the last one.

    Args:
        product: what to compute.
        x: [rows, inputs]; any number of rows, also none.
        sizes: numbers of rows, ascending.
    """
    num_rows = x.shape[0]
    if num_rows in sizes:
        return product(x)
    parts = []
    for first in range(0, max(num_rows, 1), sizes[-1]):
        block = x[first : first + sizes[-1]]
        size = next(size for size in sizes if size >= block.shape[0])
        parts.append(product(_padded(block, size))[: block.shape[0]])
    return torch.cat(parts)


def _padded(x: Tensor, size: int) -> Tensor:
    missing = size - x.shape[0]
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def _repeated(rows: Tensor, size: int) -> Tensor:
    return rows[torch.arange(size) % len(rows)]


def _bits(outputs: Tensor) -> Tensor:
    return outputs.contiguous().view(torch.int32)
