"""Directions: known answers, the same however they are cut, and as random as they should be."""

import math

import pytest
import torch

from parallel.training.shared_seed.directions import (
    Direction,
    signs,
    signs_at,
    start_uniform,
    weighted_sum,
)
from parallel.training.shared_seed.philox import philox

SEED = 0x0123456789ABCDEF
ONES = 0xFFFFFFFF
KNOWN = [  # Random123's known-answer vectors
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, ONES << 32 | ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(
    counter: tuple[int, int, int, int], key: int, words: tuple[int, int, int, int]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    assert philox((c0, c1, c2, c3), key).tolist() == [list(words)]


def by_definition(direction: Direction, element: int) -> int:
    block, place = divmod(element, 128)
    words = (block & ONES, block >> 32, direction.machine << 16 | direction.sample, direction.round)
    c0, c1, c2, c3 = (torch.tensor([word]) for word in words)
    word = philox((c0, c1, c2, c3), SEED)[0, place // 32].item()
    return 1 - 2 * (int(word) >> (place % 32) & 1)


@pytest.mark.parametrize("first", [0, 5, 127, 128, 2**32 * 128 - 3, 2**40 + 77])
def test_an_element_has_its_sign_wherever_it_is_computed(first: int) -> None:
    directions = [Direction(3, 65535, 9), Direction(2**32 - 2, 1, 65535)]
    found = signs(SEED, directions, 300, first=first)
    assert found.shape == (2, 300)
    for row, direction in enumerate(directions):
        for place in (0, 1, 31, 32, 126, 127, 128, 299):
            assert found[row, place] == by_definition(direction, first + place)
        elements = torch.arange(first, first + 300)
        assert torch.equal(signs_at(SEED, direction, elements), found[row])


def test_shards_of_a_matrix_have_the_signs_of_the_whole() -> None:
    whole = signs(SEED, [Direction(1, 2, 3)], 24 * 40, first=70)[0].view(24, 40)
    elements = 70 + torch.arange(24 * 40).view(24, 40)
    for rank in range(4):
        columns = slice(10 * rank, 10 * rank + 10)
        assert torch.equal(
            signs_at(SEED, Direction(1, 2, 3), elements[:, columns]), whole[:, columns]
        )
        rows = slice(6 * rank, 6 * rank + 6)
        part = signs(SEED, [Direction(1, 2, 3)], 240, first=70 + 240 * rank)
        assert torch.equal(part.view(6, 40), whole[rows])


def test_signs_are_balanced_and_independent() -> None:
    size = 1 << 18
    directions = [
        Direction(0, 0, 0), Direction(0, 0, 1), Direction(0, 1, 0), Direction(1, 0, 0),
        Direction(1, 1, 1), Direction(2, 0, 0),
    ]  # fmt: skip
    drawn = signs(SEED, directions, size).double()
    assert (drawn.abs() == 1).all()
    assert drawn.mean(dim=1).abs().max() * math.sqrt(size) < 4.5
    products = (drawn @ drawn.T / math.sqrt(size)).fill_diagonal_(0)
    assert products.abs().max() < 4.5  # each is N(0, 1)
    shifted = (drawn[0, :-128] * drawn[0, 128:]).sum() / math.sqrt(size)
    assert shifted.abs() < 4.5  # equal tensors after each other do not get equal signs
    assert not torch.equal(signs(SEED + 1, directions[:1], size), signs(SEED, directions[:1], size))


def test_a_weighted_sum_is_exact_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = [Direction(7, m, k) for m in range(40) for k in range(5)]
    weights = torch.randint(-6 * 10**9, 6 * 10**9, (200,), generator=generator).tolist()
    total = weighted_sum(SEED, directions, weights, 1000, first=50)
    order = torch.randperm(200, generator=generator).tolist()
    mixed = [directions[i] for i in order], [weights[i] for i in order]
    assert torch.equal(weighted_sum(SEED, *mixed, 1000, first=50), total)
    plain = sum(
        weight * int(signs(SEED, [direction], 1, first=123)[0, 0])
        for direction, weight in zip(directions, weights, strict=True)
    )
    assert total[73] == plain


def test_sums_too_large_for_float64_are_exact_too() -> None:
    directions = [Direction(7, m, 0) for m in range(4)]
    for largest in (1 << 40, 1 << 60):
        weights = [largest + 1, -3, largest - 7, 5]
        total = weighted_sum(SEED, directions, weights, 300)
        for place in (0, 17, 299):
            drawn = [int(signs(SEED, [d], 1, first=place)[0, 0]) for d in directions]
            wanted = sum(w * z for w, z in zip(weights, drawn, strict=True))
            assert int(total[place]) == wanted


def test_where_weights_start() -> None:
    drawn = start_uniform(SEED, 100_000)
    assert drawn.dtype == torch.float32
    assert -1 <= drawn.min() < -0.999
    assert 0.999 < drawn.max() < 1
    assert abs(float(drawn.mean())) < 0.01
    assert torch.equal(start_uniform(SEED, 50, first=333), drawn[333:383])


@pytest.mark.gpu
def test_a_gpu_draws_the_same() -> None:
    directions = [Direction(t, 5, k) for t in range(3) for k in range(4)]
    for first in (0, 77, 2**40 + 1):
        mine = signs(SEED, directions, 5000, first=first)
        assert torch.equal(signs(SEED, directions, 5000, first=first, device="cuda").cpu(), mine)
    weights = [10**9 * (-1) ** n for n in range(12)]
    summed = weighted_sum(SEED, directions, weights, 5000)
    assert torch.equal(weighted_sum(SEED, directions, weights, 5000, device="cuda").cpu(), summed)
