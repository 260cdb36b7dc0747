"""Drafters without a model: they copy from the text at hand, a store, what was scored before."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parallel.drafting.ngram import NO_MATCH, Match, NgramIndex
from parallel.drafting.recycling import SuccessorTable
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


class LookupDrafter:
    """Drafts by the source with the longest match, and where none has one, by recycling.

    Sources, of equal matches in this order: the n-grams of the request's own prompt and output, a
    store of other texts, the tokens that the target scored best before.
    """

    def __init__(self, settings: LookupSettings) -> None:
        """Open the sources.

        Raises:
            ConfigError: the store cannot be read.
        """
        self._uses_ngrams = settings.ngram
        self._table = SuccessorTable() if settings.recycle else None
        self._store = load_store(Path(settings.store)) if settings.store else None
        self._histories: dict[int, NgramIndex] = {}

    @property
    def num_successors(self) -> int:
        """How many best tokens it wants to hear of after each scored one."""
        return 0 if self._table is None else 1

    def answer(self, request: DraftRequest) -> Iterator[DraftPart]:
        """Look every item's last tokens up."""
        for number in request.closed:
            self._histories.pop(number, None)
        for opened in request.opened:
            self._histories[opened.request] = NgramIndex()
        yield DraftPart(tuple(self._propose(item) for item in request.items))

    def keep_alive(self) -> None:
        """Do nothing: there are no other ranks."""

    def close(self) -> None:
        """Do nothing: there are no other ranks."""

    def _propose(self, item: DraftItem) -> ProposalItem:
        if self._table is not None:
            self._table.update(item.scored)
        history = self._histories.get(item.request)
        unknown = history is None or len(history) < item.keep
        token_ids: tuple[int, ...] = ()
        if history is not None and not unknown:
            history.truncate(item.keep)
            history.append(item.tail)
            token_ids = self._draft(history, item.num_draft)
            history.append(token_ids)
        return ProposalItem(
            request=item.request,
            epoch=item.epoch,
            base=item.keep + len(item.tail),
            token_ids=token_ids,
            unknown=unknown,
        )

    def _draft(self, history: NgramIndex, num_draft: int) -> tuple[int, ...]:
        if num_draft <= 0:
            return ()
        match = history.match(num_draft) if self._uses_ngrams else NO_MATCH
        if self._store is not None:
            match = _longer(match, self._store.match(history.token_ids, num_draft))
        if match.token_ids or self._table is None:
            return match.token_ids
        return self._table.propose(history.token_ids[-1], num_draft)


def _longer(first: Match, second: Match) -> Match:
    return second if second.token_ids and second.length > first.length else first
