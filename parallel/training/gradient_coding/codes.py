"""Codes of one round: each worker sums the gradients of some chunks, survivors give the whole sum.

Gradient coding (Tandon, Lei, Dimakis, Karampatziakis, ICML 2017). A worker returns one vector,
y_i = sum_c B[i, c] g_c; for the survivors I the master uses weights a with a^T B_I = 1^T. Codes
by replication have coefficients 0 and 1 and lose no digit; cyclic codes amplify rounding errors.
"""

from collections.abc import Collection
from fractions import Fraction
from math import lcm
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_RESIDUAL = 1e-6
_MAX_AMPLIFICATION = 1e3
_CACHED = 4096


class GradientCode(Protocol):
    """Assigns chunks to workers, and recovers the whole sum from the survivors."""

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        ...

    @property
    def tolerated(self) -> int:
        """Number of workers of which any may be missing."""
        ...

    @property
    def num_chunks(self) -> int:
        """Number of equal parts of the data."""
        ...

    @property
    def load(self) -> Fraction:
        """The largest share of the data that one worker reads."""
        ...

    def row(self, worker: int) -> tuple[tuple[int, float], ...]:
        """Return the chunks that a worker sums, each with its coefficient."""
        ...

    def decode(self, survivors: Collection[int]) -> dict[int, float] | None:
        """Return each survivor's weight in the whole sum, or None if they do not suffice.

        Survivors whose result is not needed are left out.
        """
        ...


