"""One request's output as text: whole characters, and nothing from a stop string on."""

from collections.abc import Iterable, Sequence

from runtime.text import IncrementalDecoder, Tokenizer


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
        self._size = 0
        self._shorter = [0]
        """For each beginning of the string: how much of the string it ends with, itself apart."""
        size = 0
        for character in string[1:]:
            size = self._longer(size, character)
            self._shorter.append(size)

    def push(self, text: str) -> int:
        """Take more text, without the whole string in it, and return the overlap."""
        for character in text:
            self._size = self._longer(self._size, character)
        return self._size

    def _longer(self, size: int, character: str) -> int:
        while size and self._string[size] != character:
            size = self._shorter[size - 1]
        return size + (self._string[size] == character)
