"""The state machine's commands, event by event."""

import pytest

from parallel.decoding.round_state import (
    AwaitDraft,
    BeginRound,
    Command,
    Commit,
    DraftArrived,
    DraftMissed,
    Event,
    Phase,
    RequestDraft,
    Score,
    Stage,
    State,
    Verified,
    Verify,
)
from parallel.decoding.types import DecodeMode, DraftTree, NodeKind, SparseProbs, Verdict
from parallel.rounds.machine import start, step

LAST = 9


def begin(mode: DecodeMode) -> State:
    return start(request=4, mode=mode, num_committed=10, last_token=LAST)


def take(state: State, *events: Event) -> tuple[State, tuple[Command, ...]]:
    """Take the events in and return the commands of the last one."""
    commands: tuple[Command, ...] = ()
    for event in events:
        state, commands = step(state, event)
    return state, commands


def chain(*token_ids: int) -> DraftTree:
    return DraftTree.chain(token_ids)


def arrive(state: State, *token_ids: int) -> DraftArrived:
    return DraftArrived(epoch=state.epoch, base=state.base, draft=chain(*token_ids))


def verified(num_accepted: int, next_token: int | None) -> Verified:
    return Verified(verdict=Verdict(num_accepted=num_accepted, next_token=next_token))


def pearl_in_flight() -> State:
    """Return a sequence with tokens 10, then 11 and 12 in flight."""
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=3))
    state, _ = take(state, arrive(state, 10, 11, 12), verified(1, None))
    return state


def test_pearl_asks_for_a_draft_and_scores_at_once() -> None:
    state, commands = take(begin(DecodeMode.PEARL), BeginRound(draft_length=3))
    assert commands == (
        RequestDraft(epoch=0, base=10, draft_length=3),
        Score(start=9, token_ids=(LAST,), num_logits=1),
        AwaitDraft(),
    )
    assert (state.phase, state.stage) == (Phase.SCORING, Stage.PRE_VERIFY)


def test_pre_verify_tests_the_first_draft_and_keeps_the_rest_in_flight() -> None:
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=3))
    state, commands = take(state, arrive(state, 10, 11, 12))
    assert commands == (Verify(draft=chain(10), num_rows=1),)
    state, commands = take(state, verified(1, None))
    assert commands == (Commit(token_ids=(10,), num_drafted=1, num_accepted=1, rejected=False),)
    assert (state.epoch, state.num_committed, state.last_token) == (0, 11, 10)
    assert (state.in_flight, state.stage) == (chain(11, 12), Stage.POST_VERIFY)


def test_pre_verify_rejection_recovers_one_token_and_voids_the_block() -> None:
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=3))
    state, commands = take(state, arrive(state, 10, 11, 12), verified(0, 77))
    assert commands == (Commit(token_ids=(77,), num_drafted=1, num_accepted=0, rejected=True),)
    assert (state.epoch, state.last_token, len(state.in_flight)) == (1, 77, 0)


def test_post_verify_scores_what_is_in_flight_while_the_next_block_is_drafted() -> None:
    state, commands = take(pearl_in_flight(), BeginRound(draft_length=3))
    assert commands == (
        RequestDraft(epoch=0, base=13, draft_length=3),
        Score(start=10, token_ids=(10, 11, 12), num_logits=3),
        AwaitDraft(),
    )
    state, commands = take(state, arrive(state, 13, 14, 15))
    assert commands == (Verify(draft=chain(11, 12, 13), num_rows=3),)
    state, commands = take(state, verified(3, None))
    assert commands == (
        Commit(token_ids=(11, 12, 13), num_drafted=3, num_accepted=3, rejected=False),
    )
    assert state.in_flight == chain(14, 15)
    assert (state.epoch, state.num_committed, state.last_token) == (0, 14, 13)


@pytest.mark.parametrize(("accepted", "drafted"), [(0, 2), (1, 2), (2, 3)])
def test_post_verify_rejection_drops_all_that_follows(accepted: int, drafted: int) -> None:
    state, _ = take(pearl_in_flight(), BeginRound(draft_length=3))
    state, commands = take(state, arrive(state, 13, 14, 15), verified(accepted, 77))
    assert commands == (
        Commit(
            token_ids=(*(11, 12)[:accepted], 77),
            num_drafted=drafted,  # the new block's first counts once it was reached
            num_accepted=accepted,
            rejected=True,
        ),
    )
    assert (state.epoch, state.num_committed) == (1, 12 + accepted)
    assert (state.stage, state.phase) == (Stage.PRE_VERIFY, Phase.IDLE)


def test_a_missed_draft_gives_a_bonus_token_in_its_place() -> None:
    state, _ = take(pearl_in_flight(), BeginRound(draft_length=3))
    state, commands = take(state, DraftMissed())
    assert commands == (Verify(draft=chain(11, 12), num_rows=3),)
    state, commands = take(state, verified(2, 55))
    assert commands == (
        Commit(token_ids=(11, 12, 55), num_drafted=2, num_accepted=2, rejected=False),
    )
    assert state.epoch == 1


@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.SPECULATIVE])
def test_an_empty_draft_is_like_a_missed_one(mode: DecodeMode) -> None:
    state, _ = take(begin(mode), BeginRound(draft_length=3))
    assert take(state, arrive(state)) == take(state, DraftMissed())


def test_a_single_draft_leaves_nothing_in_flight() -> None:
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=1))
    state, _ = take(state, arrive(state, 10), verified(1, None))
    assert (len(state.in_flight), state.epoch, state.base) == (0, 0, 11)


