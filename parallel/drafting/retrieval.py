"""A store of text to copy from: a suffix array over tokens (REST, He et al., arXiv 2311.08252).

What followed the same tokens in the store is likely to follow them again. The arrays may be mapped
from a file, so that every worker of a machine shares one copy.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parallel.drafting.tree import Guess

_DEPTH = 16
"""Tokens by which the store is sorted; longer matches are as good as this long."""
_LOOKED_AT = 64
"""Occurrences that vote for what follows."""
_LONGEST, _SHORTEST = 8, 2
"""Tokens of a suffix that is looked for."""
_ALTERNATIVES = 3
_PRIORS = (0.2, 0.3, 0.45, 0.6, 0.7)
"""By the length of the match, from two tokens on: how often what follows most was right."""

Tokens = NDArray[np.uint32]
Positions = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalStore:
    """Texts, one after the other, and their positions in sorted order."""

    tokens: Tokens
    """[num_tokens]"""
    order: Positions
    """[num_tokens], positions sorted by the tokens from there on."""
    end: int
    """The token that separates two texts; no draft continues beyond it."""

    def longest(self, history: Sequence[int]) -> tuple[int, NDArray[np.int64]]:
        """Return how long the longest suffix of `history` found is, and the positions after it.

        The positions ascend, and there are at most 64; a suffix of one token counts for nothing.
        """
        for length in range(min(_LONGEST, len(history)), _SHORTEST - 1, -1):
            positions = self.find(history[len(history) - length :])
            if len(positions):
                return length, np.sort(positions[:_LOOKED_AT].astype(np.int64) + length)
        return 0, np.zeros(0, np.int64)

    def followers(self, positions: NDArray[np.int64]) -> Tokens:
        """Return the tokens at ascending positions, as far as there are any."""
        return self.tokens[positions[positions < len(self.tokens)]]

    def find(self, wanted: Sequence[int]) -> Positions:
        """Return the positions of `wanted`, at most 16 tokens, in the store."""
        key = tuple(wanted[:_DEPTH])
        first = self._bisect(key, after=False)
        return self.order[first : self._bisect(key, after=True)]

    def _bisect(self, key: tuple[int, ...], *, after: bool) -> int:
        low, high = 0, len(self.order)
        while low < high:
            middle = (low + high) // 2
            position = int(self.order[middle])
            here = tuple(self.tokens[position : position + len(key)].tolist())
            if here < key or (after and here == key):
                low = middle + 1
            else:
                high = middle
        return low


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    length: int
    """Tokens that were the same."""
    positions: NDArray[np.int64]
    """Ascending positions after them."""


class StoreSource:
    """The store as a source of one text's trees: the positions that agree with it so far."""

    def __init__(self, store: RetrievalStore, token_ids: Sequence[int]) -> None:
        self._store = store
        self._token_ids = token_ids

    def root(self) -> "_Found | None":
        """Return the positions of the longest suffix in the store."""
        length, positions = self._store.longest(self._token_ids)
        return _Found(length, positions) if length else None

    def guesses(self, state: "_Found") -> list[Guess]:
        """Return what follows there most often."""
        followers = Counter(self._store.followers(state.positions).tolist())
        followers.pop(self._store.end, None)
        size = min(state.length, len(_PRIORS) + 1) - 2
        return [
            Guess(token, ("store", size, min(rank, 2)), _PRIORS[size] / (1 + 4 * rank))
            for rank, (token, _) in enumerate(followers.most_common(_ALTERNATIVES))
        ]

    def advance(self, state: "_Found", token: int) -> "_Found | None":
        """Keep the positions where `token` follows."""
        followers = self._store.followers(state.positions)
        positions = state.positions[: len(followers)][followers == token] + 1
        return _Found(state.length + 1, positions) if len(positions) else None


def build_store(texts: Sequence[Sequence[int]], end: int) -> RetrievalStore:
    """Sort texts into a store.

    Args:
        texts: token sequences.
        end: a token that may separate them, as the end of text.

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
