"""How long workers take in virtual time: drawn slow states, or a measured trace."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from parallel.training.gradient_coding.patterns import GilbertElliott

Seconds = NDArray[np.float64]


class TimeModel(Protocol):
    """Gives the times of the workers."""

    @property
    def num_rounds(self) -> int:
        """Number of rounds."""
        ...

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time in a round for its share of a job's data, [workers]."""
        ...


class SlowStates:
    """Workers that turn slow and fast again: (overhead + work * n * load) * slowness.

    A worker's share without redundancy is 1 / n, so `work` is its computing time when it is
    fast. With overhead near 0 computing dominates, with work near 0 latency does. A Gilbert-Elliott
    chain draws which workers are slow; `factor` with an exponential tail is how slow.
    """

    def __init__(
        self,
        model: GilbertElliott,
        *,
        num_rounds: int,
        num_workers: int,
        factor: float,
        tail: float = 0.0,
        overhead: float = 0.05,
        work: float = 1.0,
        jitter: float = 0.05,
        seed: int = 0,
    ) -> None:
        self.num_rounds = num_rounds
        self._workers, self._overhead, self._work = num_workers, overhead, work
        slow = model.draw(num_rounds, num_workers, seed)
        rng = np.random.default_rng(seed + 1)
        much = factor * (1 + tail * rng.exponential(size=slow.shape))
        self._slowness = (1 + jitter * rng.random(slow.shape)) * np.where(slow, much, 1.0)

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time."""
        each = self._overhead + self._work * self._workers * loads
        taken: Seconds = each * self._slowness[round_number]
        return taken


class Trace:
    """Measured times of uncoded rounds, and the seconds that a unit of load adds."""

    def __init__(self, times: Seconds, slope: float) -> None:
        """Use measured times, [rounds, workers]."""
        self.num_rounds = len(times)
        self._times, self._slope = times, slope

    def seconds(self, round_number: int, loads: Seconds) -> Seconds:
        """Return each worker's time."""
        row = self._times[round_number]
        each: Seconds = row + self._slope * (loads - 1 / len(row))
        return np.maximum(each, 0.0)
