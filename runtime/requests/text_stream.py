"""Turn the tokens of a request into text that ends before a stop string."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from runtime.models.tokenizer import IncrementalDecoder, Tokenizer


class TextStream:
    """Decodes tokens into pieces of text; the same tokens give the same pieces."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
        self._overlaps = [_Overlap(stop) for stop in stops]
        self._held = ""
        self._stopped = False

    def push(self, token_ids: Iterable[int]) -> str:
        """Add tokens and return the text that no later token can change."""
        return self._until_stop(self._decoder.push(token_ids))

    def finish(self) -> str:
        """Return the remaining text, up to a stop string."""
        text = self._until_stop(self._decoder.finish())
        rest = "" if self._stopped else self._held
        self._held = ""
        return text + rest

    def _until_stop(self, piece: str) -> str:
        if self._stopped:
            return ""
        text = self._held + piece
        found = [index for index in (text.find(stop) for stop in self._stops) if index >= 0]
        if found:
            self._stopped = True
            return text[: min(found)]
        keep = max((overlap.push(piece) for overlap in self._overlaps), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


class _Overlap:
    """The longest prefix of a string that a growing text ends with (Knuth, Morris, Pratt)."""

    def __init__(self, string: str) -> None:
        self._string = string
        self._shorter = _shorter(string)
        self._size = 0

    def push(self, text: str) -> int:
        """Add text that does not complete the string, and return the length of the prefix."""
        for character in text:
            self._size = _longer(self._string, self._shorter, self._size, character)
        return self._size


@lru_cache  # the samples of a request share their stop strings
def _shorter(string: str) -> Sequence[int]:
    """Return for each prefix of a string the length of its longest proper border."""
    found, size = [0], 0
    for character in string[1:]:
        size = _longer(string, found, size, character)
        found.append(size)
    return found


def _longer(string: str, shorter: Sequence[int], size: int, character: str) -> int:
    while size and string[size] != character:
        size = shorter[size - 1]
    return size + (string[size] == character)
