"""Sequential gradient coding: later rounds repeat what was late in earlier ones.

Krishnan, Ebrahimi and Khisti, "Sequential Gradient Coding For Straggler Mitigation" (ICLR 2023):
selective repeat (SR-SGC, section 3.2) and multiplexed (M-SGC, section 3.3). The paper's codes are
cyclic; by default these repeat (its appendix's "-Rep" variants), which loses no digit.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil

import numpy as np

from parallel.training.gradient_coding.codes import GradientCode, replication_code
from parallel.training.gradient_coding.patterns import Arbitrary, Bursty, History
from parallel.training.gradient_coding.schemes import Arrivals, Key, Task

MakeCode = Callable[[int, int], GradientCode]
"""Makes a code for a number of workers, and how many of them may be missing."""


class SelectiveRepeat:
    """SR-SGC: a code for fewer stragglers, with repeats B rounds later of what is still missing."""

    is_exact = True

    def __init__(
        self,
        num_workers: int,
        burst: int,
        window: int,
        most: int,
        make_code: MakeCode = replication_code,
    ) -> None:
        """Tolerate (burst, window, most)-bursty patterns.

        Raises:
            ValueError: window is not a multiple of burst plus 1, or a parameter is out of range.
        """
        _check(num_workers, burst, window, most)
        if (window - 1) % burst:
            near = 1 + max(1, round((window - 1) / burst)) * burst
            raise ValueError(
                f"SR-SGC needs W = xB + 1; with B = {burst} the W next to {window} is {near}"
            )
        if most >= num_workers:
            raise ValueError(f"SR-SGC needs lambda below the {num_workers} workers, not {most}")
        hops = (window - 1) // burst
        self.per_round = ceil(Fraction(most, hops + 1))
        self._code = make_code(num_workers, self.per_round)
        self.name = f"sr-sgc-{burst}-{window}-{most}"
        self.num_workers, self.delay = num_workers, burst
        self.memory = 2 * window
        self.load = self._code.load
        self.chunk_sizes = (Fraction(1, self._code.num_chunks),) * self._code.num_chunks
        self._bursty = Bursty(burst=burst, window=window, most=most)

    def assign(self, round_number: int, num_jobs: int, arrivals: Arrivals) -> list[list[Task]]:
        """Return each worker's new task, or a repeat of round r - B if that job lacks results."""
        old = round_number - self.delay
        repeating = self._repeating(old, arrivals) if 0 <= old < num_jobs else set()
        jobs = [old if worker in repeating else round_number for worker in range(self.num_workers)]
        return [
            [Task(job, worker, 0, self._code.row(worker))] if job < num_jobs else []
            for worker, job in enumerate(jobs)
        ]

    def _repeating(self, job: int, arrivals: Arrivals) -> set[int]:
        missing = [w for w in range(self.num_workers) if arrivals.get((job, w, 0)) != job]
        wanted = max(0, len(missing) - self.per_round)
        return set(missing[:wanted])

    def conforms(self, history: History) -> bool:
        """Return whether the pattern is bursty, apart from rounds that needed and made no repeats.

        A round of new tasks alone with no more stragglers than the code tolerates decodes at once,
        so its stragglers have no effect later.
        """
        return self._bursty.conforms(self._weighing(history))

    def _weighing(self, history: History) -> History:
        """Return the history without the stragglers of rounds that have no effect later."""
        weighing = history.copy()
        missing_of: list[list[int]] = []
        for number, row in enumerate(history):
            before = missing_of[number - self.delay] if number >= self.delay else []
            repeating = before[: max(0, len(before) - self.per_round)]
            missing_of.append(sorted({*np.flatnonzero(row).tolist(), *repeating}))
            if not repeating and row.sum() <= self.per_round:
                weighing[number] = False
        return weighing

    def decode(self, job: int, arrivals: Arrivals) -> dict[Key, float] | None:
        """Return the code's weights over first and repeated results."""
        alive = [w for w in range(self.num_workers) if (job, w, 0) in arrivals]
        weights = self._code.decode(alive)
        return None if weights is None else {(job, w, 0): a for w, a in weights.items()}