class FractionalRepetition:
    """Groups of s + 1 workers that all sum the same chunk; any one of a group suffices.

    Tandon et al., section 3.1. Needs s + 1 to divide n.
    """

    def __init__(self, num_workers: int, tolerated: int) -> None:
        """Raise ValueError if s + 1 does not divide the workers."""
        _check(num_workers, tolerated)
        if num_workers % (tolerated + 1):
            near = [s for s in range(num_workers) if num_workers % (s + 1) == 0]
            raise ValueError(
                f"fractional repetition needs s + 1 to divide the workers; with {num_workers} "
                f"workers s can be {', '.join(map(str, near))}, not {tolerated}"
            )
        self.num_workers, self.tolerated = num_workers, tolerated
        self.num_chunks = num_workers // (tolerated + 1)
        self.load = Fraction(1, self.num_chunks)

    def row(self, worker: int) -> tuple[tuple[int, float], ...]:
        """Return the one chunk of the worker's group."""
        return ((worker // (self.tolerated + 1), 1.0),)

    def decode(self, survivors: Collection[int]) -> dict[int, float] | None:
        """Return weight 1 for the first survivor of each group."""
        first: dict[int, int] = {}
        for worker in sorted(survivors):
            first.setdefault(worker // (self.tolerated + 1), worker)
        if len(first) < self.num_chunks:
            return None
        return dict.fromkeys(first.values(), 1.0)


class ClassCode:
    """Worker i belongs to class i mod (s + 1); each class covers the data once; any n and s.

    s missing workers cannot hit all s + 1 classes (Charalambides, Pilanci, Hero, 2020).
    """

    def __init__(self, num_workers: int, tolerated: int) -> None:
        """Raise ValueError if s is not below n."""
        _check(num_workers, tolerated)
        self.num_workers, self.tolerated = num_workers, tolerated
        self._members = [tuple(range(c, num_workers, tolerated + 1)) for c in range(tolerated + 1)]
        sizes = {len(members) for members in self._members}
        self.num_chunks = lcm(*sizes)
        self.load = Fraction(1, min(sizes))

    def row(self, worker: int) -> tuple[tuple[int, float], ...]:
        """Return the worker's consecutive part of its class's chunks."""
        size = len(self._members[worker % (self.tolerated + 1)])
        place = worker // (self.tolerated + 1)
        first = place * self.num_chunks // size
        stop = (place + 1) * self.num_chunks // size
        return tuple((chunk, 1.0) for chunk in range(first, stop))

    def decode(self, survivors: Collection[int]) -> dict[int, float] | None:
        """Return weight 1 for the members of the first complete class."""
        alive = set(survivors)
        for members in self._members:
            if alive.issuperset(members):
                return dict.fromkeys(members, 1.0)
        return None


class CyclicCode:
    """A code with an explicit matrix: worker i sums s + 1 neighboring chunks with real weights.

    It decodes with all survivors in the least-norm solution, and not at all if rounding errors
    would be amplified more than a thousandfold; the result of one more worker then helps.
    """

    def __init__(self, matrix: NDArray[np.float64], tolerated: int) -> None:
        self._matrix = matrix
        self.num_workers, self.num_chunks = matrix.shape
        self.tolerated = tolerated
        self.load = Fraction(tolerated + 1, self.num_chunks)
        self._decoded: dict[frozenset[int], dict[int, float] | None] = {}

    @classmethod
    def random(cls, num_workers: int, tolerated: int, seed: int = 0) -> "CyclicCode":
        """Draw the coefficients (Tandon et al., Algorithm 1)."""
        _check(num_workers, tolerated)
        n, s = num_workers, tolerated
        if s == 0:
            return cls(np.eye(n), 0)
        rng = np.random.default_rng(seed)
        null = rng.standard_normal((s, n))
        null[:, -1] = -null[:, :-1].sum(axis=1)
        matrix = np.zeros((n, n))
        for worker in range(n):
            places = [(worker + j) % n for j in range(s + 1)]
            matrix[worker, places[0]] = 1.0
            matrix[worker, places[1:]] = -np.linalg.solve(null[:, places[1:]], null[:, places[0]])
        return cls(matrix, s)

    @classmethod
    def roots_of_unity(cls, num_workers: int, tolerated: int, seed: int = 0) -> "CyclicCode":
        """Take the coefficients of a Reed-Solomon code (Raviv et al., 2018; Halbawi et al., 2018).

        Workers are placed in an order drawn from `seed`, because neighbors fail together.

        Raises:
            ValueError: n and s are both even or both odd, so the coefficients are not real.
        """
        _check(num_workers, tolerated)
        n, s = num_workers, tolerated
        if s and (n - s) % 2 == 0:
            raise ValueError(
                f"with {n} workers and s = {s} the coefficients are complex: take s = {s - 1} or "
                f"s = {s + 1}"
            )
        first = (n - s + 1) // 2
        roots = np.exp(2j * np.pi * np.arange(first, first + s) / n)
        coefficients = np.poly(roots)[::-1] if s else np.ones(1)
        coefficients = (coefficients / coefficients.sum()).real
        order = np.random.default_rng(seed).permutation(n)
        matrix = np.zeros((n, n))
        for worker in range(n):
            for j, value in enumerate(coefficients):
                matrix[worker, (order[worker] + j) % n] = value
        return cls(matrix, s)

    def row(self, worker: int) -> tuple[tuple[int, float], ...]:
        """Return the worker's chunks with their coefficients."""
        return tuple(
            (int(c), float(self._matrix[worker, c])) for c in self._matrix[worker].nonzero()[0]
        )

    def decode(self, survivors: Collection[int]) -> dict[int, float] | None:
        """Return the weights of least norm; None if they are no solution or too large."""
        key = frozenset(survivors)
        if key not in self._decoded:
            if len(self._decoded) >= _CACHED:
                self._decoded.clear()
            self._decoded[key] = self._solve(sorted(key))
        return self._decoded[key]

    def amplification(self, weights: dict[int, float]) -> float:
        """Return the factor by which independent relative errors of the results grow in the sum."""
        norms = np.linalg.norm(self._matrix[list(weights)], axis=1)
        total = np.square(np.array(list(weights.values())) * norms).sum()
        return float(np.sqrt(total / self.num_workers))

    def _solve(self, survivors: list[int]) -> dict[int, float] | None:
        if len(survivors) < self.num_workers - self.tolerated:
            return None
        rows = self._matrix[survivors]
        ones = np.ones(self.num_chunks)
        solution = np.linalg.lstsq(rows.T, ones, rcond=None)[0]
        if np.abs(solution @ rows - ones).max() > _RESIDUAL:
            return None
        weights = dict(zip(survivors, solution.tolist(), strict=True))
        return weights if self.amplification(weights) <= _MAX_AMPLIFICATION else None


def replication_code(num_workers: int, tolerated: int) -> FractionalRepetition | ClassCode:
    """Return the code with coefficients 0 and 1: with even groups, or else with classes."""
    if num_workers % (tolerated + 1) == 0:
        return FractionalRepetition(num_workers, tolerated)
    return ClassCode(num_workers, tolerated)


def _check(num_workers: int, tolerated: int) -> None:
    if num_workers < 1:
        raise ValueError(f"{num_workers} workers: at least 1 is needed")
    if not 0 <= tolerated < num_workers:
        raise ValueError(
            f"s = {tolerated} of {num_workers} workers may be missing: take 0 to {num_workers - 1}"
        )
