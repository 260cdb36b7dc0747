"""A model's guesses as a source of a draft tree."""

from bisect import bisect
from dataclasses import replace
from math import inf

import numpy as np

from parallel.decoding.sampling import distribution, ranked
from parallel.decoding.score_row import ScoreRow
from parallel.drafting.tree import Guess
from runtime.drafters.draft_sequence import DraftSequence

_ALTERNATIVES = 3  # tokens of the model after each path, where the target does not sample
_LEVELS = 10  # of the model's probability, in the kinds of guesses
_LEADS = (0.25, 0.5, 1.0, 2.0, 4.0)  # between the kinds of drawn tokens, in natural logarithms
_DRAWN_PRIORS = (0.5, 0.15, 0.07, 0.04)  # of the drawn token, and of the next ones of its order


class ModelGuesses:
    """The model's guesses after the paths of a tree that it scored."""

    def __init__(self) -> None:
        self._guesses: dict[tuple[int, ...], list[Guess]] = {}

    def add(self, path: tuple[int, ...], row: ScoreRow, sequence: DraftSequence) -> None:
        """Add the guesses after a path, from its scores."""
        self._guesses[path] = guesses_of(row, sequence)

    def root(self) -> tuple[int, ...]:
        """Return the empty path."""
        return ()

    def guesses(self, state: tuple[int, ...]) -> list[Guess]:
        """Return the model's best tokens after a path; none if it did not score the path."""
        return self._guesses.get(state, [])

    def advance(self, state: tuple[int, ...], token: int) -> tuple[int, ...]:
        """Return the longer path."""
        return (*state, token)


def guesses_of(row: ScoreRow, sequence: DraftSequence) -> list[Guess]:
    """Return the tokens that the target likely continues with, the best first.

    Where it samples, these are the first ones of the order that it draws by: log-probability plus
    the position's noise, which the drafter knows.
    """
    sampling = sequence.opened.sampling
    return _most_probable(row, sequence) if sampling.is_greedy else _next_drawn(row, sequence)


def _most_probable(row: ScoreRow, sequence: DraftSequence) -> list[Guess]:
    softened = replace(sequence.opened.sampling, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    model = distribution(row, softened, sequence.penalized, sequence.position)
    order = np.argsort(-model.probs, kind="stable")[:_ALTERNATIVES]
    found = [(int(model.ids[place]), float(model.probs[place])) for place in order]
    return [
        Guess(token, ("model", rank, _level(prob)), prob)
        for rank, (token, prob) in enumerate(found)
    ]


def _next_drawn(row: ScoreRow, sequence: DraftSequence) -> list[Guess]:
    """Return the drawn token and the next ones of its order; leads tell how likely each is."""
    opened, position = sequence.opened, sequence.position
    order = ranked(
        row, opened.sampling, opened.key, position, sequence.penalized, num=len(_DRAWN_PRIORS)
    )
    scores = [each.score for each in order]
    lead = scores[0] - scores[1] if len(order) > 1 else inf
    guesses = [Guess(order[0].token, ("drawn", bisect(_LEADS, lead)), _DRAWN_PRIORS[0])]
    for rank, each in enumerate(order[1:], start=1):
        kind = ("next", rank, bisect(_LEADS, scores[0] - each.score))
        guesses.append(Guess(each.token, kind, _DRAWN_PRIORS[rank]))
    return guesses


def _level(prob: float) -> int:
    return min(int(prob * _LEVELS), _LEVELS - 1)
