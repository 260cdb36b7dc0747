"""Which look-up sources a drafter has, read from text as `ngram+recycle+store=DIR`.

The known sources are the `LookupSource` classes of this room's modules, which are found by listing
the room: a new source needs no entry here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runtime.drafters import lookups
from runtime.drafters.lookups.lookup_source import LookupSource
from runtime.drafters.lookups.ngram_lookup import NgramLookup
from runtime.drafters.lookups.recycle_lookup import RecycleLookup
from runtime.errors import ConfigError
from runtime.modules import modules_of


def _find_sources() -> Iterator[type[LookupSource]]:
    for module in modules_of(lookups, suffix="_lookup"):
        for kind in vars(module).values():
            is_source = isinstance(kind, type) and issubclass(kind, LookupSource)
            if is_source and kind is not LookupSource:
                yield kind


LOOKUP_SOURCES: Mapping[str, type[LookupSource]] = {kind.name: kind for kind in _find_sources()}
"""All known sources by name, in the order in which their guesses are merged."""


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
    kind = LOOKUP_SOURCES.get(name)
    return kind is not None and bool(kind.value_name) == bool(value)


def _parse_source(text: str) -> LookupSource:
    if not is_lookup_source(text):
        known = "+".join(
            f"{kind.name}={kind.value_name}" if kind.value_name else kind.name
            for kind in LOOKUP_SOURCES.values()
        )
        raise ConfigError(
            f"look-up source {text!r} is not known: write lookup:{known}, or some of these"
        )
    name, _, value = text.partition("=")
    return LOOKUP_SOURCES[name](value)
