"""Quantize float matrices to int8 and int4 in groups of 32."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix, as_float
from parallel.weights.weight_format import GROUP, WeightFormat

# Shapes: O = rows, I = columns, N = groups, K = 32 columns of a group.

_LARGEST = float(torch.finfo(torch.float16).max)
_BLOCK = 1 << 16
"""Groups quantized at a time, which bounds the memory of temporary tensors."""
_SHRINKS = (0.0, 0.1, 0.2)
"""Shares of a group's range that a first grid of codes leaves out, half of it at each end."""


def can_quantize(num_columns: int) -> bool:
    """Return whether rows of this many columns are whole groups."""
    return num_columns % GROUP == 0


def quantize(weights_OI: Tensor, form: WeightFormat) -> StoredMatrix:
    """Return a matrix in integer codes with float16 scales.

    int8 is symmetric: the largest weight of a group has the code -127 or 127. int4 has minima; the
    grid of each group is the one of few candidates with the smallest squared error.

    Raises:
        ValueError: rows are not whole groups, the format has none, or a weight does not fit.
    """
    num_rows, num_columns = weights_OI.shape
    if not form.is_grouped or not can_quantize(num_columns):
        raise ValueError(f"{num_columns} columns cannot be quantized to {form}")
    largest = float(weights_OI.abs().max()) if weights_OI.numel() else 0.0
    if not largest <= _LARGEST:  # NaN is not
        raise ValueError(f"it holds {largest:.4g}, which does not fit {form}")
    parts = [
        _int8(block_NK) if form is WeightFormat.INT8 else _int4(block_NK)
        for block_NK in _blocks(weights_OI)
    ]
    codes, scales, *mins = (torch.cat(part) for part in zip(*parts, strict=True))
    return StoredMatrix(
        format=form,
        codes=codes.reshape(num_rows, -1),
        scales=scales.reshape(num_rows, -1),
        mins=mins[0].reshape(num_rows, -1) if mins else None,
    )


def widened(matrix: StoredMatrix) -> StoredMatrix:
    """Return the same weights in int8, bit for bit."""
    if matrix.format is WeightFormat.INT8:
        return matrix
    codes = torch.stack((matrix.codes & 15, matrix.codes >> 4), dim=2).flatten(1)
    if matrix.mins is None:
        codes = codes + (128 - 8)
    return replace(matrix, format=WeightFormat.INT8, codes=codes)


def pack_int4(codes_OI: Tensor) -> Tensor:
    """Return codes of 0 to 15, [O, I] uint8, two to a byte as StoredMatrix has them, [O, I / 2]."""
    return codes_OI[:, 0::2] | (codes_OI[:, 1::2] << 4)


def squared_error(matrix: Matrix, weights_OI: Tensor) -> float:
    """Return the sum of the squared differences between a matrix and the weights it stands for."""
    return float((as_float(matrix).float() - weights_OI.float()).square_().sum(dtype=torch.float64))


def relative_error(matrix: Matrix, weights_OI: Tensor) -> float:
    """Return the root mean square of the differences over that of the weights."""
    total = float(weights_OI.float().square().sum(dtype=torch.float64))
    return (squared_error(matrix, weights_OI) / total) ** 0.5 if total else 0.0


def _blocks(weights_OI: Tensor) -> Iterator[Tensor]:
    """Yield the groups in order, [at most _BLOCK, K] float32."""
    groups_NK = weights_OI.reshape(-1, GROUP)
    for first in range(0, max(len(groups_NK), 1), _BLOCK):
        yield groups_NK[first : first + _BLOCK].float()


def _int8(weights_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes, [N, K], and scales, [N]."""
    largest = weights_NK.abs().amax(dim=1)
    scales = (largest / 127).half()
    # Where float16 is coarse, a scale that was rounded down would cut off the largest weights.
    above = (scales.view(torch.int16) + 1).view(torch.float16)
    scales = torch.where(scales.float() * 127.5 < largest, above, scales)
    steps = torch.where(scales == 0, 1, scales.float()).unsqueeze(1)
    codes = (weights_NK / steps).round_().clamp_(-127, 127)
    return (codes + 128).to(torch.uint8), scales


def _int4(weights_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return packed codes, [N, K / 2], scales and minima, [N]."""
    low, high = weights_NK.amin(dim=1), weights_NK.amax(dim=1)
    best_error = torch.full_like(low, torch.inf)
    best_codes = torch.empty_like(weights_NK)
    best_scales, best_mins = (torch.empty_like(low, dtype=torch.float16) for _ in range(2))
    for shrink in _SHRINKS:
        span = high - low
        grids = [((1 - shrink) * span / 15, low + shrink / 2 * span)]
        grids.append(_fitted(weights_NK, _codes(weights_NK, *grids[0])))
        for grid in grids:
            scales, mins = (part.half() for part in grid)
            codes_NK = _codes(weights_NK, scales.float(), mins.float())
            values_NK = codes_NK * scales.float().unsqueeze(1) + mins.float().unsqueeze(1)
            error = (values_NK - weights_NK).square_().sum(dim=1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best_scales = torch.where(better, scales, best_scales)
            best_mins = torch.where(better, mins, best_mins)
            best_codes = torch.where(better.unsqueeze(1), codes_NK, best_codes)
    return pack_int4(best_codes.to(torch.uint8)), best_scales, best_mins


def _codes(weights_NK: Tensor, scales: Tensor, mins: Tensor) -> Tensor:
    """Return the nearest codes, [N, K] float32."""
    steps = torch.where(scales == 0, torch.inf, scales).unsqueeze(1)
    return ((weights_NK - mins.unsqueeze(1)) / steps).round_().clamp_(0, 15)


def _fitted(weights_NK: Tensor, codes_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and minima, [N], with the smallest squared error for these codes."""
    code_mean, mean = codes_NK.mean(dim=1), weights_NK.mean(dim=1)
    centered_NK = codes_NK - code_mean.unsqueeze(1)
    variance = centered_NK.square().sum(dim=1)
    slope = (centered_NK * weights_NK).sum(dim=1) / torch.where(variance == 0, 1, variance)
    return slope, mean - slope * code_mean
