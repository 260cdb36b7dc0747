"""Steps of a round that several modes share."""

from dataclasses import replace

from parallel.decoding.modes.mode_policy import Transition
from parallel.decoding.round_state import AwaitDraft, Phase, Score, State, Verify
from parallel.decoding.types import DraftTree


def verify_in_flight(state: State) -> Transition:
    """Score and verify the drafts in flight, and request nothing."""
    state, commands = score_then_verify(state, state.in_flight)
    return replace(state, num_pending=0), commands


def score_and_await(state: State) -> Transition:
    """Score the drafts in flight while the drafter works."""
    return replace(state, phase=Phase.SCORING), (score(state, state.in_flight), AwaitDraft())


def score_then_verify(state: State, draft: DraftTree) -> Transition:
    """Score a draft and verify all of it; one token is emitted after its accepted part."""
    commands = score(state, draft)
    state, verification = verify(state, draft, num_rows=len(draft) + 1)
    return state, (commands, *verification)


def score(state: State, draft: DraftTree) -> Score:
    """Return the command to run the target over the last committed token and a draft."""
    return Score(
        start=state.num_committed - 1,
        token_ids=(state.last_token, *draft.token_ids),
        num_logits=len(draft) + 1,
        parents=() if draft.is_chain else draft.parents,
        moves=state.moves,
    )


def verify(state: State, tested: DraftTree, *, num_rows: int) -> Transition:
    """Verify a draft on the first rows of this round's scores."""
    state = replace(state, phase=Phase.VERIFYING, tested=tested, num_rows=num_rows)
    return state, (Verify(draft=tested, num_rows=num_rows),)
