"""A matrix in integer codes with a scale for each group of 32 or 16, as GGUF files have them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from parallel.weights.weight_format import GROUP, HALF_GROUP, WeightFormat

# Shapes: O = rows (outputs), I = columns (inputs), G = I / 32 groups, K = columns of a group.


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMatrix:
    """The weight of a linear layer, [outputs, inputs], in int8 or int4.

    A weight is (code - z) * scale, with z = 8 in int4 and 128 in int8; in a matrix with minima it
    is code * scale + minimum. An int8 matrix without minima may have a scale for each 16 weights,
    which the shape of its scales tells. So Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K are
    held as the file has them.
    """

    format: WeightFormat
    codes: Tensor
    """uint8. int8: [O, I]. int4: [O, I / 2], a byte holds column 2j in its low half and column
    2j + 1 in its high half."""
    scales: Tensor
    """[O, G], float16 or float32; [O, 2 G] with a scale for each half of a group."""
    mins: Tensor | None = None
    """[O, G], of the dtype of the scales."""

    def __post_init__(self) -> None:
        """Reject parts that do not belong together."""
        groups = (self.num_rows, self.num_columns // self.group_size)
        parts = [self.scales, *([] if self.mins is None else [self.mins])]
        if (
            not self.format.is_grouped
            or self.codes.dtype != torch.uint8
            or self.num_columns % GROUP
            or any(tuple(part.shape) != groups for part in parts)
            or any(part.dtype not in (torch.float16, torch.float32) for part in parts)
            or len({part.dtype for part in parts}) > 1
        ):
            shapes = [tuple(part.shape) for part in (self.codes, *parts)]
            raise ValueError(f"these are not the parts of an {self.format} matrix: {shapes}")

    @property
    def num_rows(self) -> int:
        """Outputs of the layer."""
        return self.codes.shape[0]

    @property
    def num_columns(self) -> int:
        """Inputs of the layer."""
        width = self.codes.shape[1]
        return 2 * width if self.format is WeightFormat.INT4 else width

    @property
    def group_size(self) -> int:
        """Weights that share a scale: 32, or 16 in some int8 matrices."""
        has_halves = (
            self.format is WeightFormat.INT8
            and self.mins is None
            and self.scales.shape[1:] == (self.num_columns // HALF_GROUP,)
        )
        return HALF_GROUP if has_halves else GROUP

    @property
    def num_bytes(self) -> int:
        """Bytes that its parts hold."""
        parts = [self.codes, self.scales, *([] if self.mins is None else [self.mins])]
        return sum(part.numel() * part.element_size() for part in parts)

    def rows(self, index: slice | Tensor) -> "StoredMatrix":
        """Return some of the rows, by a slice or by numbers, [rows] int64."""
        return replace(
            self,
            codes=self.codes[index],
            scales=self.scales[index],
            mins=None if self.mins is None else self.mins[index],
        )

    def columns(self, first: int, stop: int) -> "StoredMatrix | None":
        """Return the columns from `first` to `stop`; None if these are not whole groups."""
        if first % GROUP or stop % GROUP:
            return None
        per_byte = 2 if self.format is WeightFormat.INT4 else 1
        part = slice(first // per_byte, stop // per_byte)
        groups = slice(first // self.group_size, stop // self.group_size)
        return replace(
            self,
            codes=self.codes[:, part],
            scales=self.scales[:, groups],
            mins=None if self.mins is None else self.mins[:, groups],
        )

    def dequantized(self) -> Tensor:
        """Return the weights, [O, I] float32."""
        codes = self.codes
        if self.format is WeightFormat.INT4:
            codes = torch.stack((codes & 15, codes >> 4), dim=2)
        values_OGK = codes.reshape(self.num_rows, -1, self.group_size).float()
        scales = self.scales.float().unsqueeze(2)
        if self.mins is None:
            values_OGK.sub_(8 if self.format is WeightFormat.INT4 else 128).mul_(scales)
        else:
            values_OGK.mul_(scales).add_(self.mins.float().unsqueeze(2))
        return values_OGK.flatten(1)


Matrix = Tensor | StoredMatrix
"""The weight of a linear layer, [outputs, inputs]."""


def num_outputs(matrix: Matrix) -> int:
    """Return the number of rows of a weight."""
    return matrix.num_rows if isinstance(matrix, StoredMatrix) else matrix.shape[0]


def num_inputs(matrix: Matrix) -> int:
    """Return the number of columns of a weight."""
    return matrix.num_columns if isinstance(matrix, StoredMatrix) else matrix.shape[1]


def as_float(matrix: Matrix) -> Tensor:
    """Return the weights as numbers: float32, or the dtype of a matrix that has one."""
    return matrix.dequantized() if isinstance(matrix, StoredMatrix) else matrix


def permuted(matrix: Matrix, rows: Tensor) -> Matrix:
    """Return the matrix with its rows in this order, [rows] int64."""
    if isinstance(matrix, StoredMatrix):
        return matrix.rows(rows)
    return matrix[rows.to(matrix.device)]


def stacked(matrices: Sequence[Matrix]) -> list[Matrix]:
    """Return the matrices, one below the other, as few as their formats allow, in order."""
    found: list[Matrix] = []
    for matrix in matrices:
        joined = _joined(found[-1], matrix) if found else None
        if joined is None:
            found.append(matrix)
        else:
            found[-1] = joined
    return found


def _joined(above: Matrix, below: Matrix) -> Matrix | None:
    """Return two matrices as one; None if their formats differ."""
    if isinstance(above, Tensor) and isinstance(below, Tensor):
        return torch.cat((above, below)) if above.dtype == below.dtype else None
    if isinstance(above, Tensor) or isinstance(below, Tensor):
        return None
    forms = {
        (matrix.format, matrix.mins is None, matrix.scales.dtype, matrix.group_size)
        for matrix in (above, below)
    }
    if len(forms) > 1:
        return None
    mins = None
    if above.mins is not None and below.mins is not None:
        mins = torch.cat((above.mins, below.mins))
    return StoredMatrix(
        format=above.format,
        codes=torch.cat((above.codes, below.codes)),
        scales=torch.cat((above.scales, below.scales)),
        mins=mins,
    )
