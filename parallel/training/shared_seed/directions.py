"""Directions that are never sent: signs drawn by run, round, machine, sample and element.

An element's number is its index in the whole vector of trained weights, however that is sharded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parallel.training.shared_seed.philox import philox

BLOCK = 128
"""Signs of one counter."""
POOL_ROUND = (1 << 32) - 2
"""Reserved: the directions of a pool."""
_START_ROUND = (1 << 32) - 1
"""Reserved: the initial weights."""
_MASK = 0xFFFFFFFF
_SIGNS = torch.tensor([[1 - 2 * (b >> i & 1) for i in range(8)] for b in range(256)]).to(torch.int8)
_SIGNS_AS_ONE = _SIGNS.view(torch.int64).flatten()
"""Eight signs of an octet, as one number."""
_SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
"""Shifts and masks that transpose 8 x 8 bits (Warren, Hacker's Delight, section 7-3)."""
_DRAWN_AT_ONCE = 1 << 15
"""Counters whose words stay in a core's cache while they are computed."""


class Direction(NamedTuple):
    """One direction: the k-th of a machine in a round."""

    round: int
    machine: int
    sample: int


def signs(
    seed: int,
    directions: Sequence[Direction],
    size: int,
    *,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return directions as +1 and -1.

    Args:
        seed: the run's, 64 bits.
        directions: the D directions to draw.
        size: number of elements of each.
        first: number of the first element.
        device: device to compute on; the result is the same on all.

    Returns:
        int8, [D, size].
    """
    start, stop = first // BLOCK, -(-(first + size) // BLOCK)
    octets = _octets(seed, directions, start, stop, device)
    found = _SIGNS_AS_ONE.to(device).index_select(0, octets.flatten().int()).view(torch.int8)
    skipped = first - start * BLOCK
    return found.view(len(octets), -1)[:, skipped : skipped + size]


def signs_at(seed: int, direction: Direction, elements: Tensor) -> Tensor:
    """Return a direction at some elements, int64 of any shape; int8 of that shape."""
    blocks = elements // BLOCK
    counters = _counters([direction], blocks.flatten(), elements.device)
    words = philox(counters, seed).view(-1, 4)
    bit = (elements % BLOCK).flatten()
    word = words.gather(1, (bit // 32).unsqueeze(1)).squeeze(1)
    return (1 - 2 * (word >> (bit % 32) & 1)).to(torch.int8).view(elements.shape)


def weighted_sum(
    seed: int,
    directions: Sequence[Direction],
    weights: Sequence[int],
    size: int,
    *,
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the sum of directions by integer weights, exact in any order; int64, [size].

    Eight directions are added at once: the eight bits of an element select one of 256 sums.
    """
    start, stop = first // BLOCK, -(-(first + size) // BLOCK)
    total = torch.zeros((stop - start) * BLOCK, dtype=torch.int64, device=device)
    for begin in range(0, len(directions), 8):
        eight = directions[begin : begin + 8]
        octets = _octets(seed, eight, start, stop, device)
        weight = torch.tensor(weights[begin : begin + 8], dtype=torch.int64)
        sums = (_SIGNS[:, : len(eight)].long() * weight).sum(dim=1).to(device)
        total += sums.index_select(0, _transposed(octets).int())
    skipped = first - start * BLOCK
    return total[skipped : skipped + size]


def start_uniform(seed: int, size: int, *, first: int = 0) -> Tensor:
    """Return initial weights in [-1, 1), by element; float32, [size]."""
    start, stop = first // 4, -(-(first + size) // 4)
    counters = _counters([Direction(_START_ROUND, 0, 0)], torch.arange(start, stop), "cpu")
    words = philox(counters, seed).flatten()[first - 4 * start :][:size]
    return (words >> 8).to(torch.float32) * 2**-23 - 1  # 24 bits: exact


def _octets(
    seed: int,
    directions: Sequence[Direction],
    start: int,
    stop: int,
    device: torch.device | str,
) -> Tensor:
    """Return the bits of blocks, eight elements an octet, the first lowest; uint8, [D, octets]."""
    found = torch.empty((len(directions), stop - start, 4), dtype=torch.int32, device=device)
    at_once = max(1, _DRAWN_AT_ONCE // max(len(directions), 1))
    for begin in range(start, stop, at_once):
        blocks = torch.arange(begin, min(begin + at_once, stop), device=device)
        words = philox(_counters(directions, blocks, device), seed)
        found[:, begin - start : begin - start + len(blocks)] = words
    return found.view(torch.uint8).flatten(1)


def _transposed(octets: Tensor) -> Tensor:
    """Return each element's bits over at most eight directions, [D, N] to [8 N]; uint8."""
    rows = torch.zeros((octets.shape[1], 8), dtype=torch.uint8, device=octets.device)
    rows[:, : len(octets)] = octets.T
    bits = rows.view(torch.int64).flatten()
    for shift, mask in _SWAPS:
        swapped = (bits >> shift).bitwise_xor_(bits).bitwise_and_(mask)
        bits ^= swapped
        bits ^= swapped.bitwise_left_shift_(shift)
    return bits.view(torch.uint8)


def _counters(
    directions: Sequence[Direction], blocks: Tensor, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    keys = [machine << 16 | sample for _, machine, sample in directions]
    when = [number for number, _, _ in directions]
    return (
        (blocks & _MASK).unsqueeze(0),
        (blocks >> 32 & _MASK).unsqueeze(0),
        torch.tensor(keys, dtype=torch.int64, device=device).unsqueeze(1),
        torch.tensor(when, dtype=torch.int64, device=device).unsqueeze(1),
    )
