"""How often something that breaks is restarted: a budget, and pauses that grow."""

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
    calm_s: float = 10.0
    """What ran for so long after a restart has broken again: the next restart is a first one."""


class RestartBudget:
    """Counts restarts; times are of any clock that only grows."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._times_s: deque[float] = deque()
        self._in_a_row = 0
        self._runs_since_s: float | None = None

    def take(self, now_s: float) -> float | None:
        """Return how long to wait before the next restart, or None: there are no more."""
        limits = self._limits
        while self._times_s and now_s - self._times_s[0] > limits.window_s:
            self._times_s.popleft()
        if len(self._times_s) >= limits.most:
            return None
        self._times_s.append(now_s)
        if self._runs_since_s is not None and now_s - self._runs_since_s >= limits.calm_s:
            self._in_a_row = 0
        self._runs_since_s = None
        self._in_a_row += 1
        if self._in_a_row == 1:
            return 0.0
        return min(limits.first_pause_s * 2.0 ** (self._in_a_row - 2), limits.longest_pause_s)

    def note_running(self, now_s: float) -> None:
        """Note that the restart worked."""
        self._runs_since_s = now_s
