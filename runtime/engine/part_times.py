"""When the next part of a drafter's answer is due, by the times of the parts before it.

A part says how long the drafter has worked on its answer. What passes between the request and that
work, and between it and the part's arrival, is learned: a part that was there when it was looked
for bounds it, and one that was waited for shows it.
"""

_SMOOTHING = 0.3
_WAITED_S = 0.0001  # a shorter wait found the part there
_LATER = 0.25  # of a step, by which a part that did not come when it was due is expected later


class PartTimes:
    """The parts of one drafter's newest answer."""

    def __init__(self) -> None:
        self._round = 0
        self._asked_s = 0.0
        self._worked_s: float | None = None
        self._step_s: float | None = None
        self.lag_s: float | None = None
        """Seconds between a part's arrival and the request, beyond the drafter's work."""

    @property
    def next_s(self) -> float | None:
        """When the next part should arrive; None where too little is known."""
        if self._worked_s is None or self._step_s is None or self.lag_s is None:
            return None
        return self._asked_s + self.lag_s + self._worked_s + self._step_s

    def ask(self, number: int, now_s: float) -> None:
        """Record a request, whose answer is the newest one."""
        self._round, self._asked_s, self._worked_s = number, now_s, None

    def arrive(self, number: int, worked_s: float, now_s: float, *, waited: float) -> None:
        """Record a part.

        Args:
            number: the request that it answers.
            worked_s: the drafter's seconds on this answer so far.
            now_s: the time.
            waited: seconds that it was waited for.
        """
        if number != self._round:
            return
        if self._worked_s is not None and worked_s > self._worked_s:
            self._step_s = worked_s - self._worked_s
        self._worked_s = worked_s
        lag_s = max(0.0, now_s - self._asked_s - worked_s)
        if self.lag_s is None:
            self.lag_s = lag_s
        elif waited > _WAITED_S:
            self.lag_s += _SMOOTHING * (lag_s - self.lag_s)
        else:
            self.lag_s = min(self.lag_s, lag_s)

    def late(self) -> None:
        """Record that the next part did not arrive when it was due."""
        if self.lag_s is not None and self._step_s is not None:
            self.lag_s += _LATER * self._step_s
