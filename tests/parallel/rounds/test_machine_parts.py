"""Blocks that arrive in two parts: the verdict does not wait for the second one."""

import random

import pytest

from parallel.decoding.round_state import (
    AwaitDraft,
    BeginRound,
    Command,
    Commit,
    DraftArrived,
    DraftMissed,
    Phase,
    RequestDraft,
    Score,
    Stage,
    State,
    Verified,
    Verify,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import OutcomeDraft, VerdictOutcome
from parallel.rounds.machine import start, step, with_lookup

GOOD = 7
BAD = 8


def pearl(num_committed: int = 10) -> State:
    return start(request=0, mode=DecodeMode.PEARL, num_committed=num_committed, last_token=GOOD)


def arrived(base: int, *token_ids: int, epoch: int = 0, partial: bool = False) -> DraftArrived:
    draft = DraftTree.chain(token_ids)
    return DraftArrived(epoch=epoch, base=base, draft=draft, partial=partial)


def accept(state: State, num: int, next_token: int | None) -> tuple[State, tuple[Command, ...]]:
    return step(state, Verified(verdict=Verdict(num_accepted=num, next_token=next_token)))


def test_the_first_token_is_enough_to_verify_and_to_ask_for_the_next_block() -> None:
    state, _ = step(pearl(), BeginRound(draft_length=4))
    state, commands = step(state, arrived(10, GOOD, partial=True))
    assert commands == (Verify(draft=DraftTree.chain((GOOD,)), num_rows=1),)
    state, _ = accept(state, 1, None)
    assert state.num_pending == 3
    assert state.stage is Stage.POST_VERIFY
    state, commands = step(state, BeginRound(draft_length=4))
    assert commands == (RequestDraft(epoch=0, base=14, draft_length=4), AwaitDraft())
    state, commands = step(state, arrived(11, GOOD, GOOD, GOOD))
    score = Score(start=10, token_ids=(GOOD,) * 4, num_logits=4)
    assert commands == (score, AwaitDraft())
    state, commands = step(state, arrived(14, BAD, partial=True))
    assert commands == (Verify(draft=DraftTree.chain((GOOD, GOOD, GOOD, BAD)), num_rows=4),)


def test_the_rest_may_come_before_the_verdict() -> None:
    state, _ = step(pearl(), BeginRound(draft_length=3))
    state, _ = step(state, arrived(10, GOOD, partial=True))
    state, commands = step(state, arrived(11, GOOD, BAD))
    assert commands == ()
    state, _ = accept(state, 1, None)
    assert state.in_flight.token_ids == (GOOD, BAD)
    assert state.num_pending == 0


def test_a_rejection_makes_the_rest_stale() -> None:
    state, _ = step(pearl(), BeginRound(draft_length=4))
    state, _ = step(state, arrived(10, BAD, partial=True))
    state, _ = accept(state, 0, GOOD)
    assert (state.num_pending, state.epoch) == (0, 1)
    again, commands = step(state, arrived(11, GOOD, GOOD, GOOD))
    assert again == state
    assert commands == ()


@pytest.mark.parametrize("rest", [(), (GOOD,)])
def test_a_rest_that_is_missed_or_short_ends_in_a_plain_test(rest: tuple[int, ...]) -> None:
    state, _ = step(pearl(), BeginRound(draft_length=4))
    state, _ = step(state, arrived(10, GOOD, partial=True))
    state, _ = accept(state, 1, None)
    state, _ = step(state, BeginRound(draft_length=4))
    event = arrived(11, *rest) if rest else DraftMissed()
    state, commands = step(state, event)
    assert state.phase is Phase.VERIFYING
    assert commands == (
        Score(start=10, token_ids=(GOOD, *rest), num_logits=len(rest) + 1),
        Verify(draft=DraftTree.chain(rest), num_rows=len(rest) + 1),
    )
    state, _ = accept(state, len(rest), GOOD)
    assert state.epoch == 1


def test_without_a_new_draft_the_rest_is_still_waited_for() -> None:
    state, _ = step(pearl(), BeginRound(draft_length=3))
    state, _ = step(state, arrived(10, GOOD, partial=True))
    state, _ = accept(state, 1, None)
    state, commands = step(state, BeginRound(draft_length=0))
    assert commands == (AwaitDraft(),)
    state, commands = step(state, arrived(11, GOOD, GOOD))
    assert [type(command) for command in commands] == [Score, Verify]


@pytest.mark.parametrize("seed", range(30))
def test_no_schedule_of_parts_changes_the_tokens(seed: int) -> None:
    """The target's tokens count up; drafts are right, wrong, cut, late, doubled or foreign."""
    chooser = random.Random(seed)
    state = start(request=0, mode=DecodeMode.PEARL, num_committed=1, last_token=0)
    tokens = [0]
    pending: list[DraftArrived] = []
    while len(tokens) < 60:
        commands = list(step_into(state, BeginRound(draft_length=chooser.randrange(5))))
        state = commands.pop(0)  # type: ignore[assignment]  # the state comes first
        rows: Score | None = None
        while commands:
            command = commands.pop(0)
            match command:
                case RequestDraft(epoch=epoch, base=base, draft_length=length):
                    pending += parts(chooser, epoch, base, length)
                case Score():
                    rows = command
                    assert command.start == len(tokens) - 1
                    assert command.token_ids[0] == tokens[-1]
                case AwaitDraft():
                    event = DraftMissed() if not pending else pending.pop(0)
                    if chooser.random() < 0.1:
                        event = DraftMissed()
                    got = list(step_into(state, event))
                    state = got.pop(0)  # type: ignore[assignment]
                    commands += got or ([] if state.phase is Phase.VERIFYING else [AwaitDraft()])
                case Verify(draft=draft, num_rows=num_rows):
                    assert rows is not None
                    assert len(rows.token_ids) >= num_rows
                    while pending and chooser.random() < 0.5:
                        state, none = step(state, pending.pop(0))
                        assert none == ()
                    verdict = judge(draft, num_rows, len(tokens))
                    state, (commit,) = step(state, Verified(verdict=verdict))
                    assert isinstance(commit, Commit)
                    tokens += commit.token_ids
                    commands = []
        assert state.num_committed == len(tokens)
    assert tokens == list(range(len(tokens)))


def step_into(state: State, event: BeginRound | DraftArrived | DraftMissed) -> tuple[object, ...]:
    state, commands = step(state, event)
    return (state, *commands)


def parts(chooser: random.Random, epoch: int, base: int, length: int) -> list[DraftArrived]:
    right = [base + i for i in range(length)]
    drafted = [token if chooser.random() < 0.8 else token + 100 for token in right]
    drafted = drafted[: chooser.choice([length, length, length - 1])]
    if len(drafted) < 2 or chooser.random() < 0.3:
        events = [arrived(base, *drafted, epoch=epoch)]
    else:
        first = arrived(base, drafted[0], epoch=epoch, partial=True)
        events = [first, arrived(base + 1, *drafted[1:], epoch=epoch)]
    if chooser.random() < 0.2:
        events.insert(chooser.randrange(len(events) + 1), chooser.choice(events))
    if chooser.random() < 0.1:
        events.pop(chooser.randrange(len(events)))
    return events


def judge(draft: DraftTree, num_rows: int, position: int) -> Verdict:
    accepted = 0
    while accepted < len(draft) and draft.token_ids[accepted] == position + accepted:
        accepted += 1
    emits = accepted < num_rows
    return Verdict(num_accepted=accepted, next_token=position + accepted if emits else None)


def outcomes_state() -> State:
    return start(request=0, mode=DecodeMode.OUTCOMES, num_committed=10, last_token=GOOD)


def share(*token_ids: int, first: int = 0, next_token: int = 5) -> DraftArrived:
    """Return what a drafter sends that drafts for outcomes alone."""
    part = OutcomeDraft(outcome=VerdictOutcome(0, next_token), first=first, token_ids=token_ids)
    return DraftArrived(epoch=0, base=10, draft=DraftTree(), partial=True, outcomes=(part,))


def test_outcomes_of_another_drafter_may_come_before_the_block() -> None:
    state, _ = step(outcomes_state(), BeginRound(draft_length=3))
    for event in (share(), share(1)):
        state, commands = step(state, event)
        assert commands == ()
        assert state.phase is Phase.SCORING
    state, commands = step(state, arrived(10, BAD, partial=True))
    assert commands == (Verify(draft=DraftTree.chain((BAD,)), num_rows=1),)
    state, _ = step(state, share(2, first=1))
    state, (commit,) = accept(state, 0, 5)
    assert isinstance(commit, Commit)
    assert commit.num_guesses == 2
    assert state.in_flight.token_ids == (1, 2)


def test_outcomes_of_another_drafter_serve_where_the_block_never_comes() -> None:
    state, _ = step(outcomes_state(), BeginRound(draft_length=3))
    state, _ = step(state, share(1, 2))
    state, commands = step(state, DraftMissed())
    assert commands == (Verify(draft=DraftTree(), num_rows=1),)
    state, _ = accept(state, 0, 5)
    assert state.in_flight.token_ids == (1, 2)


def test_a_block_is_kept_in_place_of_another_drafters_draft_for_its_outcome() -> None:
    state, _ = step(outcomes_state(), BeginRound(draft_length=3))
    state, _ = step(state, share(1, next_token=GOOD))
    state, _ = step(state, arrived(10, GOOD, 2, 3))
    state, _ = step(state, share(1, next_token=GOOD))
    state, _ = accept(state, 1, None)
    assert state.in_flight.token_ids == (2, 3)


def test_a_look_up_is_tested_next_and_its_commit_says_so() -> None:
    state, _ = step(outcomes_state(), BeginRound(draft_length=3))
    state, _ = step(state, DraftMissed())
    state, _ = accept(state, 0, GOOD)
    state = with_lookup(state, DraftTree.chain((1, 2)))
    state, (asked, score, _) = step(state, BeginRound(draft_length=3))
    assert asked == RequestDraft(epoch=1, base=13, draft_length=3)
    assert score == Score(start=10, token_ids=(GOOD, 1, 2), num_logits=3)
    state, _ = step(state, DraftMissed())
    state, (commit,) = accept(state, 1, GOOD)
    assert isinstance(commit, Commit)
    assert commit.is_looked_up
    assert commit.token_ids == (1, GOOD)
    assert not state.is_looked_up


def test_a_look_up_needs_a_round_that_has_ended_without_a_draft() -> None:
    draft = DraftTree.chain((1,))
    running, _ = step(outcomes_state(), BeginRound(draft_length=3))
    plain = start(request=0, mode=DecodeMode.SPECULATIVE, num_committed=1, last_token=0)
    for state in (running, plain, with_lookup(outcomes_state(), draft)):
        with pytest.raises(ValueError, match="cannot test"):
            with_lookup(state, draft)
