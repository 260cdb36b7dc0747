"""What a decoding mode decides: which drafts a round requests, what it verifies, what it keeps.

The state machine (`parallel/rounds/machine.py`) runs every mode and asks its policy at the points
where modes differ. A policy has no state of its own: all it knows is in its arguments.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from parallel.decoding.round_state import Command, RequestDraft, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict

Transition = tuple[State, tuple[Command, ...]]
"""A new state and the commands to carry out, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedDrafts:
    """Drafts that a verdict left valid, for the next round to verify."""

    in_flight: DraftTree
    """Draft tokens after the newly committed ones."""
    num_pending: int = 0
    """Draft tokens after those that the drafter has still to send."""
    is_final: bool = False
    """Whether what has not arrived is void: the next round does not wait for it."""


class ModePolicy(Protocol):
    """One way to arrange drafting and verification."""

    drafts: bool
    """Whether its rounds request drafts at all."""
    overlaps: bool
    """Whether the drafter works while the target's forward runs."""
    streams: bool
    """Whether the drafter sends a draft's first token ahead of the rest."""
    takes_trees: bool
    """Whether a draft may be a tree."""
    learns_by_position: bool
    """Whether a draft's length is chosen from the acceptance at each of its positions."""
    prepares_outcomes: bool
    """Whether drafts after other outcomes than PEARL's are prepared, and used as far as they have
    arrived when the verdict is there."""
    choices: tuple[DecodeMode, ...]
    """The modes that the leader chooses among; empty for a mode that is run as it is."""

    def begin(self, state: State, request: RequestDraft) -> Transition:
        """Start a round that requests a draft, and decide when the target's forward starts."""
        ...

    def settle(self, state: State, draft: DraftTree) -> Transition:
        """Fix what this round verifies, now that its draft, or enough of it, is known."""
        ...

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:
        """Return the drafts that stay valid after a verdict; None voids all proposed so far.

        This is a look-up by outcome, (number accepted, next token): PEARL prepares the drafts of
        one outcome, "all accepted, then the block's first token", and returns None for all others.
        """
        ...

    def num_outcomes(self, draft_length: int) -> int:
        """Return how many outcomes to prepare drafts for; 0 is the draft that is asked for alone.

        Args:
            draft_length: tokens asked for.
        """
        ...

    def num_claimed(self, state: State) -> int:
        """Return how many of the remaining output tokens a new draft cannot supply."""
        ...

    def expected_tokens(self, alpha: float, draft_length: int) -> float:
        """Return the tokens that a round commits in the long run; `draft_length` is at least 1."""
        ...

    def round_seconds(
        self,
        alpha: float,
        draft_length: int,
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],
    ) -> float:
        """Return the seconds that a round takes in the long run, as `cost.round_seconds`."""
        ...
