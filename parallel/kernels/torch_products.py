"""Products with stored weights by torch's own CPU operators, where no native kernel is there."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.kernels.row_invariance import Product, in_blocks, invariant_sizes, make_probe
from parallel.weights.stored_matrix import (
    Matrix,
    StoredMatrix,
    as_float,
    num_inputs,
    num_outputs,
)
from parallel.weights.weight_format import GROUP, WeightFormat

_OUTPUT_STEP = 16
"""The int4 operator takes outputs in multiples of this."""
_INNER_TILES = 1
"""The packing's tile size, which the operator for CPUs ignores."""
_PANELS = 1024
"""Outputs that are several panels of the operators for int4 and float16 weights."""
_LARGEST_HALF = 65504.0
_HALF_ROUNDING = 2.0**-11
_CHECKED_ROWS = 1024


class Operator(StrEnum):
    """An operator of torch that multiplies with weights in one form."""

    INT4 = "int4"
    """Codes in groups of 32. Inputs, scales and outputs are rounded to bfloat16.

    On a 135M model in Q4_1 (3423 tokens of GSM8K, 2026-11-30), the best token is that of float32 at
    98.8 % of the positions and the perplexity differs by 0.25 %, most of it by the scales. With
    FLOAT16 these are 99.8 % and 0.02 %; it takes twice as long for one row, and as long for 8.
    """
    FLOAT16 = "float16"
    """float16 weights by FBGEMM; inputs, sums and outputs are float32."""
    BFLOAT16 = "bfloat16"
    """bfloat16 weights. Inputs and outputs are rounded to bfloat16."""
    FLOAT32 = "float32"
    """float32 weights."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """What decides in which order an operator adds."""

    operator: Operator
    num_outputs: int
    num_inputs: int

    def measured(self) -> tuple[int, ...]:
        """Return the numbers of rows that agree, with the current number of threads."""
        num_outputs = self.num_outputs
        if self.operator in (Operator.INT4, Operator.FLOAT16):
            # Their sources compute all panels of outputs alike, but for the last one.
            num_outputs = min(num_outputs, _PANELS + num_outputs % _PANELS)
        probe = make_probe(num_outputs, self.num_inputs)
        matrix: Matrix = probe.weight
        if self.operator is Operator.INT4:
            matrix = _int4_matrix(probe.weight)
        return invariant_sizes(_MAKERS[self.operator](matrix), probe.rows)


class TorchProducts:
    """Makes products whose rows have the same bits alone and in every batch.

    The numbers of rows for which that holds are measured once for each shape, at the first product
    with a number of threads: kernels may split work by threads, and a thread that loads a model has
    another number than the one that runs it.
    """

    def __init__(self, operators: frozenset[Operator] | None = None) -> None:
        """Make products with these operators; None is all that work here."""
        self._operators = available_operators() if operators is None else operators
        self._sizes: dict[_Shape, dict[int, tuple[int, ...]]] = {}

    def product(self, matrix: Matrix) -> Product:
        """Return x -> x W^T, [rows, inputs] -> [rows, outputs], with the fastest operator.

        int4 runs as it is stored. There is no operator for int8 in groups: int8 is held as
        float16, which is as fast as any other and rounds a weight by at most 2^-11 of it, where
        the operator with one scale a row would round it by 2^-8 of the largest of its row. bfloat16
        and float16 weights are held as float16 too: twice as fast as bfloat16's own operator for
        few rows, without rounding of inputs and outputs, and exact but for bfloat16 weights below
        2^-17, whose error is at most 2^-25.
        """
        is_int4 = isinstance(matrix, StoredMatrix) and matrix.format is WeightFormat.INT4
        if is_int4 and Operator.INT4 in self._operators:
            return self.product_with(Operator.INT4, matrix)
        if self._suits_half(matrix):
            return self.product_with(Operator.FLOAT16, matrix)
        if isinstance(matrix, Tensor) and matrix.dtype == torch.float32:
            return self.product_with(Operator.FLOAT32, matrix)
        return self.product_with(Operator.BFLOAT16, matrix)

    def head_product(self, matrix: Matrix) -> Product:
        """Return the product of a head, whose outputs are float32.

        Logits are compared with one another: in bfloat16, whose step is 1/8 from 16 on, the best
        tokens would often be equal.
        """
        is_half = self._suits_half(matrix)
        return self.product_with(Operator.FLOAT16 if is_half else Operator.FLOAT32, matrix)

    def _suits_half(self, matrix: Matrix) -> bool:
        if Operator.FLOAT16 not in self._operators:
            return False
        is_float32 = isinstance(matrix, Tensor) and matrix.dtype == torch.float32
        return not is_float32 and rounds_to_half(matrix)

    def product_with(self, operator: Operator, matrix: Matrix) -> Product:
        """Return the product by one operator; int4's takes a matrix in int4 only."""
        shape = _Shape(operator, num_outputs(matrix), num_inputs(matrix))
        sizes = self._sizes.setdefault(shape, {})
        return _InvariantProduct(_MAKERS[operator](matrix), shape, sizes)


