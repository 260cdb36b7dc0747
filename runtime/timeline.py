"""Records when target and drafter work, for charts; off by default.

Times are of the host's monotonic clock, so the spans of all processes of a host can be compared.
"""

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class SpanKind(StrEnum):
    """The activity of a span."""

    VERIFY = "verify"
    """The target's forward."""
    WAIT = "wait"
    """The target waited for a draft."""
    DRAFT = "draft"
    """The drafter worked on a proposal."""
    HIT = "hit"
    """Verdicts that found a draft that was made for them while the target verified."""
    MISS = "miss"
    """Verdicts that found none, in modes that draft ahead."""


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """A period of work or waiting."""

    phase: SpanKind
    start_s: float
    end_s: float
    size: int
    """Positions scored, draft steps run, or verdicts."""


class Recorder(Protocol):
    """Receives spans, from the working thread."""

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Record a span."""
        ...


class NoRecorder:
    """Records nothing."""

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Do nothing."""


class SpanRecorder:
    """Records the most recent spans."""

    def __init__(self, most: int) -> None:
        self._spans: deque[PhaseSpan] = deque(maxlen=most)

    def record(self, phase: SpanKind, start_s: float, end_s: float, size: int) -> None:
        """Record a span; the oldest one is dropped when it is full."""
        self._spans.append(PhaseSpan(phase, start_s, end_s, size))

    def take(self) -> tuple[PhaseSpan, ...]:
        """Return the recorded spans and clear them; any thread may call it."""
        taken = []
        while self._spans:
            taken.append(self._spans.popleft())
        return tuple(taken)
