"""The layout in which the native kernels read a weight.

Outputs are in panels of 16, one a vector lane; the rest of the last panel is zero. A panel holds,
for each group of 32 inputs, the codes, then the 16 scales, or 16 for each half of the group where
halves have their own, then the 16 minima if there are any:

- int8: for each step of 4 inputs, 4 codes of each output;
- int4: for each of the first 4 steps, 4 bytes of each output; the low half of a byte is the code of
  this step, the high half that of the step 4 later.

Float weights are, for each input, those of the panel's 16 outputs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.weights.stored_matrix import Matrix, StoredMatrix, num_inputs, num_outputs
from parallel.weights.weight_format import GROUP, HALF_GROUP, WeightFormat

LANES = 16
"""Outputs of a panel."""
_STEPS = GROUP // 4


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A weight as the native kernels read it."""

    data: Tensor
    """[panels, ...], uint8 or a float dtype."""
    format: WeightFormat
    num_rows: int
    num_columns: int
    has_wide_scales: bool = False
    has_mins: bool = False
    has_half_groups: bool = False
    """Whether each half of a group has its own scales."""

    def rows(self, ids: Tensor) -> Tensor:
        """Return some rows of the weight, [rows, columns] float32; ids: [rows] int64."""
        panels, lanes = ids // LANES, ids % LANES
        if not self.format.is_grouped:
            return self.data[panels, :, lanes].float()
        num_groups = self.num_columns // GROUP
        groups = self.data.view(len(self.data), num_groups, -1)[panels]
        is_int4 = self.format is WeightFormat.INT4
        num_code_bytes = LANES * GROUP // (2 if is_int4 else 1)
        packed = groups[:, :, :num_code_bytes].reshape(len(ids), num_groups, -1, LANES, 4)
        at = torch.arange(len(ids))
        codes = packed[at, :, :, lanes].flatten(2)
        if is_int4:
            codes = torch.cat((codes & 15, codes >> 4), dim=2)
        dtype = torch.float32 if self.has_wide_scales else torch.float16
        factors = groups[:, :, num_code_bytes:].contiguous().view(dtype)
        if self.has_half_groups:
            halves = factors.view(len(ids), 2 * num_groups, LANES)
            scales = halves[at, :, lanes].float().view(len(ids), num_groups, 2)
            scales = scales.repeat_interleave(HALF_GROUP, dim=2)
        else:
            scales = factors[at, :, lanes].float().unsqueeze(2)
        values = codes.float()
        if self.has_mins:
            mins = factors[at, :, LANES + lanes].float().unsqueeze(2)
            return values.mul_(scales).add_(mins).flatten(1)
        return values.sub_(8 if is_int4 else 128).mul_(scales).flatten(1)


def pack(matrix: Matrix) -> PackedMatrix:
    """Return a weight in the layout of the native kernels."""
    rows, columns = num_outputs(matrix), num_inputs(matrix)
    if isinstance(matrix, StoredMatrix):
        return PackedMatrix(
            _packed_groups(matrix),
            matrix.format,
            rows,
            columns,
            matrix.scales.dtype == torch.float32,
            matrix.mins is not None,
            matrix.group_size == HALF_GROUP,
        )
    kind = WeightFormat(str(matrix.dtype).removeprefix("torch."))
    # A copy in any case: the matrix may be a part of a mapped file, which can be replaced.
    data = _panels(matrix).transpose(1, 2).clone(memory_format=torch.contiguous_format)
    return PackedMatrix(data, kind, rows, columns)


def _packed_groups(matrix: StoredMatrix) -> Tensor:
    """Return the codes, scales and minima of a matrix, [panels, groups, bytes] uint8."""
    codes = matrix.codes
    num_groups = matrix.num_columns // GROUP
    if matrix.format is WeightFormat.INT4:
        pairs = _panels(codes).view(-1, LANES, num_groups, 2, _STEPS)
        # A byte of the source holds columns 2j and 2j + 1; halves are 16 columns.
        low, high = pairs.unbind(3)
        near = torch.stack((low & 15, low >> 4), dim=4).flatten(3)
        far = torch.stack((high & 15, high >> 4), dim=4).flatten(3)
        bytes_ = near | (far << 4)
    else:
        bytes_ = _panels(codes).view(-1, LANES, num_groups, GROUP)
    steps = bytes_.view(*bytes_.shape[:3], -1, 4).permute(0, 2, 3, 1, 4).flatten(2)
    parts = [steps, _lanes_last(matrix.scales).view(len(steps), num_groups, -1)]
    if matrix.mins is not None:
        parts.append(_lanes_last(matrix.mins))
    return torch.cat(parts, dim=2)


def _lanes_last(factors: Tensor) -> Tensor:
    """Return scales or minima, [panels, groups, bytes] uint8."""
    return _panels(factors).transpose(1, 2).contiguous().view(torch.uint8)


def _panels(values: Tensor) -> Tensor:
    """Return rows in panels, [panels, 16, ...]; the missing ones are zero."""
    missing = -len(values) % LANES
    whole = F.pad(values, (0, 0, 0, missing)) if missing else values
    return whole.reshape(-1, LANES, *values.shape[1:])
