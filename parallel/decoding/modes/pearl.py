"""PEARL (arXiv 2408.11850, Algorithm 2): draft a block while the target scores the one before it.

Its two strategies are what the drafts in flight make of one rule. Pre-verify: nothing is in flight,
and the forward over the last committed token tests the first token of the block being drafted.
Post-verify: a block is in flight, and its forward tests it and the first token of the next one.
The block is the draft that is prepared for one outcome: all in flight is kept, and its own first
token follows.
"""

from collections.abc import Callable
from dataclasses import replace

from parallel.decoding.modes.geometric import geometric_sum
from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.transitions import score_and_await, verify
from parallel.decoding.round_state import AwaitDraft, Phase, RequestDraft, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome


class PearlMode:
    """Drafts the block after the one that the target scores, while it does so."""

    drafts = True
    overlaps = True
    streams = True
    takes_trees = False
    learns_by_position = False
    prepares_outcomes = False
    choices: tuple[DecodeMode, ...] = ()

    def begin(self, state: State, request: RequestDraft) -> Transition:
        """Score at once, or first await the rest of the block in flight."""
        if state.num_pending:
            return replace(state, phase=Phase.COMPLETING), (request, AwaitDraft())
        state, commands = score_and_await(state)
        return state, (request, *commands)

    def settle(self, state: State, draft: DraftTree) -> Transition:
        """Verify the block in flight and the first token of the new one."""
        tested = state.in_flight.followed_by(draft.first(1))
        state, commands = verify(state, tested, num_rows=len(state.in_flight) + 1)
        own = state.own_outcome
        if own is not None:
            prepared = {**state.prepared, own: draft.without_first(1)}
            state = replace(state, prepared=prepared)
        return state, commands

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:
        """Keep the draft prepared for the outcome that came true; PEARL prepares its block alone.

        The rest of the block is still to come where it is the block that is kept.
        """
        outcome = outcome_of(state, verdict)
        kept = state.prepared.get(outcome)
        if kept is None:
            return None
        is_own = outcome == state.own_outcome
        return CarriedDrafts(in_flight=kept, num_pending=state.num_pending if is_own else 0)

    def num_outcomes(self, draft_length: int) -> int:  # noqa: ARG002
        """Return 0: no other outcomes."""
        return 0

    def num_claimed(self, state: State) -> int:
        """Return the drafts in flight: the new block follows them."""
        return len(state.in_flight) + state.num_pending

    def expected_tokens(self, alpha: float, draft_length: int) -> float:
        """Return the mean over its strategies (section 4).

        A pre-verify round yields one token, a post-verify round
        1 + alpha + ... + alpha^(draft_length - 1).
        """
        share_post = post_verify_share(alpha, draft_length)
        return (1 - share_post) + share_post * geometric_sum(alpha, draft_length)

    def round_seconds(
        self,
        alpha: float,
        draft_length: int,
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],
    ) -> float:
        """Return the longer of draft and forward, in the mean over its strategies."""
        drafting_s = draft_s(draft_length)
        share_post = post_verify_share(alpha, draft_length)
        pre_s, post_s = max(drafting_s, target_s(1)), max(drafting_s, target_s(draft_length))
        return (1 - share_post) * pre_s + share_post * post_s


def outcome_of(state: State, verdict: Verdict) -> VerdictOutcome:
    """Return what a verdict decided about the drafts in flight.

    Where the new block's first token was tested along and accepted, it is the token that follows.
    """
    if verdict.next_token is None:
        return VerdictOutcome(len(state.in_flight), state.tested.token_ids[-1])
    return VerdictOutcome(verdict.num_accepted, verdict.next_token)


def post_verify_share(alpha: float, draft_length: int) -> float:
    """Return the share of PEARL's rounds that are post-verify, in the long run.

    Pre-verify leads to post-verify with probability alpha, and post-verify back with probability
    1 - alpha^draft_length.
    """
    if draft_length <= 1 or alpha == 0:
        return 0.0  # a block of one is its own first token: nothing ever stays in flight
    return alpha / (alpha + 1 - alpha**draft_length)