def test_a_round_without_drafter_verifies_what_is_in_flight() -> None:
    _, commands = take(pearl_in_flight(), BeginRound(draft_length=0))
    assert commands == (
        Score(start=10, token_ids=(10, 11, 12), num_logits=3),
        Verify(draft=chain(11, 12), num_rows=3),
    )


def test_draft_then_verify_waits_before_it_scores() -> None:
    state, commands = take(begin(DecodeMode.SPECULATIVE), BeginRound(draft_length=2))
    assert commands == (RequestDraft(epoch=0, base=10, draft_length=2), AwaitDraft())
    assert state.phase is Phase.WAITING_DRAFT
    state, commands = take(state, arrive(state, 10, 11))
    assert commands == (
        Score(start=9, token_ids=(LAST, 10, 11), num_logits=3),
        Verify(draft=chain(10, 11), num_rows=3),
    )
    state, commands = take(state, verified(2, 55))
    assert commands == (
        Commit(token_ids=(10, 11, 55), num_drafted=2, num_accepted=2, rejected=False),
    )
    assert (state.epoch, state.num_committed, len(state.in_flight)) == (1, 13, 0)


@pytest.mark.parametrize(
    ("mode", "length"), [(DecodeMode.AUTOREGRESSIVE, 5), *((mode, 0) for mode in DecodeMode)]
)
def test_plain_rounds_yield_one_token(mode: DecodeMode, length: int) -> None:
    state, commands = take(begin(mode), BeginRound(draft_length=length))
    assert commands == (
        Score(start=9, token_ids=(LAST,), num_logits=1),
        Verify(draft=DraftTree(), num_rows=1),
    )
    _, commands = take(state, verified(0, 3))
    assert commands == (Commit(token_ids=(3,), num_drafted=0, num_accepted=0, rejected=False),)


@pytest.mark.parametrize("mode", [DecodeMode.PEARL, DecodeMode.SPECULATIVE])
def test_stale_and_duplicate_drafts_change_nothing(mode: DecodeMode) -> None:
    state, _ = take(begin(mode), BeginRound(draft_length=2))
    right = arrive(state, 10, 11)
    for epoch, base in ((-1, 10), (1, 10), (0, 9), (0, 12)):
        stale = DraftArrived(epoch=epoch, base=base, draft=chain(10))
        assert step(state, stale) == (state, ())
    verifying, _ = step(state, right)
    assert step(verifying, right) == (verifying, ())
    idle, _ = step(verifying, verified(0, 3))
    assert step(idle, right) == (idle, ())


def test_a_draft_longer_than_asked_is_cut() -> None:
    state, _ = take(begin(DecodeMode.SPECULATIVE), BeginRound(draft_length=2))
    _, commands = take(state, arrive(state, 1, 2, 3, 4))
    assert commands[-1] == Verify(draft=chain(1, 2), num_rows=3)


def test_distributions_and_kinds_follow_their_tokens_through_the_flight() -> None:
    token_probs = tuple(SparseProbs(ids=(i,), probs=(1.0,)) for i in (10, 11, 12))
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=3))
    draft = DraftTree.chain((10, 11, 12), token_probs)
    state, _ = take(state, DraftArrived(epoch=0, base=10, draft=draft), verified(1, None))
    assert state.in_flight == DraftTree.chain((11, 12), token_probs[1:])
    state, _ = take(state, BeginRound(draft_length=3))
    _, commands = take(state, arrive(state, 13))
    (verify,) = commands
    assert isinstance(verify, Verify)
    assert verify.draft.kinds == (NodeKind.IID, NodeKind.IID, NodeKind.POINT)
    assert verify.draft.draft_probs == (*token_probs[1:], None)
    assert verify.draft.is_chain


@pytest.mark.parametrize("mode", list(DecodeMode))
def test_events_out_of_order_are_rejected(mode: DecodeMode) -> None:
    idle = begin(mode)
    for event in (DraftMissed(), verified(0, 1), BeginRound(draft_length=-1)):
        with pytest.raises(ValueError, match=r"cannot happen when idle|draft_length is -1"):
            step(idle, event)
    state, _ = step(idle, BeginRound(draft_length=0))
    for event in (DraftMissed(), BeginRound(draft_length=0)):
        with pytest.raises(ValueError, match="cannot happen when verifying"):
            step(state, event)


@pytest.mark.parametrize(
    ("num_accepted", "next_token"), [(2, None), (2, 3), (1, 3), (0, None), (-1, 3)]
)
def test_verdicts_that_do_not_fit_are_rejected(num_accepted: int, next_token: int | None) -> None:
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=2))
    state, _ = take(state, arrive(state, 10, 11))
    with pytest.raises(ValueError, match=r"cannot be accepted|does not fit"):
        step(state, verified(num_accepted, next_token))


def test_trees_and_empty_prompts_are_rejected() -> None:
    state, _ = take(begin(DecodeMode.PEARL), BeginRound(draft_length=2))
    fork = DraftTree(
        token_ids=(1, 2), parents=(-1, -1), kinds=(NodeKind.POINT,) * 2, draft_probs=(None,) * 2
    )
    with pytest.raises(ValueError, match="must be a chain"):
        step(state, DraftArrived(epoch=0, base=10, draft=fork))
    with pytest.raises(ValueError, match="at least one token"):
        start(request=0, mode=DecodeMode.PEARL, num_committed=0, last_token=0)
