"""When a job ends before its last step."""

from dataclasses import dataclass
from typing import Annotated

from runtime.checking.tables import Range, Unset
from runtime.training.job.ranges import NotNegativeNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopConfig:
    """Ends a job whose evaluations get no better."""

    patience: Annotated[int | None, Range(least=1), Unset("off")] = None
    """Evaluations in a row without a gain after which the job ends."""
    min_gain: NotNegativeNumber = 0.0
    """By how much an evaluation must be better to count as a gain."""
