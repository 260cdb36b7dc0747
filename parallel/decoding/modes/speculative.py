"""Draft-then-verify (Leviathan et al., arXiv 2211.17192): the forward waits for the draft."""

from collections.abc import Callable
from dataclasses import replace

from parallel.decoding.modes.geometric import geometric_sum
from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.transitions import score_then_verify
from parallel.decoding.round_state import AwaitDraft, Phase, RequestDraft, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict


class SpeculativeMode:
    """Waits for a chain or a tree of draft tokens, then scores and verifies all of it."""

    drafts = True
    overlaps = False
    streams = False
    takes_trees = True
    learns_by_position = True
    prepares_outcomes = False
    choices: tuple[DecodeMode, ...] = ()

    def begin(self, state: State, request: RequestDraft) -> Transition:
        """Wait for the draft before anything is scored."""
        return replace(state, phase=Phase.WAITING_DRAFT), (request, AwaitDraft())

    def settle(self, state: State, draft: DraftTree) -> Transition:
        """Verify the whole draft."""
        return score_then_verify(state, draft)

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:  # noqa: ARG002
        """Keep nothing: each round drafts after the token that the last one emitted."""
        return None

    def num_outcomes(self, draft_length: int) -> int:  # noqa: ARG002
        """Return 0: no other outcomes."""
        return 0

    def num_claimed(self, state: State) -> int:  # noqa: ARG002
        """Return 1: the recovered or bonus token."""
        return 1

    def expected_tokens(self, alpha: float, draft_length: int) -> float:
        """Return 1 + alpha + ... + alpha^draft_length (section 3.1)."""
        return geometric_sum(alpha, draft_length + 1)

    def round_seconds(
        self,
        alpha: float,  # noqa: ARG002
        draft_length: int,
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],
    ) -> float:
        """Return the seconds of the draft and then of the forward."""
        return draft_s(draft_length) + target_s(draft_length + 1)
