"""Running estimates of the times of forwards and drafts, by their sizes."""

from bisect import bisect_left
from collections.abc import Sequence
from math import inf, log2

_SMOOTHING = 0.2
"""Weight of the newest observation in a running mean."""
_EXACT_SIZES = 16
"""Forwards of up to so many positions are timed apart; larger ones by size class."""
_STEPS_PER_DOUBLING = 3
_MIN_SPREAD = 0.05
"""Variance of draft lengths, in tokens squared, from which their times make a line."""


class CostModel:
    """Running estimates of forward and draft times on this machine."""

    def __init__(self) -> None:
        self._forwards = TimeCurve()
        self._drafts: dict[int, _Line] = {}
        self._predicted: tuple[float, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether both times have been seen."""
        return self._forwards.is_known and bool(self._drafts)

    @property
    def knows_forwards(self) -> bool:
        """Whether a forward's time has been seen."""
        return self._forwards.is_known

    def observe_forward(self, num_positions: int, seconds: float) -> None:
        """Record the time of a target forward over `num_positions` tokens."""
        self._forwards.observe(num_positions, seconds)

    def predict_steps(self, step_s: Sequence[float]) -> None:
        """Replace the last drafter's times by a new one's prediction for widths 1, 2, ..."""
        self._drafts, self._predicted = {}, tuple(step_s)

    def observe_draft(self, num_steps: int, seconds: float, width: int = 1) -> None:
        """Record the time of a draft of `num_steps` tokens, the exchange included."""
        line = self._drafts.get(width, _Line())
        line.observe(num_steps, seconds)
        if line.is_known:
            self._drafts[width] = line

    def target_s(self, num_positions: int) -> float:
        """Return the expected seconds of a forward: between and beyond what was seen, on a line."""
        return self._forwards.at(num_positions)

    def draft_s(self, num_steps: int, width: int = 1) -> float:
        """Return the expected seconds of a draft: a fixed part and one for each step.

        Of a width that was never seen: what another one took, in proportion to the predictions.
        """
        if width in self._drafts:
            return self._drafts[width].at(num_steps)
        known, line = next(iter(self._drafts.items()))
        scale = 1.0
        if max(known, width) <= len(self._predicted):
            scale = self._predicted[width - 1] / self._predicted[known - 1]
        return line.at(num_steps) * scale


class TimeCurve:
    """Running means of times by size, kept for a few sizes and joined by straight lines."""

    def __init__(self) -> None:
        """Start without a time."""
        self._means: dict[int, tuple[float, float]] = {}
        self._sizes: list[float] = []
        self._seconds: list[float] = []

    @property
    def is_known(self) -> bool:
        """Whether a time has been seen."""
        return bool(self._means)

    def observe(self, size: int, seconds: float) -> None:
        """Record a time."""
        if not 0 < seconds < inf:  # a clock that stopped or jumped measures nothing
            return
        kept = size if size <= _EXACT_SIZES else round(_STEPS_PER_DOUBLING * log2(size)) + 1000
        mean_size, mean_s = self._means.get(kept, (float(size), seconds))
        self._means[kept] = (
            mean_size + _SMOOTHING * (size - mean_size),
            mean_s + _SMOOTHING * (seconds - mean_s),
        )
        points = sorted(self._means.values())
        self._sizes = [point_size for point_size, _ in points]
        self._seconds = [point_s for _, point_s in points]

    def at(self, size: int) -> float:
        """Return the expected time of a size: between and beyond what was seen, on a line."""
        sizes, seconds = self._sizes, self._seconds
        assert sizes, "no time was seen yet"
        right = bisect_left(sizes, size)
        if right < len(sizes) and (right == 0 or sizes[right] == size):
            return seconds[right]
        if len(sizes) == 1:
            return seconds[0]
        if right == len(sizes):  # the whole span gives a steadier slope than the last two points
            slope = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
            return seconds[-1] + max(slope, 0.0) * (size - sizes[-1])
        share = (size - sizes[right - 1]) / (sizes[right] - sizes[right - 1])
        return seconds[right - 1] + share * (seconds[right] - seconds[right - 1])


class _Line:
    """A straight line through decaying observations, nowhere below 0."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def is_known(self) -> bool:
        return self._weight > 0

    def observe(self, x: int, y: float) -> None:
        if not 0 <= y < inf:
            return
        keep = 1 - _SMOOTHING
        self._weight = self._weight * keep + 1
        self._x = self._x * keep + x
        self._y = self._y * keep + y
        self._xx = self._xx * keep + x * x
        self._xy = self._xy * keep + x * y

    def at(self, x: int) -> float:
        assert self._weight, "no time was seen yet"
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x**2
        if variance < _MIN_SPREAD:  # one length does not determine the fixed part
            return mean_y / mean_x * x
        slope = max((self._xy / self._weight - mean_x * mean_y) / variance, 0.0)
        fixed = mean_y - slope * mean_x
        return fixed + slope * x if fixed >= 0 else mean_y / mean_x * x
