"""Drafters without a model: they copy tokens from the request's text and other look-up sources."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parallel.drafting.legal import ForcedSource, LegalSource
from parallel.drafting.ngram import NgramIndex
from parallel.drafting.tree import GrownTree, Odds, Source, grow
from parallel.messages import DraftItem, DraftRequest, ProposalItem
from runtime.constraints.compiler import Constraints
from runtime.drafters.draft_constraint import DraftConstraint, draft_constraint
from runtime.drafters.drafting import DraftPart
from runtime.drafters.lookups.lookup_settings import LOOKUP_SOURCES, LookupSettings
from runtime.drafters.lookups.ngram_lookup import NgramLookup


@dataclass(slots=True)
class LookupText:
    """One request's text, and the tree that was last proposed for it."""

    index: NgramIndex = field(default_factory=NgramIndex)
    grown: GrownTree | None = None
    """The tree proposed last, after the first `grown_at` tokens."""
    grown_at: int = 0
    constraint: DraftConstraint | None = None
    """What may follow the text, where that is known."""


class Lookups:
    """The open look-up sources of all requests, and how often each kind of guess is right."""

    def __init__(self, settings: LookupSettings) -> None:
        """Open the sources.

        Raises:
            ConfigError: a source's files cannot be read.
        """
        order = list(LOOKUP_SOURCES)
        ordered = sorted(settings.sources, key=lambda each: order.index(each.name))
        self._open = [source.open() for source in ordered]
        self.copies_text = any(isinstance(each, NgramLookup) for each in ordered)
        """Whether drafts may be copied from the request's own text."""
        self.odds = Odds()
        """How often guesses of each kind came true."""

    @property
    def num_successors(self) -> int:
        """How many best tokens the sources need after each token that the target scored."""
        return max((each.num_successors for each in self._open), default=0)

    def follow(self, text: LookupText, item: DraftItem) -> None:
        """Append an item's new tokens to its text, and learn how good the last tree was."""
        for each in self._open:
            each.observe(item.scored)
        text.index.truncate(item.keep)
        text.index.append(item.tail)
        if text.grown is not None:
            text.grown.learn(self.odds, text.index.token_ids[text.grown_at :])
            text.grown = None

    def sources(self, text: LookupText) -> list[Source]:
        """Return the sources of a text's trees; under a constraint, what is forced is one."""
        opened = (each.source(text.index) for each in self._open)
        found: list[Source] = [source for source in opened if source is not None]
        constraint = text.constraint
        state = None if constraint is None else constraint.after(text.index.token_ids)
        if constraint is None or state is None:
            return found
        legal: list[Source] = [LegalSource(each, state, constraint.end_ids) for each in found]
        return [*legal, ForcedSource(state, constraint.end_ids)]

    def grow(self, text: LookupText, item: DraftItem, sources: Sequence[Source]) -> GrownTree:
        """Return the tree, or the chain, that an item asks for."""
        tree = grow(sources, self.odds, item.num_draft, branching=item.tree)
        if item.tree:  # in PEARL mode the text has tokens that are not verified: nothing to learn
            text.grown, text.grown_at = tree, len(text.index)
        return tree


class LookupDrafter:
    """Drafts from look-up sources alone."""

    grows_trees = True
    step_s = ()
    width = None

    def __init__(self, settings: LookupSettings, constraints: Constraints | None = None) -> None:
        """Open the sources; raises ConfigError if a source's files cannot be read.

        Args:
            settings: the sources.
            constraints: where the constraints of requests are found.
        """
        self._lookups = Lookups(settings)
        self._constraints = constraints
        self._texts: dict[int, LookupText] = {}

    @property
    def num_successors(self) -> int:
        """How many best tokens it needs after each token that the target scored."""
        return self._lookups.num_successors

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Draft for every item from its last tokens."""
        for number in request.closed:
            self._texts.pop(number, None)
        for opened in request.opened:
            constraint = draft_constraint(opened, self._constraints)
            self._texts[opened.request] = LookupText(constraint=constraint)
        items = tuple(self._propose(item) for item in request.items)
        num_steps = max((len(item.token_ids) for item in items), default=0)
        yield DraftPart(items, num_steps=num_steps)

    def keep_alive(self) -> None:
        """Do nothing: there are no other ranks."""

    def close(self) -> None:
        """Do nothing: there are no other ranks."""

    def _propose(self, item: DraftItem) -> ProposalItem:
        text = self._texts.get(item.request)
        if text is None or len(text.index) < item.keep:
            return unknown_proposal(item, unknown=True)
        self._lookups.follow(text, item)
        if item.outcome_part:  # another drafter has the request
            return unknown_proposal(item, unknown=False)
        tree = self._lookups.grow(text, item, self._lookups.sources(text))
        if not item.tree:
            text.index.append(tree.token_ids)
        return tree_proposal(item, tree)


def tree_proposal(item: DraftItem, tree: GrownTree) -> ProposalItem:
    """Return a grown tree, or chain, as the answer to an item."""
    return ProposalItem(
        request=item.request,
        epoch=item.epoch,
        base=item.keep + len(item.tail),
        token_ids=tuple(tree.token_ids),
        parents=tuple(tree.parents) if item.tree else (),
        gains=tuple(tree.gains),
    )


def unknown_proposal(item: DraftItem, *, unknown: bool) -> ProposalItem:
    """Return an empty answer to an item.

    Args:
        item: asks for a draft.
        unknown: whether the request has to be opened again; otherwise it gets no drafts.
    """
    return ProposalItem(
        request=item.request,
        epoch=item.epoch,
        base=item.keep + len(item.tail),
        token_ids=(),
        unknown=unknown,
    )
