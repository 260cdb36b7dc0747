"""Exchanges between ranks have the gradients of the whole computation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parallel.training.tensor_parallel import SplitEmbedding, entered, joined, left
from tests.support.training_ranks import members, on_all

SIZE = 3
WIDTHS = ((0, 3), (3, 5), (5, 6))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_block_of_split_products_has_the_gradients_of_the_whole() -> None:
    x, above, below = numbers(4, 5), numbers(6, 5, seed=1), numbers(2, 6, seed=2)
    whole = [one.clone().requires_grad_() for one in (x, above, below)]
    wanted = F.linear(F.linear(whole[0], whole[1]).tanh(), whole[2]).square().sum()
    wanted.backward()  # type: ignore[no-untyped-call]  # torch's
    group = members(SIZE)

    def run(rank: int) -> tuple[Tensor, list[Tensor]]:
        first, stop = WIDTHS[rank]
        parts = [x.clone(), above[first:stop].clone(), below[:, first:stop].clone()]
        mine = [part.requires_grad_() for part in parts]
        inner = F.linear(entered(mine[0], group[rank]), mine[1]).tanh()
        loss = left(F.linear(inner, mine[2]), group[rank]).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return loss.detach(), [part.grad for part in mine if part.grad is not None]

    for rank, (loss, grads) in enumerate(on_all(group, run)):
        first, stop = WIDTHS[rank]
        torch.testing.assert_close(loss, wanted.detach())
        of_x, of_above, of_below = (one.grad for one in whole)
        assert of_x is not None
        assert of_above is not None
        assert of_below is not None
        wanted_grads = (of_x, of_above[first:stop], of_below[:, first:stop])
        for found, one in zip(grads, wanted_grads, strict=True):
            torch.testing.assert_close(found, one)


def test_parts_side_by_side_return_each_rank_its_own_gradient() -> None:
    whole, group = numbers(4, 6), members(SIZE)
    factors = numbers(4, 6, seed=1)

    def run(rank: int) -> tuple[Tensor, Tensor | None]:
        part = whole[:, slice(*WIDTHS[rank])].clone().requires_grad_()
        found = joined(part, group[rank], WIDTHS)
        (found * factors).sum().backward()  # type: ignore[no-untyped-call]  # torch's
        return found.detach(), part.grad

    for rank, (found, grad) in enumerate(on_all(group, run)):
        assert torch.equal(found, whole)
        assert grad is not None
        assert torch.equal(grad, factors[:, slice(*WIDTHS[rank])])


@pytest.mark.parametrize("padding_id", [None, 4])
def test_a_split_embedding_looks_up_and_learns_the_bits_of_a_whole_one(
    padding_id: int | None,
) -> None:
    table, ids = numbers(6, 8), torch.tensor([[0, 5, 3], [4, 4, 2]])
    embedding = nn.Embedding(6, 8, padding_idx=padding_id)
    embedding.weight = nn.Parameter(table.clone())
    wanted = embedding(ids) * 1.5
    wanted.square().sum().backward()
    group = members(SIZE)

    def run(rank: int) -> tuple[Tensor, Tensor | None]:
        weight = nn.Parameter(table[slice(*WIDTHS[rank])].clone())
        split = SplitEmbedding(weight, WIDTHS[rank], group[rank], scale=1.5, padding_id=padding_id)
        found: Tensor = split(ids)
        found.square().sum().backward()  # type: ignore[no-untyped-call]  # torch's
        return found.detach(), weight.grad

    assert embedding.weight.grad is not None
    for rank, (found, grad) in enumerate(on_all(group, run)):
        assert torch.equal(found, wanted.detach())
        assert grad is not None
        assert torch.equal(grad, embedding.weight.grad[slice(*WIDTHS[rank])])
