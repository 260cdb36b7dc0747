"""Directions that nobody sends: signs drawn by run, round, machine, sample and element.

An element's number is its place in the whole vector of weights that learn, however that is sharded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from parallel.training.seedlog.philox import philox

BLOCK = 128
"""Signs of one counter."""
MAX_MACHINES = 1 << 16
MAX_SAMPLES = 1 << 16
MAX_ROUNDS = (1 << 32) - 2
POOL_ROUND = (1 << 32) - 2
"""Reserved: the directions of a pool."""
_START_ROUND = (1 << 32) - 1
"""Reserved: what weights start from."""
_MASK = 0xFFFFFFFF
_SIGNS = torch.tensor([[1 - 2 * (b >> i & 1) for i in range(8)] for b in range(256)]).to(torch.int8)
_ADDED_AT_ONCE = 1 << 17


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
        directions: which; D of them.
        size: how many elements of each.
        first: the first element's number.
        device: where to compute them; they are the same anywhere.

    Returns:
        int8, [D, size].
    """
    start, stop = first // BLOCK, -(-(first + size) // BLOCK)
    words = _words(seed, directions, start, stop, device)  # [D, blocks, 4]
    octets = words.to(torch.int32).view(torch.uint8).flatten(1)
    found = _SIGNS.to(device)[octets.int()].flatten(1)
    skipped = first - start * BLOCK
    return found[:, skipped : skipped + size]


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
    """Return the sum of directions by integer weights, exact in any order; int64, [size]."""
    total = torch.zeros(size, dtype=torch.int64, device=device)
    at_once = max(1, _ADDED_AT_ONCE // max(size, 1))
    for begin in range(0, len(directions), at_once):
        some = slice(begin, begin + at_once)
        drawn = signs(seed, directions[some], size, first=first, device=device)
        weight = torch.tensor(weights[some], dtype=torch.int64, device=device).unsqueeze(1)
        total += (drawn * weight).sum(dim=0)
    return total


def start_uniform(seed: int, size: int, *, first: int = 0) -> Tensor:
    """Return numbers in [-1, 1) to start weights from, by element; float32, [size]."""
    start, stop = first // 4, -(-(first + size) // 4)
    counters = _counters([Direction(_START_ROUND, 0, 0)], torch.arange(start, stop), "cpu")
    words = philox(counters, seed).flatten()[first - 4 * start :][:size]
    return (words >> 8).to(torch.float32) * 2**-23 - 1  # 24 bits: exact


def _words(
    seed: int,
    directions: Sequence[Direction],
    start: int,
    stop: int,
    device: torch.device | str,
) -> Tensor:
    return philox(_counters(directions, torch.arange(start, stop, device=device), device), seed)


def _counters(
    directions: Sequence[Direction], blocks: Tensor, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    who = [machine << 16 | sample for _, machine, sample in directions]
    when = [number for number, _, _ in directions]
    return (
        (blocks & _MASK).unsqueeze(0),
        (blocks >> 32 & _MASK).unsqueeze(0),
        torch.tensor(who, dtype=torch.int64, device=device).unsqueeze(1),
        torch.tensor(when, dtype=torch.int64, device=device).unsqueeze(1),
    )
