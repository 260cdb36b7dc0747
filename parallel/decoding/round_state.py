"""The nouns of one sequence's rounds: its state, the events it takes and the commands it gives.

A round is one BeginRound, the arrival or the miss of a draft if one was requested, and one
Verified. `parallel/rounds/machine.py` makes the states.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from parallel.decoding.types import DecodeMode, DraftTree, Verdict
from parallel.decoding.verdict_outcomes import OutcomeDraft, Prepared, VerdictOutcome

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


class DraftAhead(StrEnum):
    """Whether a verdict finds a draft that was made for it while the target verified."""

    HIT = "hit"
    """It does: the next round tests that draft."""
    UNFORESEEN = "unforeseen"
    """No: drafts were made for other outcomes."""
    LATE = "late"
    """No: none had arrived, or not one token of the draft for this outcome."""
    UNASKED = "unasked"
    """No: this round asked for no draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of a sequence's decoding; only `start` and `step` create it."""

    request: int
    mode: DecodeMode
    phase: Phase
    epoch: int
    """Grows when all drafts proposed earlier become void."""
    num_committed: int
    """Prompt and output tokens that are final; all but the last may be in the target's cache."""
    last_token: int
    """The last committed token, which no forward has read yet."""
    moves: tuple[int, ...] = ()
    """Places in the cache of the committed tokens before it, where the last tree left gaps."""
    in_flight: DraftTree = _NO_DRAFT
    """Drafts after the committed tokens that no verdict has reached (PEARL)."""
    num_pending: int = 0
    """Draft tokens of the newest block that have not arrived; its first part sufficed so far."""
    draft_length: int = 0
    """Draft tokens asked for in this round."""
    tested: DraftTree = _NO_DRAFT
    """What this round's verification tests."""
    prepared: Prepared = field(default_factory=dict)
    """The drafts that follow each outcome of this round's verdict, as far as they have arrived."""
    num_rows: int = 0
    """Rows this round's verification reads."""
    is_looked_up: bool = False
    """Whether a look-up made the drafts in flight, because none of the drafter's was there."""

    @property
    def stage(self) -> Stage:
        """Whether the next round has drafts in flight."""
        return Stage.POST_VERIFY if len(self.in_flight) + self.num_pending else Stage.PRE_VERIFY

    @property
    def own_outcome(self) -> VerdictOutcome | None:
        """The outcome that the block drafted in this round continues; None before a part arrived.

        All in flight is accepted, and then the block's first token, which is tested along.
        """
        if len(self.tested) <= len(self.in_flight):
            return None
        return VerdictOutcome(len(self.in_flight), self.tested.token_ids[len(self.in_flight)])

    @property
    def base(self) -> int:
        """Tokens before the first one of a draft asked for now."""
        return self.num_committed + len(self.in_flight) + self.num_pending


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginRound:
    """Start a round; legal when IDLE."""

    draft_length: int
    """Draft tokens to ask for; 0 is a round without drafter, which tests what is in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftArrived:
    """A draft or a part of one arrived; legal at any time, without effect unless it is awaited."""

    epoch: int
    base: int
    """Tokens before the first one of `draft`."""
    draft: DraftTree
    """A tree, or with PEARL a chain. Shorter than asked, or empty, is legal; what is too long is
    cut."""
    partial: bool = False
    """More of it follows: PEARL verifies with the first token of a block while the rest is made.
    With an empty draft, what is awaited comes from another drafter."""
    outcomes: tuple[OutcomeDraft, ...] = ()
    """Drafts after other outcomes of this round's verdict, or later parts of them."""


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
    """Deliver DraftArrived or DraftMissed: at once if no Score precedes it, else after that.

    Without a Score before it, the round's Score follows once the draft, or the rest of the block in
    flight, has arrived.
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
    """Verify the draft on the first `num_rows` rows of this round's Score.

    Follows once the draft is settled, which may be before the rows are scored: deliver Verified
    when both are. With as many rows as drafts nothing is emitted after the last one.
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
    """Whether the last token replaces a draft that was tested and rejected."""
    ahead: DraftAhead | None = field(default=None, compare=False)
    """Whether a draft was ready for the verdict; None in a mode that drafts nothing ahead. As the
    next two it tells how the commit came about, and is no part of what is committed."""
    num_guesses: int = field(default=0, compare=False)
    """Outcomes of the verdict for which drafts had been started."""
    num_ahead: int = field(default=0, compare=False)
    """Tokens drafted for them that had arrived, those that name the outcomes included."""
    is_looked_up: bool = field(default=False, compare=False)
    """Whether a look-up made the drafts that were tested."""

    def first(self, num_tokens: int) -> "Commit":
        """Return the commit of only its first tokens, where the output ends with them.

        Drafts after the end are neither accepted nor rejected; the target has scored them all the
        same.
        """
        is_whole = num_tokens >= len(self.token_ids)
        return replace(
            self,
            token_ids=self.token_ids[:num_tokens],
            num_accepted=min(self.num_accepted, num_tokens),
            rejected=self.rejected and is_whole,
        )


Command = RequestDraft | AwaitDraft | Score | Verify | Commit
