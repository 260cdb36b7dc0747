"""When a worker is late in a round: from the times of the fast ones, and a patience."""

import math
from collections.abc import Collection

_AVERAGE_KEPT = 0.8
_LEAST_SHARE = 0.5


class StragglerPatience:
    """A worker is late after 1 + mu times the time of the fast workers.

    That is the time of the slowest of the fastest eighth, but at least half of its average in
    earlier rounds: a worker that happens to be fast sets no deadline for the others. (Krishnan,
    Ebrahimi and Khisti, ICLR 2023, section 4, use the fastest worker alone.)
    """

    def __init__(self, mu: float) -> None:
        self._mu = mu
        self._usual_s = 0.0

    def deadline_s(self, taken_s: Collection[float], num_working: int) -> float:
        """Return when workers are late, from the times of those that have finished so far.

        Args:
            taken_s: their times since the round began, in any order.
            num_working: workers that work in this round.

        Returns:
            Seconds since the round began; infinite while too few have finished.
        """
        fast_s = _fast_s(taken_s, num_working)
        return max(fast_s, _LEAST_SHARE * self._usual_s) * (1 + self._mu)

    def end_round(self, taken_s: Collection[float], num_working: int) -> None:
        """Record the times of a round for later rounds."""
        fast_s = _fast_s(taken_s, num_working)
        if math.isfinite(fast_s):
            before_s = self._usual_s or fast_s
            self._usual_s = _AVERAGE_KEPT * before_s + (1 - _AVERAGE_KEPT) * fast_s


def _fast_s(taken_s: Collection[float], num_working: int) -> float:
    needed = max(1, num_working // 8)
    return sorted(taken_s)[needed - 1] if len(taken_s) >= needed else math.inf
