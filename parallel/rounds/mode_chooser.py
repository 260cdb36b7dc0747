"""Choose a decoding mode by its predicted pace, corrected by what its rounds have shown.

The cost formulas predict each mode's tokens per second from the acceptance and the times that were
measured last, so a change of either moves all predictions at once, also those of modes that do not
run. What the formulas leave out is learned for each mode as the ratio of committed tokens to
predicted ones: outcomes that are guessed well or badly, trees, cores that target and drafter share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

from parallel.decoding.recent_rounds import RecentRounds
from parallel.decoding.types import DecodeMode

_FIRST_ROUNDS = 8
"""Rounds of a mode that are needed to correct its prediction."""
_HOPE = 1.15
"""How much faster than predicted a mode may be that has not run."""
_HELD_ROUNDS = 6
"""Rounds of a request between two choices."""
_AGAIN_EVERY = 400
"""Rounds of a request after which another hopeful mode runs again."""
_MEMORY = 0.97
"""Weight a round keeps with each later one of the same mode."""
_PRIOR_ROUNDS = 12.0
"""Rounds that all requests together count for in one request's correction."""
_BELIEF_TOKENS = 25.0
"""Committed tokens that the prediction itself counts for."""
_DOUBT = 0.4
"""How much more a mode may yield than it has shown in one round; falls with the root of rounds."""
_YOUNG_ROUNDS = 16
"""Rounds of all requests whose predictions are of an acceptance that is hardly known."""
_UNDER_WAY = 2
"""Rounds after a change that tell nothing of a mode: nothing is in flight yet."""
_MARGIN = 1.02
"""How much faster another mode has to look for a change to it."""

Predict = Callable[[int, DecodeMode], float | None]
"""Returns a request's predicted tokens per second in a mode; None while costs are unknown."""


@dataclass(slots=True)
class _Request:
    """What is known of one request."""

    shown: dict[DecodeMode, RecentRounds]
    """Committed and predicted tokens of its rounds in each mode."""
    mode: DecodeMode
    paces: Mapping[DecodeMode, float] = field(default_factory=dict)
    """Predicted, as of the last choice; empty while costs are unknown."""
    num_rounds: int = 0
    ran: DecodeMode | None = None
    """The mode of the last round."""
    num_alike: int = 0
    """Rounds since it changed."""


class ModeChooser:
    """Finds out which mode is the fastest for each request."""

    def __init__(self, choices: Sequence[DecodeMode], predict: Predict) -> None:
        """Choose among `choices`; the first one runs until costs are known."""
        self._choices = tuple(choices)
        self._predict = predict
        self._overall = self._nothing_shown()
        self._requests: dict[int, _Request] = {}
        self._num_rounds = 0

    def observe(self, number: int, mode: DecodeMode, tokens: int, seconds: float) -> None:
        """Record a round of a request: the tokens that it committed, and its seconds."""
        request = self._requests.get(number)
        if request is None or not 0 < seconds < inf:
            return
        request.num_rounds += 1
        request.num_alike = request.num_alike + 1 if mode is request.ran else 0
        request.ran = mode
        self._num_rounds += 1
        is_telling = request.num_alike >= _UNDER_WAY and self._num_rounds > _YOUNG_ROUNDS
        if mode in request.paces and is_telling:
            predicted = request.paces[mode] * seconds
            request.shown[mode].observe(tokens, predicted)
            self._overall[mode].observe(tokens, predicted)

    def choose(self, number: int) -> DecodeMode:
        """Return the mode for a request's next rounds."""
        request = self._requests.get(number)
        if request is None:
            request = _Request(self._nothing_shown(), self._choices[0])
            self._requests[number] = request
        if not request.paces or request.num_rounds % _HELD_ROUNDS == 0:
            request.paces = self._predicted(number)
            request.mode = self._best(request)
        return request.mode

    def forget(self, number: int) -> None:
        """Drop what is kept of a request that ended."""
        self._requests.pop(number, None)

    def _nothing_shown(self) -> dict[DecodeMode, RecentRounds]:
        return {mode: RecentRounds(_MEMORY) for mode in self._choices}

    def _predicted(self, number: int) -> Mapping[DecodeMode, float]:
        found = {mode: self._predict(number, mode) for mode in self._choices}
        paces = {mode: pace for mode, pace in found.items() if pace is not None}
        return paces if len(paces) == len(self._choices) else {}

    def _best(self, request: _Request) -> DecodeMode:
        if not request.paces:
            return self._choices[0]
        paces = {mode: self._pace(request, mode) for mode in self._choices}
        best = max(self._choices, key=lambda mode: paces[mode])
        untried = [
            mode
            for mode in self._choices
            if not self._overall[mode].has_seen(_FIRST_ROUNDS)
            and request.paces[mode] * _HOPE > paces[best]
        ]
        if untried:
            return max(untried, key=lambda mode: request.paces[mode])
        visit, place = divmod(request.num_rounds, _AGAIN_EVERY)
        if visit and place < _HELD_ROUNDS:
            others = [
                mode
                for mode in self._choices
                if mode is not best and request.paces[mode] * _HOPE > paces[best]
            ]
            if others:
                return others[visit % len(others)]
        is_close = paces[best] < _MARGIN * paces[request.mode]
        return request.mode if is_close else best

    def _pace(self, request: _Request, mode: DecodeMode) -> float:
        """Return the tokens per second that a mode may have: prediction, correction and doubt."""
        overall, own = self._overall[mode], request.shown[mode]
        share = _PRIOR_ROUNDS / max(overall.rounds, _PRIOR_ROUNDS)
        tokens = own.tokens + share * overall.tokens + _BELIEF_TOKENS
        predicted = own.expected + share * overall.expected + _BELIEF_TOKENS
        doubt = _DOUBT / sqrt(max(overall.rounds, 1.0))
        return request.paces[mode] * tokens / predicted * (1 + doubt)
