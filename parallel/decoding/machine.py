"""One sequence's decoding as a state machine: plain, draft-then-verify, and PEARL.

PEARL (arXiv 2408.11850, Algorithm 2) drafts a block while the target scores the block before it.
A round is one BeginRound, the arrival or the miss of a draft if one was asked for, and one
Verified. Loss, delay and duplication of drafts are events like any other: no schedule of them
changes what `sample_and_match` commits, only how soon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from parallel.decoding.types import DecodeMode, DraftTree, Verdict

_NO_DRAFT = DraftTree()


class Phase(StrEnum):
    """What the machine waits for."""

    IDLE = "idle"
    """BeginRound."""
    WAITING_DRAFT = "waiting_draft"
    """A draft, without which nothing is scored (draft-then-verify)."""
    COMPLETING = "completing"
    """The rest of the block in flight, which is scored next (PEARL)."""
    SCORING = "scoring"
    """A draft, made while the target's forward runs, or its first part (PEARL)."""
    VERIFYING = "verifying"
    """Verified, once the forward is done."""


class Stage(StrEnum):
    """PEARL's two strategies."""

    PRE_VERIFY = "pre-verify"
    """Nothing is in flight: the forward tests the first token of the block being drafted."""
    POST_VERIFY = "post-verify"
    """A block is in flight and tested while the next one is drafted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a sequence stands; made by `start` and `step` alone."""

    request: int
    mode: DecodeMode
    phase: Phase
    epoch: int
    """Grows when drafts proposed earlier became void."""
    num_committed: int
    """Prompt and output tokens that are final; all but the last may be in the target's cache."""
    last_token: int
    """The last committed token, which no forward has read yet."""
    moves: tuple[int, ...] = ()
    """Places in the cache of the committed tokens before it, where the last tree left gaps."""
    in_flight: DraftTree = _NO_DRAFT
    """Drafts after the committed tokens that no verdict has reached (PEARL)."""
    owed: int = 0
    """Draft tokens of the newest block that are still to come, after its first part arrived."""
    draft_length: int = 0
    """Draft tokens asked for in this round."""
    tested: DraftTree = _NO_DRAFT
    """What this round's verification tests."""
    next_block: DraftTree = _NO_DRAFT
    """The block drafted in this round, whose first token is tested along (PEARL)."""
    num_rows: int = 0
    """Rows this round's verification reads."""

    @property
    def stage(self) -> Stage:
        """Which of PEARL's strategies the next round follows."""
        return Stage.POST_VERIFY if len(self.in_flight) + self.owed else Stage.PRE_VERIFY

    @property
    def base(self) -> int:
        """Tokens before the first one of a draft asked for now."""
        return self.num_committed + len(self.in_flight) + self.owed


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRound:
    """Start a round; legal when IDLE."""

    draft_length: int
    """Draft tokens to ask for; 0 is a round without drafter, which tests what is in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftArrived:
    """A draft, or a part of one, came; without effect, at any time, unless it is waited for."""

    epoch: int
    base: int
    """Tokens before the first one of `draft`."""
    draft: DraftTree
    """A tree, or with PEARL a chain. Shorter than asked, or empty, is legal; what is too long is
    cut."""
    partial: bool = False
    """More of it follows: PEARL verifies with the first token of a block while the rest is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftMissed:
    """The wait for a draft is over; legal after AwaitDraft until what was awaited has arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The verifier decided on this round's Verify; legal when VERIFYING."""

    verdict: Verdict


