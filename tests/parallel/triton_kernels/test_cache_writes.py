"""Keys and values land where they belong and nowhere else, whatever the other rows do."""

import pytest
import torch
from torch import Tensor

from parallel.device_kernels.plain_kernels import PlainKernels
from parallel.device_kernels.step_kernels import HeadNorms, StepKernels
from parallel.model.model_config import RopeConfig
from parallel.model.rope import RotaryTable
from parallel.triton_kernels.kernel_set import TritonKernels
from tests.support.kernel_device import DEVICE

KERNELS = TritonKernels()
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1e-1, torch.float16: 1e-2}
"""Numbers are up to 8 and are rounded twice; the interpreter truncates where a GPU rounds."""
NUM_QUERY, NUM_KV, CAPACITY = 6, 2, 40
ADDRESSES = [7, 30, -1, 0, 39]
POSITIONS = [3, 900, 0, 17, 1]


def turns_of(dim: int) -> Tensor:
    """Return cosines and sines of 1000 positions, [1000, dim / 2, 2]."""
    table = RotaryTable(RopeConfig(theta=1e4), dim, 1000, device=torch.device("cpu"))
    return torch.view_as_real(table.at(torch.arange(1000))[:, 0]).contiguous()


def heads_of(dim: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(dim)
    shape = (len(ADDRESSES), NUM_QUERY + 2 * NUM_KV, dim)
    return torch.randn(shape, generator=generator).to(dtype)


def norms_of(dim: int, dtype: torch.dtype, adds_one: bool) -> HeadNorms:
    weights = torch.linspace(0.5, 1.5, 2 * dim).to(dtype)
    return HeadNorms(
        query=weights[:dim].to(DEVICE), key=weights[dim:].to(DEVICE), eps=1e-6, adds_one=adds_one
    )


def store(
    kernels: StepKernels,
    heads: Tensor,
    norms: HeadNorms | None,
    device: str,
    rows: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Return the queries and the cache, [2, K, A, D], after rows were stored in one of NaN."""
    dim = heads.shape[2]
    heads = heads[rows].clone().to(device)
    cache = torch.full((2, NUM_KV, CAPACITY, dim), torch.nan, dtype=heads.dtype, device=device)
    kernels.rotate_and_store(
        heads,
        turns_of(dim).to(device),
        torch.tensor(POSITIONS[rows], dtype=torch.int32, device=device),
        torch.tensor(ADDRESSES[rows], dtype=torch.int32, device=device),
        cache[0],
        cache[1],
        norms=norms,
    )
    return heads[:, :NUM_QUERY].cpu(), cache.cpu()


def wide(norms: HeadNorms | None) -> HeadNorms | None:
    if norms is None:
        return None
    return HeadNorms(
        query=norms.query.double().cpu(),
        key=norms.key.double().cpu(),
        eps=norms.eps,
        adds_one=norms.adds_one,
    )


@pytest.mark.parametrize(
    ("dim", "dtype"),
    [
        (64, torch.float32),
        (80, torch.bfloat16),
        (96, torch.float16),
        (128, torch.bfloat16),
        (256, torch.float32),
    ],
)
@pytest.mark.parametrize("normed", ["plain", "norms", "norms of 1 + weight"])
def test_rows_are_rotated_and_stored_as_in_float64(
    dim: int, dtype: torch.dtype, normed: str
) -> None:
    heads = heads_of(dim, dtype)
    norms = None if normed == "plain" else norms_of(dim, dtype, "+" in normed)
    query, cache = store(KERNELS, heads, norms, DEVICE)
    expected_query, expected = store(PlainKernels(), heads.double(), wide(norms), "cpu")
    torch.testing.assert_close(query.double(), expected_query, atol=BOUNDS[dtype], rtol=0)
    torch.testing.assert_close(cache.double(), expected, atol=BOUNDS[dtype], rtol=0, equal_nan=True)
    written = [address for address in ADDRESSES if address >= 0]
    assert int(cache.isfinite().all(-1).sum()) == 2 * NUM_KV * len(written)


def test_values_are_stored_bit_by_bit() -> None:
    heads = heads_of(80, torch.bfloat16)
    _, cache = store(KERNELS, heads, None, DEVICE)
    assert torch.equal(cache[1][:, 30], heads[1, NUM_QUERY + NUM_KV :])


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    heads, norms = heads_of(96, dtype), norms_of(96, dtype, adds_one=False)
    query, cache = store(KERNELS, heads, norms, DEVICE)
    for row, address in enumerate(ADDRESSES):
        alone, own = store(KERNELS, heads, norms, DEVICE, slice(row, row + 1))
        assert torch.equal(alone[0], query[row])
        assert address < 0 or torch.equal(own[:, :, address], cache[:, :, address])


@pytest.mark.parametrize("kernels", [KERNELS, PlainKernels()], ids=["triton", "plain"])
def test_moves_of_each_sequence_are_made_in_their_order(kernels: StepKernels) -> None:
    device = DEVICE if kernels is KERNELS else "cpu"
    cache = torch.arange(3 * 20 * 8).view(3, 20, 8).float()
    moved = cache.clone().to(device)
    # The first sequence moves 5 and 7 to 4 and 5: a place that is left is taken. 99 is padding.
    offsets = torch.tensor([0, 2, 2, 3, 3], dtype=torch.int32, device=device)
    moves = torch.tensor([(5, 4), (7, 5), (19, 18), (99, 0)], dtype=torch.int32, device=device)
    kernels.move(moved, offsets, moves)
    order = [*range(20)]
    order[4], order[5], order[18] = 5, 7, 19
    assert torch.equal(moved.cpu(), cache[:, order])


def test_no_moves_change_nothing() -> None:
    for kernels, device in ((KERNELS, DEVICE), (PlainKernels(), "cpu")):
        cache = torch.ones(2, 4, 8, device=device)
        none = torch.zeros(3, dtype=torch.int32, device=device)
        kernels.move(cache, none, torch.zeros(2, 2, dtype=torch.int32, device=device))
        assert bool((cache == 1).all())
