"""What directions look like in the weights that learn, and their exact weighted sums.

Dense: a sign for every element. Low rank (LOZO, arXiv 2410.07698; EGGROLL, arXiv 2511.16652): a
matrix's direction is U V^T of signs, so a step over many directions is one product of matrices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from parallel.training.shared_seed.directions import Direction, signs, weighted_sum

_MOST_EXACT = 1 << 53
"""Integers up to here are exact in float64, whatever order they are added in."""
_LARGEST_WEIGHT = 1 << 33
"""More than any byte decodes to."""


class Part(NamedTuple):
    """Some of the elements, and what directions add up to there."""

    first: int
    stop: int
    total: Tensor
    """Integers, exact: int64 or float64, [stop - first]."""


class Space(Protocol):
    """How directions lie in a vector of weights."""

    @property
    def size(self) -> int:
        """Numbers that learn."""
        ...

    @property
    def scale(self) -> float:
        """What an integer direction is multiplied by; a float32."""
        ...

    def totals(
        self, directions: Sequence[Direction], weights: Sequence[int], device: torch.device | str
    ) -> Iterator[Part]:
        """Yield the sum of directions by integer weights, part by part, exact in any order."""
        ...


@dataclass(frozen=True, slots=True)
class DenseSpace:
    """A sign for every element."""

    seed: int
    size: int
    scale: float = 1.0

    def totals(
        self, directions: Sequence[Direction], weights: Sequence[int], device: torch.device | str
    ) -> Iterator[Part]:
        """Yield the sum in one part."""
        total = weighted_sum(self.seed, directions, weights, self.size, device=device)
        yield Part(0, self.size, total)


@dataclass(frozen=True, slots=True)
class LowRankSpace:
    """Matrices one after the other; a direction of each is the product of two thin ones."""

    seed: int
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each matrix, in the vector's order."""
    rank: int

    @property
    def size(self) -> int:
        """Numbers that learn."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def scale(self) -> float:
        """1 / sqrt(rank) as float32: elements of a direction have a mean square of 1."""
        return float(1 / torch.tensor(float(self.rank)).sqrt())

    @property
    def num_factors(self) -> int:
        """Signs of a direction."""
        return self.rank * sum(rows + columns for rows, columns in self.shapes)

    def factors(
        self, directions: Sequence[Direction], device: torch.device | str = "cpu"
    ) -> list[tuple[Tensor, Tensor]]:
        """Return each matrix's two factors, int8: [D, rows, rank] and [D, columns, rank]."""
        drawn = signs(self.seed, directions, self.num_factors, device=device)
        found, first = [], 0
        for rows, columns in self.shapes:
            middle, stop = first + rows * self.rank, first + (rows + columns) * self.rank
            left = drawn[:, first:middle].reshape(-1, rows, self.rank)
            found.append((left, drawn[:, middle:stop].reshape(-1, columns, self.rank)))
            first = stop
        return found

    def totals(
        self, directions: Sequence[Direction], weights: Sequence[int], device: torch.device | str
    ) -> Iterator[Part]:
        """Yield the sum matrix by matrix, as one float64 product each: integers, so it is exact.

        Raises:
            ValueError: there are so many directions that it would not be.
        """
        if len(directions) * self.rank * _LARGEST_WEIGHT >= _MOST_EXACT:
            most = _MOST_EXACT // (_LARGEST_WEIGHT * self.rank)
            raise ValueError(f"{len(directions)} directions of rank {self.rank}: most is {most}")
        if not directions:
            yield Part(0, self.size, torch.zeros(1, dtype=torch.float64, device=device))
            return
        weight = torch.tensor(weights, dtype=torch.float64, device=device).view(-1, 1, 1)
        first = 0
        for left, right in self.factors(directions, device):
            rows, columns = left.shape[1], right.shape[1]
            heavy = (left.double() * weight).permute(1, 0, 2).reshape(rows, -1)
            light = right.double().permute(1, 0, 2).reshape(columns, -1)
            stop = first + rows * columns
            yield Part(first, stop, (heavy @ light.T).flatten())
            first = stop
