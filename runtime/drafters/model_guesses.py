"""A model's guesses as a source of a draft tree."""

from dataclasses import replace

import numpy as np

from parallel.decoding.sampling import distribution
from parallel.decoding.score_row import ScoreRow
from parallel.decoding.verify import draft_token
from parallel.drafting.tree import Guess
from runtime.drafters.draft_sequence import DraftSequence

_ALTERNATIVES = 3  # tokens of the model after each path
_LEVELS = 10  # of the model's probability, in the kinds of guesses
_DRAWN_PRIOR = 0.5


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
    """Return the model's most probable tokens; first the drawn one, if the target samples."""
    opened, history = sequence.opened, sequence.penalized
    sampling = softened = opened.sampling
    if sampling.is_greedy:
        softened = replace(sampling, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    model = distribution(row, softened, history, sequence.position)
    order = np.argsort(-model.probs, kind="stable")[:_ALTERNATIVES]
    probs = {int(model.ids[index]): float(model.probs[index]) for index in order}
    drawn = None
    guesses = []
    if not sampling.is_greedy:  # the target draws with the same noise
        drawn = draft_token(row, sampling, opened.key, sequence.position, history)
        guesses.append(Guess(drawn, ("drawn", _level(probs.get(drawn, 0.0))), _DRAWN_PRIOR))
    for rank, (token, prob) in enumerate(probs.items()):
        if token != drawn:
            guesses.append(Guess(token, ("model", rank, _level(prob), drawn is None), prob))
    return guesses


def _level(prob: float) -> int:
    return min(int(prob * _LEVELS), _LEVELS - 1)
