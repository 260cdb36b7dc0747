"""Frozen layers compute like plain ones with the same numbers, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.training.frozen_linear import FrozenLinear, weight_of
from parallel.weights.quantize import quantize
from parallel.weights.stored_matrix import Matrix
from parallel.weights.weight_format import WeightFormat


def held(form: str) -> tuple[Matrix, Tensor]:
    """Return a weight in a format, and its numbers."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(2))
    if form == "bfloat16":
        return weight.bfloat16(), weight.bfloat16().float()
    stored = quantize(weight, WeightFormat(form))
    return stored, stored.dequantized()


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products_and_gradients_are_those_of_the_numbers_that_are_held(
    form: str, with_bias: bool
) -> None:
    matrix, numbers = held(form)
    bias = torch.randn(6) if with_bias else None
    layer = FrozenLinear(matrix, bias)
    x = torch.randn(2, 5, 64, requires_grad=True)
    same = x.detach().clone().requires_grad_()
    grad = torch.randn(2, 5, 6)
    ours, wanted = layer(x), F.linear(same, numbers) + (0 if bias is None else bias)
    assert torch.equal(ours, wanted)
    ours.backward(grad)
    wanted.backward(grad)  # type: ignore[no-untyped-call]  # torch's
    assert x.grad is not None
    assert same.grad is not None
    torch.testing.assert_close(x.grad, same.grad, atol=1e-6, rtol=1e-6)
    assert torch.equal(weight_of(layer), numbers)
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_a_product_keeps_no_converted_weight_for_the_way_back() -> None:
    layer = FrozenLinear(torch.randn(512, 64).bfloat16())
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(1, 64, requires_grad=True)).sum()
    assert not kept


def test_under_autocast_the_product_is_in_bfloat16() -> None:
    matrix, numbers = held("int8")
    x = torch.randn(3, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = FrozenLinear(matrix)(x)
        wanted = nn.functional.linear(x, numbers)
    assert out.dtype == wanted.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
