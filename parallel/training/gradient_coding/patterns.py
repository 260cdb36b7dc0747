"""Patterns of stragglers over rounds: which ones a scheme tolerates, and how they arise.

A history is a boolean array [rounds, workers]; True is a worker whose result was not waited for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

History = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursty:
    """At most `most` workers straggle in any `window` rounds, each in bursts of at most `burst`.

    After the first round of a burst a worker may straggle for burst - 1 more, then not until the
    window is over (Krishnan, Ebrahimi, Khisti, 2023, section 2).
    """

    burst: int
    window: int
    most: int

    def conforms(self, history: History) -> bool:
        """Return whether the windows that end with the last round conform; earlier ones did."""
        last = history[-self.window :]
        if last.any(axis=0).sum() > self.most:
            return False
        barred = last[: max(0, len(last) - self.burst)]
        return not (barred.any(axis=0) & last[-1]).any()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arbitrary:
    """At most `most` workers straggle in any `window` rounds, each at most `times` times."""

    times: int
    window: int
    most: int

    def conforms(self, history: History) -> bool:
        """Return whether the window that ends with the last round conforms; earlier ones did."""
        last = history[-self.window :]
        return bool(last.any(axis=0).sum() <= self.most and (last.sum(axis=0) <= self.times).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class GilbertElliott:
    """Workers turn slow with `p_slow` a round and fast again with `p_fast`, independently."""

    p_slow: float
    p_fast: float

    def draw(self, num_rounds: int, num_workers: int, seed: int) -> History:
        """Return which workers are slow, [rounds, workers], from the stationary state on."""
        rng = np.random.default_rng(seed)
        history = np.zeros((num_rounds, num_workers), dtype=np.bool_)
        slow = rng.random(num_workers) < self.p_slow / (self.p_slow + self.p_fast)
        for row in history:
            row[:] = slow
            chance = rng.random(num_workers)
            slow = np.where(slow, chance >= self.p_fast, chance < self.p_slow)
        return history