Event = BeginRound | DraftArrived | DraftMissed | Verified


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDraft:
    """Ask the drafter for tokens after the first `base`, those in flight included."""

    epoch: int
    base: int
    draft_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitDraft:
    """Deliver DraftArrived or DraftMissed: at once if no Score came before, else after it.

    Without a Score before it, the round's Score follows once the draft, or the rest of the block in
    flight, has come.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Run the target over these tokens; each of them yields one row of logits.

    What a cache holds from `start` on is overwritten: rejected drafts are rolled back so.
    """

    start: int
    """Position of the first token: all committed ones but the last precede it."""
    token_ids: tuple[int, ...]
    """The last committed token, then the drafts to test."""
    num_logits: int
    parents: tuple[int, ...] = ()
    """Of the drafts, where they are a tree; empty for a chain."""
    moves: tuple[int, ...] = ()
    """Places whose tokens move to just before `start` first: the kept path of the last tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """Let the verifier test the draft on the first `num_rows` rows of this round's Score.

    Comes once the draft is settled, which may be before the rows are there: deliver Verified when
    both are. With as many rows as drafts nothing is emitted after the last one.
    """

    draft: DraftTree
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """These tokens, at least one, are final; the round is over."""

    token_ids: tuple[int, ...]
    num_drafted: int
    """Draft tokens the target scored: a block's first one counts if all before it passed."""
    num_accepted: int
    rejected: bool
    """Whether the last token stands where a draft was tested and rejected."""

    def first(self, num_tokens: int) -> "Commit":
        """Return the commit of its first tokens alone, where the output ends with them.

        Drafts after the end are neither accepted nor rejected; the target has scored them all the
        same.
        """
        is_whole = num_tokens >= len(self.token_ids)
        return Commit(
            token_ids=self.token_ids[:num_tokens],
            num_drafted=self.num_drafted,
            num_accepted=min(self.num_accepted, num_tokens),
            rejected=self.rejected and is_whole,
        )


Command = RequestDraft | AwaitDraft | Score | Verify | Commit


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


def step(state: State, event: Event) -> tuple[State, tuple[Command, ...]]:
    """Take an event in and return the new state with the commands to carry out, in order.

    Raises:
        ValueError: the event cannot happen in this phase, or carries what cannot be.
    """
    match event:
        case BeginRound():
            return _begin(state, event.draft_length)
        case DraftArrived():
            return _arrive(state, event)
        case DraftMissed():
            _require_phase(state, event, Phase.WAITING_DRAFT, Phase.COMPLETING, Phase.SCORING)
            return _plain(state) if state.phase is Phase.COMPLETING else _settle(state, _NO_DRAFT)
        case Verified():
            _require_phase(state, event, Phase.VERIFYING)
            return _commit(state, event.verdict)


def _begin(state: State, draft_length: int) -> tuple[State, tuple[Command, ...]]:
    _require_phase(state, BeginRound(draft_length=draft_length), Phase.IDLE)
    if draft_length < 0:
        raise ValueError(f"draft_length is {draft_length}: it must be at least 0")
    pearl = state.mode is DecodeMode.PEARL
    if state.mode is DecodeMode.AUTOREGRESSIVE or (draft_length == 0 and not state.owed):
        return _plain(state)
    state = replace(state, draft_length=draft_length)
    if draft_length == 0:
        return replace(state, phase=Phase.COMPLETING), (AwaitDraft(),)
    request = RequestDraft(epoch=state.epoch, base=state.base, draft_length=draft_length)
    if pearl and not state.owed:
        state, commands = _score_and_await(state)
        return state, (request, *commands)
    phase = Phase.COMPLETING if pearl else Phase.WAITING_DRAFT
    return replace(state, phase=phase), (request, AwaitDraft())


def _plain(state: State) -> tuple[State, tuple[Command, ...]]:
    """Score and test what is in flight, and no more."""
    state, verify = _verify(state, state.in_flight, num_rows=len(state.in_flight) + 1)
    return replace(state, owed=0), (_score(state, state.in_flight), *verify)


def _score_and_await(state: State) -> tuple[State, tuple[Command, ...]]:
    return replace(state, phase=Phase.SCORING), (_score(state, state.in_flight), AwaitDraft())


