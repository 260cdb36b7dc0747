"""Draft by copying what followed the same n-gram earlier in prompt or output.

Prompt lookup decoding (Saxena 2023; the input-guided case is Aggressive Decoding, Ge et al., arXiv
2205.10350). No model and no probabilities: its drafts are POINT nodes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parallel.drafting.tree import Guess

_LOOKED_AT = 4
"""Latest occurrences of an n-gram that are looked at for what follows it."""
_ALTERNATIVES = 4
"""Tokens that may follow one context."""
_PRIORS = ((0.17, 0.05), (0.4, 0.1), (0.5, 0.1), (0.65, 0.2))
"""By the length of the match: how often the latest continuation came true, and another one."""


@dataclass(frozen=True, slots=True)
class Match:
    """A draft that copies what followed the same tokens elsewhere."""

    length: int
    """Tokens that were the same; more make the copy more likely to be right."""
    token_ids: tuple[int, ...]


NO_MATCH = Match(0, ())


class NgramIndex:
    """Where each n-gram of one sequence occurs; a step costs its new tokens, not its history."""

    def __init__(self, *, max_ngram: int = 4) -> None:
        if max_ngram < 1:
            raise ValueError(f"max_ngram is {max_ngram}: it must be at least 1")
        self.max_ngram = max_ngram
        self._token_ids: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._token_ids)

    @property
    def token_ids(self) -> Sequence[int]:
        """The sequence."""
        return self._token_ids

    def append(self, token_ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        for token in token_ids:
            self._token_ids.append(token)
            end = len(self._token_ids)
            for ngram in self._ngrams(end):
                self._ends.setdefault(ngram, []).append(end)

    def truncate(self, num_tokens: int) -> None:
        """Roll back to the first `num_tokens` tokens.

        Raises:
            ValueError: there are not as many.
        """
        if not 0 <= num_tokens <= len(self._token_ids):
            raise ValueError(f"cannot keep {num_tokens} of {len(self._token_ids)} tokens")
        while len(self._token_ids) > num_tokens:
            for ngram in self._ngrams(len(self._token_ids)):
                ends = self._ends[ngram]
                ends.pop()
                if not ends:
                    del self._ends[ngram]
            self._token_ids.pop()

    def propose(self, num_draft: int) -> tuple[int, ...]:
        """Return up to `num_draft` tokens that may follow; none if no n-gram has occurred before.

        The longest suffix that occurred before decides, at its most recent earlier occurrence. A
        copy that reaches the end of the sequence continues in itself, which is right for a loop.
        """
        return self.match(num_draft).token_ids

    def match(self, num_draft: int) -> Match:
        """Return what `propose` does, with the length of the n-gram it goes by."""
        for ngram in self._ngrams(len(self._token_ids)) if num_draft > 0 else ():
            ends = self._ends[ngram]
            if len(ends) > 1:  # the last one is the suffix itself
                return Match(len(ngram), self._copy(ends[-2], num_draft))
        return NO_MATCH

    def following(self, context: Sequence[int]) -> list[tuple[int, int]]:
        """Return tokens that followed the end of `context` before, with how much of it was there.

        The longest n-gram and of each the latest occurrences come first; each token comes once.

        Args:
            context: what they are to follow; not necessarily tokens of the sequence.
        """
        found: dict[int, int] = {}
        for size in range(min(self.max_ngram, len(context)), 0, -1):
            ends = self._ends.get(tuple(context[-size:]), [])
            for end in ends[: -_LOOKED_AT - 1 : -1]:
                if end < len(self._token_ids):  # the end of the sequence is followed by nothing
                    found.setdefault(self._token_ids[end], size)
            if len(found) >= _ALTERNATIVES:
                break
        return list(found.items())[:_ALTERNATIVES]

    def _ngrams(self, end: int) -> list[tuple[int, ...]]:
        """Return the n-grams that end before `end`, longest first."""
        longest = min(self.max_ngram, end)
        return [tuple(self._token_ids[end - size : end]) for size in range(longest, 0, -1)]

    def _copy(self, source: int, num_draft: int) -> tuple[int, ...]:
        copied: list[int] = []
        period = len(self._token_ids) - source
        for index in range(num_draft):
            copied.append(
                copied[index - period] if index >= period else self._token_ids[source + index]
            )
        return tuple(copied)


class NgramSource:
    """A sequence's n-grams as a source of its own trees."""

    def __init__(self, index: NgramIndex) -> None:
        self._index = index

    def root(self) -> tuple[int, ...]:
        """Return the last tokens."""
        return tuple(self._index.token_ids[-self._index.max_ngram :])

    def guesses(self, state: tuple[int, ...]) -> list[Guess]:
        """Return what followed the same tokens before."""
        return [
            Guess(token, ("ngram", size, rank), _priors(size)[min(rank, 1)])
            for rank, (token, size) in enumerate(self._index.following(state))
        ]

    def advance(self, state: tuple[int, ...], token: int) -> tuple[int, ...]:
        """Return the last tokens once `token` has followed."""
        return (*state, token)[-self._index.max_ngram :]


def _priors(size: int) -> tuple[float, float]:
    """Return how often the first and the other continuations of a match of `size` are right."""
    return _PRIORS[min(size, len(_PRIORS)) - 1]


def propose(history: Sequence[int], num_draft: int, *, max_ngram: int = 4) -> tuple[int, ...]:
    """Return up to `num_draft` tokens that may follow `history`, as `NgramIndex.propose` does."""
    index = NgramIndex(max_ngram=max_ngram)
    index.append(history)
    return index.propose(num_draft)
