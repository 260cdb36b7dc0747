"""The nouns of generation in virtual time: settings, requests and results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from parallel.decoding.types import DecodeMode
from parallel.simulation.network import Line
from parallel.simulation.virtual_acceptance import Chance


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDeployment:
    """What runs, and what its parts take."""

    mode: DecodeMode
    chance: Chance
    target_s: Callable[[int], float]
    """Seconds of a target forward that scores so many positions, all sequences together."""
    step_s: Callable[[int], float]
    """Seconds of a draft step with so many layers at a time."""
    branch_s: float = 0.0
    """What each further branch adds to a draft step, where several outcomes are drafted for."""
    num_drafters: int = 1
    """Drafters of the deployment; where there are more than requests, they share outcomes."""
    draft_length: int | None = None
    """Draft tokens asked for each round; None leaves it to the controller."""
    predicted_step_s: tuple[float, ...] = ()
    """The drafter's predictions for widths 1, 2, ...; empty: it has no choice."""
    width: int | None = None
    """Layers at a time that are fixed; None leaves it to the measured pace."""
    link: Line = field(default_factory=Line)
    """Between leader and drafter."""
    host_s: float = 0.0
    """What the leader itself takes for a round."""
    prompt_s: float = 0.0
    """What a prompt token adds to the forward that reads it."""
    max_batch: int = 1
    max_draft_length: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRequest:
    """A request and its arrival."""

    stream: int = 0
    """Names its tokens: the first token of its prompt, for virtual devices."""
    num_prompt: int = 1
    max_tokens: int
    arrives_s: float = 0.0


class Busy(StrEnum):
    """Which of the two works in a span, or what a verdict found at its moment."""

    TARGET = "target"
    DRAFTER = "drafter"
    HIT = "hit"
    """A draft that was made for it."""
    MISS = "miss"
    """None, in a mode that drafts ahead."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of virtual time in which the target or the drafter works, or a moment."""

    peer: Busy
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedDecoding:
    """The result of a simulated run."""

    num_rounds: int
    """Target forwards."""
    num_tokens: int
    elapsed_s: float
    """Virtual seconds."""
    drafted: int
    accepted: int
    rejected: int
    draft_s: float
    """Drafting time of the rounds."""
    waited_s: float
    """The part of it during which the target waited."""
    ttft_s: tuple[float, ...]
    """Seconds from each request's arrival to its first token."""
    total_s: tuple[float, ...]
    """Seconds from each request's arrival to its last token."""
    spans: tuple[Span, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        """Committed tokens per virtual second."""
        return self.num_tokens / self.elapsed_s

    @property
    def overlap(self) -> float:
        """Share of the drafting time in which the target was not waiting for it."""
        return max(0.0, 1 - self.waited_s / self.draft_s) if self.draft_s else 0.0
