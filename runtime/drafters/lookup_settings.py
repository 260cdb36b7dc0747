"""Which look-up sources a drafter has, read from text as `ngram+recycle+store=DIR`."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.drafters.lookup_source import LookupSource
from runtime.drafters.ngram_lookup import NgramLookup
from runtime.drafters.recycle_lookup import RecycleLookup
from runtime.drafters.store_lookup import StoreLookup
from runtime.errors import ConfigError

LOOKUP_SOURCES: tuple[type[LookupSource], ...] = (NgramLookup, StoreLookup, RecycleLookup)
"""All known sources, in the order in which their guesses are merged."""


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """The look-up sources of one drafter."""

    sources: tuple[LookupSource, ...] = (NgramLookup(), RecycleLookup())

    @classmethod
    def parse(cls, text: str) -> "LookupSettings":
        """Read `ngram+recycle+store=DIR`; the empty text is the default.

        Raises:
            ConfigError: a source is not known.
        """
        return cls.parse_parts(text.split("+")) if text else cls()

    @classmethod
    def parse_parts(cls, parts: Sequence[str]) -> "LookupSettings":
        """Read `ngram`, `recycle` and `store=DIR`, in any order; raises ConfigError as `parse`."""
        found = {type(source): source for source in map(_parse_source, parts)}
        return cls(tuple(found.values()))

    def checked(self, vocabulary: str) -> "LookupSettings":
        """Return the settings as other processes can open them; see `LookupSource.checked`.

        Raises:
            ConfigError: a source cannot be used with this vocabulary.
        """
        return LookupSettings(tuple(source.checked(vocabulary) for source in self.sources))

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return "+".join(map(str, self.sources))


NO_LOOKUPS = LookupSettings(())


def is_lookup_source(text: str) -> bool:
    """Return whether a text names a look-up source, as `ngram` and `store=DIR` do."""
    name, _, value = text.partition("=")
    return any(
        name == kind.name and bool(kind.value_name) == bool(value) for kind in LOOKUP_SOURCES
    )


def _parse_source(text: str) -> LookupSource:
    if not is_lookup_source(text):
        known = "+".join(
            f"{kind.name}={kind.value_name}" if kind.value_name else kind.name
            for kind in LOOKUP_SOURCES
        )
        raise ConfigError(
            f"look-up source {text!r} is not known: write lookup:{known}, or some of these"
        )
    name, _, value = text.partition("=")
    (kind,) = (kind for kind in LOOKUP_SOURCES if kind.name == name)
    return kind(value)
