"""Drafters without a model: they copy from the text at hand, a store, what was scored before."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from parallel.drafting.ngram import NgramIndex, NgramSource
from parallel.drafting.recycling import NUM_SUCCESSORS, SuccessorSource, SuccessorTable
from parallel.drafting.retrieval import StoreSource
from parallel.drafting.tree import GrownTree, Odds, Source, grow
from parallel.messages import DraftItem, DraftRequest, ProposalItem
from runtime.drafting import DraftPart
from runtime.errors import ConfigError
from runtime.retrieval_files import load_store


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
        found: dict[str, str] = {}
        for part in text.split("+"):
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
class _Text:
    """What is known of one request."""

    index: NgramIndex = field(default_factory=NgramIndex)
    grown: GrownTree | None = None
    """The tree proposed last, after the first `grown_at` tokens."""
    grown_at: int = 0


class LookupDrafter:
    """Grows trees from the n-grams of the request's text, a store, what the target scored before.

    How far each is believed is learnt from what the target commits, over all requests.
    """

    def __init__(self, settings: LookupSettings) -> None:
        """Open the sources.

        Raises:
            ConfigError: the store cannot be read.
        """
        self._uses_ngrams = settings.ngram
        self._table = SuccessorTable() if settings.recycle else None
        self._store = load_store(Path(settings.store)) if settings.store else None
        self._odds = Odds()
        self._texts: dict[int, _Text] = {}

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each scored one."""
        return 0 if self._table is None else NUM_SUCCESSORS

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Look every item's last tokens up."""
        for number in request.closed:
            self._texts.pop(number, None)
        for opened in request.opened:
            self._texts[opened.request] = _Text()
        yield DraftPart(tuple(self._propose(item) for item in request.items))

    def keep_alive(self) -> None:
        """Do nothing: there are no other ranks."""

    def close(self) -> None:
        """Do nothing: there are no other ranks."""

    def _propose(self, item: DraftItem) -> ProposalItem:
        if self._table is not None:
            self._table.update(item.scored)
        base = item.keep + len(item.tail)
        text = self._texts.get(item.request)
        if text is None or len(text.index) < item.keep:
            return ProposalItem(
                request=item.request, epoch=item.epoch, base=base, token_ids=(), unknown=True
            )
        text.index.truncate(item.keep)
        text.index.append(item.tail)
        if text.grown is not None:
            text.grown.learn(self._odds, text.index.token_ids[text.grown_at :])
        sources = self._sources(text.index) if item.num_draft > 0 else []
        tree = grow(sources, self._odds, item.num_draft, branching=item.tree)
        # With PEARL the text holds drafts that no verdict has reached, so nothing is learnt there.
        text.grown, text.grown_at = tree if item.tree else None, base
        if not item.tree:
            text.index.append(tree.token_ids)
        return ProposalItem(
            request=item.request,
            epoch=item.epoch,
            base=base,
            token_ids=tuple(tree.token_ids),
            parents=tuple(tree.parents) if item.tree else (),
            gains=tuple(tree.gains),
        )

    def _sources(self, index: NgramIndex) -> list[Source]:
        sources: list[Source] = []
        if self._uses_ngrams:
            sources.append(NgramSource(index))
        if self._store is not None:
            sources.append(StoreSource(self._store, index.token_ids))
        if self._table is not None:
            sources.append(SuccessorSource(self._table, index.token_ids))
        return sources
