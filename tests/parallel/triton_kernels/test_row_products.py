"""Products equal float64, write nothing outside, and a row's bits depend on no other row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.kernels.row_invariance import make_probe
from parallel.triton_kernels.kernel_set import TritonKernels
from tests.support.kernel_device import DEVICE

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def product(x: Tensor, weight: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """Return the kernel's product, over poisoned memory with other rows below it."""
    memory = torch.full((len(x) + 3, len(weight) + 5), torch.nan, dtype=out_dtype, device=DEVICE)
    out = memory[: len(x), : len(weight)]
    put = (None if bias is None else bias.to(DEVICE),)
    TritonKernels().multiply(x.to(DEVICE), weight.to(DEVICE), *put, out)
    assert memory[len(x) :].isnan().all()
    assert memory[:, len(weight) :].isnan().all()
    return out.cpu()


def check(
    num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype, has_bias: bool
) -> None:
    generator = torch.Generator().manual_seed(num_rows + 7 * num_inputs)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, weight = draw(num_rows, num_inputs), draw(num_outputs, num_inputs)
    bias = draw(num_outputs) if has_bias else None
    expected = x.double() @ weight.double().T
    if bias is not None:
        expected += bias.double()
    bound = BOUNDS[dtype] * (1 + num_inputs**0.5)
    for out_dtype in {dtype, torch.float32}:
        found = product(x, weight, bias, out_dtype)
        torch.testing.assert_close(found.double(), expected, atol=bound, rtol=BOUNDS[dtype])
        plain = torch.empty_like(found)
        PlainKernels().multiply(x, weight, bias, plain)
        torch.testing.assert_close(plain.double(), expected, atol=bound, rtol=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 36, 52), (17, 130, 33), (65, 20, 70)])
def test_a_product_equals_float64(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    check(*sizes, dtype=dtype, has_bias=sizes[0] == 17)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    st.integers(1, 150),
    st.integers(1, 300),
    st.integers(1, 150),
    st.sampled_from(DTYPES),
    st.booleans(),
)
def test_any_product_equals_float64(
    num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype, has_bias: bool
) -> None:
    check(num_rows, num_inputs, num_outputs, dtype, has_bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_at_every_place_of_every_batch(dtype: torch.dtype) -> None:
    """The rows' sums cancel, so that another order of adding changes all their bits."""
    probe = make_probe(40, 301)
    rows, weight = probe.rows.to(dtype), probe.weight.to(dtype)
    alone = torch.cat([product(row[None], weight, None, torch.float32) for row in rows])
    for num_rows in (2, 5, 16, 17, 67):
        order = torch.arange(num_rows) % len(rows)
        found = product(rows[order], weight, None, torch.float32)
        assert torch.equal(found, alone[order])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(4096, 4096), (32_000, 2048)])
def test_a_row_has_the_same_bits_in_large_products(
    sizes: tuple[int, int], dtype: torch.dtype
) -> None:
    test_numbers = make_probe(*sizes)
    rows, weight = test_numbers.rows.to(dtype), test_numbers.weight.to(dtype)
    alone = torch.cat([product(row[None], weight, None, torch.float32) for row in rows])
    for num_rows in (2, 8, 33, 64, 300):
        order = torch.arange(num_rows) % len(rows)
        assert torch.equal(product(rows[order], weight, None, torch.float32), alone[order])


def test_tensors_that_do_not_fit_are_rejected() -> None:
    x, weight = torch.zeros(3, 8), torch.zeros(5, 8)
    kernels = TritonKernels()
    with pytest.raises(ValueError, match="differ in their inputs"):
        kernels.multiply(x, torch.zeros(5, 9), None, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="out is not 3 rows of 5 outputs"):
        kernels.multiply(x, weight, None, torch.zeros(3, 6))
    with pytest.raises(ValueError, match="a bias has not 5 values"):
        kernels.multiply(x, weight, torch.zeros(4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="`weight` has strides"):
        kernels.multiply(x, torch.zeros(8, 5).T, None, torch.zeros(3, 5))
    with pytest.raises(ValueError, match="one dtype"):
        kernels.multiply(x, weight.half(), None, torch.zeros(3, 5))
