"""Time as an argument: the real clock and the one tests turn by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic seconds."""

    def now_s(self) -> float:
        """Return seconds since some fixed moment."""
        ...


class MonotonicClock:
    """The machine's clock."""

    def now_s(self) -> float:
        """Return the performance counter."""
        return time.perf_counter()


class ManualClock:
    """A clock that stands still until a test advances it."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Return the time set so far."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move time forward."""
        self._now_s += seconds
