import platform
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from parallel.kernels.row_invariance import Product
from parallel.kernels.torch_products import (
    Operator,
    TorchProducts,
    available_operators,
    embedding_rows,
    rounds_to_half,
)
from parallel.weights.stored_matrix import Matrix, StoredMatrix, as_float
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_matrices import random_matrix

BFLOAT16, HALF, SINGLE = 2.0**-8, 2.0**-11, 2.0**-24  # the largest relative rounding of each
INT4, INT8 = WeightFormat.INT4, WeightFormat.INT8
EDGES = (1, 2, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127, 128, 129, 130)


@pytest.fixture(params=[1, 2])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def inputs(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def weights(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return (inputs(rows, columns, seed=7) * 0.05).to(dtype)


def absolute_product(matrix: Matrix, x: Tensor) -> Tensor:
    """Return sum |x| |w|, with an int4 weight as the parts that its operator rounds."""
    weight = as_float(matrix).double()
    size = weight.abs()
    if isinstance(matrix, StoredMatrix) and matrix.mins is not None and matrix.format is INT4:
        zeros = (matrix.mins.double() + 8 * matrix.scales.double()).repeat_interleave(32, dim=1)
        size = (weight - zeros).abs() + zeros.abs()
    return x.double().abs() @ size.T


def assert_within(product: Product, matrix: Matrix, *, weight: float, io: float) -> None:
    """Check against float64: `weight`, `io`: how far weights, inputs and outputs are rounded."""
    num_columns = as_float(matrix).shape[1]
    x = inputs(9, num_columns)
    expected = x.double() @ as_float(matrix).double().T
    found = product(x)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    relative = (weight + io) * (1 + BFLOAT16) + num_columns * SINGLE
    tiny = 2.0**-25 * x.double().abs().sum(dim=1, keepdim=True)  # float16 below 2^-14
    bound = relative * absolute_product(matrix, x) + io * expected.abs() * 1.01 + tiny
    assert bool(((found - expected).abs() <= bound).all())


@pytest.mark.parametrize("has_mins", [False, True])
@pytest.mark.parametrize("columns", [32, 96, 576])
def test_int4_is_its_stored_weights_within_the_rounding_of_bfloat16(
    columns: int, has_mins: bool
) -> None:
    matrix = random_matrix(80, columns, INT4, has_mins=has_mins)
    assert_within(TorchProducts().product(matrix), matrix, weight=BFLOAT16, io=BFLOAT16)


def test_int4_has_a_relative_error_of_half_a_percent() -> None:
    matrix = random_matrix(192, 576, INT4, has_mins=False)
    x = inputs(8, 576)
    expected = x.double() @ matrix.dequantized().double().T
    error = TorchProducts().product(matrix)(x) - expected
    assert float(error.norm() / expected.norm()) < 0.005


@pytest.mark.parametrize("has_mins", [False, True])
def test_int8_is_its_stored_weights_within_the_rounding_of_float16(has_mins: bool) -> None:
    matrix = random_matrix(80, 576, INT8, has_mins=has_mins)
    assert_within(TorchProducts().product(matrix), matrix, weight=HALF, io=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_float_weights_are_exact(dtype: torch.dtype) -> None:
    matrix = weights(80, 576, dtype)
    assert_within(TorchProducts().product(matrix), matrix, weight=0, io=0)


@pytest.mark.parametrize("kind", [INT4, INT8])
def test_the_outputs_of_a_head_are_not_rounded_to_bfloat16(kind: WeightFormat) -> None:
    matrix = random_matrix(80, 576, kind, has_mins=False)
    assert_within(TorchProducts().head_product(matrix), matrix, weight=HALF, io=0)


@pytest.mark.parametrize("kind", [INT4, INT8])
def test_without_the_special_operators_weights_run_in_bfloat16(kind: WeightFormat) -> None:
    matrix = random_matrix(40, 96, kind, has_mins=False)
    products = TorchProducts(frozenset({Operator.BFLOAT16, Operator.FLOAT32}))
    assert_within(products.product(matrix), matrix, weight=BFLOAT16, io=BFLOAT16)
    assert_within(products.head_product(matrix), matrix, weight=0, io=0)


@pytest.mark.parametrize("magnitude", [1e6, 1e-8])
def test_weights_outside_the_range_of_float16_run_in_bfloat16(magnitude: float) -> None:
    matrix = (weights(40, 96, torch.float32) * magnitude).bfloat16()
    assert not rounds_to_half(matrix)
    x = inputs(5, 96)
    expected = x.double() @ matrix.double().T
    found = TorchProducts().product(matrix)(x)
    bound = 2.02 * BFLOAT16 * absolute_product(matrix, x)
    assert bool(((found - expected).abs() <= bound).all())


def test_weights_that_are_not_numbers_do_not_suit_float16() -> None:
    matrix = weights(4, 32, torch.bfloat16)
    assert rounds_to_half(matrix)
    matrix[1, 3] = torch.nan
    assert not rounds_to_half(matrix)


@pytest.mark.parametrize("kind", [INT4, INT8])
def test_every_number_of_outputs_is_taken(kind: WeightFormat) -> None:
    products = TorchProducts()
    has_half = kind is INT8
    for rows in sorted({*EDGES, *range(1, 131, 9)}):
        for columns in (32, 160):
            matrix = random_matrix(rows, columns, kind, has_mins=True, seed=rows)
            weight, io = (HALF, 0) if has_half else (BFLOAT16, BFLOAT16)
            assert_within(products.product(matrix), matrix, weight=weight, io=io)


@pytest.mark.parametrize("operator", list(Operator))
@pytest.mark.parametrize(("outputs", "columns"), [(200, 1536), (33, 128)])
@pytest.mark.usefixtures("num_threads")
def test_a_row_has_the_same_bits_alone_and_in_a_batch(
    operator: Operator, outputs: int, columns: int
) -> None:
    if operator not in available_operators():
        pytest.skip(f"torch has no {operator} here")
    product = TorchProducts().product_with(operator, twice(outputs, columns))
    x = inputs(41, columns)
    x[:36, columns // 2 :] = -x[:36, : columns // 2]  # sums of rounding errors alone
    x[3] *= 1000
    x[5, 7], x[6, 0] = torch.nan, torch.inf
    alone = torch.cat([product(row.unsqueeze(0)) for row in x]).view(torch.int32)
    for num_rows in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 31, 32, 33, 41):
        for first in (0, 41 - num_rows):
            rows = slice(first, first + num_rows)
            found = product(x[rows]).view(torch.int32)
            assert torch.equal(found, alone[rows]), (num_rows, first)


def twice(rows: int, columns: int) -> StoredMatrix:
    """Return a random matrix whose right half is its left half."""
    left = random_matrix(rows, columns // 2, INT4, has_mins=True)
    assert left.mins is not None
    return StoredMatrix(
        format=INT4,
        codes=left.codes.repeat(1, 2),
        scales=left.scales.repeat(1, 2),
        mins=left.mins.repeat(1, 2),
    )


@pytest.mark.parametrize("operator", list(Operator))
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_caller_may_change_the_outputs(operator: Operator, rows: int) -> None:
    if operator not in available_operators():
        pytest.skip(f"torch has no {operator} here")
    product = TorchProducts().product_with(operator, twice(48, 64))
    x = inputs(rows, 64)
    first = product(x)
    expected = first.clone()
    first.add_(1)
    assert torch.equal(product(x), expected)
    assert torch.equal(x, inputs(rows, 64))


def test_no_rows_give_no_outputs() -> None:
    product = TorchProducts().product(random_matrix(20, 64, INT4, has_mins=True))
    assert product(torch.empty(0, 64)).shape == (0, 20)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="FBGEMM is for x86")
def test_torch_has_all_operators_on_x86() -> None:
    assert available_operators() == frozenset(Operator)


@pytest.mark.parametrize("kind", [INT4, INT8])
def test_embedding_rows_are_those_of_the_whole_matrix(kind: WeightFormat) -> None:
    matrix = random_matrix(50, 64, kind, has_mins=True)
    ids = torch.tensor([49, 0, 7, 7])
    assert torch.equal(embedding_rows(matrix, ids), matrix.dequantized()[ids])
    numbers = weights(50, 64, torch.bfloat16)
    assert torch.equal(embedding_rows(numbers, ids), numbers[ids].float())
