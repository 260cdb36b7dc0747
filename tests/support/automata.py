"""Regular languages by derivatives, byte by byte: the reference that masks are compared with.

A language is None (empty), or one of the tuples that the functions below build (Brzozowski,
"Derivatives of regular expressions", JACM 1964). All languages here have a word in them, so a
prefix can be completed exactly if its derivative is not empty.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from parallel.decoding.constraint import ConstraintBroken, Mask

Language = Any

EPSILON: Language = ("end",)


def any_of(some: Iterable[int] | str) -> Language:
    """One byte of these."""
    return ("bytes", frozenset(some.encode() if isinstance(some, str) else some))


def text(word: str) -> Language:
    return seq(*(("bytes", frozenset([byte])) for byte in word.encode()))


def seq(*parts: Language) -> Language:
    found: Language = EPSILON
    for part in reversed(parts):
        if part is None:
            return None
        found = part if found == EPSILON else found if part == EPSILON else ("seq", part, found)
    return found


def either(*parts: Language) -> Language:
    flat: set[Language] = set()
    for part in parts:
        if part is not None:
            flat |= part[1] if part[0] == "or" else {part}
    return None if not flat else flat.pop() if len(flat) == 1 else ("or", frozenset(flat))


def many(part: Language) -> Language:
    return ("many", part)


def times(part: Language, least: int, most: int) -> Language:
    found: Language = EPSILON
    for _ in range(most - least):
        found = either(EPSILON, seq(part, found))
    return seq(*[part] * least, found)


@cache
def has_end(language: Language) -> bool:
    match language:
        case None:
            return False
        case ("end",) | ("many", _):
            return True
        case ("seq", first, rest):
            return has_end(first) and has_end(rest)
        case ("or", parts):
            return any(has_end(part) for part in parts)
    return False


@cache
def derivative(language: Language, byte: int) -> Language:
    match language:
        case ("bytes", some):
            return EPSILON if byte in some else None
        case ("seq", first, rest):
            ahead = seq(derivative(first, byte), rest)
            return either(ahead, derivative(rest, byte)) if has_end(first) else ahead
        case ("or", parts):
            return either(*(derivative(part, byte) for part in parts))
        case ("many", part):
            return seq(derivative(part, byte), language)
    return None


def after_word(language: Language, word: bytes) -> Language:
    """What may follow a word; None: nothing, the word begins no text of the language."""
    for byte in word:
        language = derivative(language, byte)
    return language


def _after(language: Language, word: bytes | None) -> Language:
    return after_word(language, word) if word else None


@cache
def _mask(language: Language, tokens: tuple[bytes | None, ...]) -> Mask:
    return np.array([_after(language, word) is not None for word in tokens])


@cache
def _shortest(language: Language, tokens: tuple[bytes | None, ...]) -> tuple[int, ...] | None:
    level: dict[Language, tuple[int, ...]] = {language: ()}
    seen = {language}
    while level:
        following: dict[Language, tuple[int, ...]] = {}
        for here, path in level.items():
            if has_end(here):
                return path
            for token, word in enumerate(tokens):
                found = _after(here, word)
                if found is not None and found not in seen:
                    seen.add(found)
                    following[found] = (*path, token)
        level = following
    return None


@dataclass(frozen=True)
class AutomatonState:
    """A constraint state over tokens that are bytes: the brute-force reference."""

    language: Language
    tokens: tuple[bytes | None, ...]
    """The bytes of each token; None for one that is in no text."""

    @property
    def is_complete(self) -> bool:
        return has_end(self.language)

    def mask(self) -> Mask:
        return _mask(self.language, self.tokens)

    def advance(self, token: int) -> "AutomatonState":
        language = self._after(token)
        if language is None:
            raise ConstraintBroken(f"token {token} is illegal")
        return AutomatonState(language, self.tokens)

    def forced(self) -> tuple[int, ...]:
        legal = self.mask().nonzero()[0]
        return (int(legal[0]),) if len(legal) == 1 and not self.is_complete else ()

    def completion(self, most: int) -> tuple[int, ...] | None:
        """Return the fewest tokens that complete the output, if they are at most `most`."""
        found = _shortest(self.language, self.tokens)
        return found if found is not None and len(found) <= most else None

    def _after(self, token: int) -> Language:
        return _after(self.language, self.tokens[token])


def walked(state: Any, token_ids: Sequence[int]) -> Any:
    """Return the state after some tokens."""
    for token in token_ids:
        state = state.advance(token)
    return state
