"""Parts a job's log into what the verb printed and what it, or Ray, said beside that."""

from enum import Enum, auto
from typing import TextIO

MARK = "\x1easide\x1f"
"""Begins what was said beside the output, up to the end of the line."""


class _State(Enum):
    BEFORE = auto()
    """The verb has not begun: what comes is Ray's."""
    ASIDE = auto()
    OUTPUT = auto()


class JobOutput:
    """Takes a log in parts of any length, and writes each stream where it belongs."""

    def __init__(self, output: TextIO, aside: TextIO) -> None:
        """Write what the verb printed to `output`, all else to `aside`."""
        self._output = output
        self._aside = aside
        self._state = _State.BEFORE
        self._held = ""
        """The end of the last part, if a mark may have begun there."""

    def write(self, text: str) -> None:
        """Take the next part of the log."""
        text = self._held + text
        self._held = ""
        while text:
            text = self._take(text)
        self._output.flush()
        self._aside.flush()

    def close(self) -> None:
        """Write what was held back: the log has ended."""
        self._stream.write(self._held)
        self._stream.flush()
        self._held = ""

    @property
    def _stream(self) -> TextIO:
        return self._output if self._state is _State.OUTPUT else self._aside

    def _take(self, text: str) -> str:
        """Write a text up to the next change of streams; return what is left."""
        if self._state is _State.ASIDE:
            line, end, rest = text.partition("\n")
            self._aside.write(line + end)
            self._state = _State.OUTPUT if end else _State.ASIDE
            return rest
        some, mark, rest = text.partition(MARK)
        if not mark:
            self._held = _begun_mark(some)
            some = some.removesuffix(self._held)
        self._stream.write(some)
        if mark:
            self._state = _State.ASIDE
        return rest


def _begun_mark(text: str) -> str:
    """Return the end of a text with which a mark may begin."""
    begun = (MARK[:length] for length in range(len(MARK) - 1, 0, -1))
    return next((part for part in begun if text.endswith(part)), "")
