from itertools import product

import pytest
import torch
from torch import Tensor

from parallel.weights.stored_matrix import (
    StoredMatrix,
    as_float,
    num_inputs,
    num_outputs,
    permuted,
    stacked,
)
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_matrices import random_matrix


def by_definition(matrix: StoredMatrix) -> Tensor:
    out = torch.empty(matrix.num_rows, matrix.num_columns, dtype=torch.float64)
    for row in range(matrix.num_rows):
        for column in range(matrix.num_columns):
            if matrix.format is WeightFormat.INT4:
                byte = int(matrix.codes[row, column // 2])
                code, zero = (byte >> 4 if column % 2 else byte & 15), 8
            else:
                code, zero = int(matrix.codes[row, column]), 128
            scale = float(matrix.scales[row, column * matrix.scales.shape[1] // matrix.num_columns])
            if matrix.mins is None:
                out[row, column] = (code - zero) * scale
            else:
                out[row, column] = code * scale + float(matrix.mins[row, column // 32])
    return out


@pytest.mark.parametrize(
    ("kind", "has_mins", "group_size"),
    [
        *product([WeightFormat.INT4, WeightFormat.INT8], [False, True], [32]),
        (WeightFormat.INT8, False, 16),
    ],
)
def test_a_weight_is_its_code_by_its_groups_scale_and_minimum(
    kind: WeightFormat, has_mins: bool, group_size: int
) -> None:
    matrix = random_matrix(3, 96, kind, has_mins=has_mins, group_size=group_size)
    assert matrix.group_size == group_size
    assert matrix.num_bytes == matrix.codes.nbytes + 3 * 96 // group_size * (4 if has_mins else 2)
    torch.testing.assert_close(
        matrix.dequantized().double(), by_definition(matrix), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "group_size"),
    [(WeightFormat.INT4, 32), (WeightFormat.INT8, 32), (WeightFormat.INT8, 16)],
)
def test_rows_and_whole_groups_of_columns_are_the_same_weights(
    kind: WeightFormat, group_size: int
) -> None:
    matrix = random_matrix(6, 128, kind, has_mins=group_size == 32, group_size=group_size)
    whole = matrix.dequantized()
    assert torch.equal(matrix.rows(slice(2, 5)).dequantized(), whole[2:5])
    order = torch.tensor([5, 0, 3])
    assert torch.equal(as_float(permuted(matrix, order)), whole[order])
    part = matrix.columns(32, 96)
    assert part is not None
    assert torch.equal(part.dequantized(), whole[:, 32:96])
    assert matrix.columns(16, 64) is None


def test_matrices_of_one_format_stack_and_others_stay_apart() -> None:
    int4 = [random_matrix(2, 64, WeightFormat.INT4, has_mins=True, seed=s) for s in (1, 2)]
    int8 = random_matrix(3, 64, WeightFormat.INT8, has_mins=False)
    halves = random_matrix(5, 64, WeightFormat.INT8, group_size=16)
    numbers = torch.randn(4, 64)
    found = stacked([*int4, int8, halves, halves, numbers, numbers])
    assert [num_outputs(part) for part in found] == [4, 3, 10, 8]
    assert {num_inputs(part) for part in found} == {64}
    assert torch.equal(as_float(found[0]), torch.cat([part.dequantized() for part in int4]))


def test_parts_of_different_shapes_are_rejected() -> None:
    matrix = random_matrix(2, 64, WeightFormat.INT4, has_mins=False)
    with pytest.raises(ValueError, match="not the parts of an int4 matrix"):
        StoredMatrix(format=WeightFormat.INT4, codes=matrix.codes, scales=matrix.scales[:, :1])


@pytest.mark.parametrize(
    ("kind", "has_mins"), [(WeightFormat.INT4, False), (WeightFormat.INT8, True)]
)
def test_only_int8_without_minima_has_scales_of_half_groups(
    kind: WeightFormat, has_mins: bool
) -> None:
    with pytest.raises(ValueError, match=f"not the parts of an {kind} matrix"):
        random_matrix(2, 64, kind, has_mins=has_mins, group_size=16)
