"""What a look-up source is: a name in `drafter`, and its state in the process that drafts.

A new source is a module of this room, NAME_lookup.py, with these two classes, and its test.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from parallel.drafting.ngram import NgramIndex
from parallel.drafting.tree import Source


class OpenLookup(ABC):
    """A look-up source in use: its state for all requests of one drafter."""

    num_successors: ClassVar[int] = 0
    """How many best tokens it needs after each token that the target scored."""

    def observe(  # noqa: B027  (most sources learn nothing from scores)
        self, scored: Iterable[tuple[tuple[int, ...], Sequence[int]]]
    ) -> None:
        """Learn the target's best tokens, best first, after each context of one or two tokens."""

    @abstractmethod
    def source(self, text: NgramIndex) -> Source | None:
        """Return what guesses the tokens after a request's text; None if it cannot any longer."""


@dataclass(frozen=True, slots=True)
class LookupSource(ABC):
    """A look-up source as `drafter` names it: NAME or NAME=VALUE; travels to any process."""

    name: ClassVar[str]
    value_name: ClassVar[str] = ""
    """What help calls its value; "" if it takes none."""

    value: str = ""

    def checked(self, vocabulary: str) -> Self:  # noqa: ARG002  (most sources have no files)
        """Return the source as another process can open it, after a check on the driver.

        Args:
            vocabulary: digest of the target's vocabulary.

        Raises:
            ConfigError: it cannot be used with this vocabulary.
        """
        return self

    @abstractmethod
    def open(self) -> OpenLookup:
        """Open the source in the process that drafts.

        Raises:
            ConfigError: its files cannot be read here.
        """

    def __str__(self) -> str:
        """Return what `LookupSettings.parse` reads."""
        return f"{self.name}={self.value}" if self.value else self.name
