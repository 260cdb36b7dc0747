"""One sequence's decoding as a state machine, for every mode.

Loss, delay and duplication of drafts are events like any other: no schedule of them changes what
`sample_and_match` commits, only how soon. Where modes differ, the machine asks the mode's policy
(`parallel/decoding/modes/`).
"""

from collections.abc import Sequence
from dataclasses import replace

from parallel.decoding.modes.mode_policy import CarriedDrafts, Transition
from parallel.decoding.modes.mode_registry import policy_of
from parallel.decoding.modes.transitions import score_and_await, verify_in_flight
from parallel.decoding.round_state import (
    AwaitDraft,
    BeginRound,
    Commit,
    DraftAhead,
    DraftArrived,
    DraftMissed,
    Event,
    Phase,
    RequestDraft,
    Stage,
    State,
    Verified,
)
from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import with_parts

_NO_DRAFT = DraftTree()


def start(*, request: int, mode: DecodeMode, num_committed: int, last_token: int) -> State:
    """Return the state of a sequence before its first round.

    Args:
        request: the sequence's number, for the reader of a log.
        mode: how drafts and verification are arranged.
        num_committed: tokens it has, at least one.
        last_token: the last of them.

    Raises:
        ValueError: there is no token to continue from.
    """
    if num_committed < 1:
        raise ValueError("a sequence needs at least one token to continue from")
    return State(
        request=request,
        mode=mode,
        phase=Phase.IDLE,
        epoch=0,
        num_committed=num_committed,
        last_token=last_token,
    )


def with_mode(state: State, mode: DecodeMode) -> State:
    """Return the state in another mode.

    Raises:
        ValueError: a round runs, or a block is in flight.
    """
    if state.phase is not Phase.IDLE or state.stage is Stage.POST_VERIFY:
        raise ValueError(f"request {state.request}: cannot change to {mode} in mid-flight")
    return replace(state, mode=mode)


def with_lookup(state: State, draft: DraftTree) -> State:
    """Return the state with a draft in flight that a look-up made, for the next round to test.

    Raises:
        ValueError: a round runs, drafts are in flight, the mode does not test drafts that are in
            flight, or the draft is a tree.
    """
    is_free = state.phase is Phase.IDLE and state.stage is Stage.PRE_VERIFY
    if not (is_free and policy_of(state.mode).overlaps and draft.is_chain):
        raise ValueError(f"request {state.request}: cannot test {draft} next, in mode {state.mode}")
    return replace(state, in_flight=draft, is_looked_up=len(draft) > 0)


def step(state: State, event: Event) -> Transition:
    """Return the state after an event, and the commands to carry out, in order.

    Raises:
        ValueError: the event is illegal in this phase, or its values are impossible.
    """
    match event:
        case BeginRound():
            return _begin(state, event.draft_length)
        case DraftArrived():
            return _arrive(state, event)
        case DraftMissed():
            _require_phase(state, event, Phase.WAITING_DRAFT, Phase.COMPLETING, Phase.SCORING)
            if state.phase is Phase.COMPLETING:
                return verify_in_flight(state)
            return policy_of(state.mode).settle(state, _NO_DRAFT)
        case Verified():
            _require_phase(state, event, Phase.VERIFYING)
            return _commit(state, event.verdict)


def _begin(state: State, draft_length: int) -> Transition:
    _require_phase(state, BeginRound(draft_length=draft_length), Phase.IDLE)
    if draft_length < 0:
        raise ValueError(f"draft_length is {draft_length}: it must be at least 0")
    policy = policy_of(state.mode)
    if not policy.drafts or (draft_length == 0 and not state.num_pending):
        return verify_in_flight(state)
    state = replace(state, draft_length=draft_length)
    if draft_length == 0:
        return replace(state, phase=Phase.COMPLETING), (AwaitDraft(),)
    request = RequestDraft(epoch=state.epoch, base=state.base, draft_length=draft_length)
    return policy.begin(state, request)


def _arrive(state: State, event: DraftArrived) -> Transition:
    if event.epoch != state.epoch:
        return state, ()
    state, commands = _arrive_block(state, event)
    if event.outcomes and state.phase in (Phase.SCORING, Phase.VERIFYING):
        if not policy_of(state.mode).prepares_outcomes:
            raise ValueError(f"request {state.request}: mode {state.mode} prepares no outcomes")
        # The draft length counts the outcome's own token too, as a block's counts its first one.
        longest = max(0, state.draft_length - 1)
        others = [part for part in event.outcomes if part.outcome != state.own_outcome]
        prepared = with_parts(state.prepared, others, max_length=longest)
        state = replace(state, prepared=prepared)
    return state, commands


