"""Grow one draft tree from several sources, the likeliest tokens first.

Each source lists the tokens it knows after a path and the kind of each guess; how often guesses
of a kind come true is learned from the text that the target then commits. The tree is the set of
paths with the largest probability under that (best-first expansion as in EAGLE-2, Li et al., arXiv
2406.16858, section 4, and in OPT-Tree, arXiv 2406.17276), so any number of its first tokens is the
best tree of that size.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

_KEEP = 0.998
"""Weight an outcome keeps with each later one of the same kind."""
_PRIOR_WEIGHT = 12.0
"""Outcomes that the prior of a kind counts for."""
_MIN_GAIN = 0.01
"""A path less likely than this is not worth a token of the budget."""

Kind = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """A token that a source expects, and what kind of guess it is."""

    token: int
    kind: Kind
    prior: float
    """How often guesses of this kind come true, before any was seen."""


class Source(Protocol):
    """Knows tokens that may follow a text; `state` is its own, one for each node of the tree."""

    def root(self) -> Any:
        """Return the state after the text itself."""
        ...

    def guesses(self, state: Any) -> list[Guess]:
        """Return what may follow, the best first, each token once."""
        ...

    def advance(self, state: Any, token: int) -> Any:
        """Return the state once `token` has followed; None where nothing is known any more."""
        ...


class Odds:
    """How often guesses of each kind came true: decaying counts over a prior."""

    def __init__(self) -> None:
        self._counts: dict[Kind, tuple[float, float]] = {}

    def probability(self, kind: Kind, prior: float) -> float:
        """Return how likely a guess of this kind is right."""
        right, seen = self._counts.get(kind, (0.0, 0.0))
        return (right + prior * _PRIOR_WEIGHT) / (seen + _PRIOR_WEIGHT)

    def observe(self, kind: Kind, *, right: bool) -> None:
        """Record whether a guess came true."""
        known, seen = self._counts.get(kind, (0.0, 0.0))
        self._counts[kind] = (known * _KEEP + right, seen * _KEEP + 1)


@dataclass(slots=True)
class GrownTree:
    """A tree with the guesses it was grown from, in the order in which its nodes were taken."""

    token_ids: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    """Probability of each node's path, falling."""
    guessed: list[list[Guess]] = field(default_factory=list)
    """What was thought of after the root and then after each node."""

    def child(self, node: int, token: int) -> int | None:
        """Return the child of a node, or of the root (-1), that holds `token`."""
        for child in range(node + 1, len(self.token_ids)):
            if self.parents[child] == node and self.token_ids[child] == token:
                return child
        return None

    def learn(self, odds: Odds, actual: Sequence[int]) -> None:
        """Record in `odds` which guesses came true, given how the text continued."""
        node = -1
        for token in actual:
            for guess in self.guessed[node + 1]:
                odds.observe(guess.kind, right=guess.token == token)
            child = self.child(node, token)
            if child is None:
                return
            node = child


def grow(sources: Sequence[Source], odds: Odds, budget: int, *, branching: bool) -> GrownTree:
    """Return the most probable tree of at most `budget` tokens.

    Args:
        sources: what knows tokens.
        odds: how far to believe them.
        budget: the most tokens.
        branching: whether there may be alternatives; without, the best chain, token by token.
    """
    tree = GrownTree()
    # (-gain, number, parent, token, the parent's states): likeliest first, of equals the oldest.
    waiting: list[tuple[float, int, int, int, list[Any]]] = []
    numbers = count()
    node, gain, states = -1, 1.0, [source.root() for source in sources]
    while True:
        guesses = _merged(sources, states)
        tree.guessed.append(guesses)
        chances = [(odds.probability(guess.kind, guess.prior), guess.token) for guess in guesses]
        left = 1.0  # siblings exclude each other
        for chance, token in sorted(chances, key=lambda pair: -pair[0]):
            path_gain = gain * min(chance, left)
            left -= min(chance, left)
            if path_gain >= _MIN_GAIN:
                heappush(waiting, (-path_gain, next(numbers), node, token, states))
        if not waiting or len(tree.token_ids) >= budget:
            return tree
        negative_gain, _, parent, token, before = heappop(waiting)
        if not branching:
            waiting.clear()
        node, gain = len(tree.token_ids), -negative_gain
        tree.token_ids.append(token)
        tree.parents.append(parent)
        tree.gains.append(gain)
        states = advanced(sources, before, token)


def best_guess(
    sources: Sequence[Source], states: Sequence[Any], odds: Odds
) -> tuple[int, float] | None:
    """Return the likeliest token in these states, with its probability; None if none is known."""
    guesses = _merged(sources, states)
    chances = [(odds.probability(guess.kind, guess.prior), guess.token) for guess in guesses]
    if not chances:
        return None
    chance, token = max(chances, key=lambda pair: pair[0])
    return token, chance


def advanced(sources: Sequence[Source], states: Sequence[Any], token: int) -> list[Any]:
    """Return each source's state once `token` has followed."""
    return [
        None if state is None else source.advance(state, token)
        for source, state in zip(sources, states, strict=True)
    ]


def _merged(sources: Sequence[Source], states: Sequence[Any]) -> list[Guess]:
    """Return the guesses of all sources; where some agree on a token, one of a kind of its own."""
    found: dict[int, Guess] = {}
    for place, (source, state) in enumerate(zip(sources, states, strict=True)):
        for guess in source.guesses(state) if state is not None else ():
            known = found.get(guess.token, Guess(guess.token, (), 0.0))
            kind = (*known.kind, (place, guess.kind))
            found[guess.token] = Guess(guess.token, kind, 1 - (1 - known.prior) * (1 - guess.prior))
    return list(found.values())
