"""Steps from decoded pieces to text that work on a stream: each gives out what is certain.

The pieces that a step gave out, with what `finish` returns, are what the step makes of the whole.
"""

import codecs
from copy import copy
from typing import Protocol, Self


class TextStage(Protocol):
    """A step that holds back what later text can change."""

    def push(self, text: str) -> str:
        """Take more text and return what is certain by now."""
        ...

    def finish(self) -> str:
        """Return what is held back, as it is if no more text comes."""
        ...

    def copy(self) -> Self:
        """Return a stage in the same state."""
        ...


class Replacing:
    """Replaces a string, as `str.replace` does."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def push(self, text: str) -> str:
        """Take more text; the beginning of `old` at its end is held back."""
        whole = self._held + text
        done, start = [], 0
        while (place := whole.find(self._old, start)) >= 0:
            done += [whole[start:place], self._new]
            start = place + len(self._old)
        rest = whole[start:]
        most = min(len(rest), len(self._old) - 1)
        size = next((n for n in range(most, 0, -1) if self._old.startswith(rest[-n:])), 0)
        self._held = rest[len(rest) - size :]
        return "".join((*done, rest[: len(rest) - size]))

    def finish(self) -> str:
        """Return the beginning of `old` that came to nothing."""
        held, self._held = self._held, ""
        return held

    def copy(self) -> Self:
        """Return a stage in the same state."""
        return copy(self)


class Stripping:
    """Takes at most so many of one character off the start and the end of the text."""

    def __init__(self, character: str, *, start: int, stop: int) -> None:
        self._character = character
        self._start = start
        self._stop = stop
        self._num_held = 0

    def push(self, text: str) -> str:
        """Take more text; as many characters as the end may lose are held back."""
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
        """Drop what is at the end."""
        self._num_held = 0
        return ""

    def copy(self) -> Self:
        """Return a stage in the same state."""
        return copy(self)


class Utf8:
    """Decodes bytes, each given as a character below 256; those that form none become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, text: str) -> str:
        """Take more bytes; the beginning of a character is held back."""
        return self._decoder.decode(text.encode("latin-1"))

    def finish(self) -> str:
        """Return U+FFFD for the beginning of a character."""
        return self._decoder.decode(b"", final=True)

    def copy(self) -> Self:
        """Return a stage in the same state."""
        fresh = type(self)()
        fresh._decoder.setstate(self._decoder.getstate())
        return fresh


def push_through(stages: list[TextStage], text: str) -> str:
    """Return what is certain after all stages."""
    for stage in stages:
        if not text:
            break
        text = stage.push(text)
    return text


def finish_through(stages: list[TextStage]) -> str:
    """Return what all stages held back."""
    text = ""
    for stage in stages:
        text = (stage.push(text) if text else "") + stage.finish()
    return text
