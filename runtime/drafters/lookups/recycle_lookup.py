"""Copies what the target scored best after the same token before, in any request."""

from collections.abc import Iterable, Sequence

from parallel.drafting.ngram import NgramIndex
from parallel.drafting.recycling import NUM_SUCCESSORS, SuccessorSource, SuccessorTable
from runtime.drafters.lookups.lookup_source import LookupSource, OpenLookup


class RecycleLookup(LookupSource):
    """The target's best tokens after each token, kept for all requests."""

    name = "recycle"

    def open(self) -> OpenLookup:
        """Return an empty table, which fills as the target scores."""
        return _OpenTable()


class _OpenTable(OpenLookup):
    num_successors = NUM_SUCCESSORS

    def __init__(self) -> None:
        self._table = SuccessorTable()

    def observe(self, scored: Iterable[tuple[tuple[int, ...], Sequence[int]]]) -> None:
        self._table.update(scored)

    def source(self, text: NgramIndex) -> SuccessorSource:
        return SuccessorSource(self._table, text.token_ids)
