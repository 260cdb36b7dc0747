"""What a run's numbers say so far: its best evaluation, whether it still gains, or diverges.

All of it is a function of the lines of its metrics, so a resumed run comes to the same conclusions.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SIGNS = {"eval_loss": -1.0, "accuracy": 1.0, "reward": 1.0}
"""What an evaluation is judged by: the first of these that it has; with 1.0, higher is better."""
_FIRST = 5
"""Losses whose mean is the start."""
LONG = 20
"""Steps that a loss is far above its start before the run counts as diverging."""
_FACTOR, _ADDED = 2.0, 0.5
"""A loss is far above its start beyond start * _FACTOR + _ADDED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an evaluation is judged by."""

    step: int
    name: str
    value: float

    def gain_over(self, other: "Measured") -> float:
        """Return by how much this is better."""
        return _SIGNS[self.name] * (self.value - other.value)


class RunHistory:
    """The losses and evaluations of a run."""

    def __init__(self, lines: Iterable[Mapping[str, float | None]] = ()) -> None:
        """Start with the metrics of the steps that were made."""
        self.measured: list[Measured] = []
        """The evaluations, in order."""
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=LONG)
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, float | None]) -> None:
        """Add the metrics of a step; a loss that is not finite does not count."""
        loss, step = line.get("loss"), line["step"]
        assert step is not None
        if loss is not None and math.isfinite(loss):
            if len(self._first) < _FIRST:
                self._first.append(loss)
            self._last.append(loss)
        for name in _SIGNS:
            if (value := line.get(name)) is not None:
                self.measured.append(Measured(step=int(step), name=name, value=value))
                break

    @property
    def best(self) -> Measured | None:
        """The best evaluation, the first of equal ones."""
        best: Measured | None = None
        for one in self.measured:
            if best is None or one.gain_over(best) > 0:
                best = one
        return best

    def last_gain(self, min_gain: float) -> Measured | None:
        """Return the last evaluation that was better than the one before it by `min_gain`.

        "Before it" is the last such evaluation, so slow gains add up.
        """
        found: Measured | None = None
        for one in self.measured:
            if found is None or one.gain_over(found) > min_gain:
                found = one
        return found

    def evaluations_since(self, found: Measured) -> int:
        """Return how many evaluations there are after one."""
        return sum(one.step > found.step for one in self.measured)

    def has_stalled(self, patience: int | None, min_gain: float) -> bool:
        """Return whether so many evaluations in a row had no gain; None is no limit."""
        found = self.last_gain(min_gain)
        if patience is None or found is None:
            return False
        return self.evaluations_since(found) >= patience

    @property
    def start(self) -> float:
        """The loss at the start: the mean of the first steps."""
        return sum(self._first) / max(len(self._first), 1)

    @property
    def is_diverging(self) -> bool:
        """Whether the losses of the last steps are all far above the start."""
        limit = self.start * _FACTOR + _ADDED
        return len(self._last) == LONG and min(self._last) > limit
