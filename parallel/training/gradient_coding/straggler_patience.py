"""When a worker of a round is late: what the fast ones took, and some patience."""

import math
from collections.abc import Collection

_KEPT = 0.8
_LEAST = 0.5


class StragglerPatience:
    """Late is who takes more than 1 + mu times what the fast ones took.

    What they took is the time of the slowest of the fastest eighth, but no less than half of what
    that was in the rounds before: a worker that is fast by chance sets no deadline for the others.
    (Krishnan, Ebrahimi and Khisti, ICLR 2023, section 4, take the fastest one alone.)
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
        return max(fast_s, _LEAST * self._usual_s) * (1 + self._mu)

    def end_round(self, taken_s: Collection[float], num_working: int) -> None:
        """Take a round's times in, for the ones after it."""
        fast_s = _fast_s(taken_s, num_working)
        if math.isfinite(fast_s):
            before_s = self._usual_s or fast_s
            self._usual_s = _KEPT * before_s + (1 - _KEPT) * fast_s


def _fast_s(taken_s: Collection[float], num_working: int) -> float:
    needed = max(1, num_working // 8)
    return sorted(taken_s)[needed - 1] if len(taken_s) >= needed else math.inf
