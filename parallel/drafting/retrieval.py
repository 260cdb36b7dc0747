"""A store of text to copy from: a suffix array over tokens (REST, He et al., arXiv 2311.08252).

What followed the same tokens in the store is likely to follow them again. The arrays may be mapped
from a file, so that every worker of a machine shares one copy.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parallel.drafting.ngram import NO_MATCH, Match

_DEPTH = 16
"""Tokens by which the store is sorted; longer matches are as good as this long."""
_LOOKED_AT = 64
"""Occurrences that vote for what follows."""

Tokens = NDArray[np.uint32]
Places = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalStore:
    """Texts, one after the other, and their places in sorted order."""

    tokens: Tokens
    """[num_tokens]"""
    order: Places
    """[num_tokens], places sorted by the tokens from there on."""
    end: int
    """The token that stands between two texts; no draft goes past it."""

    def match(
        self, history: Sequence[int], num_draft: int, *, longest: int = 8, shortest: int = 2
    ) -> Match:
        """Return up to `num_draft` tokens that followed the longest suffix of `history` found.

        At each step most of the first occurrences decide, and those that differ drop out.

        Args:
            history: the tokens so far.
            num_draft: tokens wanted.
            longest: longest suffix to look for.
            shortest: shortest suffix that counts as a match.
        """
        for length in range(min(longest, len(history)), shortest - 1, -1):
            places = self.find(history[len(history) - length :])
            if len(places):
                after = places[:_LOOKED_AT].astype(np.int64) + length
                return Match(length, self._follow(after, num_draft))
        return NO_MATCH

    def find(self, wanted: Sequence[int]) -> Places:
        """Return the places where `wanted` stands, at most 16 tokens."""
        key = tuple(wanted[:_DEPTH])
        first = self._bisect(key, after=False)
        return self.order[first : self._bisect(key, after=True)]

    def _bisect(self, key: tuple[int, ...], *, after: bool) -> int:
        low, high = 0, len(self.order)
        while low < high:
            middle = (low + high) // 2
            place = int(self.order[middle])
            here = tuple(self.tokens[place : place + len(key)].tolist())
            if here < key or (after and here == key):
                low = middle + 1
            else:
                high = middle
        return low

    def _follow(self, places: NDArray[np.int64], num_draft: int) -> tuple[int, ...]:
        copied: list[int] = []
        while len(copied) < num_draft and len(places):
            places = places[places < len(self.tokens)]
            following = self.tokens[places]
            if not len(following):
                break
            token, _ = Counter(following.tolist()).most_common(1)[0]
            if token == self.end:
                break
            copied.append(token)
            places = places[following == token] + 1
        return tuple(copied)


def build_store(texts: Sequence[Sequence[int]], end: int) -> RetrievalStore:
    """Sort texts into a store.

    Args:
        texts: token sequences.
        end: a token that may stand between them, as the end of text.

    Raises:
        ValueError: there is no token at all.
    """
    parts = [np.asarray([*text, end], dtype=np.uint32) for text in texts if len(text)]
    if not parts:
        raise ValueError("there is no text to build a store from")
    tokens = np.concatenate(parts)
    # Big-endian bytes compare as the numbers do, so one sort of fixed-width rows is enough.
    padded = np.concatenate([tokens, np.zeros(_DEPTH, np.uint32)]).astype(">u4")
    rows = np.lib.stride_tricks.sliding_window_view(padded, _DEPTH)[: len(tokens)]
    keys = np.ascontiguousarray(rows).view(f"S{4 * _DEPTH}").ravel()
    return RetrievalStore(tokens, np.argsort(keys, kind="stable").astype(np.uint32), end)
