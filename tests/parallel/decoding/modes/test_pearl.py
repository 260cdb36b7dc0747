"""PEARL's policy: what it verifies, and what a verdict leaves in flight."""

from dataclasses import replace

import pytest

from parallel.decoding.modes.pearl import PearlMode, post_verify_share
from parallel.decoding.round_state import AwaitDraft, Phase, RequestDraft, Score, State
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import VerdictOutcome
from parallel.rounds.machine import start

PEARL = PearlMode()
REQUEST = RequestDraft(epoch=0, base=10, draft_length=3)


def state(*in_flight: int, num_pending: int = 0) -> State:
    fresh = start(request=1, mode=DecodeMode.PEARL, num_committed=10, last_token=9)
    return replace(fresh, in_flight=DraftTree.chain(in_flight), num_pending=num_pending)


def test_it_scores_while_the_drafter_works() -> None:
    after, commands = PEARL.begin(state(10, 11), REQUEST)
    assert after.phase is Phase.SCORING
    assert commands == (
        REQUEST,
        Score(start=9, token_ids=(9, 10, 11), num_logits=3),
        AwaitDraft(),
    )


def test_it_awaits_the_rest_of_a_block_before_it_scores_it() -> None:
    after, commands = PEARL.begin(state(10, num_pending=2), REQUEST)
    assert after.phase is Phase.COMPLETING
    assert commands == (REQUEST, AwaitDraft())


def test_it_verifies_the_block_in_flight_and_the_first_token_of_the_next() -> None:
    after, _ = PEARL.settle(state(10, 11), DraftTree.chain((12, 13, 14)))
    assert after.tested.token_ids == (10, 11, 12)
    assert after.num_rows == 3  # nothing is emitted after the last one
    assert after.prepared == {VerdictOutcome(2, 12): DraftTree.chain((13, 14))}


def test_without_a_draft_nothing_is_prepared() -> None:
    after, _ = PEARL.settle(state(10, 11), DraftTree())
    assert after.tested.token_ids == (10, 11)
    assert after.prepared == {}
    assert PEARL.carry_over(after, Verdict(num_accepted=2, next_token=12)) is None


def test_the_next_block_survives_the_one_outcome_that_it_was_drafted_for() -> None:
    settled, _ = PEARL.settle(state(10, 11), DraftTree.chain((12, 13, 14)))
    kept = PEARL.carry_over(settled, Verdict(num_accepted=3, next_token=None))
    assert kept is not None
    assert kept.in_flight.token_ids == (13, 14)
    for num_accepted in (0, 1, 2):
        verdict = Verdict(num_accepted=num_accepted, next_token=5)
        assert PEARL.carry_over(settled, verdict) is None


def test_drafts_in_flight_claim_their_tokens() -> None:
    assert PEARL.num_claimed(state()) == 0
    assert PEARL.num_claimed(state(10, 11, num_pending=1)) == 3


def test_the_share_of_post_verify_rounds_is_that_of_the_chain_of_two_strategies() -> None:
    assert post_verify_share(1.0, 4) == 1.0
    assert post_verify_share(0.5, 1) == post_verify_share(0.0, 4) == 0.0
    alpha, share = 0.8, post_verify_share(0.8, 4)
    assert share == pytest.approx((1 - share) * alpha + share * alpha**4)  # stationary
