"""Splits a job's log into the verb's output and the messages of the verb and of Ray."""

from enum import Enum, auto
from typing import TextIO

MARK = "\x1easide\x1f"
"""Marks the rest of a line as a message, not output."""


class _State(Enum):
    BEFORE = auto()
    """The verb has not started: the text is Ray's."""
    ASIDE = auto()
    OUTPUT = auto()


class JobOutput:
    """Reads a log in parts of any length, and writes each stream to its file."""

    def __init__(self, output: TextIO, aside: TextIO) -> None:
        """Write the verb's output to `output`, all messages to `aside`."""
        self._output = output
        self._aside = aside
        self._state = _State.BEFORE
        self._held = ""
        """The end of the last part, if a mark may start there."""

    def write(self, text: str) -> None:
        """Process the next part of the log."""
        text = self._held + text
        self._held = ""
        while text:
            text = self._take(text)
        self._output.flush()
        self._aside.flush()

    def close(self) -> None:
        """Write the text that was held back: the log has ended."""
        self._stream.write(self._held)
        self._stream.flush()
        self._held = ""

    @property
    def _stream(self) -> TextIO:
        return self._output if self._state is _State.OUTPUT else self._aside

    def _take(self, text: str) -> str:
        """Write a text up to the next change of streams; return the rest."""
        if self._state is _State.ASIDE:
            line, end, rest = text.partition("\n")
            self._aside.write(line + end)
            self._state = _State.OUTPUT if end else _State.ASIDE
            return rest
        some, mark, rest = text.partition(MARK)
        if not mark:
            self._held = _start_of_mark(some)
            some = some.removesuffix(self._held)
        self._stream.write(some)
        if mark:
            self._state = _State.ASIDE
        return rest


def _start_of_mark(text: str) -> str:
    """Return the end of a text that may be the start of a mark."""
    starts = (MARK[:length] for length in range(len(MARK) - 1, 0, -1))
    return next((part for part in starts if text.endswith(part)), "")
