"""The shape of directions in the trained weights, and their exact weighted sums.

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
"""Sums of integers up to here are exact in float64, in any order."""
_LARGEST_WEIGHT = 1 << 33
"""An upper bound of decoded bytes."""


class Part(NamedTuple):
    """Some of the elements, and the sum of directions there."""

    first: int
    stop: int
    total: Tensor
    """Integers, exact: int64 or float64, [stop - first]."""


class Space(Protocol):
    """Maps directions to a vector of weights."""

    @property
    def size(self) -> int:
        """Number of trained weights."""
        ...

    @property
    def scale(self) -> float:
        """Factor of an integer direction; a float32."""
        ...

    def totals(
        self, directions: Sequence[Direction], weights: Sequence[int], device: torch.device | str
    ) -> Iterator[Part]:
        """Yield the sum of directions by integer weights, part by part, exact in any order."""
        ...


@dataclass(frozen=True, slots=True)
class DenseSpace:
    """Directions with a sign for every element."""

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
    """Directions that are, in each matrix, a product of two thin matrices of signs."""

    seed: int
    shapes: tuple[tuple[int, int], ...]
    """Rows and columns of each matrix, in the vector's order."""
    rank: int

    @property
    def size(self) -> int:
        """Number of trained weights."""
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
            ValueError: too many directions for an exact sum.
        """
        if len(directions) * self.rank * _LARGEST_WEIGHT >= _MOST_EXACT:
            most = _MOST_EXACT // (_LARGEST_WEIGHT * self.rank)
            raise ValueError(
                f"{len(directions)} directions of rank {self.rank}: at most {most} are possible"
            )
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