class Multiplexed:
    """M-SGC: most chunks are uncoded and repeated if needed; the rest are coded.

    A worker's round has W - 1 + B slots, one for each of as many jobs. Job t's chunks D1, W - 1 for
    each worker, are tried in rounds t to t + W - 2; in the next B rounds a worker repeats those
    still missing, or, if none is, computes its part of the coded groups D2.
    """

    is_exact = True

    def __init__(
        self,
        num_workers: int,
        burst: int,
        window: int,
        most: int,
        make_code: MakeCode = replication_code,
    ) -> None:
        """Tolerate (B, W, lambda)-bursty and (B, W + B - 1, lambda)-arbitrary patterns.

        Args:
            num_workers: n.
            burst: B.
            window: W.
            most: lambda.
            make_code: makes the code of the coded groups.

        Raises:
            ValueError: a parameter is out of range.
        """
        _check(num_workers, burst, window, most)
        n = num_workers
        self.name = f"m-sgc-{burst}-{window}-{most}"
        self.num_workers, self.delay = n, window - 2 + burst
        self._burst, self._first = burst, window - 1
        self._code = make_code(n, most) if most < n else None
        if self._code is None:
            one = Fraction(1, n * (window - 1))
            self.chunk_sizes: tuple[Fraction, ...] = (one,) * (n * (window - 1))
            coded = Fraction(0)
        else:
            parts = n * (burst + (window - 1) * (most + 1))
            one = Fraction(most + 1, parts)
            group = Fraction(n, parts)
            each = group / self._code.num_chunks
            coded = group * self._code.load
            self.chunk_sizes = (one,) * (n * (window - 1)) + (each,) * (
                burst * self._code.num_chunks
            )
        self.load = (window - 1) * one + burst * max(one, coded)
        slots = window - 1 + burst
        self._bursty = Bursty(burst=burst, window=window, most=most)
        self._arbitrary = Arbitrary(times=burst, window=slots, most=most)
        self._slots = slots
        self.memory = slots - 1

    def assign(self, round_number: int, num_jobs: int, arrivals: Arrivals) -> list[list[Task]]:
        """Return up to W - 1 + B tasks each, one for each job in progress."""
        return [
            list(self._tasks(worker, round_number, num_jobs, arrivals))
            for worker in range(self.num_workers)
        ]

    def _tasks(
        self, worker: int, round_number: int, num_jobs: int, arrivals: Arrivals
    ) -> Iterator[Task]:
        for slot in range(self._slots):
            job = round_number - slot
            if not 0 <= job < num_jobs:
                continue
            if slot < self._first:
                yield self._plain(job, worker, slot)
                continue
            missing = [p for p in range(self._first) if (job, worker, p) not in arrivals]
            if missing:
                yield self._plain(job, worker, missing[0])
            elif self._code is not None:
                yield self._coded(self._code, job, worker, slot - self._first)

    def _plain(self, job: int, worker: int, place: int) -> Task:
        return Task(job, worker, place, ((worker * self._first + place, 1.0),))

    def _coded(self, code: GradientCode, job: int, worker: int, group: int) -> Task:
        before = self.num_workers * self._first + group * code.num_chunks
        chunks = tuple((before + chunk, value) for chunk, value in code.row(worker))
        return Task(job, worker, self._first + group, chunks)

    def conforms(self, history: History) -> bool:
        """Return whether the rounds of every job in progress are bursty or arbitrary enough."""
        last = history[-self._slots :]
        return _throughout(self._bursty, last) or _throughout(self._arbitrary, last)

    def decode(self, job: int, arrivals: Arrivals) -> dict[Key, float] | None:
        """Return weight 1 for plain results, and the code's for those of each group."""
        weights: dict[Key, float] = {}
        for worker in range(self.num_workers):
            for place in range(self._first):
                if (job, worker, place) not in arrivals:
                    return None
                weights[job, worker, place] = 1.0
        if self._code is None:
            return weights
        for part in range(self._first, self._slots):
            alive = [w for w in range(self.num_workers) if (job, w, part) in arrivals]
            found = self._code.decode(alive)
            if found is None:
                return None
            weights |= {(job, w, part): value for w, value in found.items()}
        return weights


def _throughout(family: Bursty | Arbitrary, history: History) -> bool:
    return all(family.conforms(history[: stop + 1]) for stop in range(len(history)))


def _check(num_workers: int, burst: int, window: int, most: int) -> None:
    if num_workers < 1:
        raise ValueError(f"{num_workers} workers: at least 1 is needed")
    if not 1 <= burst < window:
        raise ValueError(f"B = {burst} and W = {window}: 1 <= B < W is needed")
    if not 0 <= most <= num_workers:
        raise ValueError(f"lambda = {most}: take 0 to the {num_workers} workers")
