"""An outcome cache: while the target verifies, drafts are made for many verdicts that it may give.

"Speculative speculative decoding" (arXiv 2603.03251): the next draft is ready where the verdict was
among those that were prepared for. A verdict is the number of accepted drafts and the token that
follows. The drafter sends its drafts token by token, and the leader uses what has arrived when the
verdict is there, so it never waits for a draft's last tokens. Where the verdict was not foreseen,
the next round tests nothing, as PEARL's does after every rejection.
"""

from collections.abc import Callable
from dataclasses import replace

from parallel.decoding.modes.geometric import geometric_sum
from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.pearl import PearlMode
from parallel.decoding.modes.transitions import score_and_await
from parallel.decoding.round_state import RequestDraft, State
from parallel.decoding.types import Verdict

GUESSES = 2
"""Outcomes that are prepared, in the mean over the places at which a draft can be rejected."""
_FEWEST = 12
"""Outcomes of a short draft."""
USUAL_CATCH = 0.65
"""How often the next guess of a recovered token is right where the ones before were wrong, of a
drafter that ranks by the target's own noise; synthetic distributions, temperature 1."""


class OutcomesMode(PearlMode):
    """PEARL with more than one outcome, of which none is waited for."""

    prepares_outcomes = True

    def begin(self, state: State, request: RequestDraft) -> Transition:
        """Score what is in flight at once."""
        state, commands = score_and_await(state)
        return state, (request, *commands)

    def carry_over(self, state: State, verdict: Verdict) -> CarriedDrafts | None:
        """Keep what has arrived of the draft after the outcome that came true."""
        carried = super().carry_over(state, verdict)
        return None if carried is None else replace(carried, num_pending=0, is_final=True)

    def num_outcomes(self, draft_length: int) -> int:
        """Return how many outcomes to prepare drafts for, PEARL's own among them."""
        return max(_FEWEST, GUESSES * draft_length)

    def expected_tokens(self, alpha: float, draft_length: int) -> float:
        """Return the mean over rounds that test a draft and rounds that test none."""
        guesses = self.num_outcomes(draft_length) / draft_length
        return outcome_tokens(alpha, draft_length, catch=USUAL_CATCH, guesses=guesses)

    def round_seconds(
        self,
        alpha: float,
        draft_length: int,
        target_s: Callable[[int], float],
        draft_s: Callable[[int], float],
    ) -> float:
        """Return the longer of forward and drafting, as if no draft were cut at the verdict."""
        guesses = self.num_outcomes(draft_length) / draft_length
        share = drafted_share(alpha, draft_length, catch=USUAL_CATCH, guesses=guesses)
        drafting_s = draft_s(draft_length)
        plain_s, tested_s = max(drafting_s, target_s(1)), max(drafting_s, target_s(draft_length))
        return (1 - share) * plain_s + share * tested_s


def outcome_tokens(alpha: float, draft_length: int, *, catch: float, guesses: float) -> float:
    """Return the tokens that a round commits in the long run.

    Args:
        alpha: probability that a draft token is right.
        draft_length: tokens drafted after a place, the one that names the outcome included.
        catch: how often the next guess of a token is right where those before were wrong.
        guesses: outcomes prepared for each number of accepted tokens, in the mean.
    """
    share = drafted_share(alpha, draft_length, catch=catch, guesses=guesses)
    return (1 - share) + share * geometric_sum(alpha, draft_length)


def drafted_share(alpha: float, draft_length: int, *, catch: float, guesses: float) -> float:
    """Return the share of rounds that test a draft, in the long run; arguments as above.

    A chain of two states. After a draft of k = `draft_length` - 1 tokens was tested, the outcome is
    found with probability (1 - alpha^k) (1 - missed^guesses) + alpha^k (1 - (1 - alpha)
    missed^(guesses - 1)), missed = 1 - catch: the token after a whole draft is first of all the
    drafter's own. After a round that tested none, only that token counts.
    """
    if draft_length <= 1 or alpha == 0:
        return 0.0
    missed = 1 - catch
    bonus_hit: float = 1 - (1 - alpha) * missed ** (guesses - 1)
    whole = alpha ** (draft_length - 1)
    hit = (1 - whole) * (1 - missed**guesses) + whole * bonus_hit
    share: float = bonus_hit / (bonus_hit + 1 - hit)
    return share
