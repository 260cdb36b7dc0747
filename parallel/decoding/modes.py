"""Choose each request's mode by the tokens per second that each mode was seen to commit.

The output is the same in every mode, so trying one costs only time: each is tried for a few rounds
when the engine is young, and the others again now and then, because texts and load change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from parallel.decoding.types import DecodeMode

_FIRST_ROUNDS = 10
"""Rounds of each mode before they are compared; PEARL needs a few to get under way."""
_AGAIN_EVERY = 400
"""Rounds of a request after which another mode is tried again: 1 % of the time at most is lost."""
_AGAIN_ROUNDS = 8
_MEMORY = 0.98
"""Weight a round keeps with each later one of the same mode."""
_PRIOR_ROUNDS = 12.0
"""Rounds that all requests together count for in one request's estimate."""


@dataclass(slots=True)
class _Pace:
    """Decaying sums over rounds."""

    rounds: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        self.rounds = self.rounds * _MEMORY + 1
        self.tokens = self.tokens * _MEMORY + tokens
        self.seconds = self.seconds * _MEMORY + seconds


class ModeChooser:
    """Finds out which mode is the fastest for each request."""

    def __init__(self, modes: Sequence[DecodeMode]) -> None:
        """Choose among `modes`; the first one is tried first."""
        self._modes = tuple(modes)
        self._overall = {mode: _Pace() for mode in modes}
        self._requests: dict[int, dict[DecodeMode, _Pace]] = {}
        self._num_rounds: dict[int, int] = {}

    def observe(self, request: int, mode: DecodeMode, tokens: int, seconds: float) -> None:
        """Take in a round of a request: what it committed, and how long the round took."""
        if mode not in self._overall:
            return
        own = self._requests.setdefault(request, {m: _Pace() for m in self._modes})
        own[mode].observe(tokens, seconds)
        self._overall[mode].observe(tokens, seconds)
        self._num_rounds[request] = self._num_rounds.get(request, 0) + 1

    def choose(self, request: int) -> DecodeMode:
        """Return the mode of a request's next rounds."""
        for mode, pace in self._overall.items():
            if pace.rounds < _FIRST_ROUNDS * _MEMORY**_FIRST_ROUNDS:
                return mode
        best = max(self._modes, key=lambda mode: self._pace(request, mode))
        visit, place = divmod(self._num_rounds.get(request, 0), _AGAIN_EVERY)
        if visit and place < _AGAIN_ROUNDS:
            others = [mode for mode in self._modes if mode is not best]
            return others[visit % len(others)] if others else best
        return best

    def forget(self, request: int) -> None:
        """Drop what is kept of a request that ended."""
        self._requests.pop(request, None)
        self._num_rounds.pop(request, None)

    def _pace(self, request: int, mode: DecodeMode) -> float:
        """Return a request's tokens per second in a mode: its own rounds and some of all."""
        overall = self._overall[mode]
        share = _PRIOR_ROUNDS / overall.rounds
        own = self._requests.get(request, {}).get(mode, _Pace())
        tokens = own.tokens + share * overall.tokens
        return tokens / (own.seconds + share * overall.seconds)
