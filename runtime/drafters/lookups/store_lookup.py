"""Copies what followed the same tokens in a store of other texts."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Self

from parallel.drafting.ngram import NgramIndex
from parallel.drafting.retrieval import RetrievalStore, StoreSource
from runtime.drafters.lookups.lookup_source import LookupSource, OpenLookup
from runtime.drafters.lookups.retrieval_files import check_store, is_whole, load_store
from runtime.rank.group_models import require_on_this_node

_LOG = logging.getLogger("paceline.drafter")


class StoreLookup(LookupSource):
    """A store of texts; its value is the directory that `paceline draft index` made."""

    name = "store"
    value_name = "DIR"

    def checked(self, vocabulary: str) -> Self:
        """Return it with an absolute path, after a check of files and vocabulary."""
        directory = Path(self.value).expanduser().absolute()
        check_store(directory, vocabulary)
        return replace(self, value=str(directory))

    def open(self) -> OpenLookup:
        """Map the store's files; raises ConfigError if they cannot be read here."""
        return _OpenStore(
            self.value, load_store(require_on_this_node(self.value, "store of texts"))
        )


class _OpenStore(OpenLookup):
    def __init__(self, directory: str, store: RetrievalStore) -> None:
        self._directory = directory
        self._store: RetrievalStore | None = store

    def source(self, text: NgramIndex) -> StoreSource | None:
        if self._store is not None and not is_whole(self._store):
            _LOG.error("the store %s lost a part of its files: it is closed", self._directory)
            self._store = None
        return None if self._store is None else StoreSource(self._store, text.token_ids)
