"""What became of a request's draft trees: how large the next may be, and how far to believe it."""

from collections.abc import Sequence
from math import ceil

MAX_NODES = 24
"""Longest tree that is considered."""
_LEAST_NODES = 4
_FIRST_TESTED = 6.0
"""Tokens of its trees that a new request is expected to test, at most."""
_FEWER_A_ROUND = 0.25
"""By so much that number falls in a round that tests fewer."""
_MEMORY = 0.97
"""Weight a verdict keeps with each later one."""
_PRIOR_TOKENS = 4.0
"""Accepted tokens that the trees' own gains count for, against the verdicts on them."""


class TreeRecord:
    """The tests of one request's trees."""

    def __init__(self) -> None:
        self._tested = _FIRST_TESTED
        self._expected = self._accepted = self._last = 0.0

    @property
    def budget(self) -> int:
        """Tokens that the next tree may have: twice as many as recent trees had tested.

        Growing a tree takes time, too, and what lies far beyond the last test is never tested.
        """
        return max(_LEAST_NODES, min(MAX_NODES, ceil(2 * self._tested)))

    @property
    def share(self) -> float:
        """Accepted tokens for each one that the trees' gains promised; at most 1.

        Gains are means over texts, and a text may continue less predictably than others.
        """
        return min(1.0, (self._accepted + _PRIOR_TOKENS) / (self._expected + _PRIOR_TOKENS))

    def test(self, gains: Sequence[float]) -> None:
        """Record how likely each token of a tree that is tested is to be kept."""
        self._last = sum(gains)
        self._tested = max(float(len(gains)), self._tested - _FEWER_A_ROUND)

    def observe(self, num_accepted: int) -> None:
        """Record how many of them were accepted."""
        self._expected = self._expected * _MEMORY + self._last
        self._accepted = self._accepted * _MEMORY + num_accepted
        self._last = 0.0
