"""What the round loop knows of its surroundings: sequences, their work in a round, and its edges.

The engine has them on links and devices, the simulator in virtual time.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from parallel.decoding.round_state import (
    Commit,
    Event,
    Phase,
    RequestDraft,
    Score,
    State,
    Verify,
)
from parallel.decoding.types import DecodeMode, Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.rounds.machine import step


class RoundSequence(Protocol):
    """What the loop must know of a sequence."""

    number: int
    """Its name, unique among the sequences in flight."""
    state: State
    next_mode: DecodeMode
    """The mode it changes to once no draft is in flight."""

    @property
    def asked_mode(self) -> DecodeMode:
        """The mode that its request asked for."""
        ...

    @property
    def draft_length(self) -> int | None:
        """The draft length that its request asked for; None leaves it to the controller."""
        ...

    @property
    def num_remaining(self) -> int:
        """Tokens that it may still generate."""
        ...


SequenceT = TypeVar("SequenceT", bound=RoundSequence)


@dataclass(slots=True, kw_only=True)
class RoundWork(Generic[SequenceT]):
    """What one sequence does in the current round, filled in as its state machine commands it."""

    sequence: SequenceT
    request: RequestDraft | None = None
    score: Score | None = None
    verify: Verify | None = None
    commit: Commit | None = None
    num_outcomes: int = 0
    """Outcomes of the verdict that a drafter drafts for, in modes that prepare some."""

    @property
    def phase(self) -> Phase:
        """What the sequence's state machine waits for."""
        return self.sequence.state.phase

    def apply(self, event: Event) -> None:
        """Pass an event to the sequence's state machine and record the commands it returns."""
        self.sequence.state, commands = step(self.sequence.state, event)
        for command in commands:
            match command:
                case RequestDraft():
                    self.request = command
                case Score():
                    self.score = command
                case Verify():
                    self.verify = command
                case Commit():
                    self.commit = command
                case _:
                    pass  # to await a draft: the phase says so


WorkT = TypeVar("WorkT", bound=RoundWork[Any])


@dataclass(frozen=True, slots=True)
class Forward:
    """A target forward."""

    num_positions: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LookedUp:
    """A chain that a look-up proposes."""

    token_ids: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()
    """How likely each token is kept, falling."""


class RoundEdges(Protocol[WorkT]):
    """Carries out a round's steps: on links and devices, or in virtual time."""

    @property
    def wait_budget_s(self) -> float:
        """The longest wait for drafts."""
        ...

    def now_s(self) -> float:
        """Return the time."""
        ...

    def begin(self, works: Items[WorkT]) -> None:
        """Prepare a round."""
        ...

    def draft_limit(self, work: WorkT) -> int | None:
        """Return how many tokens can be drafted for a sequence now; None is any number."""
        ...

    def drafts_trees(self, work: WorkT) -> bool:
        """Return whether a sequence's drafts are trees."""
        ...

    def num_forced(self, work: WorkT) -> int:
        """Return how many tokens must follow: a drafter adds them without a step of its own."""
        ...

    def request_drafts(self, works: Items[WorkT]) -> None:
        """Send drafters the requests of the works that have one."""
        ...

    def take_answer(
        self, pending: Items[WorkT], works: Mapping[int, WorkT], deadline_s: float
    ) -> Items[WorkT]:
        """Take the next answer that the first pending work waits for, and apply it.

        Args:
            pending: works that wait for a draft, at least one.
            works: all works of the round by their sequence's number; an answer may hold drafts for
                any of them.
            deadline_s: when to give up.

        Returns:
            The works that continue without their draft.
        """
        ...

    def take_arrived(self, works: Mapping[int, WorkT]) -> None:
        """Apply the answers that have arrived, without waiting for others."""
        ...

    def take_due(
        self,
        works: Mapping[int, WorkT],
        growing: Mapping[int, VerdictOutcome],
        patience_s: float,
    ) -> bool:
        """Apply the next part of an answer if it is due within so many seconds.

        Args:
            works: as in `take_answer`.
            growing: by sequence, the outcome that came true and whose draft may get longer.
            patience_s: seconds to wait at most.

        Returns:
            Whether one came that may hold more of these drafts.
        """
        ...

    def look_up(self, work: WorkT, num_draft: int) -> LookedUp:
        """Return a chain of at most so many tokens after what a work has committed, or none.

        It must be there at once, without a message to a drafter.
        """
        ...

    def score(self, works: Items[WorkT]) -> Forward:
        """Run the target over what each work has to score."""
        ...

    def verdicts(self, works: Items[WorkT]) -> Items[tuple[WorkT, Verdict]]:
        """Return the verifier's verdict on each work that can be decided."""
        ...

    def report(self, work: WorkT, verdict: Verdict) -> None:
        """Note what else a request wants to know of the tokens that a verdict committed."""
        ...