def _arrive(state: State, event: DraftArrived) -> tuple[State, tuple[Command, ...]]:
    if event.epoch != state.epoch:
        return state, ()
    if state.mode is DecodeMode.PEARL and not event.draft.is_chain:
        raise ValueError(f"request {state.request}: PEARL's draft must be a chain")
    if state.owed and event.base == state.base - state.owed + len(state.next_block):
        return _complete(state, event)
    waiting = state.phase in (Phase.WAITING_DRAFT, Phase.SCORING)
    if not waiting or event.base != state.base:
        return state, ()
    if event.partial and (state.phase is Phase.WAITING_DRAFT or not len(event.draft)):
        return state, ()  # of no use yet
    draft = event.draft.first(state.draft_length)
    owed = state.draft_length - len(draft) if event.partial else 0
    return _settle(replace(state, owed=owed), draft)


def _complete(state: State, event: DraftArrived) -> tuple[State, tuple[Command, ...]]:
    """Take in more of the newest block: in flight by now, or still being tested for its first."""
    more = event.draft.first(state.owed)
    missing = state.owed - len(more)
    state = replace(state, owed=missing if event.partial else 0)
    if state.phase is Phase.VERIFYING:
        return replace(state, next_block=state.next_block.followed_by(more)), ()
    state = replace(state, in_flight=state.in_flight.followed_by(more))
    if state.phase is not Phase.COMPLETING or state.owed:
        return state, ()
    # A block that ends early leaves the draft asked for after it without a base.
    waits = state.draft_length > 0 and not missing
    return _score_and_await(state) if waits else _plain(state)


def _settle(state: State, draft: DraftTree) -> tuple[State, tuple[Command, ...]]:
    """Fix what this round verifies, now that its draft, or the first part of it, is known."""
    if state.mode is DecodeMode.PEARL:
        tested = state.in_flight.followed_by(draft.first(1))
        state = replace(state, next_block=draft)
        return _verify(state, tested, num_rows=len(state.in_flight) + 1)
    score = _score(state, draft)
    state, verify = _verify(state, draft, num_rows=len(draft) + 1)
    return state, (score, *verify)


def _score(state: State, draft: DraftTree) -> Score:
    return Score(
        start=state.num_committed - 1,
        token_ids=(state.last_token, *draft.token_ids),
        num_logits=len(draft) + 1,
        parents=() if draft.is_chain else draft.parents,
        moves=state.moves,
    )


def _verify(state: State, tested: DraftTree, *, num_rows: int) -> tuple[State, tuple[Command, ...]]:
    state = replace(state, phase=Phase.VERIFYING, tested=tested, num_rows=num_rows)
    return state, (Verify(draft=tested, num_rows=num_rows),)


def _commit(state: State, verdict: Verdict) -> tuple[State, tuple[Command, ...]]:
    tested, num_accepted = state.tested, verdict.num_accepted
    _require_fit(state, verdict)
    path = range(num_accepted) if tested.is_chain else verdict.accepted_nodes
    tokens = tuple(tested.token_ids[node] for node in path)
    last = path[-1] if path else -1
    emitted = verdict.next_token
    if emitted is not None:
        tokens += (emitted,)
    # Without a row after its last token, this round's block is tested for its first one alone.
    reached_all = num_accepted >= state.num_rows - 1
    commit = Commit(
        token_ids=tokens,
        num_drafted=len(tested) if reached_all else min(len(tested), state.num_rows - 1),
        num_accepted=num_accepted,
        rejected=last in tested.parents,
    )
    state = State(
        request=state.request,
        mode=state.mode,
        phase=Phase.IDLE,
        epoch=state.epoch + (emitted is not None),
        num_committed=state.num_committed + len(tokens),
        last_token=tokens[-1],
        moves=_moves(path, state.num_committed),
        in_flight=state.next_block.without_first(1) if emitted is None else _NO_DRAFT,
        owed=state.owed if emitted is None else 0,
    )
    return state, (commit,)


def _moves(path: Sequence[int], first: int) -> tuple[int, ...]:
    """Return the places of kept nodes, whose tree begins at `first`; none where all lie right."""
    in_place = all(node == depth for depth, node in enumerate(path))
    return () if in_place else tuple(first + node for node in path)


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
