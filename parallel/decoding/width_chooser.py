"""Choose the width of draft steps by the tokens per second that each width was seen to commit.

The output is the same whichever is taken, so trying one costs only time: each is tried for a few
rounds when the engine is young, and the others again now and then, because texts and load change.
"""

from collections.abc import Sequence
from math import inf

from parallel.decoding.recent_rounds import RecentRounds

_FIRST_ROUNDS = 10
"""Rounds of each before they are compared; PEARL needs a few to get under way."""
_AGAIN_EVERY = 400
"""Rounds after which another is tried again: a few percent of the time at most are lost."""
_AGAIN_ROUNDS = 8
_MEMORY = 0.98


class WidthChooser:
    """Finds out which width is the fastest, for all requests together."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Choose among `widths`; the first one is tried first."""
        self._seen = {width: RecentRounds(_MEMORY) for width in widths}
        self._num_rounds = 0

    def observe(self, width: int, tokens: int, seconds: float) -> None:
        """Record a round: the tokens that it committed, and its seconds."""
        if width not in self._seen or not 0 < seconds < inf:
            return
        self._seen[width].observe(tokens, seconds)
        self._num_rounds += 1

    def choose(self) -> int:
        """Return the width of the next round."""
        for width, seen in self._seen.items():
            if not seen.has_seen(_FIRST_ROUNDS):
                return width
        paces = {width: seen.tokens / seen.expected for width, seen in self._seen.items()}
        best = max(paces, key=paces.__getitem__)
        visit, place = divmod(self._num_rounds, _AGAIN_EVERY)
        others = [width for width in paces if width != best]
        if others and visit and place < _AGAIN_ROUNDS:
            return others[visit % len(others)]
        return best
