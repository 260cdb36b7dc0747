"""Choose among ways to decode by the tokens per second that each was seen to commit.

The output is the same whichever is taken, so trying one costs only time: each is tried for a few
rounds when the engine is young, and the others again now and then, because texts and load change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

Choice = TypeVar("Choice")

_FIRST_ROUNDS = 10
"""Rounds of each before they are compared; PEARL needs a few to get under way."""
_AGAIN_EVERY = 400
"""Rounds of a request after which another is tried again: 1 % of the time at most is lost."""
_AGAIN_ROUNDS = 8
_MEMORY = 0.98
"""Weight a round keeps with each later one of the same choice."""
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


class PaceChooser(Generic[Choice]):
    """Finds out which choice is the fastest for each request."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        """Choose among `choices`; the first one is tried first."""
        self._choices = tuple(choices)
        self._overall = {choice: _Pace() for choice in choices}
        self._requests: dict[int, dict[Choice, _Pace]] = {}
        self._num_rounds: dict[int, int] = {}

    def observe(self, request: int, choice: Choice, tokens: int, seconds: float) -> None:
        """Record a round of a request: the tokens that it committed, and its seconds."""
        if choice not in self._overall or not 0 < seconds < inf:
            return
        own = self._requests.setdefault(request, {known: _Pace() for known in self._choices})
        own[choice].observe(tokens, seconds)
        self._overall[choice].observe(tokens, seconds)
        self._num_rounds[request] = self._num_rounds.get(request, 0) + 1

    def choose(self, request: int) -> Choice:
        """Return the choice for a request's next rounds."""
        for choice, pace in self._overall.items():
            if pace.rounds < _FIRST_ROUNDS * _MEMORY**_FIRST_ROUNDS:
                return choice
        best = max(self._choices, key=lambda choice: self._pace(request, choice))
        visit, place = divmod(self._num_rounds.get(request, 0), _AGAIN_EVERY)
        if visit and place < _AGAIN_ROUNDS:
            others = [choice for choice in self._choices if choice != best]
            return others[visit % len(others)] if others else best
        return best

    def forget(self, request: int) -> None:
        """Drop what is kept of a request that ended."""
        self._requests.pop(request, None)
        self._num_rounds.pop(request, None)

    def _pace(self, request: int, choice: Choice) -> float:
        """Return a request's tokens per second with a choice: its own rounds and some of all."""
        overall = self._overall[choice]
        share = _PRIOR_ROUNDS / overall.rounds
        own = self._requests.get(request, {}).get(choice, _Pace())
        tokens = own.tokens + share * overall.tokens
        return tokens / (own.seconds + share * overall.seconds)
