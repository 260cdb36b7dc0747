"""One request in a drafter with a model: its tokens, which of them are cached, and its draft."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from parallel.decoding.score_row import ScoreRow
from parallel.decoding.types import SparseProbs
from parallel.drafting.outcome_choice import OutcomeOdds
from parallel.messages import DraftItem, DraftOpen, ProposalItem
from runtime.drafters.draft_constraint import DraftConstraint
from runtime.drafters.lookup_drafting import Lookups, LookupText

_CONFIDENT_MATCH = 3  # tokens that match from which a copy is better than a small model


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What was thought of the verdict on a request's drafts in flight, to learn from later."""

    num_committed: int
    drafts: tuple[int, ...]
    """The drafts in flight, and then the drafter's own next token."""
    margins: tuple[float, ...]
    """Lead of each of them over the best other token."""
    guesses: tuple[tuple[int, ...], ...]
    """The other tokens at the place of each, best first."""


@dataclass(slots=True)
class DraftSequence:
    """A request's tokens and draft."""

    opened: DraftOpen
    num_unread: int = 0
    """Leading tokens that the model never reads: its cache begins with the next one."""
    token_ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    """How many tokens need no more reading: those that are cached, and the leading unread ones."""
    num_exact: int = 0
    """How many of them were read by exact forwards, or never."""
    draft: list[int] = field(default_factory=list)
    draft_probs: list[SparseProbs] = field(default_factory=list)
    text: LookupText = field(default_factory=LookupText)
    constraint: DraftConstraint | None = None
    """What may follow the tokens, where that is known."""
    odds: OutcomeOdds | None = None
    """How likely each outcome of a verdict is, as far as the request has shown."""
    foreseen: Foreseen | None = None
    """What was thought of the verdict on the drafts that were in flight last."""

    @property
    def position(self) -> int:
        """Position of the next token in the output."""
        return len(self.token_ids) - self.opened.num_prompt

    @property
    def penalized(self) -> list[int]:
        """The tokens that penalties count; none without a penalty."""
        return self.token_ids if self.opened.sampling.reads_history else []

    def masked(self, row: ScoreRow, token_ids: Sequence[int] | None = None) -> ScoreRow:
        """Return a row without what may not follow some tokens, by default the sequence's own."""
        if self.constraint is None:
            return row
        return self.constraint.masked(row, self.token_ids if token_ids is None else token_ids)

    def follow(self, item: DraftItem, lookups: Lookups) -> None:
        """Roll back to the tokens that stay valid, and append the new ones."""
        self.text.index.append(self.token_ids[len(self.text.index) : item.keep])
        lookups.follow(self.text, item)
        # A sequence that has no tokens yet starts with the cache pages that it shares.
        kept = item.keep if self.token_ids else self.num_cached
        self.token_ids[item.keep :] = item.tail
        self.truncate_cache(min(self.num_exact, kept, len(self.token_ids) - 1))
        self.draft, self.draft_probs = [], []

    def truncate_cache(self, num_cached: int) -> None:
        """Count only the first `num_cached` tokens as cached."""
        self.num_cached = min(self.num_cached, num_cached)
        self.num_exact = min(self.num_exact, num_cached)

    def copy(self, num_draft: int) -> bool:
        """Copy the draft from earlier text; return False if no long suffix occurs in it."""
        match = self.text.index.match(num_draft)
        if match.length < _CONFIDENT_MATCH:
            return False
        self.draft = list(match.token_ids)
        self.token_ids += match.token_ids
        return True

    def add_forced(self, num_draft: int) -> None:
        """Append the tokens that must follow, up to a draft of so many; each is certain."""
        if self.constraint is None:
            return
        while forced := self.constraint.forced(self.token_ids)[: num_draft - len(self.draft)]:
            for token in forced:
                certain = SparseProbs(ids=(token,), probs=(1.0,))
                self.add(token, certain if self.opened.send_probs else None)

    def add(self, token: int, probs: SparseProbs | None) -> None:
        """Append a token to the draft, with the probabilities it was drawn from."""
        self.draft.append(token)
        self.token_ids.append(token)
        if probs is not None:
            self.draft_probs.append(probs)

    def proposal(self, item: DraftItem, first: int, stop: int | None = None) -> ProposalItem:
        """Return the draft from its token `first` to `stop`, as the answer to an item."""
        return ProposalItem(
            request=item.request,
            epoch=item.epoch,
            base=item.keep + len(item.tail) + first,
            token_ids=tuple(self.draft[first:stop]),
            draft_probs=tuple(self.draft_probs[first:stop]),
        )
