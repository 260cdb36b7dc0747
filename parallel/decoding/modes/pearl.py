"""PEARL (arXiv 2408.11850, Algorithm 2): draft a block while the target scores the one before it.

Its two strategies are what the drafts in flight make of one rule. Pre-verify: nothing is in flight,
and the forward over the last committed token tests the first token of the block being drafted.
Post-verify: a block is in flight, and its forward tests it and the first token of the next one.
"""

from collections.abc import Callable
from dataclasses import replace

from parallel.decoding.modes.geometric import geometric_sum
from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.transitions import score_and_await, verify
from parallel.decoding.round_state import AwaitDraft, Phase, RequestDraft, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict


class PearlMode:
    """Drafts the block after the one that the target scores, while it does so."""

    drafts = True
    overlaps = True
    streams = True
    takes_trees = False
    learns_by_position = False
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
        state = replace(state, next_block=draft)
        return verify(state, tested, num_rows=len(state.in_flight) + 1)

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:
        """Keep the new block where all was accepted, its first token included."""
        if verdict.next_token is not None:
            return None
        return CarriedDrafts(
            in_flight=state.next_block.without_first(1), num_pending=state.num_pending
        )

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


def post_verify_share(alpha: float, draft_length: int) -> float:
    """Return the share of PEARL's rounds that are post-verify, in the long run.

    Pre-verify leads to post-verify with probability alpha, and post-verify back with probability
    1 - alpha^draft_length.
    """
    if draft_length <= 1 or alpha == 0:
        return 0.0  # a block of one is its own first token: nothing ever stays in flight
    return alpha / (alpha + 1 - alpha**draft_length)
