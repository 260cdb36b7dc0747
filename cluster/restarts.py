"""How often something that breaks is started anew: a budget, and pauses that grow."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimits:
    """A budget of restarts."""

    most: int = 5
    """Restarts within the window; what breaks more often stays down."""
    window_s: float = 600.0
    first_pause_s: float = 0.5
    """Before the second restart in a row; it doubles with each one after that."""
    longest_pause_s: float = 30.0


class RestartBudget:
    """Counts restarts."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._times_s: deque[float] = deque()

    def take(self, now_s: float) -> float | None:
        """Return how long to wait before the next restart, or None: there are no more.

        Args:
            now_s: the time, on any clock that only grows.
        """
        limits = self._limits
        while self._times_s and now_s - self._times_s[0] > limits.window_s:
            self._times_s.popleft()
        num = len(self._times_s)
        if num >= limits.most:
            return None
        self._times_s.append(now_s)
        if num == 0:
            return 0.0
        return min(limits.first_pause_s * 2.0 ** (num - 1), limits.longest_pause_s)
