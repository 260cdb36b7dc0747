"""When target and drafter worked, for a picture: kept only where somebody wants one.

Times are of the host's monotonic clock, so spans of several processes of one host fit together.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SpanKind(StrEnum):
    """What somebody did."""

    VERIFY = "verify"
    """The target's forward."""
    WAIT = "wait"
    """The target stood still until a draft came."""
    DRAFT = "draft"
    """The drafter worked on an answer."""


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One stretch of work or waiting."""

    phase: SpanKind
    start_s: float
    end_s: float
    size: int
    """Positions scored, or draft steps made."""


class Recorder(Protocol):
    """Takes in spans; called from the thread that works."""

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Keep a span, or not."""
        ...


class NoRecorder:
    """Keeps nothing."""

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Do nothing."""


class SpanRecorder:
    """Keeps the last spans."""

    def __init__(self, most: int) -> None:
        self._spans: deque[PhaseSpan] = deque(maxlen=most)

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Keep a span; the oldest makes room."""
        self._spans.append(PhaseSpan(phase, start_s, end_s, size))

    def take(self) -> tuple[PhaseSpan, ...]:
        """Return what was kept, and forget it; from any thread."""
        taken = []
        while self._spans:
            taken.append(self._spans.popleft())
        return tuple(taken)
