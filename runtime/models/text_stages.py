"""Stages from decoded pieces to text that work on a stream: each returns text once it is final.

The texts that `push` and `finish` return join to the result of the stage on the whole text.
"""

import codecs
from copy import copy
from typing import Protocol, Self


class TextStage(Protocol):
    """A stage that holds back what later text can change."""

    def push(self, text: str) -> str:
        """Add text and return what has become final."""
        ...

    def finish(self) -> str:
        """Return what is held back; there is no more text."""
        ...

    def copy(self) -> Self:
        """Return a copy in the same state."""
        ...


class Replacing:
    """Replaces a string, as `str.replace` does."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def push(self, text: str) -> str:
        """Add text; a beginning of `old` at its end is held back."""
        whole = self._held + text
        done, start = [], 0
        while (found := whole.find(self._old, start)) >= 0:
            done += [whole[start:found], self._new]
            start = found + len(self._old)
        rest = whole[start:]
        longest = min(len(rest), len(self._old) - 1)
        size = next((n for n in range(longest, 0, -1) if self._old.startswith(rest[-n:])), 0)
        self._held = rest[len(rest) - size :]
        return "".join((*done, rest[: len(rest) - size]))

    def finish(self) -> str:
        """Return the beginning of `old` that was held back."""
        held, self._held = self._held, ""
        return held

    def copy(self) -> Self:
        """Return a copy in the same state."""
        return copy(self)


class Stripping:
    """Removes up to a number of one character from the start and the end of the text."""

    def __init__(self, character: str, *, start: int, stop: int) -> None:
        self._character = character
        self._start = start
        self._stop = stop
        self._num_held = 0

    def push(self, text: str) -> str:
        """Add text; the characters that may be removed from the end are held back."""
        while self._start and text:
            if text[0] != self._character:
                self._start = 0
                break
            text, self._start = text[1:], self._start - 1
        whole = self._character * self._num_held + text
        if not self._stop:
            return whole
        ending = len(whole) - len(whole.rstrip(self._character))
        self._num_held = min(ending, self._stop)
        return whole[: len(whole) - self._num_held]

    def finish(self) -> str:
        """Drop the characters at the end."""
        self._num_held = 0
        return ""

    def copy(self) -> Self:
        """Return a copy in the same state."""
        return copy(self)


class Utf8:
    """Decodes bytes, each given as a character below 256; invalid ones become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, text: str) -> str:
        """Add bytes; an incomplete character is held back."""
        return self._decoder.decode(text.encode("latin-1"))

    def finish(self) -> str:
        """Return U+FFFD for an incomplete character."""
        return self._decoder.decode(b"", final=True)

    def copy(self) -> Self:
        """Return a copy in the same state."""
        fresh = type(self)()
        fresh._decoder.setstate(self._decoder.getstate())
        return fresh


def push_through(stages: list[TextStage], text: str) -> str:
    """Return what is final after all stages."""
    for stage in stages:
        if not text:
            break
        text = stage.push(text)
    return text


def finish_through(stages: list[TextStage]) -> str:
    """Return what all stages hold back."""
    text = ""
    for stage in stages:
        text = (stage.push(text) if text else "") + stage.finish()
    return text
