"""One request's output as text: whole characters, and nothing from a stop string on."""

from collections.abc import Iterable, Sequence

from runtime.text import IncrementalDecoder, Tokenizer


class TextStream:
    """Turns tokens into the text a client sees; the same tokens give the same pieces."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        self._stops = tuple(stops)
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
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that a stop string begins with."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
