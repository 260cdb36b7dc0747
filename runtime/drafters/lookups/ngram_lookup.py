"""Copies what followed the same tokens earlier in the request's prompt and output."""

from parallel.drafting.ngram import NgramIndex, NgramSource
from runtime.drafters.lookups.lookup_source import LookupSource, OpenLookup


class NgramLookup(LookupSource):
    """N-grams of the request's own text."""

    name = "ngram"

    def open(self) -> OpenLookup:
        """Return the source; it keeps nothing but the request's text."""
        return _OpenNgrams()


class _OpenNgrams(OpenLookup):
    def source(self, text: NgramIndex) -> NgramSource:
        return NgramSource(text)
