"""The start of an output whose first space is not shown.

Tokenizers in SentencePiece's manner put a space before every text, and drop it from what they show.
A constraint concerns the text that is shown: there the first token begins after its space.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from parallel.decoding.closing import completion
from parallel.decoding.constraint import ConstraintBroken, ConstraintState, Mask

_SPACE = b" "


class SpacedTokens:
    """The tokens that begin with a space, each with tokens that spell the rest of it."""

    def __init__(
        self,
        spell: Callable[[int], bytes],
        ids: Iterable[int],
        tokens_of: Callable[[bytes], Sequence[int] | None],
    ) -> None:
        """Find them.

        Args:
            spell: returns the bytes of a token.
            ids: the tokens that may be in an output.
            tokens_of: returns tokens that spell some bytes, or None.
        """
        spelled = ((token, spell(token)) for token in ids)
        self.rests = {
            token: tokens_of(text[len(_SPACE) :])
            for token, text in spelled
            if text.startswith(_SPACE)
        }
        """By token; None: no tokens spell the rest, so that the token cannot come first."""
        single = [(token, rest[0]) for token, rest in self.rests.items() if rest and len(rest) == 1]
        self.single_ids = np.array([token for token, _ in single], dtype=np.intp)
        """Those whose rest is one token."""
        self.single_rests = np.array([rest for _, rest in single], dtype=np.intp)
        """The rests of `single_ids`."""


class SpacedStart:
    """The state before the first token, which is shown without a space that it begins with."""

    def __init__(self, start: ConstraintState, spaced: SpacedTokens) -> None:
        """Wrap the start of a constraint; computes its mask.

        Args:
            start: of the text that is shown.
            spaced: the tokens that begin with a space.

        Raises:
            ConstraintBroken: a limit of the computation is reached.
        """
        self._start = start
        self._spaced = spaced
        mask = start.mask().copy()
        mask[list(spaced.rests)] = False
        mask[spaced.single_ids] = start.mask()[spaced.single_rests]
        for token, rest in spaced.rests.items():
            if rest is None or len(rest) != 1:
                mask[token] = self._after(rest) is not None
        mask.flags.writeable = False
        self._mask = mask

    @property
    def is_complete(self) -> bool:
        """Whether the output may be empty."""
        return self._start.is_complete

    def mask(self) -> Mask:
        """Return for each token whether it may come first, [vocab_size]."""
        return self._mask

    def advance(self, token: int) -> ConstraintState:
        """Return the state after the first token.

        Raises:
            ConstraintBroken: the token may not come first.
        """
        if token not in self._spaced.rests:
            return self._start.advance(token)
        found = self._after(self._spaced.rests[token])
        if found is None:
            raise ConstraintBroken(f"the constraint does not allow token {token} here")
        return found

    def forced(self) -> tuple[int, ...]:
        """Return no tokens: the text may begin with a space or without."""
        return ()

    def completion(self, most: int) -> tuple[int, ...] | None:
        """Return tokens that complete the output, at most so many; None if none are found.

        One that begins with a space is none: the space would not be shown.
        """
        found = completion(self._start, most)
        return None if found and found[0] in self._spaced.rests else found

    def _after(self, rest: Sequence[int] | None) -> ConstraintState | None:
        if rest is None:
            return None
        state = self._start
        try:
            for token in rest:
                state = state.advance(token)
        except ConstraintBroken:
            return None
        return state
