import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from parallel.weights.quantize import (
    can_quantize,
    pack_int4,
    quantize,
    relative_error,
    squared_error,
    widened,
)
from parallel.weights.weight_format import WeightFormat
from tests.support.stored_matrices import random_matrix

INT8, INT4 = WeightFormat.INT8, WeightFormat.INT4


def normal(rows: int, columns: int, *, seed: int = 0) -> Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed)) * 0.02


def error_of_gguf(weights: Tensor, name: str) -> float:
    kind = gguf.GGMLQuantizationType[name]
    values = gguf.dequantize(gguf.quantize(weights.numpy(), kind), kind)
    return relative_error(torch.from_numpy(values), weights)


def test_int8_is_at_least_as_near_as_q8_0() -> None:
    weights = normal(64, 256)
    stored = quantize(weights, INT8)
    assert (stored.num_rows, stored.num_columns, stored.mins) == (64, 256, None)
    assert stored.scales.dtype == torch.float16
    assert relative_error(stored, weights) <= error_of_gguf(weights, "Q8_0")


def test_int4_is_nearer_than_q4_1() -> None:
    weights = normal(64, 256)
    stored = quantize(weights, INT4)
    assert stored.mins is not None
    assert stored.num_bytes == 64 * 256 * 5 // 8
    assert relative_error(stored, weights) < 0.97 * error_of_gguf(weights, "Q4_1")


def test_no_code_of_a_group_is_nearer_than_the_chosen_one() -> None:
    weights = normal(8, 64)
    for form, codes in ((INT8, torch.arange(1, 256)), (INT4, torch.arange(16))):
        stored = quantize(weights, form)
        groups = weights.view(8, 2, 32, 1)
        scales = stored.scales.float().view(8, 2, 1, 1)
        if stored.mins is None:
            values = (codes - 128) * scales
        else:
            values = codes * scales + stored.mins.float().view(8, 2, 1, 1)
        nearest = (values - groups).abs().amin(dim=3).flatten(1)
        found = (stored.dequantized() - weights).abs()
        torch.testing.assert_close(found, nearest, atol=1e-7, rtol=0)


@pytest.mark.parametrize("form", [INT8, INT4])
def test_groups_do_not_depend_on_the_rest_of_the_matrix(form: WeightFormat) -> None:
    weights = normal(6, 128)
    whole, part = quantize(weights, form), quantize(weights[2:5, 32:96].contiguous(), form)
    assert torch.equal(part.dequantized(), whole.dequantized()[2:5, 32:96])


@pytest.mark.parametrize("form", [INT8, INT4])
def test_large_matrices_are_quantized_in_blocks(
    form: WeightFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = normal(9, 96)
    whole = quantize(weights, form).dequantized()
    monkeypatch.setattr("parallel.weights.quantize._BLOCK", 5)
    assert torch.equal(quantize(weights, form).dequantized(), whole)


@pytest.mark.parametrize("form", [INT8, INT4])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_equal_weights_are_exact(form: WeightFormat, value: float) -> None:
    weights = torch.full((2, 32), value)
    torch.testing.assert_close(quantize(weights, form).dequantized(), weights, atol=0, rtol=1e-3)


@pytest.mark.parametrize("form", [INT8, INT4])
@pytest.mark.parametrize("size", [1e-4, 1e-5, 6e4])
def test_small_and_large_weights_keep_a_small_error(form: WeightFormat, size: float) -> None:
    weights = torch.rand((16, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    limit = 0.02 if form is INT8 else 0.1
    assert relative_error(quantize(weights * size, form), weights * size) < limit


@pytest.mark.parametrize("value", [7e4, float("nan"), float("inf")])
def test_weights_beyond_float16_are_rejected(value: float) -> None:
    weights = normal(2, 32)
    weights[1, 3] = value
    with pytest.raises(ValueError, match="which does not fit int4"):
        quantize(weights, INT4)


def test_rows_that_are_no_whole_groups_are_rejected() -> None:
    assert not can_quantize(48)
    with pytest.raises(ValueError, match="48 columns cannot be quantized to int8"):
        quantize(normal(2, 48), INT8)
    with pytest.raises(ValueError, match="cannot be quantized to bfloat16"):
        quantize(normal(2, 32), WeightFormat.BFLOAT16)


@pytest.mark.parametrize("has_mins", [False, True])
def test_int4_weights_have_the_same_bits_in_int8(has_mins: bool) -> None:
    matrix = random_matrix(5, 96, INT4, has_mins=has_mins)
    wide = widened(matrix)
    assert wide.format is INT8
    bits = [m.dequantized().view(torch.int32) for m in (matrix, wide)]
    assert torch.equal(*bits)
    assert widened(wide) is wide


def test_packing_puts_even_columns_into_the_low_half() -> None:
    packed = pack_int4(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8))
    assert packed.tolist() == [[0x21, 0x0F]]


def test_errors_are_those_of_their_definition() -> None:
    weights, other = np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]])
    arguments = torch.from_numpy(other), torch.from_numpy(weights)
    assert squared_error(*arguments) == 1.0
    assert relative_error(*arguments) == pytest.approx(1 / 5)
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)) == 0.0
