"""Plain decoding: one token for each target forward, no drafts."""

from collections.abc import Callable

from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.transitions import score_then_verify, verify_in_flight
from parallel.decoding.round_state import RequestDraft, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict


class AutoregressiveMode:
    """Requests no drafts."""

    drafts = False
    overlaps = False
    streams = False
    takes_trees = False
    learns_by_position = False
    prepares_outcomes = False
    choices: tuple[DecodeMode, ...] = ()

    def begin(self, state: State, request: RequestDraft) -> Transition:  # noqa: ARG002
        """Score the last token; no draft is requested."""
        return verify_in_flight(state)

    def settle(self, state: State, draft: DraftTree) -> Transition:
        """Verify what is there."""
        return score_then_verify(state, draft)

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:  # noqa: ARG002
        """Keep nothing."""
        return None

    def num_outcomes(self, draft_length: int) -> int:  # noqa: ARG002
        """Return 0: no other outcomes."""
        return 0

    def num_claimed(self, state: State) -> int:  # noqa: ARG002
        """Return 1: the target's own token."""
        return 1

    def expected_tokens(self, alpha: float, draft_length: int) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0

    def round_seconds(
        self,
        alpha: float,  # noqa: ARG002
        draft_length: int,  # noqa: ARG002
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],  # noqa: ARG002
    ) -> float:
        """Return the seconds of a forward over one position."""
        return target_s(1)
