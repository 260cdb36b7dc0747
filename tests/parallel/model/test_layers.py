"""The split layers against plain matrix products."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from parallel.group import SoloGroup
from parallel.model.layers import (
    Packing,
    RmsNorm,
    RowParallelLinear,
    VocabParallelEmbedding,
    linear_kernel,
    packings,
)
from tests.support.tiny_transformer import RankThread, on_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_the_kernel_is_a_linear_layer(dtype: torch.dtype, has_bias: bool, num_rows: int) -> None:
    weight = torch.randn(48, 36).to(dtype)
    bias = torch.randn(48).to(dtype) if has_bias else None
    x = torch.randn(num_rows, 36).to(dtype)
    with torch.inference_mode():
        out = linear_kernel(weight, bias)(x, None)
    torch.testing.assert_close(out, F.linear(x, weight, bias))


@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(48, 36), (576, 1536)])
def test_packed_weights_multiply_any_number_of_rows(
    packing: Packing, has_bias: bool, shape: tuple[int, int]
) -> None:
    if packing not in packings():
        pytest.skip(f"this build of torch has no {packing}")
    weight = torch.randn(shape)
    bias = torch.randn(shape[0]) if has_bias else None
    kernel = linear_kernel(weight, bias, packing)
    for num_rows in (0, 1, 2, 7, 8, 31, 32, 33, 70, 300):
        x, addend = (
            torch.randn(num_rows, 2 * shape[1])[:, : shape[1]],
            torch.randn(num_rows, shape[0]),
        )
        with torch.inference_mode():
            plain, added = kernel(x, None), kernel(x, addend)
        expected = F.linear(x, weight, bias)
        torch.testing.assert_close(plain, expected, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(added, expected + addend, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("packing", [Packing.ONEDNN, Packing.MKL])
def test_a_packed_weight_is_not_held_twice(packing: Packing) -> None:
    if packing not in packings():
        pytest.skip(f"this build of torch has no {packing}")
    weight = torch.randn(48, 36)
    watch = weakref.ref(weight)
    kernel = linear_kernel(weight, None, packing)
    assert kernel(torch.randn(3, 36), None).shape == (3, 48)
    del weight
    gc.collect()
    assert watch() is None
    assert kernel(torch.randn(3, 36), None).shape == (3, 48)


def test_row_parallel_ranks_add_bias_and_addend_once() -> None:
    weight, bias, x = torch.randn(10, 24), torch.randn(10), torch.randn(7, 24)
    addend = torch.randn(7, 10)

    def one(group: RankThread) -> Tensor:
        columns = slice(group.rank * 8, group.rank * 8 + 8)
        return RowParallelLinear(weight[:, columns], group, bias)(x[:, columns], addend, 4)

    for out in on_ranks(3, one):
        torch.testing.assert_close(out[:4], F.linear(x, weight, bias)[:4] + addend[:4])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_split_embedding_finds_every_row(size: int) -> None:
    table, ids = torch.randn(9, 4), torch.tensor([0, 8, 4, 2, 3, 8])
    width = 9 // size + 1

    def one(group: RankThread) -> Tensor:
        first = group.rank * width
        mine = table[first : first + width]
        rows = (first, first + len(mine))
        return VocabParallelEmbedding(lambda ids: mine[ids], rows, group)(ids)

    for out in on_ranks(size, one):
        assert torch.equal(out, table[ids])


def test_embedding_of_one_rank_is_a_lookup() -> None:
    table = torch.randn(9, 4)
    out = VocabParallelEmbedding(lambda ids: table[ids], (0, 9), SoloGroup())(
        torch.tensor([3, 3, 1])
    )
    assert torch.equal(out, table[[3, 3, 1]])


def test_the_norm_divides_by_the_root_mean_square() -> None:
    x, weight = torch.randn(3, 8), torch.randn(8)
    expected = x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(RmsNorm(weight, 1e-5)(x), expected)