def _arrive_block(state: State, event: DraftArrived) -> Transition:
    """Take a draft, or a part of PEARL's block, if it is awaited."""
    is_rest = state.num_pending > 0 and event.base == _rest_base(state)
    is_awaited = state.phase in (Phase.WAITING_DRAFT, Phase.SCORING) and event.base == state.base
    if not (is_rest or is_awaited):
        return state, ()
    if not (policy_of(state.mode).takes_trees or event.draft.is_chain):
        raise ValueError(f"request {state.request}: a draft in mode {state.mode} must be a chain")
    if is_rest:
        return _complete(state, event)
    if event.partial and (state.phase is Phase.WAITING_DRAFT or not len(event.draft)):
        return state, ()  # of no use yet
    draft = event.draft.first(state.draft_length)
    num_pending = state.draft_length - len(draft) if event.partial else 0
    return policy_of(state.mode).settle(replace(state, num_pending=num_pending), draft)


def _rest_base(state: State) -> int:
    """Return how many tokens precede the rest of the newest block."""
    own = state.own_outcome
    num_arrived = 0 if own is None else 1 + len(state.prepared[own])
    return state.base - state.num_pending + num_arrived


def _complete(state: State, event: DraftArrived) -> Transition:
    """Append the rest of the newest block, which is in flight or in verification."""
    more = event.draft.first(state.num_pending)
    missing = state.num_pending - len(more)
    state = replace(state, num_pending=missing if event.partial else 0)
    own = state.own_outcome
    if own is not None:
        longer = state.prepared[own].followed_by(more)
        return replace(state, prepared={**state.prepared, own: longer}), ()
    state = replace(state, in_flight=state.in_flight.followed_by(more))
    if state.phase is not Phase.COMPLETING or state.num_pending:
        return state, ()
    # A block that ends early leaves the draft asked for after it without a base.
    waits = state.draft_length > 0 and not missing
    return score_and_await(state) if waits else verify_in_flight(state)


def _commit(state: State, verdict: Verdict) -> Transition:
    tested, num_accepted = state.tested, verdict.num_accepted
    _require_fit(state, verdict)
    path = range(num_accepted) if tested.is_chain else verdict.accepted_nodes
    tokens = tuple(tested.token_ids[node] for node in path)
    last = path[-1] if path else -1
    emitted = verdict.next_token
    if emitted is not None:
        tokens += (emitted,)
    # Without a row after its last token, only the first token of this round's block is tested.
    reached_all = num_accepted >= state.num_rows - 1
    carried = policy_of(state.mode).carry_over(state, verdict)
    commit = Commit(
        token_ids=tokens,
        num_drafted=len(tested) if reached_all else min(len(tested), state.num_rows - 1),
        num_accepted=num_accepted,
        rejected=last in tested.parents,
        ahead=_draft_ahead(state, carried),
        num_guesses=len(state.prepared),
        num_ahead=sum(1 + len(draft) for draft in state.prepared.values()),
        is_looked_up=state.is_looked_up,
    )
    kept = carried or CarriedDrafts(in_flight=_NO_DRAFT)
    state = State(
        request=state.request,
        mode=state.mode,
        phase=Phase.IDLE,
        epoch=state.epoch + (carried is None or carried.is_final),
        num_committed=state.num_committed + len(tokens),
        last_token=tokens[-1],
        moves=_moves(path, state.num_committed),
        in_flight=kept.in_flight,
        num_pending=kept.num_pending,
    )
    return state, (commit,)


def _draft_ahead(state: State, carried: CarriedDrafts | None) -> DraftAhead | None:
    """Return whether a draft was ready for the verdict, and if not, why."""
    if not policy_of(state.mode).overlaps:
        return None
    if state.draft_length == 0:
        return DraftAhead.UNASKED
    if carried is None:
        return DraftAhead.UNFORESEEN if state.prepared else DraftAhead.LATE
    # A draft of one token is the outcome's own.
    is_there = len(carried.in_flight) + carried.num_pending > 0 or state.draft_length == 1
    return DraftAhead.HIT if is_there else DraftAhead.LATE


def _moves(path: Sequence[int], first: int) -> tuple[int, ...]:
    """Return the indices of kept nodes, whose tree begins at `first`; none if all are in order."""
    in_order = all(node == depth for depth, node in enumerate(path))
    return () if in_order else tuple(first + node for node in path)


def _require_fit(state: State, verdict: Verdict) -> None:
    tested = len(state.tested)
    if not state.tested.is_chain and len(verdict.accepted_nodes) != verdict.num_accepted:
        raise ValueError(f"{verdict} does not name the nodes it accepts")
    if not 0 <= verdict.num_accepted <= tested:
        raise ValueError(f"{verdict.num_accepted} of {tested} tested drafts cannot be accepted")
    emits = verdict.num_accepted < state.num_rows
    if emits != (verdict.next_token is not None):
        raise ValueError(f"verdict {verdict} does not fit {tested} drafts on {state.num_rows} rows")


def _require_phase(state: State, event: Event, *phases: Phase) -> None:
    if state.phase not in phases:
        raise ValueError(f"request {state.request}: {event} cannot happen when {state.phase}")
