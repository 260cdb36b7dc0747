"""Hits and misses of drafts made ahead: each round of a mode that makes them counts as one."""

import pytest

from parallel.decoding.ahead_counts import AheadCounts
from parallel.decoding.round_state import (
    BeginRound,
    Commit,
    DraftAhead,
    DraftArrived,
    DraftMissed,
    State,
    Verified,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.rounds.machine import start, step

CHAIN = DraftTree.chain((5, 6))
OTHERS = (
    OutcomeDraft(outcome=VerdictOutcome(0, 8), token_ids=(9,)),
    OutcomeDraft(outcome=VerdictOutcome(0, 3)),
)


def committed(state: State, verdict: Verdict) -> Commit:
    _, commands = step(state, Verified(verdict=verdict))
    commit = commands[-1]
    assert isinstance(commit, Commit)
    return commit


def begun(mode: DecodeMode, length: int) -> State:
    state = start(request=0, mode=mode, num_committed=1, last_token=0)
    return step(state, BeginRound(draft_length=length))[0]


def with_drafts(mode: DecodeMode) -> State:
    """Return a round in which nothing is in flight, with a block and, in `outcomes`, two others."""
    outcomes = OTHERS if mode is DecodeMode.OUTCOMES else ()
    arrived = DraftArrived(epoch=0, base=1, draft=CHAIN, outcomes=outcomes)
    return step(begun(mode, 2), arrived)[0]


@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.OUTCOMES])
def test_a_verdict_that_the_block_foresaw_is_a_hit(mode: DecodeMode) -> None:
    commit = committed(with_drafts(mode), Verdict(num_accepted=1, next_token=None))
    assert (commit.ahead, commit.rejected) == (DraftAhead.HIT, False)
    assert commit.num_guesses == (3 if mode is DecodeMode.OUTCOMES else 1)
    assert commit.num_ahead == (5 if mode is DecodeMode.OUTCOMES else 2)


@pytest.mark.parametrize(
    ("recovered", "ahead"),
    [(8, DraftAhead.HIT), (3, DraftAhead.LATE), (7, DraftAhead.UNFORESEEN)],
)
def test_a_rejection_is_a_hit_a_late_draft_or_not_foreseen(
    recovered: int, ahead: DraftAhead
) -> None:
    verdict = Verdict(num_accepted=0, next_token=recovered)
    commit = committed(with_drafts(DecodeMode.OUTCOMES), verdict)
    assert (commit.ahead, commit.rejected) == (ahead, True)
    pearl = committed(with_drafts(DecodeMode.PEARL), verdict)
    assert pearl.ahead is DraftAhead.UNFORESEEN


def test_a_round_whose_draft_does_not_come_is_late_and_one_that_asks_for_none_is_unasked() -> None:
    verdict = Verdict(num_accepted=0, next_token=4)
    missed, _ = step(begun(DecodeMode.PEARL, 2), DraftMissed())
    assert committed(missed, verdict).ahead is DraftAhead.LATE
    assert committed(begun(DecodeMode.PEARL, 0), verdict).ahead is DraftAhead.UNASKED


def test_modes_that_draft_nothing_ahead_count_nothing() -> None:
    state = begun(DecodeMode.SPECULATIVE, 2)
    state, _ = step(state, DraftArrived(epoch=0, base=1, draft=CHAIN))
    commit = committed(state, Verdict(num_accepted=2, next_token=4))
    assert commit.ahead is None
    assert AheadCounts().counting(commit) == AheadCounts()


def test_counts_are_sums_of_rounds() -> None:
    counts = AheadCounts()
    for recovered in (8, 8, 3, 7):
        verdict = Verdict(num_accepted=0, next_token=recovered)
        counts = counts.counting(committed(with_drafts(DecodeMode.OUTCOMES), verdict))
    verdict = Verdict(num_accepted=1, next_token=None)
    counts = counts.counting(committed(with_drafts(DecodeMode.OUTCOMES), verdict))
    counts = counts.counting(
        committed(begun(DecodeMode.PEARL, 0), Verdict(num_accepted=0, next_token=4))
    )
    assert counts == AheadCounts(
        hits=3,
        recovered_hits=2,
        misses_unforeseen=1,
        misses_late=1,
        misses_unasked=1,
        guesses=15,
        drafted_ahead=25,
    )
