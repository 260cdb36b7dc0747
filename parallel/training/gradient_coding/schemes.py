"""Schemes: the work of each round, the lateness that is tolerated, and the decoding of a gradient.

A job is one gradient at fixed parameters; round r starts job r. A scheme is a pure object: what it
assigns depends on the round and on which results have arrived, and on nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Protocol

import numpy as np

from parallel.training.gradient_coding.codes import GradientCode
from parallel.training.gradient_coding.patterns import History

Key = tuple[int, int, int]
"""(job, worker, part) of a result; a result that arrives twice counts once."""
Arrivals = Mapping[Key, int]
"""The round in which each result arrived."""


@dataclass(frozen=True, slots=True)
class Task:
    """One result to compute: a worker's sum over chunks of a job's data."""

    job: int
    worker: int
    part: int
    chunks: tuple[tuple[int, float], ...]
    """Which chunks, each with its coefficient."""

    @property
    def key(self) -> Key:
        """What its result is known by."""
        return self.job, self.worker, self.part


class Scheme(Protocol):
    """A way to compute gradients on workers that may be late."""

    @property
    def name(self) -> str:
        """What users call it, with its parameters."""
        ...

    @property
    def num_workers(self) -> int:
        """How many workers it needs."""
        ...

    @property
    def delay(self) -> int:
        """T: job t is decoded by the end of round t + T, so T + 1 models train in turn."""
        ...

    @property
    def chunk_sizes(self) -> tuple[Fraction, ...]:
        """Each chunk's share of a job's data; they sum to 1."""
        ...

    @property
    def load(self) -> Fraction:
        """Largest share of a job's data that a worker reads in a round."""
        ...

    @property
    def memory(self) -> int:
        """Rounds before the last one that `conforms` may need to see."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether what comes out is the gradient itself, not an unbiased estimate."""
        ...

    def assign(self, round_number: int, num_jobs: int, arrivals: Arrivals) -> list[list[Task]]:
        """Return each worker's tasks in a round, in order."""
        ...

    def conforms(self, history: History) -> bool:
        """Return whether a round may end with its last row's stragglers, after all earlier rows."""
        ...

    def decode(self, job: int, arrivals: Arrivals) -> dict[Key, float] | None:
        """Return the weight of each result in the job's gradient; None while too few are there."""
        ...


def remembered(scheme: Scheme, history: History) -> History:
    """Return the last rounds of a history, as many as the scheme may need to see."""
    return history[max(0, len(history) - scheme.memory) :]


def smallest_batch(scheme: Scheme) -> int:
    """Return the samples that a batch must have so that no chunk is smaller than one."""
    return ceil(1 / min(size for size in scheme.chunk_sizes if size))


class CodedScheme:
    """One round a job, by a gradient code; without redundancy (s = 0) it is plain data parallel."""

    delay = memory = 0
    is_exact = True

    def __init__(self, code: GradientCode, name: str) -> None:
        self.name = name
        self.num_workers = code.num_workers
        self.load = code.load
        self.chunk_sizes = (Fraction(1, code.num_chunks),) * code.num_chunks
        self._code = code

    def assign(self, round_number: int, num_jobs: int, arrivals: Arrivals) -> list[list[Task]]:  # noqa: ARG002
        """Return one task each."""
        if round_number >= num_jobs:
            return [[] for _ in range(self.num_workers)]
        return [
            [Task(round_number, worker, 0, self._code.row(worker))]
            for worker in range(self.num_workers)
        ]

    def conforms(self, history: History) -> bool:
        """Return whether the workers that are not late suffice."""
        return self._code.decode(np.flatnonzero(~history[-1]).tolist()) is not None

    def decode(self, job: int, arrivals: Arrivals) -> dict[Key, float] | None:
        """Return the code's weights."""
        alive = [w for w in range(self.num_workers) if (job, w, 0) in arrivals]
        weights = self._code.decode(alive)
        return None if weights is None else {(job, w, 0): a for w, a in weights.items()}


class DropSlowest:
    """Uses the first n - k results, scaled up: unbiased if shards are drawn again each time."""

    delay = memory = 0
    is_exact = False

    def __init__(self, num_workers: int, dropped: int) -> None:
        """Raise ValueError unless 0 <= dropped < num_workers."""
        if not 0 <= dropped < num_workers:
            raise ValueError(
                f"{dropped} of {num_workers} cannot be dropped, one has to stay: choose 0 to "
                f"{num_workers - 1}"
            )
        self.name = f"drop-{dropped}"
        self.num_workers = num_workers
        self.load = Fraction(1, num_workers)
        self.chunk_sizes = (self.load,) * num_workers
        self._dropped = dropped

    def assign(self, round_number: int, num_jobs: int, arrivals: Arrivals) -> list[list[Task]]:  # noqa: ARG002
        """Return one task each."""
        if round_number >= num_jobs:
            return [[] for _ in range(self.num_workers)]
        return [[Task(round_number, w, 0, ((w, 1.0),))] for w in range(self.num_workers)]

    def conforms(self, history: History) -> bool:
        """Return whether no more than k are late."""
        return bool(history[-1].sum() <= self._dropped)

    def decode(self, job: int, arrivals: Arrivals) -> dict[Key, float] | None:
        """Return equal weights that compensate for the missing data."""
        there = [w for w in range(self.num_workers) if (job, w, 0) in arrivals]
        if len(there) < self.num_workers - self._dropped:
            return None
        return {(job, w, 0): self.num_workers / len(there) for w in there}
