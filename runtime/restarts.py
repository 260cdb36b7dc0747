"""A budget of restarts, with growing pauses between them."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartLimits:
    """The limits of restarts."""

    most: int = 5
    """Most restarts within the window; there is no restart after more failures."""
    window_s: float = 600.0
    first_pause_s: float = 0.5
    """Pause before the second restart in a row; it doubles with each further one."""
    longest_pause_s: float = 30.0
    calm_s: float = 10.0
    """After a run of so many seconds, the next restart counts as a first one."""


class RestartBudget:
    """Counts restarts; times come from any monotonic clock."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._times_s: deque[float] = deque()
        self._in_a_row = 0
        self._runs_since_s: float | None = None

    def take(self, now_s: float) -> float | None:
        """Return the pause before the next restart; None if the budget is used up."""
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
        """Record that the restart succeeded."""
        self._runs_since_s = now_s
