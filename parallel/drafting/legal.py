"""Sources of draft trees under a constraint: what is forced, and other sources' legal guesses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parallel.decoding.constraint import (
    ConstraintBroken,
    ConstraintState,
    after,
    forced_tokens,
    legal_tokens,
)
from parallel.drafting.tree import Guess, Source

_PRIOR = 0.95
"""Text that is forced has several spellings, of which the model nearly always takes the usual."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    state: ConstraintState
    left: tuple[int, ...]
    """What is left of the forced tokens that were found last."""


class ForcedSource:
    """Guesses the tokens that must follow."""

    def __init__(self, state: ConstraintState, end_ids: Sequence[int]) -> None:
        """Guess after a text.

        Args:
            state: the constraint after the text.
            end_ids: the tokens that end the output.
        """
        self._state = state
        self._end_ids = end_ids

    def root(self) -> _Stretch:
        """Return the state after the text."""
        return self._stretch(self._state, ())

    def guesses(self, state: _Stretch) -> list[Guess]:
        """Return the token that must follow, or none."""
        return [Guess(state.left[0], ("forced",), _PRIOR)] if state.left else []

    def advance(self, state: _Stretch, token: int) -> _Stretch | None:
        """Return the state after one more token; None if it is illegal or ends the output."""
        try:
            found = after(state.state, token, self._end_ids)
            if found is None:
                return None
            left = state.left[1:] if state.left[:1] == (token,) else ()
            return self._stretch(found, left)
        except ConstraintBroken:
            return None

    def _stretch(self, state: ConstraintState, left: tuple[int, ...]) -> _Stretch:
        return _Stretch(state, left or forced_tokens(state, self._end_ids))


class LegalSource:
    """Another source's guesses, without those that may not follow."""

    def __init__(self, source: Source, state: ConstraintState, end_ids: Sequence[int]) -> None:
        """Filter a source.

        Args:
            source: the source.
            state: the constraint after the text.
            end_ids: the tokens that end the output.
        """
        self._source = source
        self._state = state
        self._end_ids = end_ids

    def root(self) -> Any:
        """Return the state after the text."""
        inner = self._source.root()
        return None if inner is None else (inner, self._state)

    def guesses(self, state: Any) -> list[Guess]:
        """Return the legal guesses."""
        inner, here = state
        found = self._source.guesses(inner)
        if not found:
            return []
        size = max(guess.token for guess in found) + 1
        try:
            legal = legal_tokens(here, self._end_ids, max(size, len(here.mask())))
        except ConstraintBroken:
            return []
        return [guess for guess in found if legal[guess.token]]

    def advance(self, state: Any, token: int) -> Any:
        """Return the state after one more token; None if it is illegal or ends the output."""
        inner, here = state
        try:
            found = after(here, token, self._end_ids)
        except ConstraintBroken:
            return None
        following = None if found is None else self._source.advance(inner, token)
        return None if following is None else (following, found)
