"""The outcome cache: which drafts a verdict leaves, and what its rounds yield."""

from dataclasses import replace

import numpy as np
import pytest

from parallel.decoding.modes.outcomes import OutcomesMode, drafted_share, outcome_tokens
from parallel.decoding.modes.pearl import PearlMode
from parallel.decoding.round_state import AwaitDraft, Phase, RequestDraft, Score, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.rounds.machine import start

MODE = OutcomesMode()


def settled(*block: int, num_pending: int = 0) -> State:
    """Return a round that verifies 10 and 11, with drafts for three outcomes."""
    fresh = start(request=1, mode=DecodeMode.OUTCOMES, num_committed=10, last_token=9)
    flying = replace(fresh, in_flight=DraftTree.chain((10, 11)), num_pending=num_pending)
    state, _ = MODE.settle(flying, DraftTree.chain(block))
    others = {
        VerdictOutcome(0, 20): DraftTree.chain((21, 22)),
        VerdictOutcome(2, 30): DraftTree.chain((31,)),
    }
    return replace(state, prepared={**state.prepared, **others})


def test_it_scores_at_once() -> None:
    fresh = start(request=1, mode=DecodeMode.OUTCOMES, num_committed=10, last_token=9)
    request = RequestDraft(epoch=0, base=10, draft_length=3)
    after, commands = MODE.begin(fresh, request)
    assert after.phase is Phase.SCORING
    assert commands == (request, Score(start=9, token_ids=(9,), num_logits=1), AwaitDraft())


@pytest.mark.parametrize(
    ("num_accepted", "next_token", "kept"),
    [
        (0, 20, (21, 22)),
        (2, 30, (31,)),
        (3, None, (13, 14)),  # all, and the first token of the drafter's own block
        (0, 21, None),
        (1, 20, None),
    ],
)
def test_the_draft_after_the_outcome_that_came_true_is_kept(
    num_accepted: int, next_token: int | None, kept: tuple[int, ...] | None
) -> None:
    verdict = Verdict(num_accepted=num_accepted, next_token=next_token)
    found = MODE.carry_over(settled(12, 13, 14), verdict)
    assert (None if found is None else found.in_flight.token_ids) == kept
    assert found is None or found.is_final


def test_what_has_not_arrived_by_the_verdict_is_not_waited_for() -> None:
    state = settled(12, 13, num_pending=2)
    verdict = Verdict(num_accepted=3, next_token=None)
    for mode, num_pending in ((PearlMode(), 2), (MODE, 0)):
        found = mode.carry_over(state, verdict)
        assert found is not None
        assert found.num_pending == num_pending
        assert found.in_flight.token_ids == (13,)


def test_one_outcome_yields_what_pearl_yields_when_no_recovered_token_is_guessed() -> None:
    for alpha in (0.0, 0.3, 0.8, 1.0):
        for length in (1, 2, 5, 8):
            expected = PearlMode().expected_tokens(alpha, length)
            found = outcome_tokens(alpha, length, catch=0.0, guesses=1)
            assert found == pytest.approx(expected)


@pytest.mark.parametrize(("alpha", "length"), [(0.8, 5), (0.9, 10), (0.3, 4)])
@pytest.mark.parametrize(("catch", "guesses"), [(0.65, 1), (0.65, 2), (0.3, 4)])
def test_tokens_of_a_round_are_those_of_every_verdict_written_out(
    alpha: float, length: int, catch: float, guesses: int
) -> None:
    """Sum over where the first rejection is and which guess is right; iterate the two states."""
    tokens, found = np.zeros(2), np.zeros(2)
    for state, num_flying in enumerate((0, length - 1)):
        for num_accepted in range(num_flying + 1):
            reached = alpha**num_accepted
            ends = reached * (1 if num_accepted == num_flying else 1 - alpha)
            tokens[state] += ends * (num_accepted + 1)
            ranks, left = [], 1.0
            for _ in range(guesses):
                ranks.append(left * catch)
                left -= ranks[-1]
            if num_accepted == num_flying:
                own = [alpha, *((1 - alpha) * rank for rank in ranks)][:guesses]
                found[state] += reached * sum(own)
            else:
                found[state] += ends * sum(ranks)
    share = 0.5
    for _ in range(500):
        share = (1 - share) * found[0] + share * found[1]
    assert drafted_share(alpha, length, catch=catch, guesses=guesses) == pytest.approx(share)
    expected = (1 - share) * tokens[0] + share * tokens[1]
    assert outcome_tokens(alpha, length, catch=catch, guesses=guesses) == pytest.approx(expected)


def test_a_round_takes_the_longer_of_forward_and_drafting() -> None:
    def target_s(positions: int) -> float:
        return 5.0 if positions == 1 else 6.0

    share = drafted_share(0.8, 5, catch=0.65, guesses=12 / 5)
    assert MODE.round_seconds(0.8, 5, target_s, float) == pytest.approx(5 + share)
    assert MODE.round_seconds(0.8, 9, target_s, float) == pytest.approx(9.0)


def test_more_outcomes_are_prepared_for_longer_drafts() -> None:
    assert MODE.num_outcomes(2) <= MODE.num_outcomes(6) < MODE.num_outcomes(12)
    assert PearlMode().num_outcomes(6) == 0
