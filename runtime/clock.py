"""Clocks that are passed as arguments: the real one, and one that tests advance."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic seconds."""

    def now_s(self) -> float:
        """Return the seconds since a fixed moment."""
        ...


class MonotonicClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Return the performance counter."""
        return time.perf_counter()


class ManualClock:
    """A clock that only a test advances."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Return the current time."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Advance the time."""
        self._now_s += seconds
