"""One request's output as text: whole characters, and nothing from a stop string on."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from runtime.models.tokenizer import IncrementalDecoder, Tokenizer


class TextStream:
    """Turns tokens into the text a client sees; the same tokens give the same pieces."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._overlaps = [_Overlap(stop) for stop in stops]
        self._held = ""
        self._stopped = False

    def push(self, token_ids: Iterable[int]) -> str:
        """Take tokens and return the text that is certain by now."""
        return self._take(self._decoder.push(token_ids))

    def finish(self) -> str:
        """Return what was held back, up to a stop string."""
        text = self._take(self._decoder.finish())
        rest = "" if self._stopped else self._held
        self._held = ""
        return text + rest

    def _take(self, piece: str) -> str:
        if self._stopped:
            return ""
        text = self._held + piece
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self._stopped = True
            return text[: min(found)]
        keep = max((overlap.push(piece) for overlap in self._overlaps), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Overlap:
    """How much of a string a text ends with, while the text grows (Knuth, Morris, Pratt)."""

    def __init__(self, string: str) -> None:
        self._string = string
        self._shorter = _shorter(string)
        self._size = 0

    def push(self, text: str) -> int:
        """Take more text, without the whole string in it, and return the overlap."""
        for character in text:
            self._size = _longer(self._string, self._shorter, self._size, character)
        return self._size


@lru_cache  # all samples of a request have the same stop strings
def _shorter(string: str) -> Sequence[int]:
    """Return how much of a string each of its beginnings ends with, itself apart."""
    found, size = [0], 0
    for character in string[1:]:
        size = _longer(string, found, size, character)
        found.append(size)
    return found


def _longer(string: str, shorter: Sequence[int], size: int, character: str) -> int:
    while size and string[size] != character:
        size = shorter[size - 1]
    return size + (string[size] == character)