class _InvariantProduct:
    """Computes a product in blocks of the sizes that agree for the current number of threads."""

    def __init__(self, product: Product, shape: _Shape, sizes: dict[int, tuple[int, ...]]) -> None:
        """Take the sizes by number of threads, which all products of one shape share."""
        self._product = product
        self._shape = shape
        self._sizes = sizes

    def __call__(self, x: Tensor) -> Tensor:
        num_threads = torch.get_num_threads()
        sizes = self._sizes.get(num_threads)
        if sizes is None:
            sizes = self._sizes[num_threads] = self._shape.measured()
        return in_blocks(self._product, x, sizes)


def embedding_rows(matrix: Matrix, token_ids: Tensor) -> Tensor:
    """Return the rows of these tokens, [tokens, columns] float32; token_ids: [tokens] int64."""
    if isinstance(matrix, StoredMatrix):
        return matrix.rows(token_ids).dequantized()
    return F.embedding(token_ids, matrix).float()


def rounds_to_half(matrix: Matrix) -> bool:
    """Return whether float16 holds the weights: none overflows, and little is lost below 2^-14.

    Their error is at most that of weights which are all in float16's normal range.
    """
    error = total = 0.0
    for first in range(0, num_outputs(matrix), _CHECKED_ROWS):
        part = slice(first, first + _CHECKED_ROWS)
        rows = matrix.rows(part) if isinstance(matrix, StoredMatrix) else matrix[part]
        numbers = as_float(rows).double()
        if not bool(numbers.abs().amax() <= _LARGEST_HALF):  # NaN is not
            return False
        error += float((numbers - numbers.half()).square().sum())
        total += float(numbers.square().sum())
    return error <= _HALF_ROUNDING**2 * total


@cache
def available_operators() -> frozenset[Operator]:
    """Return the operators that this build of torch has and that compute correctly here."""
    return frozenset(operator for operator in Operator if _works(operator))


def _works(operator: Operator) -> bool:
    weight = torch.arange(64 * GROUP).remainder(15).float().view(64, GROUP) - 7
    x = torch.linspace(-1, 1, 2 * GROUP).view(2, GROUP)
    try:
        found = _MAKERS[operator](_int4_matrix(weight))(x)
    except (AttributeError, NotImplementedError, RuntimeError):
        return False  # torch raises these for operators that it, or the CPU, lacks
    expected = x @ weight.T
    return bool((found - expected).abs().amax() <= 0.02 * expected.abs().amax())


def _int4_matrix(weight: Tensor) -> StoredMatrix:
    """Return whole numbers from -8 to 7, [outputs, inputs], as a matrix with scales of 1."""
    codes = (weight + 8).to(torch.uint8)
    return StoredMatrix(
        format=WeightFormat.INT4,
        codes=codes[:, ::2] | codes[:, 1::2] << 4,
        scales=torch.ones(weight.shape[0], weight.shape[1] // GROUP, dtype=torch.float16),
    )


def _int4_product(matrix: Matrix) -> Product:
    assert isinstance(matrix, StoredMatrix)
    num_rows = matrix.num_rows
    missing = -num_rows % _OUTPUT_STEP
    codes = torch.stack((matrix.codes & 15, matrix.codes >> 4), dim=2).flatten(1).int()
    scales = matrix.scales.float()
    # The operator computes (code - 8) * scale + zero.
    zeros = torch.zeros_like(scales) if matrix.mins is None else matrix.mins.float() + 8 * scales
    factors_OG2 = torch.stack((scales, zeros), dim=2).bfloat16()
    factors = F.pad(factors_OG2, (0, 0, 0, 0, 0, missing)).transpose(0, 1).contiguous()
    codes = F.pad(codes, (0, 0, 0, missing))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, _INNER_TILES)
    operator = torch.ops.aten._weight_int4pack_mm_for_cpu

    def product(x: Tensor) -> Tensor:
        out: Tensor = operator(x.bfloat16().contiguous(), packed, GROUP, factors)
        return out[:, :num_rows].float()

    return product


def _float16_product(matrix: Matrix) -> Product:
    weight = as_float(matrix).float().contiguous()
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
    operator = torch.ops.quantized.linear_dynamic_fp16

    def product(x: Tensor) -> Tensor:
        out: Tensor = operator(x, packed)
        return out

    return product


def _bfloat16_product(matrix: Matrix) -> Product:
    weight = as_float(matrix).bfloat16()
    return lambda x: F.linear(x.bfloat16(), weight).float()


def _float32_product(matrix: Matrix) -> Product:
    weight = as_float(matrix).float()
    return lambda x: F.linear(x, weight)


_MAKERS: dict[Operator, Callable[[Matrix], Product]] = {
    Operator.INT4: _int4_product,
    Operator.FLOAT16: _float16_product,
    Operator.BFLOAT16: _bfloat16_product,
    Operator.FLOAT32: _float32_product,
}
