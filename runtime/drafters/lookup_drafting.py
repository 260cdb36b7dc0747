"""Drafters without a model: they copy from the text at hand, a store, what was scored before."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parallel.drafting.ngram import NgramIndex, NgramSource
from parallel.drafting.recycling import NUM_SUCCESSORS, SuccessorSource, SuccessorTable
from parallel.drafting.retrieval import StoreSource
from parallel.drafting.tree import GrownTree, Odds, Source, grow
from parallel.messages import DraftItem, DraftRequest, ProposalItem
from runtime.drafters.drafting import DraftPart
from runtime.drafters.retrieval_files import is_whole, load_store
from runtime.errors import ConfigError
from runtime.rank.group_models import require_on_this_node

_LOG = logging.getLogger("paceline.drafter")


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupSettings:
    """Which sources a look-up drafter has."""

    ngram: bool = True
    """What followed the same tokens earlier in prompt or output."""
    recycle: bool = True
    """What the target scored best after the same token before, in any request."""
    store: str | None = None
    """Directory of a store of texts, made by `paceline draft index`."""

    @classmethod
    def parse(cls, text: str) -> "LookupSettings":
        """Read `ngram+recycle+store=DIR`; nothing is ngram+recycle.

        Raises:
            ConfigError: a source is not known.
        """
        if not text:
            return cls()
        return cls.parse_parts(text.split("+"))

    @classmethod
    def parse_parts(cls, parts: Sequence[str]) -> "LookupSettings":
        """Read `ngram`, `recycle` and `store=DIR`, in any order; raises ConfigError as `parse`."""
        found: dict[str, str] = {}
        for part in parts:
            name, _, value = part.partition("=")
            if name not in ("ngram", "recycle", "store") or (name == "store") != bool(value):
                raise ConfigError(
                    f"look-up source {part!r} is not known: write lookup:ngram+recycle+store=DIR, "
                    "or some of these"
                )
            found[name] = value
        return cls(ngram="ngram" in found, recycle="recycle" in found, store=found.get("store"))

    def __str__(self) -> str:
        """Return what `parse` reads."""
        names = ["ngram"] * self.ngram + ["recycle"] * self.recycle
        return "+".join([*names, *([f"store={self.store}"] if self.store else [])])


@dataclass(slots=True)
class LookupText:
    """What is known of one request's text."""

    index: NgramIndex = field(default_factory=NgramIndex)
    grown: GrownTree | None = None
    """The tree proposed last, after the first `grown_at` tokens."""
    grown_at: int = 0


class Lookups:
    """What can be looked up, for all requests, and how far each source is to be believed.

    The sources of a request's trees are the n-grams of its text, a store of other texts, and what
    the target scored best before, after the same tokens.
    """

    def __init__(self, settings: LookupSettings) -> None:
        """Open the sources.

        Raises:
            ConfigError: the store cannot be read.
        """
        self.settings = settings
        self._table = SuccessorTable() if settings.recycle else None
        self._store = None
        if settings.store is not None:
            self._store = load_store(require_on_this_node(settings.store, "store of texts"))
        self._odds = Odds()

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each scored one."""
        return 0 if self._table is None else NUM_SUCCESSORS

    @property
    def odds(self) -> Odds:
        """How often guesses of each kind came true."""
        return self._odds

    def follow(self, text: LookupText, item: DraftItem) -> None:
        """Read what is new of a text, and learn from it how good the last tree was."""
        if self._table is not None:
            self._table.update(item.scored)
        text.index.truncate(item.keep)
        text.index.append(item.tail)
        if text.grown is not None:
            text.grown.learn(self._odds, text.index.token_ids[text.grown_at :])
            text.grown = None

    def sources(self, text: LookupText) -> list[Source]:
        """Return the sources of a text's trees."""
        found: list[Source] = []
        if self.settings.ngram:
            found.append(NgramSource(text.index))
        if self._store is not None and not is_whole(self._store):
            _LOG.error(
                "the store %s lost a part of its files: it is not read any more",
                self.settings.store,
            )
            self._store = None
        if self._store is not None:
            found.append(StoreSource(self._store, text.index.token_ids))
        if self._table is not None:
            found.append(SuccessorSource(self._table, text.index.token_ids))
        return found

    def grow(self, text: LookupText, item: DraftItem, sources: Sequence[Source]) -> GrownTree:
        """Return the tree, or the chain, that an item asks for."""
        tree = grow(sources, self._odds, item.num_draft, branching=item.tree)
        if item.tree:  # with PEARL the text holds what no verdict has reached: nothing to learn
            text.grown, text.grown_at = tree, len(text.index)
        return tree


class LookupDrafter:
    """Drafts what can be looked up."""

    grows_trees = True
    step_s = ()
    width = 0

    def __init__(self, settings: LookupSettings) -> None:
        """Open the sources; raises ConfigError if the store cannot be read."""
        self._lookups = Lookups(settings)
        self._texts: dict[int, LookupText] = {}

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each scored one."""
        return self._lookups.num_successors

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Look every item's last tokens up."""
        for number in request.closed:
            self._texts.pop(number, None)
        for opened in request.opened:
            self._texts[opened.request] = LookupText()
        items = tuple(self._propose(item) for item in request.items)
        num_steps = max((len(item.token_ids) for item in items), default=0)
        yield DraftPart(items, num_steps=num_steps)

    def keep_alive(self) -> None:
        """Do nothing: there are no other ranks."""

    def close(self) -> None:
        """Do nothing: there are no other ranks."""

    def _propose(self, item: DraftItem) -> ProposalItem:
        base = item.keep + len(item.tail)
        text = self._texts.get(item.request)
        if text is None or len(text.index) < item.keep:
            return ProposalItem(
                request=item.request, epoch=item.epoch, base=base, token_ids=(), unknown=True
            )
        self._lookups.follow(text, item)
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
